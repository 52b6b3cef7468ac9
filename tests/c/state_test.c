/* msgpack writer and reader: every encoding's edges, whole, cut at each byte, and random bytes. */
#include "state/state.h"
#include "switch_check.h"

#include <stdlib.h>

static const uint64_t edges[] = {0,      1,       0x7f,       0x80,        0xff,      0x100,
                                 0xffff, 0x10000, 0xffffffff, 0x100000000, INT64_MAX, UINT64_MAX};

static void test_integers(void)
{
    for (size_t i = 0; i < WH_ARRAY_LEN(edges); i++) {
        wh_writer w;
        wh_writer_init(&w);
        wh_put_uint(&w, edges[i]);
        wh_put_int(&w, -(int64_t)(edges[i] & INT64_MAX) - 1);
        wh_reader r;
        wh_reader_init(&r, w.data, w.len);
        CHECK(wh_get_uint(&r) == edges[i]);
        CHECK(wh_get_int(&r) == -(int64_t)(edges[i] & INT64_MAX) - 1);
        CHECK(!r.status && r.p == r.end);
        wh_writer_free(&w);
    }
    const uint8_t shortest[] = {0x7f, 0xcc, 0x80, 0xe0, 0xd0, 0xdf};
    wh_writer w;
    wh_writer_init(&w);
    wh_put_uint(&w, 0x7f);
    wh_put_uint(&w, 0x80);
    wh_put_int(&w, -32);
    wh_put_int(&w, -33);
    CHECK(w.len == sizeof shortest && !memcmp(w.data, shortest, sizeof shortest));
    wh_writer_free(&w);
    const uint8_t negative[] = {0xff};
    wh_reader r;
    wh_reader_init(&r, negative, 1);
    wh_get_uint(&r);
    CHECK(r.status == WH_E_FORMAT);
    wh_reader_init(&r, (const uint8_t *)"\x05", 1);
    CHECK(wh_get_uint_max(&r, 4) == 0 && r.status == WH_E_FORMAT);
}

static void put_document(wh_writer *w)
{
    static uint8_t big[70000];
    wh_put_map(w, 7);
    wh_put_kuint(w, "pc", 0x80000000ull);
    wh_put_str(w, "list");
    wh_put_array(w, 20);
    for (unsigned i = 0; i < 20; i++)
        wh_put_int(w, -(int64_t)i * 1000);
    wh_put_kbin(w, "small", "abc", 3);
    wh_put_kbin(w, "middle", big, 300);
    wh_put_kbin(w, "big", big, sizeof big);
    wh_put_str(w, "a key that is longer than thirty-one bytes");
    wh_put_nil(w);
    wh_put_str(w, "flag");
    wh_put_bool(w, true);
}

/* Everything the document holds; the status is in the reader returned. */
static wh_reader read_document(const uint8_t *data, size_t len)
{
    wh_reader r;
    wh_reader_init(&r, data, len);
    uint8_t abc[3] = {0};
    wh_reader fail = r;
    uint64_t pc = wh_map_uint(&r, "pc", &fail);
    wh_map_bin(&r, "small", abc, 3, &fail);
    wh_reader at = wh_map_find(&r, "list");
    uint32_t n = wh_get_array(&at);
    int64_t last = 0;
    for (uint32_t i = 0; i < n; i++)
        last = wh_get_int(&at);
    wh_reader flag = wh_map_find(&r, "flag");
    bool on = wh_get_bool(&flag);
    size_t big;
    wh_reader bin = wh_map_find(&r, "big");
    wh_get_bin(&bin, &big);
    wh_reader nil = wh_map_find(&r, "a key that is longer than thirty-one bytes");
    bool is_nil = wh_get_nil(&nil);
    if (!fail.status)
        fail.status = at.status ? at.status : flag.status ? flag.status : bin.status;
    if (!fail.status)
        CHECK(pc == 0x80000000ull && !memcmp(abc, "abc", 3) && n == 20 && last == -19000 && on && big == 70000 &&
              is_nil);
    return fail;
}

static void test_document(void)
{
    wh_writer w;
    wh_writer_init(&w);
    put_document(&w);
    CHECK(!w.status);
    CHECK(!read_document(w.data, w.len).status);
    for (size_t cut = 0; cut < w.len; cut += cut < 500 || w.len - cut < 100 ? 1 : 777) {
        uint8_t *part = malloc(cut ? cut : 1); /* exactly so long: ASan sees the first byte too far */
        memcpy(part, w.data, cut);
        CHECK(read_document(part, cut).status == WH_E_FORMAT);
        free(part);
    }
    wh_reader r;
    wh_reader_init(&r, w.data, w.len);
    wh_reader none = wh_map_find(&r, "absent");
    CHECK(none.status == WH_E_FORMAT && !strcmp(none.field, "absent"));
    CHECK(!wh_map_has(&r, "absent") && wh_map_has(&r, "pc"));
    wh_reader whole = r;
    wh_get_skip(&whole);
    CHECK(!whole.status && whole.p == whole.end);
    wh_writer_free(&w);
}

static void test_fixed_writer(void)
{
    uint8_t buf[8];
    wh_writer w;
    wh_writer_fixed(&w, buf, sizeof buf);
    wh_put_bin(&w, "123456", 6);
    CHECK(!w.status && w.len == 8);
    wh_put_nil(&w);
    CHECK(w.status == WH_E_FULL && w.len == 8);
    wh_writer_free(&w);
}

static void test_hostile(void)
{
    uint8_t deep[100];
    memset(deep, 0x91, sizeof deep); /* arrays in arrays */
    deep[99] = 0;
    wh_reader r;
    wh_reader_init(&r, deep, sizeof deep);
    wh_get_skip(&r);
    CHECK(r.status == WH_E_FORMAT);
    const uint8_t counts[] = {0xdd, 0xff, 0xff, 0xff, 0xff, 1, 2};
    wh_reader_init(&r, counts, sizeof counts);
    CHECK(wh_get_array(&r) == 0 && r.status == WH_E_FORMAT);
    const uint8_t lengths[] = {0xc6, 0xff, 0xff, 0xff, 0xff, 1};
    size_t len;
    wh_reader_init(&r, lengths, sizeof lengths);
    CHECK(!wh_get_bin(&r, &len) && !len && r.status == WH_E_FORMAT);
    uint64_t seed = 0x5eed;
    for (unsigned round = 0; round < 200000; round++) {
        size_t n = next_random(&seed) % 48;
        uint8_t *bytes = malloc(n ? n : 1);
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)next_random(&seed);
        wh_reader_init(&r, bytes, n);
        wh_get_skip(&r);
        CHECK(r.p <= r.end);
        read_document(bytes, n);
        free(bytes);
    }
}

int main(void)
{
    test_integers();
    test_document();
    test_fixed_writer();
    test_hostile();
    return finish("state");
}
