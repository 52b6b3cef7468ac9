/* The fault door: every page comes in once, whole, whoever asks; what is lost is never read as zeros. Also for
 * ThreadSanitizer (make test-tsan). */
#include "memory/memory.h"
#include "switch_check.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define PAGES   1000u /* not a multiple of 64 */
#define WORDS   ((PAGES + 63) / 64)
#define THREADS 6u

struct world {
    wh_ram ram;
    uint64_t bitmap[WORDS];
    unsigned named;
    _Atomic unsigned filled[PAGES];
    _Atomic unsigned in_fill, done, lost;
    unsigned bad; /* the source fails at this page; PAGES: never */
    bool slow;
    wh_error why;
};

static uint64_t content(uint64_t pfn, unsigned word)
{
    return (pfn + 1) * 0x9e3779b97f4a7c15ull + word;
}

static int fill(void *ctx, uint64_t first, uint64_t count, uint8_t *to, wh_error *err)
{
    struct world *w = ctx;
    atomic_fetch_add(&w->in_fill, 1);
    CHECK(!atomic_load(&w->done));
    if (w->slow)
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    int status = WH_OK;
    for (uint64_t p = first; p < first + count && !status; p++) {
        CHECK(w->bitmap[p / 64] >> p % 64 & 1);
        CHECK(atomic_fetch_add(&w->filled[p], 1) == 0);
        uint64_t *page = (uint64_t *)(void *)(to + ((p - first) << WH_PAGE_SHIFT));
        for (unsigned i = 0; i < WH_PAGE_SIZE / 8; i++)
            page[i] = content(p, i);
        if (p == w->bad)
            status = wh_fail(err, WH_E_FORMAT, "test", "page %llu is bad", (unsigned long long)p);
    }
    atomic_fetch_sub(&w->in_fill, 1);
    return status;
}

static void lost(void *ctx, const wh_error *err)
{
    struct world *w = ctx;
    CHECK(atomic_fetch_add(&w->lost, 1) == 0);
    CHECK(!wh_ram_lost(&w->ram)); /* nobody goes on before this is told */
    w->why = *err;
}

static void done(void *ctx)
{
    struct world *w = ctx;
    CHECK(!atomic_load(&w->in_fill));
    CHECK(atomic_fetch_add(&w->done, 1) == 0);
}

/* Every third page but a stretch of 100 is absent; the others hold a byte of their own. */
static void begin(struct world *w)
{
    memset(w, 0, sizeof *w);
    w->bad = PAGES;
    wh_error err;
    CHECK(!wh_ram_new((uint64_t)PAGES * WH_PAGE_SIZE, 2, &w->ram, &err));
    for (unsigned p = 0; p < PAGES; p++) {
        if (p % 3 == 0 || (p >= 300 && p < 400)) {
            w->bitmap[p / 64] |= 1ull << p % 64;
            w->named++;
        } else {
            w->ram.host[(uint64_t)p << WH_PAGE_SHIFT] = 1;
        }
    }
    const wh_page_source source = {w, fill, lost, done};
    CHECK(!wh_ram_set_absent(&w->ram, w->bitmap, &source, &err));
    CHECK(wh_ram_set_absent(&w->ram, w->bitmap, &source, &err) == WH_E_STATE);
}

static bool named(const struct world *w, unsigned p)
{
    return w->bitmap[p / 64] >> p % 64 & 1;
}

static uint64_t address(unsigned pfn)
{
    return WH_RAM_BASE + ((uint64_t)pfn << WH_PAGE_SHIFT);
}

/* One word of a page through the door; 0 when it is lost. */
static uint64_t look(struct world *w, unsigned pfn, unsigned word)
{
    const uint8_t *at = wh_ram_at(&w->ram, address(pfn) + word * 8, 8);
    uint64_t v = 0;
    if (at)
        memcpy(&v, at, 8);
    return v;
}

static void test_touch(void)
{
    struct world w;
    begin(&w);
    wh_door_stats s;
    wh_ram_door_stats(&w.ram, &s);
    CHECK(s.named == w.named && s.absent == w.named && s.faulted == 0);
    CHECK(look(&w, 1, 0) == 1 && atomic_load(&w.filled[0]) == 0);
    CHECK(look(&w, 303, 511) == content(303, 511));
    CHECK(look(&w, 303, 5) == content(303, 5) && atomic_load(&w.filled[303]) == 1);
    CHECK(!wh_ram_at(&w.ram, address(PAGES), 1) && !wh_ram_at(&w.ram, address(PAGES - 1), WH_PAGE_SIZE + 1));
    CHECK(wh_ram_has(&w.ram, address(600), 4096) && atomic_load(&w.filled[600]) == 0);
    const uint8_t *both = wh_ram_at(&w.ram, address(602) + 4092, 8); /* 603 is absent */
    CHECK(both && atomic_load(&w.filled[603]) == 1);
    wh_ram_door_stats(&w.ram, &s);
    CHECK(s.faulted == 2 && s.absent < w.named - 1);
    CHECK(wh_ram_at(&w.ram, WH_RAM_BASE, w.ram.bytes) && atomic_load(&w.done) == 1);
    for (unsigned p = 0; p < PAGES; p++)
        CHECK(atomic_load(&w.filled[p]) == named(&w, p) && look(&w, p, 0) == (named(&w, p) ? content(p, 0) : 1));
    uint64_t cursor = 0;
    CHECK(wh_ram_fill(&w.ram, &cursor, 10) == WH_E_AGAIN);
    wh_ram_free(&w.ram);
}

struct toucher {
    struct world *w;
    uint64_t seed;
    unsigned refused;
};

static void *touch_main(void *arg)
{
    struct toucher *t = arg;
    for (unsigned i = 0; i < 3000; i++) {
        unsigned p = next_random(&t->seed) % PAGES, word = next_random(&t->seed) % 512;
        uint64_t v = look(t->w, p, word);
        if (named(t->w, p) && v == 0)
            t->refused++;
        else
            CHECK(named(t->w, p) ? v == content(p, word) : v == (word == 0));
    }
    return NULL;
}

static void *fill_main(void *arg)
{
    struct world *w = arg;
    uint64_t cursor = 0;
    while (wh_ram_fill(&w->ram, &cursor, 7) == WH_OK)
        ;
    return NULL;
}

/* Returns how often a page could not be had. */
static unsigned storm(struct world *w, bool filler)
{
    pthread_t thread[THREADS + 1];
    struct toucher t[THREADS];
    unsigned refused = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        t[i] = (struct toucher){w, 77 + i, 0};
        pthread_create(&thread[i], NULL, touch_main, &t[i]);
    }
    if (filler)
        pthread_create(&thread[THREADS], NULL, fill_main, w);
    for (unsigned i = 0; i < THREADS + filler; i++)
        pthread_join(thread[i], NULL);
    for (unsigned i = 0; i < THREADS; i++)
        refused += t[i].refused;
    return refused;
}

static void test_storm(bool filler, bool slow)
{
    struct world w;
    begin(&w);
    w.slow = slow;
    CHECK(storm(&w, filler) == 0);
    CHECK(wh_ram_fetch(&w.ram, WH_RAM_BASE, w.ram.bytes) == WH_OK);
    CHECK(atomic_load(&w.done) == 1 && atomic_load(&w.lost) == 0);
    for (unsigned p = 0; p < PAGES; p++)
        CHECK(atomic_load(&w.filled[p]) == named(&w, p));
    wh_ram_free(&w.ram);
}

static void test_lost(void)
{
    struct world w;
    begin(&w);
    w.bad = 351;
    CHECK(look(&w, 300, 0) == content(300, 0));
    CHECK(storm(&w, true) > 0); /* none of them hangs, none reads zeros of an absent page as content (touch_main) */
    CHECK(atomic_load(&w.lost) == 1 && !strcmp(w.why.message, "page 351 is bad") && wh_ram_lost(&w.ram));
    CHECK(!wh_ram_at(&w.ram, address(351), 1) && wh_ram_fetch(&w.ram, WH_RAM_BASE, w.ram.bytes) == WH_E_IO);
    CHECK(look(&w, 300, 0) == content(300, 0) && look(&w, 1, 0) == 1); /* what is there stays there */
    CHECK(atomic_load(&w.done) == 0);
    wh_ram_free(&w.ram);
}

/* ---- the other process */

static void *background(void *arg)
{
    struct world *w = arg;
    uint64_t cursor = 0;
    if (wh_ram_fill_wait(&w->ram, -1))
        while (wh_ram_fill(&w->ram, &cursor, 64) == WH_OK)
            ;
    return NULL;
}

static void test_view(void)
{
    struct world w, full;
    begin(&w);
    begin(&full);
    CHECK(!wh_ram_fetch(&full.ram, WH_RAM_BASE, full.ram.bytes));
    wh_ramview *v, *other;
    wh_error err;
    uint64_t dirty;
    static uint8_t buf[PAGES * 4200];
    wh_batch_info info;
    uint8_t a[16], b[16];
    CHECK(!wh_ramview_open(w.ram.ram_fd, w.ram.share_fd, &v, &err));
    CHECK(!wh_ramview_open(full.ram.ram_fd, full.ram.share_fd, &other, &err));
    CHECK(wh_ramview_absent(v) == w.named && wh_ramview_absent(other) == 0);
    CHECK(!wh_ramview_track(v, 1) && !wh_ramview_round(v, 0, &dirty));
    CHECK(dirty == PAGES); /* present or absent, they all have content */
    pthread_t t;
    pthread_create(&t, NULL, background, &w); /* sleeps until it is asked for */
    CHECK(!wh_ramview_pack(v, buf, sizeof buf, &info) && info.data_pages == PAGES && !info.more);
    pthread_join(t, NULL);
    CHECK(wh_ramview_absent(v) == 0 && atomic_load(&w.done) == 1);
    CHECK(!wh_ramview_checksum(v, a) && !wh_ramview_checksum(other, b) && !memcmp(a, b, sizeof a));
    CHECK(!memcmp(w.ram.host, full.ram.host, w.ram.bytes));
    wh_ramview_close(v);
    wh_ramview_close(other);
    wh_ram_free(&w.ram);
    wh_ram_free(&full.ram);
}

static void test_view_of_what_is_lost(void)
{
    struct world w;
    begin(&w);
    w.bad = 3;
    wh_ramview *v;
    wh_error err;
    uint8_t sum[16];
    uint64_t dirty;
    static uint8_t buf[10000];
    wh_batch_info info;
    CHECK(!wh_ramview_open(w.ram.ram_fd, w.ram.share_fd, &v, &err));
    CHECK(!wh_ramview_track(v, 1) && !wh_ramview_round(v, 0, &dirty));
    pthread_t t;
    pthread_create(&t, NULL, background, &w);
    CHECK(wh_ramview_pack(v, buf, sizeof buf, &info) == WH_E_IO);
    CHECK(wh_ramview_checksum(v, sum) == WH_E_IO);
    pthread_join(t, NULL);
    wh_ramview_close(v);
    wh_ram_free(&w.ram);
}

static void test_filler_sleeps_and_ends(void)
{
    struct world w;
    begin(&w);
    CHECK(wh_ram_fill_wait(&w.ram, 0)); /* the time has passed: go on */
    pthread_t t;
    pthread_create(&t, NULL, background, &w);
    wh_ram_fill_cancel(&w.ram);
    pthread_join(t, NULL);
    wh_door_stats s;
    wh_ram_door_stats(&w.ram, &s);
    CHECK(s.absent == w.named);
    CHECK(!wh_ram_fill_wait(&w.ram, 0));
    wh_ram_free(&w.ram);
}

int main(void)
{
    test_touch();
    test_storm(false, false);
    test_storm(true, false);
    test_storm(true, true);
    test_lost();
    test_view();
    test_view_of_what_is_lost();
    test_filler_sleeps_and_ends();
    return finish("door");
}
