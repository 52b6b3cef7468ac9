/* The machine's threads: one per hart and one for I/O (or one for all, icount.c), made by start, joined by stop. When
 * they stand still is rest.c's. */
#include "board/machine.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define THREAD_STACK (512u << 10)

static void wait_for_interrupt(wh_board_hart *h)
{
    uint32_t seq = atomic_load(&h->wake);
    if (!atomic_load(&h->machine->go) || wh_hart_runnable(h->cpu))
        return;
    uint64_t look = wh_idle_rest(h, seq);
    wh_hart_sleep(h, seq, wh_hart_next_timer(h->cpu), look); /* a WFI may end without a reason */
}

static void *hart_main(void *arg)
{
    wh_board_hart *h = arg;
    char name[16];
    snprintf(name, sizeof name, "hart %u", h->index);
    pthread_setname_np(pthread_self(), name);
    while (wh_run_checkpoint(h->machine, &h->parked)) {
        if (wh_throttle_rest(h) || wh_debug_held(h) || !wh_hsm_step(h))
            continue;
        switch (wh_run_execute(h)) {
        case WH_EXIT_WFI:
            wait_for_interrupt(h);
            break;
        case WH_EXIT_SBI:
            wh_sbi_call(h);
            break;
        case WH_EXIT_WEDGED:
            wh_run_crash(h);
            break;
        case WH_EXIT_PAUSE:
            sched_yield();
            break;
        case WH_EXIT_DEBUG:
            wh_debug_hit_by(h);
            break;
        case WH_EXIT_ATTENTION:
        case WH_EXIT_LIMIT:
            break;
        }
    }
    return NULL;
}

static int spawn(wh_machine *m, pthread_t *thread, void *(*fn)(void *), void *arg)
{
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, THREAD_STACK);
    int e = pthread_create(thread, &attr, fn, arg);
    pthread_attr_destroy(&attr);
    if (!e)
        m->threads++;
    return e;
}

/* Signals are for the process's main thread: ours are made with all of them blocked. run_lock held. */
static int spawn_all(wh_machine *m)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    bool icount = wh_icount_on(m); /* then one thread does all */
    int e = spawn(m, &m->io_thread, icount ? wh_icount_main : wh_io_main, m);
    m->io_made = !e;
    for (; !icount && !e && m->hart_threads < m->config.harts; m->hart_threads += !e) {
        wh_board_hart *h = &m->hart[m->hart_threads];
        e = spawn(m, &h->thread, hart_main, h);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return e;
}

/* spawned: with threads of its own. */
static int start(wh_machine *m, bool spawned, wh_error *err)
{
    pthread_mutex_lock(&m->run_lock);
    if (m->run_state != WH_READY) {
        pthread_mutex_unlock(&m->run_lock);
        return wh_fail(err, WH_E_STATE, "machine",
                       m->run_state == WH_NEW ? "nothing is loaded" : "it was started before or its restore failed");
    }
    int e = wh_restore_start(m);
    if (!e && spawned)
        e = spawn_all(m); /* they park: the state is not RUNNING yet */
    if (e) {
        pthread_mutex_unlock(&m->run_lock);
        wh_machine_stop(m);
        return wh_fail(err, WH_E_IO, "threads", "%s", strerror(e));
    }
    wh_run_set_state(m, WH_RUNNING);
    pthread_mutex_unlock(&m->run_lock);
    return WH_OK;
}

int wh_machine_start(wh_machine *m, wh_error *err)
{
    return start(m, true, err);
}

int wh_icount_start(wh_machine *m, wh_error *err)
{
    if (!wh_icount_on(m))
        return wh_fail(err, WH_E_STATE, "icount", "the machine was made without it");
    return start(m, false, err);
}

int wh_machine_stop(wh_machine *m)
{
    pthread_mutex_lock(&m->run_lock);
    wh_run_set_state(m, WH_STOPPED);
    wh_run_make_all_look(m, true);
    wh_debug_tell(m);
    wh_ram_remote_cancel(&m->ram); /* behind the new state: nobody takes a lost page for the guest's end */
    unsigned harts = m->hart_threads;
    bool io = m->io_made;
    m->io_made = false;
    m->hart_threads = m->threads = 0;
    pthread_mutex_unlock(&m->run_lock);
    wh_throttle_stop(m);
    for (unsigned i = 0; i < harts; i++)
        pthread_join(m->hart[i].thread, NULL);
    if (io)
        pthread_join(m->io_thread, NULL);
    wh_restore_stop(m);
    return WH_OK;
}
