/* When the switch's thread looks again without sleeping; in virtual time. */
#include "switch/spin.h"
#include "switch_check.h"

#define MS 1000000ull

static struct wh_spin fresh(void)
{
    struct wh_spin p;
    wh_spin_init(&p, MS);
    p.never = false; /* also on a host with one core */
    return p;
}

/* Looks from `now` on until it gives up; the time at which it does. */
static uint64_t in_vain(struct wh_spin *p, uint64_t now)
{
    while (wh_spin_go_on(p, now))
        now += 1000;
    return now;
}

/* A frame now and then, and nothing ever follows: a hundredth of the time, however long it lasts. */
static void quiet(uint64_t every_ns)
{
    struct wh_spin p = fresh();
    uint64_t looked = 0, now = MS, end = now + 20000 * MS;
    for (; now < end; now += every_ns)
        if (wh_spin_after_turn(&p, now, 1, 100))
            looked += in_vain(&p, now) - now;
    CHECK(looked > 0 && looked <= (end - MS) / WH_SPIN_SHARE + WH_SPIN_CREDIT_NS + WH_SPIN_NS);
}

/* Each second frame follows soon: looking goes on for ever. */
static void request_and_answer(void)
{
    struct wh_spin p = fresh();
    uint64_t now = MS;
    for (unsigned i = 0; i < 100000; i++) {
        CHECK(wh_spin_after_turn(&p, now, 1, 100));
        for (unsigned k = 0; k < 60; k++)
            CHECK(wh_spin_go_on(&p, now + k * 1000));
        now += 60000;
        CHECK(wh_spin_after_turn(&p, now, 1, 100));
        now = in_vain(&p, now) + MS;
    }
}

static void bulk(void)
{
    struct wh_spin p = fresh();
    CHECK(!wh_spin_after_turn(&p, MS, 1, WH_SPIN_BULK + 1) && !wh_spin_after_turn(&p, MS, WH_SPIN_FRAMES + 1, 100));
    CHECK(!wh_spin_after_turn(&p, MS + 1000, 1, 60)); /* its acknowledgement */
    CHECK(wh_spin_after_turn(&p, MS + WH_SPIN_BULK_NS, 1, 60));
    CHECK(!wh_spin_after_turn(&p, 3 * MS, 1, WH_SPIN_BULK + 1) && p.since_ns == 0); /* ends a look, too */
}

static void timers(void)
{
    struct wh_spin p = fresh();
    CHECK(!wh_spin_after_turn(&p, MS, 0, 0)); /* a turn without frames begins none */
    CHECK(wh_spin_after_turn(&p, MS, 1, 60) && wh_spin_after_turn(&p, MS + 1000, 0, 0));
    CHECK(!wh_spin_after_turn(&p, MS + WH_SPIN_NS, 0, 0) && p.since_ns == 0); /* but does not prolong one */
    p.never = true;
    CHECK(!wh_spin_after_turn(&p, 5 * MS, 1, 60));
}

static void others_want_the_core(void)
{
    struct wh_spin p = fresh();
    CHECK(wh_spin_after_turn(&p, MS, 1, 60) && wh_spin_go_on(&p, MS + 1000));
    CHECK(!wh_spin_go_on(&p, MS + 1000 + WH_SPIN_STEP_NS + 1)); /* somebody ran in between */
    CHECK(!wh_spin_after_turn(&p, 2 * MS, 1, 60));
    CHECK(wh_spin_after_turn(&p, 2 * MS + WH_SPIN_NS * WH_SPIN_SHARE, 1, 60));
}

int main(void)
{
    quiet(MS);
    quiet(3 * MS);
    request_and_answer();
    bulk();
    timers();
    others_want_the_core();
    return finish("spin");
}
