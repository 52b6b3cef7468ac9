/* Path MTU discovery against paths that are played in virtual time. */
#include "switch/pmtu.h"
#include "switch/wire.h"
#include "switch_check.h"

#define MS 1000000ull

/* Runs until the search is over or the time is; each probe up to width is answered 20 ms later, if chance allows. */
static uint64_t play(struct wh_pmtu *m, uint16_t width, unsigned lost_of_8, uint64_t now, uint64_t until,
                     uint64_t *seed)
{
    while (now < until && !m->done) {
        if (now < m->next_ns)
            now = m->next_ns;
        uint16_t size = wh_pmtu_due(m, now, 20 * MS);
        CHECK(m->limit >= m->good && m->limit < m->bad + (m->bad <= m->good));
        if (size && size <= width && next_random(seed) % 8 >= lost_of_8)
            wh_pmtu_answered(m, size, now + 20 * MS);
    }
    return now;
}

static void every_width(void)
{
    uint64_t seed = 1;
    for (uint16_t width = WH_PMTU_LEAST; width <= WH_DATAGRAM_MAX; width += width < 1600 ? 1u : 211u) {
        struct wh_pmtu m;
        wh_pmtu_reset(&m, MS);
        CHECK(m.limit == WH_DATAGRAM_MAX);
        uint64_t end = play(&m, width, 0, MS, 60000 * MS, &seed);
        CHECK(m.done && m.limit == m.good && m.good <= width && m.good + WH_PMTU_STEP >= width);
        CHECK(end < 8000 * MS);
    }
}

/* The usual path is known after a few round trips and one size that fails. */
static void ethernet(void)
{
    struct wh_pmtu m;
    uint64_t now = MS;
    wh_pmtu_reset(&m, now);
    for (uint16_t size; (size = wh_pmtu_due(&m, now, MS)) && size <= 1472; now += MS)
        wh_pmtu_answered(&m, size, now);
    CHECK(m.good == 1472 && m.probing == 8952);
    wh_pmtu_refused(&m, 8952, now); /* this host's own link has no more */
    CHECK(m.limit == 8951 && m.good == 1472);
}

static void black_hole_and_recovery(void)
{
    struct wh_pmtu m;
    uint64_t seed = 3, now = MS;
    wh_pmtu_reset(&m, now);
    now = play(&m, 1472, 0, now, 60000 * MS, &seed);
    CHECK(m.done && m.good == 1472);
    for (unsigned i = 0; i < 20; i++) { /* confirmed for 100 s */
        CHECK(m.next_ns <= now + WH_PMTU_CONFIRM_NS);
        now = m.next_ns;
        CHECK(wh_pmtu_due(&m, now, MS) == 1472);
        wh_pmtu_answered(&m, 1472, now);
        CHECK(m.done && m.limit == 1472);
    }
    now += WH_PMTU_CONFIRM_NS; /* now the path is narrower */
    uint64_t began = now;
    while (m.limit == 1472 && now < began + 2000 * MS) {
        if (now < m.next_ns)
            now = m.next_ns;
        wh_pmtu_due(&m, now, MS);
    }
    CHECK(m.limit < 1472 && now - began <= WH_PMTU_TRIES * WH_PMTU_WAIT_NS);
    now = play(&m, 1300, 0, now, now + 60000 * MS, &seed);
    CHECK(m.done && m.limit <= 1300 && m.limit + WH_PMTU_STEP >= 1300);
    /* It widens again: found at the next raise, and what was known stays in use meanwhile. */
    uint64_t give_up = now + 2 * WH_PMTU_RAISE_NS;
    while (m.good < 1472 && now < give_up) {
        now = now < m.next_ns ? m.next_ns : now;
        uint16_t size = wh_pmtu_due(&m, now, MS);
        CHECK(m.limit >= 1290 && m.limit <= 1472);
        if (size && size <= 1472)
            wh_pmtu_answered(&m, size, now);
    }
    CHECK(m.limit == 1472 && now < give_up);
}

/* One loss in four is no narrow path: three tries rarely fail together, and if they do the answer to another size
 * heals. */
static void lossy(void)
{
    unsigned right = 0;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct wh_pmtu m;
        uint64_t state = seed * 77;
        wh_pmtu_reset(&m, MS);
        play(&m, 1472, 2, MS, 120000 * MS, &state);
        CHECK(m.done && m.good <= 1472);
        right += m.good >= 1468;
    }
    CHECK(right > 150);
}

static void odd_answers(void)
{
    struct wh_pmtu m;
    uint64_t state = 9, now = MS;
    for (unsigned round = 0; round < 2000; round++) {
        wh_pmtu_reset(&m, now);
        for (unsigned i = 0; i < 60; i++, now += MS * (next_random(&state) % 400)) {
            uint16_t size = (uint16_t)(next_random(&state) % (WH_DATAGRAM_MAX + 1u));
            switch (next_random(&state) % 4) {
            case 0:
                wh_pmtu_answered(&m, size, now);
                break;
            case 1:
                wh_pmtu_refused(&m, size, now);
                break;
            default:
                CHECK(wh_pmtu_due(&m, now, MS) <= WH_DATAGRAM_MAX);
            }
            CHECK(m.good < m.bad && m.limit >= WH_PMTU_LEAST && m.limit <= WH_DATAGRAM_MAX);
        }
    }
}

int main(void)
{
    every_width();
    ethernet();
    black_hole_and_recovery();
    lossy();
    odd_answers();
    return finish("pmtu");
}
