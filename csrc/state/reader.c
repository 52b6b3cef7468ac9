/* msgpack reader over bytes it does not own and does not trust: each length is compared with what is left before it is
 * used, and a count can never be larger than the bytes that would have to hold its elements. */
#include "state/state.h"

#include <string.h>

#define WH_READER_MAX_DEPTH 32u

void wh_reader_init(wh_reader *r, const uint8_t *data, size_t len)
{
    memset(r, 0, sizeof *r);
    r->p = data;
    r->end = data ? data + len : data;
}

static void fail(wh_reader *r, int status)
{
    if (!r->status)
        r->status = status;
    r->p = r->end; /* nothing more is read after a failure */
}

static size_t left(const wh_reader *r)
{
    return (size_t)(r->end - r->p);
}

/* n bytes that are there, or NULL. */
static const uint8_t *take(wh_reader *r, size_t n)
{
    if (r->status || n > left(r)) {
        fail(r, WH_E_FORMAT);
        return NULL;
    }
    const uint8_t *p = r->p;
    r->p += n;
    return p;
}

static uint64_t take_be(wh_reader *r, unsigned bytes)
{
    const uint8_t *p = take(r, bytes);
    uint64_t v = 0;
    for (unsigned i = 0; p && i < bytes; i++)
        v = v << 8 | p[i];
    return v;
}

static int take_tag(wh_reader *r)
{
    const uint8_t *p = take(r, 1);
    return p ? *p : -1;
}

bool wh_get_nil(wh_reader *r)
{
    if (r->status || !left(r) || *r->p != 0xc0)
        return false;
    r->p++;
    return true;
}

bool wh_get_bool(wh_reader *r)
{
    int tag = take_tag(r);
    if (tag != 0xc2 && tag != 0xc3)
        fail(r, WH_E_FORMAT);
    return tag == 0xc3;
}

uint64_t wh_get_uint(wh_reader *r)
{
    int tag = take_tag(r);
    if (tag >= 0 && tag < 0x80)
        return (uint64_t)tag;
    if (tag >= 0xcc && tag <= 0xcf)
        return take_be(r, 1u << (tag - 0xcc));
    if (tag >= 0xd0 && tag <= 0xd3) { /* a signed form of a value that is not negative is allowed by the format */
        unsigned bytes = 1u << (tag - 0xd0);
        uint64_t v = take_be(r, bytes);
        if (!(v >> (8 * bytes - 1)))
            return v;
    }
    fail(r, WH_E_FORMAT);
    return 0;
}

uint64_t wh_get_uint_max(wh_reader *r, uint64_t max)
{
    uint64_t v = wh_get_uint(r);
    if (v > max) {
        fail(r, WH_E_FORMAT);
        return 0;
    }
    return v;
}

int64_t wh_get_int(wh_reader *r)
{
    if (!r->status && left(r)) {
        uint8_t tag = *r->p;
        if (tag >= 0xe0) {
            r->p++;
            return (int8_t)tag;
        }
        if (tag >= 0xd0 && tag <= 0xd3) {
            r->p++;
            unsigned bytes = 1u << (tag - 0xd0), shift = 64 - 8 * bytes;
            return (int64_t)(take_be(r, bytes) << shift) >> shift;
        }
    }
    return (int64_t)wh_get_uint_max(r, INT64_MAX);
}

const uint8_t *wh_get_bin(wh_reader *r, size_t *len)
{
    *len = 0;
    int tag = take_tag(r);
    if (tag < 0xc4 || tag > 0xc6) {
        fail(r, WH_E_FORMAT);
        return NULL;
    }
    size_t n = (size_t)take_be(r, 1u << (tag - 0xc4));
    const uint8_t *p = take(r, n);
    if (p)
        *len = n;
    return p;
}

void wh_get_bin_exact(wh_reader *r, void *out, size_t len)
{
    size_t got;
    const uint8_t *p = wh_get_bin(r, &got);
    if (p && got == len) {
        memcpy(out, p, len);
    } else {
        fail(r, WH_E_FORMAT);
        memset(out, 0, len);
    }
}

const char *wh_get_str(wh_reader *r, size_t *len)
{
    *len = 0;
    int tag = take_tag(r);
    size_t n;
    if (tag >= 0xa0 && tag <= 0xbf) {
        n = (size_t)(tag & 31);
    } else if (tag >= 0xd9 && tag <= 0xdb) {
        n = (size_t)take_be(r, 1u << (tag - 0xd9));
    } else {
        fail(r, WH_E_FORMAT);
        return NULL;
    }
    const uint8_t *p = take(r, n);
    if (p)
        *len = n;
    return (const char *)p;
}

/* unit: the least number of bytes that one element takes. */
static uint32_t get_count(wh_reader *r, int fix, int tag16, unsigned unit)
{
    int tag = take_tag(r);
    uint64_t n = 0;
    if (tag >= 0 && (tag & 0xf0) == fix)
        n = (uint64_t)(tag & 15);
    else if (tag == tag16 || tag == tag16 + 1)
        n = take_be(r, tag == tag16 ? 2 : 4);
    else
        fail(r, WH_E_FORMAT);
    if (r->status || n * unit > left(r)) {
        fail(r, WH_E_FORMAT);
        return 0;
    }
    return (uint32_t)n;
}

uint32_t wh_get_array(wh_reader *r)
{
    return get_count(r, 0x90, 0xdc, 1);
}

uint32_t wh_get_map(wh_reader *r)
{
    return get_count(r, 0x80, 0xde, 2);
}

/* Bytes that follow the tag of a scalar, or -1 for what is no scalar. Length-prefixed kinds are in body_prefix. */
static int scalar_bytes(int tag)
{
    if (tag < 0x80 || tag >= 0xe0 || tag == 0xc0 || tag == 0xc2 || tag == 0xc3)
        return 0;
    if (tag >= 0xcc && tag <= 0xcf)
        return 1 << (tag - 0xcc);
    if (tag >= 0xd0 && tag <= 0xd3)
        return 1 << (tag - 0xd0);
    if (tag == 0xca || tag == 0xcb)
        return tag == 0xca ? 4 : 8;
    if (tag >= 0xd4 && tag <= 0xd8) /* fixext: type byte and 1, 2, 4, 8 or 16 bytes */
        return 1 + (1 << (tag - 0xd4));
    if (tag >= 0xa0 && tag <= 0xbf)
        return tag & 31;
    return -1;
}

static bool skip_body(wh_reader *r, int tag)
{
    unsigned prefix, extra = 0;
    if (tag >= 0xc4 && tag <= 0xc6) {
        prefix = 1u << (tag - 0xc4);
    } else if (tag >= 0xc7 && tag <= 0xc9) {
        prefix = 1u << (tag - 0xc7);
        extra = 1;
    } else if (tag >= 0xd9 && tag <= 0xdb) {
        prefix = 1u << (tag - 0xd9);
    } else {
        return false;
    }
    uint64_t n = take_be(r, prefix);
    take(r, (size_t)n + extra);
    return true;
}

void wh_get_skip(wh_reader *r)
{
    if (r->depth >= WH_READER_MAX_DEPTH) {
        fail(r, WH_E_FORMAT);
        return;
    }
    if (r->status || !left(r)) {
        fail(r, WH_E_FORMAT);
        return;
    }
    int tag = *r->p;
    bool map = (tag & 0xf0) == 0x80 || tag == 0xde || tag == 0xdf;
    bool array = (tag & 0xf0) == 0x90 || tag == 0xdc || tag == 0xdd;
    if (map || array) {
        uint64_t n = map ? 2ull * wh_get_map(r) : wh_get_array(r);
        r->depth++;
        while (n-- > 0 && !r->status)
            wh_get_skip(r);
        r->depth--;
        return;
    }
    r->p++;
    int bytes = scalar_bytes(tag);
    if (bytes >= 0)
        take(r, (size_t)bytes);
    else if (!skip_body(r, tag))
        fail(r, WH_E_FORMAT);
}

/* Stands at the value of key, or is at the end with no status when the map is sound but lacks the key. */
static bool find(wh_reader *at, const char *key)
{
    size_t want = strlen(key);
    uint32_t n = wh_get_map(at);
    while (n-- > 0 && !at->status) {
        size_t len;
        const char *name = wh_get_str(at, &len);
        if (name && len == want && !memcmp(name, key, len))
            return true;
        wh_get_skip(at);
    }
    return false;
}

static void name_failure(wh_reader *r, const char *key)
{
    if (r->status && !r->field[0]) {
        size_t n = strlen(key);
        n = n < sizeof r->field - 1 ? n : sizeof r->field - 1;
        memcpy(r->field, key, n);
        r->field[n] = 0;
    }
}

void wh_reader_fail(wh_reader *r, const char *field)
{
    fail(r, WH_E_FORMAT);
    name_failure(r, field);
}

wh_reader wh_map_find(const wh_reader *map, const char *key)
{
    wh_reader at = *map;
    if (!at.status && !find(&at, key))
        fail(&at, WH_E_FORMAT);
    name_failure(&at, key);
    return at;
}

bool wh_map_has(const wh_reader *map, const char *key)
{
    wh_reader at = *map;
    return !at.status && find(&at, key);
}

static void pass_failure(const wh_reader *at, const char *key, wh_reader *to)
{
    if (!at->status || to->status)
        return;
    fail(to, at->status);
    name_failure(to, key);
}

uint64_t wh_map_uint(const wh_reader *map, const char *key, wh_reader *to)
{
    wh_reader at = wh_map_find(map, key);
    uint64_t v = wh_get_uint(&at);
    pass_failure(&at, key, to);
    return v;
}

void wh_map_bin(const wh_reader *map, const char *key, void *out, size_t len, wh_reader *to)
{
    wh_reader at = wh_map_find(map, key);
    wh_get_bin_exact(&at, out, len);
    pass_failure(&at, key, to);
}

void wh_reader_refuse(wh_reader *r, const char *key)
{
    fail(r, WH_E_FORMAT);
    name_failure(r, key);
}
