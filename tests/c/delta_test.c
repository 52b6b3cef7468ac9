/* Deltas of pages, and views that send them. */
#include "memory/delta.h"
#include "memory/memory.h"
#include "state/state.h"
#include "switch_check.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 100u

static uint32_t state = 12345;
static uint32_t draw(uint32_t most)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % most;
}

static wh_delta_key key;

/* What the sender has of `old` are its marks. */
static size_t make_delta(const uint8_t *old, const uint8_t *now, uint8_t *delta)
{
    uint64_t marks[WH_MARKS], fresh[WH_MARKS];
    wh_delta_mark(&key, old, marks);
    wh_delta_mark(&key, now, fresh);
    size_t len = wh_delta_make(&key, marks, now, delta);
    CHECK(!memcmp(marks, fresh, sizeof marks));
    return len;
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
        size_t len = make_delta(old, now, delta);
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
    size_t len = make_delta(old, now, delta);
    CHECK(len == 72 && wh_delta_valid(delta, len)); /* two blocks of 32 bytes */
    wh_delta_apply(old, delta, len);
    CHECK(!memcmp(old, now, sizeof old));
    memset(now, 7, WH_DELTA_MAX - 32);
    CHECK(make_delta(old, now, delta) == WH_DELTA_MAX - 28);
    now[WH_DELTA_MAX] = 9;
    CHECK(make_delta(old, now, delta) == SIZE_MAX);
    for (unsigned bit = 0; bit < 8 * WH_PAGE_SIZE; bit += 61) { /* no word is passed over */
        memcpy(now, old, sizeof now);
        now[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(make_delta(old, now, delta) == 36);
    }
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

/* Pages of one word go by it, and only to who knows that. */
static void test_fills(void)
{
    struct side from = make(), to = make();
    uint64_t pages;
    for (unsigned pfn = 10; pfn < 40; pfn++)
        for (unsigned at = 0; at < WH_PAGE_SIZE; at += 8)
            put(&from, pfn, at, pfn < 30 ? 0xccccccccccccccccull : 5);
    put(&from, 35, WH_PAGE_SIZE - 8, 6); /* all but */
    CHECK(!wh_ramview_track(from.view, 1) && !wh_ramview_remember(from.view, 100));
    CHECK(!wh_ramview_fills(from.view, 1));
    CHECK(round_trip(&from, &to, &pages) < WH_PAGE_SIZE + 128 && pages == 1);
    put(&from, 12, 0, 77); /* no longer one: as a whole, for there is nothing that it could be compared with */
    put(&from, 20, 0, 0xccccccccccccccccull);
    CHECK(round_trip(&from, &to, &pages) < WH_PAGE_SIZE + 64 && pages == 1);
    for (unsigned at = 0; at < WH_PAGE_SIZE; at += 8)
        put(&from, 50, at, ~0ull), put(&from, 20, at, 0), put(&from, 12, at, at + 1);
    CHECK(round_trip(&from, &to, &pages) < WH_PAGE_SIZE + 128 && pages == 1);
    CHECK(!wh_ramview_fills(from.view, 0) && !wh_ramview_track(from.view, 1));
    CHECK(round_trip(&from, &to, &pages) > 30 * WH_PAGE_SIZE && pages == 30);
    drop(&from);
    drop(&to);
}

/* A run of pages that are not there, one that is in its middle, and a page twice. */
static void test_order(void)
{
    static uint8_t batch[(5 + 200) * (WH_PAGE_SIZE + 16)];
    struct side to = make();
    wh_writer w;
    wh_writer_fixed(&w, batch, sizeof batch);
    w.len = 5;
    uint8_t page[WH_PAGE_SIZE];
    put(&to, 30, 0, 1);
    for (unsigned i = 0; i < 180; i++) {
        memset(page, (int)(i + 1), sizeof page);
        wh_put_array(&w, 3);
        wh_put_uint(&w, i % 90);
        wh_put_uint(&w, 1);
        wh_put_bin(&w, page, sizeof page);
    }
    const uint8_t header[5] = {0xdd, 0, 0, 0, 180};
    memcpy(batch, header, sizeof header);
    wh_batch_info info;
    wh_error err;
    CHECK(!w.status && !wh_ramview_unpack(to.view, batch, w.len, &info, &err) && info.data_pages == 180);
    for (unsigned pfn = 0; pfn < 90; pfn++) {
        memset(page, (int)(91 + pfn), sizeof page);
        CHECK(!memcmp(wh_ram_at(&to.ram, WH_RAM_BASE + pfn * WH_PAGE_SIZE, WH_PAGE_SIZE), page, sizeof page));
    }
    drop(&to);
}

/* Pages that stand in a file go by name, unless they are written; what the target has is compared. */
static void test_files(void)
{
    static uint8_t content[3 * (1 << 20) + 100];
    struct side from = make(), to = make();
    uint64_t pages, found;
    for (size_t i = 0; i < sizeof content; i++)
        content[i] = (uint8_t)draw(256);
    memcpy(content, "070701", 6); /* an archive: pages at multiples of four */
    int fd = memfd_create("file", 0), other = memfd_create("other", 0), short_file = memfd_create("short", 0);
    CHECK(write(fd, content, sizeof content) == sizeof content && write(other, content, 5000) == 5000);
    CHECK(!ftruncate(other, sizeof content) && !ftruncate(short_file, 100));
    static const size_t at[] = {0, 4, 4096, (1 << 20) - 2048, (2 << 20) + 8, sizeof content - WH_PAGE_SIZE};
    for (unsigned i = 0; i < 6; i++)
        for (unsigned w = 0; w < WH_PAGE_SIZE; w += 8) {
            uint64_t value;
            memcpy(&value, content + at[i] + w, 8);
            put(&from, 10 + i, w, value), put(&from, 80 - 2 * i, w, value);
        }
    const int both[] = {short_file, fd};
    CHECK(!wh_ramview_files(from.view, both, 2) && !wh_ramview_files(to.view, both, 2));
    CHECK(!wh_ramview_find(from.view, &found) && found == 12);
    CHECK(!wh_ramview_track(from.view, 1) && !wh_ramview_remember(from.view, 100));
    put(&from, 11, 0, 1); /* since it was found */
    CHECK(round_trip(&from, &to, &pages) < WH_PAGE_SIZE + 12 * 30 && pages == 12);
    put(&from, 12, 8, 2);
    CHECK(round_trip(&from, &to, &pages) <= 64 && pages == 1); /* a change in a named page */

    static uint8_t batch[64 << 10];
    const int wrong[] = {short_file, other};
    wh_batch_info info;
    wh_error err;
    uint64_t dirty;
    struct side third = make();
    CHECK(!wh_ramview_find(from.view, &found) && found == 10 && !wh_ramview_track(from.view, 1));
    CHECK(!wh_ramview_round(from.view, 0, &dirty) && !wh_ramview_pack(from.view, batch, sizeof batch, &info));
    size_t len = info.bytes;
    CHECK(wh_ramview_unpack(third.view, batch, len, &info, &err) == WH_E_FORMAT); /* knows no files */
    CHECK(!wh_ramview_files(third.view, both, 1));
    CHECK(wh_ramview_unpack(third.view, batch, len, &info, &err) == WH_E_FORMAT); /* nor this one */
    CHECK(!wh_ramview_files(third.view, wrong, 2));
    CHECK(wh_ramview_unpack(third.view, batch, len, &info, &err) == WH_E_FORMAT); /* another content */
    CHECK(!wh_ramview_files(third.view, both, 2) && !wh_ramview_unpack(third.view, batch, len, &info, &err));
    CHECK(!memcmp(wh_ram_at(&from.ram, WH_RAM_BASE, from.ram.bytes), wh_ram_at(&third.ram, WH_RAM_BASE, from.ram.bytes),
                  from.ram.bytes));
    const int many[9] = {fd, fd, fd, fd, fd, fd, fd, fd, fd};
    CHECK(wh_ramview_files(from.view, many, 9) == WH_E_INVAL);
    drop(&from);
    drop(&to);
    drop(&third);
    close(fd);
    close(other);
    close(short_file);
}

int main(void)
{
    CHECK(!wh_delta_key_draw(&key));
    test_fills();
    test_order();
    test_files();
    test_random_changes();
    test_edges();
    test_damaged();
    test_rounds();
    return finish("delta");
}
