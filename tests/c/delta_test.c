/* Deltas of pages, and views that send them. */
#include "memory/delta.h"
#include "memory/memory.h"
#include "switch_check.h"

#include <stdlib.h>

#define PAGES 100u

static uint32_t state = 12345;
static uint32_t draw(uint32_t most)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % most;
}

static void test_random_changes(void)
{
    uint8_t old[WH_PAGE_SIZE], now[WH_PAGE_SIZE], delta[WH_DELTA_MAX];
    unsigned whole = 0, same = 0;
    for (unsigned turn = 0; turn < 3000; turn++) {
        for (unsigned i = 0; i < WH_PAGE_SIZE; i++)
            old[i] = now[i] = (uint8_t)draw(256);
        for (unsigned runs = draw(20); runs > 0; runs--) {
            unsigned at = draw(WH_PAGE_SIZE), length = 1 + draw(turn % 3 ? 16 : 400);
            for (unsigned i = at; i < at + length && i < WH_PAGE_SIZE; i++)
                now[i] = (uint8_t)draw(256);
        }
        size_t len = wh_delta_make(old, now, delta);
        same += len == 0;
        whole += len == SIZE_MAX;
        CHECK((len == 0) == !memcmp(old, now, sizeof old));
        if (len == 0 || len == SIZE_MAX)
            continue;
        CHECK(wh_delta_valid(delta, len));
        wh_delta_apply(old, delta, len);
        CHECK(!memcmp(old, now, sizeof old));
    }
    CHECK(whole > 10 && same > 10);
}

static void test_edges(void)
{
    uint8_t old[WH_PAGE_SIZE] = {0}, now[WH_PAGE_SIZE] = {0}, delta[WH_DELTA_MAX];
    now[0] = now[WH_PAGE_SIZE - 1] = 1;
    size_t len = wh_delta_make(old, now, delta);
    CHECK(len == 24 && wh_delta_valid(delta, len));
    wh_delta_apply(old, delta, len);
    CHECK(!memcmp(old, now, sizeof old));
    memset(now, 7, WH_DELTA_MAX - 8);
    CHECK(wh_delta_make(old, now, delta) == WH_DELTA_MAX - 4);
    now[WH_DELTA_MAX] = 9;
    CHECK(wh_delta_make(old, now, delta) == SIZE_MAX);
}

static void test_damaged(void)
{
    static const struct {
        uint8_t bytes[24];
        size_t len;
    } bad[] = {{{0}, 0},
               {{0, 0, 1}, 3},
               {{0, 0, 0, 0}, 4},                                          /* no words */
               {{0, 0, 1, 0, 1, 2, 3}, 7},                                 /* cut off */
               {{0, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8}, 12},                 /* word 512 */
               {{255, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8}, 20},               /* beyond the page */
               {{5, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 0, 1, 0, 1}, 24}}; /* not behind the one before */
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK(!wh_delta_valid(bad[i].bytes, bad[i].len));
    uint8_t noise[64];
    for (unsigned turn = 0; turn < 20000; turn++) {
        uint8_t page[WH_PAGE_SIZE];
        size_t len = draw(sizeof noise + 1);
        for (unsigned i = 0; i < sizeof noise; i++)
            noise[i] = (uint8_t)draw(turn % 2 ? 256 : 4);
        if (wh_delta_valid(noise, len))
            wh_delta_apply(page, noise, len); /* within bounds, or the sanitizer says so */
    }
}

struct side {
    wh_ram ram;
    wh_ramview *view;
};

static struct side make(void)
{
    struct side s;
    wh_error err;
    CHECK(!wh_ram_new((uint64_t)PAGES * WH_PAGE_SIZE, 1, &s.ram, &err));
    CHECK(!wh_ramview_open(s.ram.ram_fd, s.ram.share_fd, &s.view, &err));
    return s;
}

static void drop(struct side *s)
{
    wh_ramview_close(s->view);
    wh_ram_free(&s->ram);
}

/* One round; the bytes that it took. The target has the same memory afterwards. */
static size_t round_trip(struct side *from, struct side *to, uint64_t *data_pages)
{
    static uint8_t batch[64 << 10];
    wh_batch_info sent, placed;
    wh_error err;
    uint64_t dirty;
    size_t bytes = 0;
    *data_pages = 0;
    CHECK(!wh_ramview_round(from->view, 0, &dirty));
    do {
        CHECK(!wh_ramview_pack(from->view, batch, sizeof batch, &sent));
        CHECK(!wh_ramview_unpack(to->view, batch, sent.bytes, &placed, &err));
        bytes += sent.bytes;
        *data_pages += sent.data_pages;
    } while (sent.more);
    CHECK(!memcmp(wh_ram_at(&from->ram, WH_RAM_BASE, from->ram.bytes), wh_ram_at(&to->ram, WH_RAM_BASE, to->ram.bytes),
                  from->ram.bytes));
    return bytes;
}

static void put(struct side *s, unsigned pfn, unsigned at, uint64_t value)
{
    uint64_t pa = WH_RAM_BASE + (uint64_t)pfn * WH_PAGE_SIZE;
    memcpy(wh_ram_at(&s->ram, pa, WH_PAGE_SIZE) + at, &value, sizeof value);
    wh_ram_mark_dirty(&s->ram, pa);
}

static void fill(struct side *s, unsigned pfn)
{
    for (unsigned at = 0; at < WH_PAGE_SIZE; at += 8)
        put(s, pfn, at, ((uint64_t)draw(1u << 24) << 24 | draw(1u << 24)) + 1);
}

static void test_rounds(void)
{
    struct side from = make(), to = make();
    uint64_t pages;
    for (unsigned pfn = 0; pfn < 20; pfn++)
        fill(&from, pfn);
    CHECK(!wh_ramview_track(from.view, 1) && !wh_ramview_remember(from.view, 10));
    CHECK(round_trip(&from, &to, &pages) > 20 * WH_PAGE_SIZE && pages == 20);
    put(&from, 3, 800, 77);
    CHECK(round_trip(&from, &to, &pages) <= 64 && pages == 1); /* 8 bytes of a remembered page */
    put(&from, 15, 800, 77);
    CHECK(round_trip(&from, &to, &pages) > WH_PAGE_SIZE && pages == 1); /* one for which there was no room */
    put(&from, 3, 800, 77);
    CHECK(round_trip(&from, &to, &pages) < 8 && pages == 0); /* written, and the same */
    fill(&from, 4);
    CHECK(round_trip(&from, &to, &pages) > WH_PAGE_SIZE && pages == 1);
    for (unsigned at = 0; at < WH_PAGE_SIZE; at += 8)
        put(&from, 5, at, 0);
    CHECK(round_trip(&from, &to, &pages) < 32 && pages == 0);
    put(&from, 5, 16, 1); /* what was sent last is zeros, which nobody remembers: its place is the next page's */
    CHECK(round_trip(&from, &to, &pages) > WH_PAGE_SIZE && pages == 1);
    put(&from, 5, 16, 2);
    CHECK(round_trip(&from, &to, &pages) <= 64 && pages == 1);
    CHECK(!wh_ramview_track(from.view, 1)); /* another target may be next */
    CHECK(round_trip(&from, &to, &pages) > 19 * WH_PAGE_SIZE && pages == 20);
    drop(&from);
    drop(&to);
}

int main(void)
{
    test_random_changes();
    test_edges();
    test_damaged();
    test_rounds();
    return finish("delta");
}
