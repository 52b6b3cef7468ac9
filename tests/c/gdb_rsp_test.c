/* Packets of the remote protocol: framing whole, bytewise and random; numbers and hexadecimal within a packet; the
 * tables of points. */
#include "cpu/debug.h"
#include "debug/rsp.h"
#include "switch_check.h"

#include <stdlib.h>

static wh_rsp in;
static wh_rsp_out out;
static uint8_t frame[WH_RSP_FRAME_MAX];

static enum wh_rsp_event feed(const void *bytes, size_t len)
{
    enum wh_rsp_event last = WH_RSP_NONE;
    for (size_t i = 0; i < len; i++)
        last = wh_rsp_feed(&in, ((const uint8_t *)bytes)[i]);
    return last;
}

static enum wh_rsp_event feed_text(const char *text)
{
    return feed(text, strlen(text));
}

static void test_packets(void)
{
    wh_rsp_init(&in);
    CHECK(feed_text("$qC#b4") == WH_RSP_PACKET && in.len == 2 && !memcmp(in.data, "qC", 3));
    CHECK(feed_text("$#00") == WH_RSP_PACKET && in.len == 0);
    CHECK(feed_text("$qC#B4") == WH_RSP_PACKET); /* digits of either case */
    CHECK(feed_text("$qC#b5") == WH_RSP_BAD);
    CHECK(feed_text("$qC#g4") == WH_RSP_BAD);
    CHECK(feed_text("$qC#4g") == WH_RSP_BAD);
    CHECK(feed_text("+") == WH_RSP_ACK && feed_text("-") == WH_RSP_NAK && feed_text("\003") == WH_RSP_BREAK);
    CHECK(feed_text("noise") == WH_RSP_NONE && feed_text("$g#67") == WH_RSP_PACKET);
    CHECK(feed_text("$half$g#67") == WH_RSP_PACKET && in.len == 1);
    CHECK(feed_text("$a}\003b#43") == WH_RSP_PACKET && !memcmp(in.data, "a#b", 4)); /* } escapes 03 ^ 20 = # */
    CHECK(feed_text("$\003#03") == WH_RSP_PACKET && in.len == 1);                   /* no Ctrl-C within a packet */
}

static void test_length(void)
{
    for (size_t len = WH_RSP_MAX; len <= WH_RSP_MAX + 1; len++) {
        char sum[4];
        wh_rsp_init(&in);
        CHECK(wh_rsp_feed(&in, '$') == WH_RSP_NONE);
        for (size_t i = 0; i < len; i++)
            CHECK(wh_rsp_feed(&in, 'x') == WH_RSP_NONE);
        snprintf(sum, sizeof sum, "#%02x", (unsigned)('x' * len) & 0xff);
        CHECK(feed_text(sum) == (len <= WH_RSP_MAX ? WH_RSP_PACKET : WH_RSP_BAD));
    }
    CHECK(feed_text("$g#67") == WH_RSP_PACKET);
    wh_rsp_clear(&out);
    for (unsigned i = 0; i <= WH_RSP_MAX; i++)
        wh_rsp_bytes(&out, "}", 1);
    CHECK(out.too_long && out.len == WH_RSP_MAX);
    CHECK(wh_rsp_frame(&out, frame) == sizeof frame); /* every byte escaped: it just fits */
}

/* What we frame is what we read, whatever the bytes. */
static void test_round_trip(void)
{
    uint64_t seed = 11;
    for (unsigned round = 0; round < 500; round++) {
        char bytes[300];
        size_t len = next_random(&seed) % sizeof bytes;
        for (size_t i = 0; i < len; i++)
            bytes[i] = (char)next_random(&seed);
        wh_rsp_clear(&out);
        wh_rsp_bytes(&out, bytes, len);
        wh_rsp_init(&in);
        CHECK(feed(frame, wh_rsp_frame(&out, frame)) == WH_RSP_PACKET);
        CHECK(in.len == len && !memcmp(in.data, bytes, len));
    }
}

static void test_noise(void)
{
    static const char likely[] = "$#}+-\003g0";
    uint64_t seed = 12;
    wh_rsp_init(&in);
    for (unsigned i = 0; i < 1000000; i++) {
        uint64_t r = next_random(&seed);
        uint8_t byte = r & 0x100 ? (uint8_t)r : (uint8_t)likely[(r >> 16) % (sizeof likely - 1)];
        if (wh_rsp_feed(&in, byte) == WH_RSP_PACKET)
            CHECK(in.len <= WH_RSP_MAX && in.data[in.len] == 0);
    }
}

static wh_rsp_in cursor(const char *text)
{
    return (wh_rsp_in){text, text + strlen(text)};
}

static void test_parsing(void)
{
    uint64_t v = 7;
    uint8_t bytes[4] = {0};
    wh_rsp_in c = cursor("ffffffffffffffff,0");
    CHECK(wh_rsp_number(&c, &v) && v == UINT64_MAX && wh_rsp_char(&c, ',') && wh_rsp_number(&c, &v) && v == 0);
    CHECK(!wh_rsp_number(&c, &v) && !wh_rsp_char(&c, ',') && !wh_rsp_word(&c, "x") && wh_rsp_word(&c, ""));
    c = cursor("10000000000000000");
    CHECK(!wh_rsp_number(&c, &v) && *c.at == '1');
    c = cursor("00000000000000000000012");
    CHECK(wh_rsp_number(&c, &v) && v == 0x12);
    c = cursor("deadBEEF0");
    CHECK(wh_rsp_unhex(&c, bytes, 4) && bytes[0] == 0xde && bytes[3] == 0xef && !wh_rsp_unhex(&c, bytes, 1));
    c = cursor("0x");
    CHECK(!wh_rsp_unhex(&c, bytes, 1));
    c = cursor("thread");
    CHECK(!wh_rsp_word(&c, "threads") && wh_rsp_word(&c, "thr") && wh_rsp_word(&c, "ead"));
}

static void test_points(void)
{
    wh_debug_points *p = calloc(1, sizeof *p);
    for (unsigned i = 0; i < WH_BREAKPOINTS; i++)
        CHECK(wh_debug_add_break(p, i * 2, i & 1) == WH_OK);
    CHECK(wh_debug_add_break(p, 0, 0) == WH_OK && wh_debug_add_break(p, 0, 1) == WH_E_FULL);
    CHECK(wh_debug_del_break(p, 2, 0) == WH_E_NOTFOUND && wh_debug_del_break(p, 2, 1) == WH_OK);
    CHECK(wh_debug_add_break(p, 0, 1) == WH_OK && wh_debug_del_break(p, 0, 0) == WH_OK);
    CHECK(wh_debug_add_watch(p, 8, 0, WH_WATCH_READ) == WH_E_INVAL);
    CHECK(wh_debug_add_watch(p, UINT64_MAX, 1, WH_WATCH_READ) == WH_OK);
    CHECK(wh_debug_add_watch(p, UINT64_MAX, 2, WH_WATCH_READ) == WH_E_INVAL);
    for (unsigned i = 1; i < WH_WATCHPOINTS; i++)
        CHECK(wh_debug_add_watch(p, i, 1, WH_WATCH_WRITE) == WH_OK);
    CHECK(wh_debug_add_watch(p, 0, 1, WH_WATCH_WRITE) == WH_E_FULL);
    CHECK(wh_debug_del_watch(p, 1, 1, WH_WATCH_READ) == WH_E_NOTFOUND);
    CHECK(wh_debug_del_watch(p, 1, 1, WH_WATCH_WRITE) == WH_OK && p->watches == WH_WATCHPOINTS - 1);
    free(p);
}

int main(void)
{
    test_packets();
    test_length();
    test_round_trip();
    test_noise();
    test_parsing();
    test_points();
    return finish("gdb_rsp");
}
