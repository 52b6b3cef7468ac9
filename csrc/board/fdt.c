#include "board/fdt.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FDT_MAGIC      0xd00dfeedu
#define FDT_BEGIN_NODE 1u
#define FDT_END_NODE   2u
#define FDT_PROP       3u
#define FDT_END        9u
#define HEADER_BYTES   40u
#define RESERVE_BYTES  16u /* one empty entry ends the memory reservation block */

void wh_fdt_init(wh_fdt *f)
{
    memset(f, 0, sizeof *f);
}

void wh_fdt_free(wh_fdt *f)
{
    free(f->structure.data);
    free(f->strings.data);
    memset(f, 0, sizeof *f);
}

static void append(wh_fdt *f, wh_fdt_buf *b, const void *data, size_t len)
{
    if (f->status)
        return;
    if (len > b->cap - b->len) {
        size_t cap = (b->len + len) * 2 + 1024;
        uint8_t *grown = realloc(b->data, cap);
        if (!grown) {
            f->status = WH_E_NOMEM;
            return;
        }
        b->data = grown;
        b->cap = cap;
    }
    if (len)
        memcpy(b->data + b->len, data, len);
    b->len += len;
}

static void put32(wh_fdt *f, uint32_t v)
{
    uint8_t be[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
    append(f, &f->structure, be, sizeof be);
}

static void align(wh_fdt *f)
{
    static const uint8_t zeros[4];
    append(f, &f->structure, zeros, (0 - f->structure.len) & 3);
}

void wh_fdt_begin(wh_fdt *f, const char *fmt, ...)
{
    char name[64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    put32(f, FDT_BEGIN_NODE);
    append(f, &f->structure, name, strlen(name) + 1);
    align(f);
    f->depth++;
}

void wh_fdt_end(wh_fdt *f)
{
    put32(f, FDT_END_NODE);
    f->depth--;
}

/* Offset of a property's name in the strings block; each name is stored once. */
static uint32_t string_offset(wh_fdt *f, const char *name)
{
    size_t len = strlen(name) + 1;
    for (size_t at = 0; at < f->strings.len;) {
        const char *have = (const char *)f->strings.data + at;
        if (!strcmp(have, name))
            return (uint32_t)at;
        at += strlen(have) + 1;
    }
    uint32_t at = (uint32_t)f->strings.len;
    append(f, &f->strings, name, len);
    return at;
}

void wh_fdt_prop(wh_fdt *f, const char *name, const void *data, size_t len)
{
    put32(f, FDT_PROP);
    put32(f, (uint32_t)len);
    put32(f, string_offset(f, name));
    append(f, &f->structure, data, len);
    align(f);
}

void wh_fdt_empty(wh_fdt *f, const char *name)
{
    wh_fdt_prop(f, name, NULL, 0);
}

void wh_fdt_str(wh_fdt *f, const char *name, const char *text)
{
    wh_fdt_prop(f, name, text, strlen(text) + 1);
}

void wh_fdt_strs(wh_fdt *f, const char *name, const char *texts, size_t len)
{
    wh_fdt_prop(f, name, texts, len + 1);
}

void wh_fdt_cells(wh_fdt *f, const char *name, const uint32_t *cells, size_t count)
{
    put32(f, FDT_PROP);
    put32(f, (uint32_t)(count * 4));
    put32(f, string_offset(f, name));
    for (size_t i = 0; i < count; i++)
        put32(f, cells[i]);
}

void wh_fdt_u32(wh_fdt *f, const char *name, uint32_t v)
{
    wh_fdt_cells(f, name, &v, 1);
}

void wh_fdt_u64(wh_fdt *f, const char *name, uint64_t v)
{
    wh_fdt_cells(f, name, (uint32_t[]){(uint32_t)(v >> 32), (uint32_t)v}, 2);
}

void wh_fdt_reg(wh_fdt *f, uint64_t base, uint64_t size)
{
    uint32_t cells[4] = {(uint32_t)(base >> 32), (uint32_t)base, (uint32_t)(size >> 32), (uint32_t)size};
    wh_fdt_cells(f, "reg", cells, 4);
}

static void store32(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

int wh_fdt_finish(wh_fdt *f, uint8_t **out, size_t *len)
{
    put32(f, FDT_END);
    int status = f->status ? f->status : f->depth ? WH_E_INVAL : WH_OK;
    size_t structure = HEADER_BYTES + RESERVE_BYTES, strings = structure + f->structure.len;
    size_t total = strings + f->strings.len;
    uint8_t *blob = status ? NULL : calloc(1, total);
    if (blob) {
        const size_t header[10] = {FDT_MAGIC, total, structure, strings,        HEADER_BYTES,
                                   17,        16,    0,         f->strings.len, f->structure.len};
        for (unsigned i = 0; i < 10; i++)
            store32(blob + 4 * i, header[i]);
        memcpy(blob + structure, f->structure.data, f->structure.len);
        if (f->strings.len)
            memcpy(blob + strings, f->strings.data, f->strings.len);
        *out = blob;
        *len = total;
    } else if (!status) {
        status = WH_E_NOMEM;
    }
    wh_fdt_free(f);
    return status;
}
