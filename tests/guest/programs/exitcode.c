/* Ends with the failure code that the first input byte gives ('0' is a reboot). */
#include "rt.h"
FINISH_WITH_ZERO
NO_TRAPS

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart, (void)opaque;
    put("code?\n");
    int c = get_wait();
    if (c == '0')
        *FINISHER = 0x7777;
    end((unsigned)(c - '0'));
}
