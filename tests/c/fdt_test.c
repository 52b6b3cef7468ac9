/* The device tree writer, read back by an independent walk of the flattened format. */
#include "board/fdt.h"
#include "switch_check.h"

#include <stdlib.h>

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* "/a/b:prop" of the blob: its value and length, or NULL. Checks the structure on its way. */
static const uint8_t *lookup(const uint8_t *blob, size_t total, const char *path, size_t *len)
{
    CHECK(be32(blob) == 0xd00dfeed && be32(blob + 4) == total && be32(blob + 20) == 17);
    const uint8_t *p = blob + be32(blob + 8), *end = p + be32(blob + 36);
    const char *strings = (const char *)blob + be32(blob + 12);
    CHECK(be32(blob + 12) + be32(blob + 32) == total && end == (const uint8_t *)strings);
    char at[256] = "";
    const uint8_t *found = NULL;
    while (p < end && be32(p) != 9) {
        uint32_t token = be32(p);
        p += 4;
        if (token == 1) {
            size_t used = strlen(at);
            if (*p)
                snprintf(at + used, sizeof at - used, "/%s", (const char *)p);
            else
                strcpy(at, "");
            p += (strlen((const char *)p) + 4) & ~3ull;
        } else if (token == 2) {
            char *slash = strrchr(at, '/');
            if (slash)
                *slash = 0;
        } else {
            CHECK(token == 3);
            char name[300];
            snprintf(name, sizeof name, "%s:%s", at, strings + be32(p + 4));
            if (!strcmp(name, path)) {
                *len = be32(p);
                found = p + 8;
            }
            p += 8 + ((be32(p) + 3) & ~3u);
        }
    }
    CHECK(p + 4 == end);
    return found;
}

int main(void)
{
    wh_fdt f;
    uint8_t *blob = NULL;
    size_t total, len = 0;
    wh_fdt_init(&f);
    wh_fdt_begin(&f, "%s", "");
    wh_fdt_u32(&f, "#address-cells", 2);
    wh_fdt_begin(&f, "soc");
    wh_fdt_empty(&f, "ranges");
    wh_fdt_begin(&f, "uart@%x", 0x10u);
    wh_fdt_reg(&f, 0x123456789ull, 0x100);
    wh_fdt_strs(&f, "compatible", "a\0bc", 4);
    wh_fdt_end(&f);
    wh_fdt_end(&f);
    wh_fdt_begin(&f, "chosen");
    wh_fdt_str(&f, "bootargs", "x=1");
    wh_fdt_u64(&f, "linux,initrd-start", 0x8000000000000001ull);
    wh_fdt_u32(&f, "#address-cells", 7);
    wh_fdt_end(&f);
    wh_fdt_end(&f);
    CHECK(!wh_fdt_finish(&f, &blob, &total));
    const uint8_t *v = lookup(blob, total, "/soc/uart@10:reg", &len);
    CHECK(v && len == 16 && be32(v) == 1 && be32(v + 4) == 0x23456789 && be32(v + 12) == 0x100);
    v = lookup(blob, total, "/soc/uart@10:compatible", &len);
    CHECK(v && len == 5 && !memcmp(v, "a\0bc", 5));
    v = lookup(blob, total, "/chosen:bootargs", &len);
    CHECK(v && len == 4 && !strcmp((const char *)v, "x=1"));
    v = lookup(blob, total, "/chosen:linux,initrd-start", &len);
    CHECK(v && len == 8 && be32(v) == 0x80000000u && be32(v + 4) == 1);
    CHECK(lookup(blob, total, "/soc:ranges", &len) && len == 0);
    v = lookup(blob, total, "/chosen:#address-cells", &len);
    CHECK(v && be32(v) == 7);
    CHECK(!lookup(blob, total, "/chosen:ranges", &len));
    wh_buf_free(blob);
    wh_fdt_init(&f);
    wh_fdt_begin(&f, "open");
    CHECK(wh_fdt_finish(&f, &blob, &total) == WH_E_INVAL); /* a node that was never ended */
    return finish("fdt");
}
