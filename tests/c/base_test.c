/* wh_fail, wh_now_ns, wh_buf_free. */
#include "base/base.h"
#include "switch_check.h"

#include <stdlib.h>

int main(void)
{
    wh_error err;
    CHECK(wh_fail(NULL, WH_E_INVAL, "x", "%d", 1) == WH_E_INVAL);
    CHECK(wh_fail(&err, WH_E_IO, "memory", "%u bytes", 7u) == WH_E_IO);
    CHECK(err.status == WH_E_IO && !strcmp(err.field, "memory") && !strcmp(err.message, "7 bytes"));
    char longer[400];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    wh_fail(&err, WH_E_IO, longer, "%s", longer);
    CHECK(strlen(err.field) == sizeof err.field - 1 && strlen(err.message) == sizeof err.message - 1);
    wh_fail(&err, WH_E_IO, NULL, "%s", "");
    CHECK(!err.field[0] && !err.message[0]);
    uint64_t a = wh_now_ns(), b = wh_now_ns();
    CHECK(a && b >= a);
    wh_buf_free(NULL);
    wh_buf_free(malloc(10));
    return finish("base");
}
