/* Who is at rest: pause, resume, halt, and the sleep of harts.
 *
 * Every thread passes wh_run_checkpoint between two pieces of work and parks there unless the machine runs. One that
 * sleeps (a hart in WFI, the I/O thread in epoll) is at rest already: it looks at `go` after it has said that it sleeps
 * and again, by the checkpoint, before it touches anything. Pausing is therefore: say so, ask the harts that execute
 * for attention, wait until the last one of them has parked. It wakes nobody, so that it costs the same with 64 idle
 * harts as with one.
 *
 * This file knows no thread's work: run.c, io.c and icount.c, which have it, stand above. */
#include "board/machine.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE_WAIT_S 1 /* that a pause waits for a hart that waits for the other process */

int wh_run_init(wh_machine *m, wh_error *err)
{
    pthread_mutex_init(&m->run_lock, NULL);
    pthread_mutex_init(&m->shrink_lock, NULL);
    pthread_cond_init(&m->run_changed, NULL);
    pthread_cond_init(&m->parked_changed, NULL);
    int status = wh_throttle_init(m, err);
    return status ? status : wh_io_init(m, err);
}

void wh_run_destroy(wh_machine *m)
{
    wh_io_destroy(m);
    wh_throttle_destroy(m);
    pthread_cond_destroy(&m->parked_changed);
    pthread_cond_destroy(&m->run_changed);
    pthread_mutex_destroy(&m->shrink_lock);
    pthread_mutex_destroy(&m->run_lock);
}

void wh_hart_wake(wh_board_hart *h)
{
    atomic_fetch_add(&h->wake, 1);
    if (atomic_load(&h->sleeping))
        syscall(SYS_futex, &h->wake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void wh_hart_sleep(wh_board_hart *h, uint32_t seq, uint64_t until, uint64_t latest)
{
    uint64_t start = wh_now_ns(), when = UINT64_MAX;
    if (until != UINT64_MAX)
        when = wh_clock_host_ns(h->machine, until);
    when = when < latest ? when : latest;
    struct timespec at = {(time_t)(when / 1000000000ull), (long)(when % 1000000000ull)};
    atomic_store_explicit(&h->wfi_since, start, memory_order_relaxed);
    atomic_store(&h->sleeping, 1);
    if (atomic_load(&h->machine->go)) /* else a pause may have looked before we said so, and waits for us to park */
        syscall(SYS_futex, &h->wake, FUTEX_WAIT_BITSET_PRIVATE, seq, when == UINT64_MAX ? NULL : &at, NULL,
                FUTEX_BITSET_MATCH_ANY);
    atomic_store(&h->sleeping, 0);
    atomic_store_explicit(&h->wfi_since, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->wfi_ns, wh_now_ns() - start, memory_order_relaxed);
}

bool wh_run_at_rest(wh_machine *m)
{
    for (unsigned i = 0; i < m->hart_threads; i++)
        if (!m->hart[i].parked && !atomic_load(&m->hart[i].sleeping))
            return false;
    return !m->io_made || m->io_parked || atomic_load(&m->io_sleeping);
}

/* run_lock held. */
static bool may_run(const wh_machine *m)
{
    return m->run_state == WH_RUNNING && !m->debug.stopped;
}

bool wh_run_checkpoint(wh_machine *m, bool *parked)
{
    if (WH_LIKELY(atomic_load(&m->go)))
        return true;
    pthread_mutex_lock(&m->run_lock);
    if (!may_run(m) && m->run_state != WH_STOPPED) {
        *parked = true;
        if (wh_run_at_rest(m))
            pthread_cond_broadcast(&m->parked_changed); /* a pause and a debugger may both wait */
        while (!may_run(m) && m->run_state != WH_STOPPED)
            pthread_cond_wait(&m->run_changed, &m->run_lock);
        *parked = false;
    }
    bool on = m->run_state == WH_RUNNING;
    pthread_mutex_unlock(&m->run_lock);
    return on;
}

/* The clock goes on only here, so that time stands still for as long as anybody wants the machine to. */
void wh_run_update(wh_machine *m)
{
    bool go = may_run(m);
    if (go && !atomic_load(&m->go)) {
        wh_clock_thaw(m);
        wh_io_arm_timer(m);
        if (atomic_load(&m->input_waiting))
            wh_run_kick_io(m);
    }
    atomic_store(&m->go, go);
    pthread_cond_broadcast(&m->run_changed);
}

void wh_run_set_state(wh_machine *m, enum wh_run_state state)
{
    m->run_state = state;
    wh_run_update(m);
}

void wh_run_make_all_look(wh_machine *m, bool wake)
{
    for (unsigned i = 0; i < m->config.harts; i++) {
        wh_hart_attention(m->hart[i].cpu);
        if (wake)
            wh_hart_wake(&m->hart[i]);
    }
    if (wake) {
        pthread_cond_broadcast(&m->parked_changed);
        wh_run_kick_io(m);
    }
}

void wh_run_halt(wh_machine *m)
{
    pthread_mutex_lock(&m->run_lock);
    if (m->run_state == WH_RUNNING || m->run_state == WH_PAUSED)
        wh_run_set_state(m, WH_HALTED);
    wh_run_make_all_look(m, true);
    wh_debug_tell(m);
    pthread_mutex_unlock(&m->run_lock);
}

/* Guest code until there is a reason to stop. Outside, the hart is marked parked: it looks at the round number and at
 * requested fences before its next instruction (memory.h, cpu.h). */
enum wh_exit wh_run_execute(wh_board_hart *h)
{
    struct wh_hart_share *share = &h->machine->ram.share->hart[h->index];
    uint64_t start = wh_now_ns();
    atomic_store_explicit(&h->run_since, start, memory_order_relaxed);
    atomic_store(&h->executing, 1);
    atomic_store(&share->parked, 0);
    atomic_thread_fence(memory_order_seq_cst);
    enum wh_exit why = wh_hart_run(h->cpu);
    atomic_store(&share->parked, 1);
    atomic_store(&h->executing, 0);
    atomic_store_explicit(&h->run_since, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->run_ns, wh_now_ns() - start, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->exits[(unsigned)why % WH_EXIT_CAUSES], 1, memory_order_relaxed);
    return why;
}

void wh_run_crash(wh_board_hart *h)
{
    char text[120];
    snprintf(text, sizeof text, "hart %u: trap loop without a handler at pc 0x%llx", h->index,
             (unsigned long long)wh_hart_get_pc(h->cpu));
    wh_events_end(&h->machine->events, WH_EV_CRASH, h->index, text);
    wh_run_halt(h->machine);
}

/* Frames that wait in the rings belong to the guest: into its RAM, where they are saved and carried along. */
static void settle_nics(wh_machine *m)
{
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < m->nics; i++)
        wh_virtio_net_settle(m->nic[i]);
    pthread_mutex_unlock(&m->lock);
}

/* Until all are at rest; false: a hart waits for a page that the other process does not bring, and may for ever. */
static bool come_to_rest(wh_machine *m)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until); /* the condition's clock */
    until.tv_sec += PAGE_WAIT_S;
    while (m->run_state == WH_PAUSED && !wh_run_at_rest(m)) {
        bool absent = atomic_load(&m->ram.share->absent_pages) != 0 && wh_ram_is_remote(&m->ram);
        if (!absent)
            pthread_cond_wait(&m->parked_changed, &m->run_lock);
        else if (pthread_cond_timedwait(&m->parked_changed, &m->run_lock, &until) == ETIMEDOUT)
            return wh_run_at_rest(m);
    }
    return true;
}

int wh_machine_pause(wh_machine *m, uint64_t *when_ns)
{
    pthread_mutex_lock(&m->run_lock);
    bool now = m->run_state == WH_RUNNING, late = false;
    if (now) {
        wh_run_set_state(m, WH_PAUSED);
        wh_run_make_all_look(m, false);
        late = !come_to_rest(m);
        wh_clock_freeze(m); /* also then: who sets it going takes up from here */
        if (late)
            wh_run_set_state(m, WH_RUNNING);
    }
    int status = late ? WH_E_TIMEOUT : m->run_state == WH_PAUSED ? WH_OK : WH_E_STATE;
    if (when_ns)
        *when_ns = wh_now_ns();
    pthread_mutex_unlock(&m->run_lock);
    if (now && !status &&
        !wh_icount_on(m)) /* everyone is parked; not under run_lock, which a device may take under the board lock */
        settle_nics(m);
    return status;
}

int wh_machine_resume(wh_machine *m, uint64_t *when_ns)
{
    pthread_mutex_lock(&m->run_lock);
    int status = m->run_state == WH_PAUSED ? WH_OK : WH_E_STATE;
    if (when_ns)
        *when_ns = wh_now_ns();
    if (!status)
        wh_run_set_state(m, WH_RUNNING);
    pthread_mutex_unlock(&m->run_lock);
    return status;
}
