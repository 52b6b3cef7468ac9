/* fdt: writes a flattened device tree (Devicetree Specification 0.4, chapter 5), version 17. Calls nest as the tree
 * does; the first failure sticks and is told by wh_fdt_finish. */
#ifndef WH_FDT_H
#define WH_FDT_H

#include "base/base.h"

typedef struct wh_fdt_buf {
    uint8_t *data;
    size_t len, cap;
} wh_fdt_buf;

typedef struct wh_fdt {
    wh_fdt_buf structure, strings;
    unsigned depth;
    int status;
} wh_fdt;

void wh_fdt_init(wh_fdt *f);
void wh_fdt_free(wh_fdt *f);
void wh_fdt_begin(wh_fdt *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void wh_fdt_end(wh_fdt *f);
void wh_fdt_prop(wh_fdt *f, const char *name, const void *data, size_t len);
void wh_fdt_empty(wh_fdt *f, const char *name);
void wh_fdt_str(wh_fdt *f, const char *name, const char *text);
/* A list of strings: "first\0second", len bytes without the last terminator (sizeof a literal - 1). */
void wh_fdt_strs(wh_fdt *f, const char *name, const char *texts, size_t len);
void wh_fdt_cells(wh_fdt *f, const char *name, const uint32_t *cells, size_t count);
void wh_fdt_u32(wh_fdt *f, const char *name, uint32_t v);
void wh_fdt_u64(wh_fdt *f, const char *name, uint64_t v);
void wh_fdt_reg(wh_fdt *f, uint64_t base, uint64_t size); /* reg with #address-cells 2, #size-cells 2 */
/* The whole blob, malloc'ed; the builder is freed in any case. */
int wh_fdt_finish(wh_fdt *f, uint8_t **out, size_t *len);

#endif
