/* Slowing a guest: its harts rest a share of the time that they would run, so that a migration catches up with what
 * they write.
 *
 * A hart that executes comes back for attention once a millisecond and then rests in proportion to what it has really
 * run: (ran x percent / (100 - percent)). So the share is right whatever the host's timers do, and a hart that waits
 * for interrupts owes nothing. While it rests it is at rest for everybody else: pauses and fences do not wait for it.
 * The guest's clock goes on; to the guest its hart is one that has become slow.
 *
 * What was asked for ends by itself after its lease: an agent that dies must not leave a guest slow. The thread that
 * asks for attention is made with the first throttle and joined by stop; it takes no lock but its own. */
#include "board/machine.h"

#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TICK_NS      1000000u
#define MOST_PERCENT 99u
#define MOST_REST_NS 200000000u /* at once: a hart that the host kept from running for long does not owe seconds */
#define NS_PER_MS    1000000ull

int wh_throttle_init(wh_machine *m, wh_error *err)
{
    wh_throttle *t = &m->throttle;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int e = pthread_cond_init(&t->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (!e)
        e = pthread_mutex_init(&t->lock, NULL);
    return e ? wh_fail(err, WH_E_IO, "throttle", "%s", strerror(e)) : WH_OK;
}

void wh_throttle_destroy(wh_machine *m)
{
    pthread_mutex_destroy(&m->throttle.lock);
    pthread_cond_destroy(&m->throttle.changed);
}

/* One sleep, at rest: until `until`, a wake (something came for the hart; it is looked at later) or a pause. */
static void doze(wh_board_hart *h, uint32_t seq, uint64_t until)
{
    struct timespec at = {(time_t)(until / 1000000000ull), (long)(until % 1000000000ull)};
    atomic_store(&h->sleeping, 1);
    if (atomic_load(&h->machine->go)) /* as in wh_hart_sleep */
        syscall(SYS_futex, &h->wake, FUTEX_WAIT_BITSET_PRIVATE, seq, &at, NULL, FUTEX_BITSET_MATCH_ANY);
    atomic_store(&h->sleeping, 0);
}

bool wh_throttle_rest(wh_board_hart *h)
{
    wh_throttle *t = &h->machine->throttle;
    uint32_t percent = atomic_load_explicit(&t->percent, memory_order_relaxed);
    if (WH_LIKELY(!percent))
        return false;
    uint64_t ran = atomic_load_explicit(&h->run_ns, memory_order_relaxed);
    uint32_t asked = atomic_load_explicit(&t->asked, memory_order_acquire);
    if (asked != h->throttle_asked) { /* what it ran before is not owed */
        h->throttle_asked = asked;
        h->throttle_paid = ran;
        return false;
    }
    uint64_t owed = (ran - h->throttle_paid) * percent / (100 - percent);
    if (owed < TICK_NS / 10)
        return false;
    h->throttle_paid = ran;
    uint64_t start = wh_now_ns(), now = start, until = start + (owed < MOST_REST_NS ? owed : MOST_REST_NS);
    while (now < until && atomic_load(&h->machine->go) && atomic_load(&t->asked) == asked) {
        uint32_t seq = atomic_load(&h->wake);
        doze(h, seq, until);
        now = wh_now_ns();
    }
    atomic_fetch_add_explicit(&h->throttled_ns, now - start, memory_order_relaxed);
    return true;
}

/* lock held. Who rests by an older word stops at once. */
static void set(wh_machine *m, uint32_t percent, uint64_t until)
{
    wh_throttle *t = &m->throttle;
    t->until = until;
    if (atomic_load(&t->percent) == percent)
        return;
    atomic_store(&t->percent, percent);
    atomic_fetch_add(&t->asked, 1);
    pthread_cond_signal(&t->changed);
    for (unsigned i = 0; i < m->config.harts; i++)
        wh_hart_wake(&m->hart[i]);
}

static void *throttle_main(void *arg)
{
    wh_machine *m = arg;
    wh_throttle *t = &m->throttle;
    pthread_setname_np(pthread_self(), "throttle");
    pthread_mutex_lock(&t->lock);
    while (!t->quit) {
        uint64_t now = wh_now_ns();
        if (now >= t->until)
            set(m, 0, UINT64_MAX);
        if (!atomic_load(&t->percent)) {
            pthread_cond_wait(&t->changed, &t->lock);
            continue;
        }
        for (unsigned i = 0; i < m->config.harts; i++)
            if (atomic_load(&m->hart[i].executing))
                wh_hart_attention(m->hart[i].cpu);
        uint64_t next = now + TICK_NS;
        struct timespec at = {(time_t)(next / 1000000000ull), (long)(next % 1000000000ull)};
        pthread_cond_timedwait(&t->changed, &t->lock, &at);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

/* Signals are for the process's main thread, as in run.c. */
static int make_thread(wh_machine *m)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int e = pthread_create(&m->throttle.thread, NULL, throttle_main, m);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    m->throttle.made = !e;
    return e;
}

int wh_machine_throttle(wh_machine *m, uint32_t percent, uint32_t lease_ms, wh_error *err)
{
    wh_throttle *t = &m->throttle;
    if (percent > MOST_PERCENT)
        return wh_fail(err, WH_E_INVAL, "percent", "%u is not 0..%u", percent, MOST_PERCENT);
    if (wh_icount_on(m))
        return wh_fail(err, WH_E_UNSUPPORTED, "percent", "a guest whose time is its instructions is not throttled");
    pthread_mutex_lock(&m->run_lock);
    bool live = m->run_state == WH_RUNNING || m->run_state == WH_PAUSED;
    int e = live && percent && !t->made ? make_thread(m) : 0;
    if (live && !e) {
        pthread_mutex_lock(&t->lock);
        set(m, percent, percent ? wh_now_ns() + lease_ms * NS_PER_MS : UINT64_MAX);
        pthread_mutex_unlock(&t->lock);
    }
    pthread_mutex_unlock(&m->run_lock);
    if (e)
        return wh_fail(err, WH_E_IO, "throttle", "%s", strerror(e));
    return live || !percent ? WH_OK : wh_fail(err, WH_E_STATE, "machine", "it does not run");
}

uint32_t wh_machine_throttled(wh_machine *m)
{
    return atomic_load(&m->throttle.percent);
}

void wh_throttle_stop(wh_machine *m)
{
    wh_throttle *t = &m->throttle;
    if (!t->made)
        return;
    pthread_mutex_lock(&t->lock);
    t->quit = true;
    set(m, 0, UINT64_MAX);
    pthread_cond_signal(&t->changed);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    t->made = false;
}
