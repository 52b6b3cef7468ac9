/* Stations that move too often, and ports that flood too much: both against a clock of the test's own. */
#include "switch/moves.h"
#include "switch/storm.h"
#include "switch_check.h"

#include <stdlib.h>

#define SECOND 1000000000ull

static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1}, other[6] = {2, 0, 0, 0, 0, 2};

static void duplicates(void)
{
    struct wh_moves m;
    uint64_t t = SECOND;
    wh_moves_init(&m, 3);
    CHECK(!wh_moves_held(&m, mac, 0, t) && !wh_moves_forget(&m, mac) && wh_moves_may_flood(&m, mac, 0, t));
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 1; i < WH_MOVES_MAX; i++)
            CHECK(wh_moves_note(&m, mac, 0, t += SECOND) == WH_MOVE_GO);
        CHECK(!wh_moves_held(&m, mac, 0, t) && wh_moves_note(&m, mac, 0, t) == WH_MOVE_HOLD);
        CHECK(wh_moves_note(&m, mac, 0, t) == WH_MOVE_HELD && wh_moves_held(&m, mac, 0, t + WH_MOVES_FOR_NS - 1));
        CHECK(wh_moves_note(&m, mac, 9, t) == WH_MOVE_GO && wh_moves_note(&m, other, 0, t) == WH_MOVE_GO);
        unsigned passed = 0;
        for (unsigned i = 0; i < 100; i++)
            passed += wh_moves_may_flood(&m, mac, 0, t);
        CHECK(passed == WH_MOVES_FLOOD_A_S && wh_moves_may_flood(&m, mac, 0, t + SECOND));
        CHECK(wh_moves_may_flood(&m, other, 0, t));
        if (round == 0) { /* the first is let go by hand, the second by time */
            CHECK(wh_moves_forget(&m, mac) && !wh_moves_held(&m, mac, 0, t));
        } else {
            t += WH_MOVES_FOR_NS;
            CHECK(!wh_moves_held(&m, mac, 0, t));
        }
    }
    /* Slow moves are none of a duplicate. */
    for (unsigned i = 0; i < 50; i++)
        CHECK(wh_moves_note(&m, other, 3, t += WH_MOVES_FOR_NS / (WH_MOVES_MAX - 1)) == WH_MOVE_GO);
    wh_moves_free(&m);
}

/* Whoever moves a million addresses does not push out the ones that are held. */
static void crowd(void)
{
    struct wh_moves m;
    uint64_t state = 5;
    wh_moves_init(&m, 7);
    for (unsigned i = 0; i < WH_MOVES_MAX; i++)
        wh_moves_note(&m, mac, 0, SECOND);
    for (unsigned i = 0; i < 1000000; i++) {
        uint64_t r = next_random(&state);
        CHECK(wh_moves_note(&m, (const uint8_t *)&r, 0, SECOND + i) == WH_MOVE_GO);
    }
    CHECK(wh_moves_held(&m, mac, 0, 2 * SECOND));
    wh_moves_free(&m);
}

/* Never more than a second's worth above the rate, in any stretch of time; never less than asked for below it. */
static void rates(void)
{
    struct wh_storm storm;
    uint64_t state = 11, now = SECOND, passed = 0, begins = 0;
    wh_storm_set(&storm, 1000, now);
    for (unsigned i = 0; i < 200000; i++) { /* 900 a second on average, in bursts */
        if (i % 100 == 0)
            now += SECOND / 9;
        CHECK(wh_storm_ask(&storm, now) == WH_STORM_GO);
    }
    wh_storm_set(&storm, 1000, now);
    uint64_t start = now;
    for (unsigned i = 0; i < 1000000; i++) { /* ten thousand a second, for 100 s */
        now += next_random(&state) % (SECOND / 5000);
        enum wh_storm_verdict verdict = wh_storm_ask(&storm, now);
        passed += verdict == WH_STORM_GO;
        begins += verdict == WH_STORM_BEGINS;
    }
    CHECK(begins == 1 && wh_storm_rate(&storm) == 1000 / WH_STORM_DAMPED);
    CHECK(passed <= 1200 + (now - start) / SECOND * (1000 / WH_STORM_DAMPED + 1));
    now += WH_STORM_CALM_NS;
    CHECK(wh_storm_ask(&storm, now) == WH_STORM_GO && wh_storm_rate(&storm) == 1000);
    for (unsigned i = 0; i < 999; i++)
        CHECK(wh_storm_ask(&storm, now) == WH_STORM_GO);
    CHECK(wh_storm_ask(&storm, now) == WH_STORM_BEGINS);
    wh_storm_set(&storm, 0, now);
    for (unsigned i = 0; i < 100000; i++)
        CHECK(wh_storm_ask(&storm, now) == WH_STORM_GO);
}

int main(void)
{
    duplicates();
    crowd();
    rates();
    return finish("moves");
}
