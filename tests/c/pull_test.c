/* Post-copy's pages: each arrives once and whole, whoever waits for it; what the guest has written since stays. The two
 * ends of a migration in one process; also for ThreadSanitizer (make test-tsan). */
#include "memory/memory.h"
#include "state/state.h"
#include "switch_check.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define PAGES   1024u
#define WORDS   (PAGES / 64)
#define THREADS 6u
#define CAP     (64u << 10)

struct ends {
    wh_ram from, to;
    wh_ramview *source, *target;
    uint64_t lacks[WORDS];
    unsigned named;
    int bell;
    _Atomic bool done;
};

static uint64_t content(unsigned pfn, unsigned word)
{
    return pfn % 7 == 0 ? 0 : (pfn + 1) * 0x9e3779b97f4a7c15ull + word; /* every seventh page is zeros */
}

static bool named(const struct ends *e, unsigned p)
{
    return e->lacks[p / 64] >> p % 64 & 1;
}

/* Two thirds are absent. Half of these hold something older at the target: an earlier round had brought it. */
static void begin(struct ends *e)
{
    wh_error err;
    memset(e, 0, sizeof *e);
    CHECK(!wh_ram_new((uint64_t)PAGES * WH_PAGE_SIZE, 2, &e->from, &err));
    CHECK(!wh_ram_new((uint64_t)PAGES * WH_PAGE_SIZE, 2, &e->to, &err));
    for (unsigned p = 0; p < PAGES; p++) {
        for (unsigned i = 0; i < WH_PAGE_SIZE / 8 && content(p, 0); i++)
            ((uint64_t *)(void *)(e->from.host + ((uint64_t)p << WH_PAGE_SHIFT)))[i] = content(p, i);
        if (p % 3) {
            e->lacks[p / 64] |= 1ull << p % 64;
            e->named++;
            if (p % 2)
                memset(e->to.host + ((uint64_t)p << WH_PAGE_SHIFT), 0x55, WH_PAGE_SIZE);
        } else {
            memset(e->to.host + ((uint64_t)p << WH_PAGE_SHIFT), 0x11, 8);
        }
    }
    e->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(!wh_ram_set_remote(&e->to, e->lacks, e->bell, &err) && wh_ram_is_remote(&e->to));
    CHECK(!wh_ramview_open(e->from.ram_fd, e->from.share_fd, &e->source, &err));
    CHECK(!wh_ramview_open(e->to.ram_fd, e->to.share_fd, &e->target, &err));
}

static void end(struct ends *e)
{
    wh_ramview_close(e->source);
    wh_ramview_close(e->target);
    wh_ram_free(&e->from);
    wh_ram_free(&e->to);
    close(e->bell);
}

static uint64_t look(struct ends *e, unsigned p, unsigned word)
{
    uint64_t v = 0;
    const uint8_t *at = wh_ram_at(&e->to, WH_RAM_BASE + ((uint64_t)p << WH_PAGE_SHIFT) + word * 8, 8);
    if (at)
        memcpy(&v, at, 8);
    return v;
}

/* What the target says it lacks becomes what the source owes. */
static uint64_t connect_ends(struct ends *e)
{
    uint64_t map[WORDS], absent;
    wh_error err;
    CHECK(!wh_ramview_pull_begin(e->target, (uint8_t *)map, sizeof map, &absent));
    CHECK(!wh_ramview_owe(e->source, (const uint8_t *)map, sizeof map, &err));
    return absent;
}

static unsigned carry(struct ends *e, const uint64_t *wanted, uint32_t count, uint32_t most, bool lose)
{
    static uint8_t buf[CAP];
    wh_batch_info sent, placed;
    wh_error err;
    CHECK(!wh_ramview_serve(e->source, wanted, count, most, 4, buf, sizeof buf, &sent));
    if (!lose)
        CHECK(!wh_ramview_place(e->target, buf, sent.bytes, &placed, &err));
    return (unsigned)(sent.data_pages + sent.zero_pages);
}

static void check_all(struct ends *e)
{
    CHECK(wh_ramview_absent(e->target) == 0);
    for (unsigned p = 0; p < PAGES; p++)
        CHECK(look(e, p, 9) == (named(e, p) ? content(p, 9) : 0));
}

static void test_order(void)
{
    struct ends e;
    begin(&e);
    CHECK(connect_ends(&e) == e.named);
    uint64_t wanted[] = {499, 3, 500, PAGES + 5}; /* 3 is not lacking, the last is none */
    CHECK(carry(&e, wanted, 4, 1, false) == 2);
    CHECK(look(&e, 500, 0) == content(500, 0) && look(&e, 501, 0) == 0x1111111111111111ull);
    CHECK(carry(&e, NULL, 0, 4, false) >= 4); /* goes on behind what was asked for */
    CHECK(wh_ramview_absent(e.target) < e.named && look(&e, 502 + 1, 1) == content(503, 1));
    while (carry(&e, NULL, 0, 8, false))
        ;
    check_all(&e);
    end(&e);
}

/* What is likely to be wanted goes first, the nearest before the others; one class only stops there. */
static void test_first(void)
{
    struct ends e;
    wh_error err;
    uint64_t near[WORDS] = {0}, far[WORDS] = {0};
    static uint8_t buf[CAP];
    wh_batch_info sent, placed;
    begin(&e);
    connect_ends(&e);
    near[800 / 64] |= 1ull << 800 % 64; /* lacking */
    near[801 / 64] |= 1ull << 801 % 64; /* not lacking */
    far[20 / 64] |= 1ull << 20 % 64;
    CHECK(!wh_ramview_first(e.source, 0, (const uint8_t *)near, sizeof near, &err));
    CHECK(!wh_ramview_first(e.source, 1, (const uint8_t *)far, sizeof far, &err));
    CHECK(wh_ramview_first(e.source, 3, (const uint8_t *)far, sizeof far, &err) == WH_E_FORMAT);
    CHECK(wh_ramview_first(e.source, 0, (const uint8_t *)far, 8, &err) == WH_E_FORMAT);
    CHECK(!wh_ramview_serve(e.source, NULL, 0, 8, 1, buf, sizeof buf, &sent) && sent.data_pages == 1);
    CHECK(!wh_ramview_place(e.target, buf, sent.bytes, &placed, &err) && look(&e, 800, 3) == content(800, 3));
    CHECK(!wh_ramview_serve(e.source, NULL, 0, 8, 1, buf, sizeof buf, &sent) && sent.data_pages == 0 && sent.more);
    CHECK(!wh_ramview_serve(e.source, NULL, 0, 1, 4, buf, sizeof buf, &sent) && sent.data_pages == 1);
    CHECK(!wh_ramview_place(e.target, buf, sent.bytes, &placed, &err) && look(&e, 20, 3) == content(20, 3));
    while (carry(&e, NULL, 0, 8, false))
        ;
    check_all(&e);
    end(&e);
}

/* A page that came before is passed over: the guest may have written it since. */
static void test_late_copies_change_nothing(void)
{
    struct ends e;
    begin(&e);
    connect_ends(&e);
    uint64_t page = 10;
    carry(&e, &page, 1, 1, false);
    memset(wh_ram_at(&e.to, WH_RAM_BASE + (10u << WH_PAGE_SHIFT), 8), 0x77, 8);
    wh_error err;
    CHECK(!wh_ramview_owe(e.source, (const uint8_t *)e.lacks, sizeof e.lacks, &err)); /* all of it again */
    while (carry(&e, NULL, 0, 8, false))
        ;
    CHECK(look(&e, 10, 0) == 0x7777777777777777ull && look(&e, 10, 9) == content(10, 9));
    check_all(&e);
    end(&e);
}

static void test_a_broken_connection_loses_nothing(void)
{
    struct ends e;
    begin(&e);
    connect_ends(&e);
    for (unsigned i = 0; i < 20; i++)
        carry(&e, NULL, 0, 8, i % 3 == 0);
    CHECK(connect_ends(&e) == wh_ramview_absent(e.target));
    while (carry(&e, NULL, 0, 8, false))
        ;
    check_all(&e);
    end(&e);
}

static void test_bad_batches(void)
{
    struct ends e;
    begin(&e);
    connect_ends(&e);
    static uint8_t buf[CAP];
    wh_batch_info sent, placed;
    wh_error err;
    CHECK(!wh_ramview_serve(e.source, NULL, 0, 8, 4, buf, sizeof buf, &sent));
    for (size_t cut = 0; cut < sent.bytes; cut += 997)
        CHECK(wh_ramview_place(e.target, buf, cut, &placed, &err) == WH_E_FORMAT);
    CHECK(wh_ramview_absent(e.target) == e.named);
    CHECK(wh_ramview_owe(e.source, buf, 8, &err) == WH_E_FORMAT);
    CHECK(wh_ramview_serve(e.source, NULL, 0, 0, 0, buf, sizeof buf, &sent) == WH_E_INVAL);
    end(&e);
}

struct toucher {
    struct ends *e;
    uint64_t seed;
    unsigned refused;
};

static void *touch_main(void *arg)
{
    struct toucher *t = arg;
    for (unsigned i = 0; i < 2000; i++) {
        unsigned p = next_random(&t->seed) % PAGES, word = 1 + next_random(&t->seed) % 511;
        uint64_t v = look(t->e, p, word);
        if (wh_ram_lost(&t->e->to))
            t->refused++;
        else
            CHECK(v == (named(t->e, p) ? content(p, word) : 0));
    }
    return NULL;
}

/* Answers what is waited for, and pushes a little beside it. */
static void *agent_main(void *arg)
{
    struct ends *e = arg;
    uint64_t wanted[32], rung;
    uint32_t count;
    while (wh_ramview_absent(e->target) && !atomic_load(&e->done)) {
        (void)!read(e->bell, &rung, sizeof rung);
        CHECK(!wh_ramview_wanted(e->target, wanted, WH_ARRAY_LEN(wanted), &count));
        for (uint32_t i = 0; i < count; i++)
            carry(e, &wanted[i], 1, 2, false);
        if (!count)
            carry(e, NULL, 0, 1, false);
    }
    return NULL;
}

static unsigned storm(struct ends *e, bool agent)
{
    pthread_t thread[THREADS + 1];
    struct toucher t[THREADS];
    unsigned refused = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        t[i] = (struct toucher){e, 99 + i, 0};
        pthread_create(&thread[i], NULL, touch_main, &t[i]);
    }
    if (agent)
        pthread_create(&thread[THREADS], NULL, agent_main, e);
    else
        wh_ram_remote_cancel(&e->to);
    for (unsigned i = 0; i < THREADS + agent; i++)
        pthread_join(thread[i], NULL);
    for (unsigned i = 0; i < THREADS; i++)
        refused += t[i].refused;
    return refused;
}

static void test_storm(void)
{
    struct ends e;
    begin(&e);
    connect_ends(&e);
    CHECK(storm(&e, true) == 0);
    check_all(&e);
    wh_door_stats s;
    wh_ram_door_stats(&e.to, &s);
    CHECK(s.named == e.named && s.absent == 0 && s.faulted > 0 && s.wait_ns >= s.wait_max_ns && s.wait_max_ns > 0);
    CHECK(s.wait_median_ns > 0 && s.wait_median_ns <= s.wait_max_ns + s.wait_max_ns / 4 &&
          s.wait_median_ns <= 3 * s.wait_ns / s.faulted);
    wh_ram_remote_cancel(&e.to);
    CHECK(!wh_ram_lost(&e.to)); /* nothing was missing */
    end(&e);
}

static void test_the_end_frees_those_who_wait(void)
{
    struct ends e;
    begin(&e);
    CHECK(storm(&e, false) > 0);
    CHECK(wh_ram_lost(&e.to) && wh_ramview_absent(e.target) == e.named);
    end(&e);
}

/* An agent that dies has asked already: the next one finds what is waited for. */
static void test_wanted_is_found_again(void)
{
    struct ends e;
    begin(&e);
    pthread_t t;
    struct toucher toucher = {&e, 5, 0};
    pthread_create(&t, NULL, touch_main, &toucher);
    uint64_t wanted[4], rung;
    uint32_t count = 0;
    CHECK(wh_ramview_wanted(e.target, wanted, 4, &count) == WH_E_STATE);
    connect_ends(&e);
    while (!count)
        CHECK(!wh_ramview_wanted(e.target, wanted, 4, &count));
    CHECK(count == 1);
    while (read(e.bell, &rung, sizeof rung) != sizeof rung)
        ; /* it rings behind the bit */
    uint64_t first = wanted[0];
    CHECK(!wh_ramview_wanted(e.target, wanted, 4, &count) && count == 0);
    connect_ends(&e);
    CHECK(!wh_ramview_wanted(e.target, wanted, 4, &count) && count == 1 && wanted[0] == first);
    carry(&e, &first, 1, 1, false);
    agent_main(&e);
    pthread_join(t, NULL);
    check_all(&e);
    end(&e);
}

int main(void)
{
    test_order();
    test_first();
    test_late_copies_change_nothing();
    test_a_broken_connection_loses_nothing();
    test_bad_batches();
    test_storm();
    test_the_end_frees_those_who_wait();
    test_wanted_is_found_again();
    return finish("pull");
}
