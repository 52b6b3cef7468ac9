/* The machine's time: mtime follows the host's CLOCK_MONOTONIC, stands still while the machine is paused, and goes on
 * from the saved value after a restore, so that a guest never sees it go backward. */
#include "board/machine.h"

#include <time.h>

#define NS_PER_TICK (1000000000ull / WH_TIMEBASE_HZ)

/* When an icount machine's wall clock begins: 2025-01-01 00:00:00 UTC. */
#define ICOUNT_EPOCH_NS 1735689600000000000ull

uint64_t wh_icount_steps(const wh_machine *m)
{
    const wh_icount *c = &m->icount;
    return c->steps + (c->running ? wh_hart_steps(c->running->cpu) - c->since : 0);
}

uint64_t wh_icount_ns(const wh_machine *m)
{
    return wh_icount_steps(m) + m->icount.skipped;
}

void wh_icount_set_ns(wh_machine *m, uint64_t ns)
{
    m->icount.skipped = ns - wh_icount_steps(m);
}

uint64_t wh_icount_steps_until(void *ctx, uint64_t mtime)
{
    uint64_t now = wh_icount_ns(ctx), then = mtime > UINT64_MAX / NS_PER_TICK ? UINT64_MAX : mtime * NS_PER_TICK;
    return then > now ? then - now : 0;
}

uint64_t wh_clock_now(void *ctx)
{
    wh_machine *m = ctx;
    if (wh_icount_on(m))
        return wh_icount_ns(m) / NS_PER_TICK;
    if (WH_UNLIKELY(atomic_load_explicit(&m->frozen, memory_order_acquire)))
        return atomic_load_explicit(&m->frozen_at, memory_order_relaxed);
    return (wh_now_ns() - atomic_load_explicit(&m->clock_base, memory_order_relaxed)) / NS_PER_TICK;
}

void wh_clock_set(void *ctx, uint64_t mtime)
{
    wh_machine *m = ctx;
    if (wh_icount_on(m)) {
        wh_icount_set_ns(m, mtime * NS_PER_TICK);
        return;
    }
    atomic_store(&m->frozen_at, mtime);
    atomic_store(&m->clock_base, wh_now_ns() - mtime * NS_PER_TICK);
}

void wh_clock_freeze(wh_machine *m)
{
    if (!atomic_load(&m->frozen)) {
        atomic_store(&m->frozen_at, wh_clock_now(m));
        atomic_store(&m->frozen, true);
    }
}

void wh_clock_thaw(wh_machine *m)
{
    if (wh_icount_on(m)) /* it stands still by itself */
        return;
    wh_clock_set(m, atomic_load(&m->frozen_at));
    atomic_store(&m->frozen, false);
}

uint64_t wh_clock_host_ns(wh_machine *m, uint64_t mtime)
{
    uint64_t now = wh_clock_now(m), host = wh_now_ns();
    if (mtime <= now)
        return host;
    uint64_t ticks = mtime - now;
    return ticks > (UINT64_MAX - host) / NS_PER_TICK ? UINT64_MAX : host + ticks * NS_PER_TICK;
}

uint64_t wh_clock_wall_ns(void *ctx)
{
    if (wh_icount_on(ctx))
        return ICOUNT_EPOCH_NS + wh_icount_ns(ctx);
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}
