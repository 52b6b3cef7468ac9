/* A throttled machine: its harts rest their share, and it is over when the lease is, when it is asked for, and at the
 * end of the machine. */
#include "board_machine.h"

#include <sched.h>

/* addi t0, t0, 1; j -4 */
static const uint32_t spin[] = {0x00128293, 0xffdff06f};
static const uint32_t wait[] = {0x10500073, 0xffdff06f}; /* wfi; j -4 */

static wh_machine *running(const uint32_t *code, size_t n)
{
    wh_error err;
    wh_machine *m = machine(16 * MIB, 1, WH_BOOT_LINUX);
    CHECK(wh_machine_throttle(m, 50, 1000, &err) == WH_E_STATE && !wh_machine_throttle(m, 0, 0, &err));
    CHECK(!load_code(m, code, n, &err) && !wh_machine_start(m, &err));
    return m;
}

static wh_machine_stats stats(wh_machine *m)
{
    wh_machine_stats s;
    wh_machine_get_stats(m, &s);
    return s;
}

static void instructions_go_on(wh_machine *m)
{
    uint64_t now = stats(m).instructions;
    while (stats(m).instructions == now) /* else the test's time limit ends it */
        sched_yield();
}

static void a_busy_hart_rests_its_share(void)
{
    wh_error err;
    wh_machine *m = running(spin, WH_ARRAY_LEN(spin));
    instructions_go_on(m);
    CHECK(stats(m).throttled_ns == 0);
    CHECK(!wh_machine_throttle(m, 80, 60000, &err) && wh_machine_throttled(m) == 80);
    uint64_t before = stats(m).run_ns;
    while (stats(m).throttled_ns < 200000000)
        sched_yield();
    CHECK(!wh_machine_pause(m, NULL));
    /* four times as much is owed; what ran last may not have been paid for yet */
    CHECK(stats(m).run_ns - before < 2 * stats(m).throttled_ns);
    CHECK(!wh_machine_resume(m, NULL));
    instructions_go_on(m);
    CHECK(!wh_machine_throttle(m, 0, 0, &err) && wh_machine_throttled(m) == 0);
    instructions_go_on(m);
    uint64_t rested = stats(m).throttled_ns;
    instructions_go_on(m);
    CHECK(stats(m).throttled_ns == rested);
    CHECK(!wh_machine_stop(m));
    CHECK(wh_machine_throttle(m, 50, 1000, &err) == WH_E_STATE);
    wh_machine_free(m);
}

static void an_idle_hart_owes_nothing(void)
{
    wh_error err;
    wh_machine *m = running(wait, WH_ARRAY_LEN(wait));
    CHECK(!wh_machine_throttle(m, 99, 60000, &err));
    while (!atomic_load(&m->hart[0].sleeping))
        sched_yield();
    CHECK(!wh_machine_pause(m, NULL));
    CHECK(stats(m).throttled_ns < 200000000);
    wh_machine_free(m); /* while it is throttled */
}

static void it_ends_with_its_lease(void)
{
    wh_error err;
    wh_machine *m = running(spin, WH_ARRAY_LEN(spin));
    CHECK(!wh_machine_throttle(m, 99, 1, &err));
    while (wh_machine_throttled(m))
        sched_yield();
    CHECK(!wh_machine_throttle(m, 99, 60000, &err)); /* and can be asked for again */
    CHECK(wh_machine_throttled(m) == 99);
    instructions_go_on(m);
    for (unsigned i = 0; i < 20; i++) /* a pause does not wait for a rest; nor is a resumed hart lost in one */
        CHECK(!wh_machine_pause(m, NULL) && !wh_machine_resume(m, NULL));
    instructions_go_on(m);
    wh_machine_free(m);
}

static void what_cannot_be_is_refused(void)
{
    wh_error err;
    wh_machine *m = running(spin, WH_ARRAY_LEN(spin));
    CHECK(wh_machine_throttle(m, 100, 1000, &err) == WH_E_INVAL && !strcmp(err.field, "percent"));
    CHECK(wh_machine_throttled(m) == 0);
    wh_machine_free(m);
}

int main(void)
{
    alarm(120);
    a_busy_hart_rests_its_share();
    an_idle_hart_owes_nothing();
    it_ends_with_its_lease();
    what_cannot_be_is_refused();
    return finish("throttle");
}
