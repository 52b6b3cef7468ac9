/* msgpack writer. Every value is written in its shortest form, so that one document has one encoding. */
#include "state/state.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void wh_writer_init(wh_writer *w)
{
    memset(w, 0, sizeof *w);
}

void wh_writer_fixed(wh_writer *w, uint8_t *data, size_t cap)
{
    memset(w, 0, sizeof *w);
    w->data = data;
    w->cap = cap;
    w->fixed = true;
}

void wh_writer_free(wh_writer *w)
{
    if (!w->fixed)
        free(w->data);
    memset(w, 0, sizeof *w);
}

/* Room for n more bytes, or NULL with the status set. */
static uint8_t *room(wh_writer *w, size_t n)
{
    if (w->status)
        return NULL;
    if (n > w->cap - w->len) {
        if (w->fixed || n > SIZE_MAX / 4 || w->len > SIZE_MAX / 4) {
            w->status = w->fixed ? WH_E_FULL : WH_E_NOMEM;
            return NULL;
        }
        size_t cap = w->cap ? w->cap * 2 : 512;
        while (cap - w->len < n)
            cap *= 2;
        uint8_t *data = realloc(w->data, cap);
        if (!data) {
            w->status = WH_E_NOMEM;
            return NULL;
        }
        w->data = data;
        w->cap = cap;
    }
    uint8_t *p = w->data + w->len;
    w->len += n;
    return p;
}

static void put_tagged(wh_writer *w, uint8_t tag, uint64_t value, unsigned bytes)
{
    uint8_t *p = room(w, 1 + bytes);
    if (!p)
        return;
    *p++ = tag;
    for (unsigned i = bytes; i-- > 0;)
        *p++ = (uint8_t)(value >> (8 * i));
}

void wh_put_nil(wh_writer *w)
{
    put_tagged(w, 0xc0, 0, 0);
}

void wh_put_bool(wh_writer *w, bool v)
{
    put_tagged(w, v ? 0xc3 : 0xc2, 0, 0);
}

void wh_put_uint(wh_writer *w, uint64_t v)
{
    if (v < 0x80)
        put_tagged(w, (uint8_t)v, 0, 0);
    else if (v <= UINT8_MAX)
        put_tagged(w, 0xcc, v, 1);
    else if (v <= UINT16_MAX)
        put_tagged(w, 0xcd, v, 2);
    else if (v <= UINT32_MAX)
        put_tagged(w, 0xce, v, 4);
    else
        put_tagged(w, 0xcf, v, 8);
}

void wh_put_int(wh_writer *w, int64_t v)
{
    if (v >= 0)
        wh_put_uint(w, (uint64_t)v);
    else if (v >= -32)
        put_tagged(w, (uint8_t)v, 0, 0);
    else if (v >= INT8_MIN)
        put_tagged(w, 0xd0, (uint64_t)v, 1);
    else if (v >= INT16_MIN)
        put_tagged(w, 0xd1, (uint64_t)v, 2);
    else if (v >= INT32_MIN)
        put_tagged(w, 0xd2, (uint64_t)v, 4);
    else
        put_tagged(w, 0xd3, (uint64_t)v, 8);
}

static void put_body(wh_writer *w, const void *data, size_t len)
{
    uint8_t *p = room(w, len);
    if (p && len)
        memcpy(p, data, len);
}

void wh_put_bin(wh_writer *w, const void *data, size_t len)
{
    if (len <= UINT8_MAX)
        put_tagged(w, 0xc4, len, 1);
    else if (len <= UINT16_MAX)
        put_tagged(w, 0xc5, len, 2);
    else if (len <= UINT32_MAX)
        put_tagged(w, 0xc6, len, 4);
    else
        w->status = w->status ? w->status : WH_E_INVAL;
    put_body(w, data, len);
}

void wh_put_str(wh_writer *w, const char *text)
{
    size_t len = strlen(text);
    if (len < 32)
        put_tagged(w, (uint8_t)(0xa0 | len), 0, 0);
    else if (len <= UINT8_MAX)
        put_tagged(w, 0xd9, len, 1);
    else if (len <= UINT16_MAX)
        put_tagged(w, 0xda, len, 2);
    else
        put_tagged(w, 0xdb, len, 4);
    put_body(w, text, len);
}

static void put_header(wh_writer *w, uint8_t fix, uint8_t tag16, uint32_t count)
{
    if (count < 16)
        put_tagged(w, (uint8_t)(fix | count), 0, 0);
    else if (count <= UINT16_MAX)
        put_tagged(w, tag16, count, 2);
    else
        put_tagged(w, (uint8_t)(tag16 + 1), count, 4);
}

void wh_put_array(wh_writer *w, uint32_t count)
{
    put_header(w, 0x90, 0xdc, count);
}

void wh_put_map(wh_writer *w, uint32_t count)
{
    put_header(w, 0x80, 0xde, count);
}

void wh_put_kuint(wh_writer *w, const char *key, uint64_t v)
{
    wh_put_str(w, key);
    wh_put_uint(w, v);
}

void wh_put_kbin(wh_writer *w, const char *key, const void *data, size_t len)
{
    wh_put_str(w, key);
    wh_put_bin(w, data, len);
}
