/* The machine under a debugger: standing still and going on, beside what pause and resume ask for. Contract: board.h.
 */
#include "board/machine.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int wh_debug_init(wh_machine *m, wh_error *err)
{
    m->debug.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return m->debug.event_fd < 0 ? wh_fail(err, WH_E_IO, "debug", "eventfd: %s", strerror(errno)) : WH_OK;
}

void wh_debug_destroy(wh_machine *m)
{
    if (m->debug.event_fd >= 0)
        close(m->debug.event_fd);
}

static bool ended(const wh_machine *m)
{
    return m->run_state == WH_HALTED || m->run_state == WH_STOPPED || m->run_state == WH_BROKEN;
}

/* run_lock held. */
static void stand_still(wh_machine *m)
{
    m->debug.stopped = true;
    wh_run_update(m);
    wh_run_make_all_look(m, false);
}

/* run_lock held. Nothing is held and no hart has a point or a step. */
static void forget_all(wh_machine *m)
{
    const wh_debug_step none = {0};
    m->debug.points.breaks = m->debug.points.watches = 0;
    for (unsigned i = 0; i < m->harts_made; i++) {
        atomic_store(&m->hart[i].held, false);
        m->hart[i].untold = (wh_debug_hit){0};
        wh_hart_debug(m->hart[i].cpu, NULL, &none);
    }
}

/* run_lock held; everyone is at rest. */
static void go_on(wh_machine *m)
{
    m->debug.stopped = false;
    wh_run_update(m);
    wh_run_make_all_look(m, true); /* who sleeps may be held or released now, or have a step to take */
}

int wh_debug_attach(wh_machine *m)
{
    pthread_mutex_lock(&m->run_lock);
    bool driven = m->run_state == WH_RUNNING && !m->io_made; /* by its caller (icount): nobody would park */
    int status = m->debug.attached ? WH_E_EXISTS : ended(m) ? WH_E_STATE : driven ? WH_E_UNSUPPORTED : WH_OK;
    if (!status)
        m->debug.attached = true;
    pthread_mutex_unlock(&m->run_lock);
    return status;
}

bool wh_debug_attached(wh_machine *m)
{
    pthread_mutex_lock(&m->run_lock);
    bool attached = m->debug.attached;
    pthread_mutex_unlock(&m->run_lock);
    return attached;
}

void wh_debug_hold(wh_machine *m)
{
    pthread_mutex_lock(&m->run_lock);
    stand_still(m);
    pthread_mutex_unlock(&m->run_lock);
}

bool wh_debug_stop(wh_machine *m)
{
    pthread_mutex_lock(&m->run_lock);
    if (!m->debug.stopped)
        stand_still(m);
    while (!ended(m) && !wh_run_at_rest(m))
        pthread_cond_wait(&m->parked_changed, &m->run_lock);
    wh_clock_freeze(m);
    bool alive = !ended(m);
    pthread_mutex_unlock(&m->run_lock);
    return alive;
}

void wh_debug_detach(wh_machine *m)
{
    (void)wh_debug_stop(m);
    pthread_mutex_lock(&m->run_lock);
    if (!ended(m)) {
        forget_all(m);
        go_on(m);
    }
    m->debug.attached = false;
    pthread_mutex_unlock(&m->run_lock);
}

void wh_debug_hit_by(wh_board_hart *h)
{
    wh_machine *m = h->machine;
    wh_debug_hit hit = wh_hart_debug_hit(h->cpu);
    pthread_mutex_lock(&m->run_lock);
    if (m->debug.attached && !m->debug.stopped) {
        m->debug.stop = (wh_debug_stop_reason){.hart = h->index, .hit = hit};
        stand_still(m);
        wh_debug_tell(m);
    } else if (hit.why == WH_DEBUG_WATCH) {
        h->untold = hit; /* the access is done and would not be seen again; a breakpoint is met again by going on */
    }
    pthread_mutex_unlock(&m->run_lock);
}

/* run_lock held. A stop that another hart has been waiting to tell. */
static bool tell_untold(wh_machine *m)
{
    for (unsigned i = 0; i < m->config.harts; i++) {
        wh_board_hart *h = &m->hart[i];
        if (h->untold.why == WH_DEBUG_NONE || atomic_load(&h->held))
            continue;
        m->debug.stop = (wh_debug_stop_reason){.hart = i, .hit = h->untold};
        h->untold = (wh_debug_hit){0};
        wh_debug_tell(m);
        return true;
    }
    return false;
}

int wh_debug_go(wh_machine *m, const wh_debug_action *actions)
{
    pthread_mutex_lock(&m->run_lock);
    int status = ended(m) || !m->debug.stopped ? WH_E_STATE : WH_OK;
    if (!status) {
        m->debug.stop = (wh_debug_stop_reason){0};
        for (unsigned i = 0; i < m->config.harts; i++) {
            atomic_store(&m->hart[i].held, actions[i].hold);
            wh_hart_debug(m->hart[i].cpu, &m->debug.points, &actions[i].step);
        }
        if (!tell_untold(m))
            go_on(m);
    }
    pthread_mutex_unlock(&m->run_lock);
    return status;
}

bool wh_debug_take_stop(wh_machine *m, wh_debug_stop_reason *out)
{
    uint64_t count;
    (void)!read(m->debug.event_fd, &count, sizeof count);
    pthread_mutex_lock(&m->run_lock);
    *out = m->debug.stop;
    m->debug.stop = (wh_debug_stop_reason){0};
    out->ended = ended(m);
    out->exit_code = out->ended ? wh_events_exit_code(&m->events) : 0;
    bool any = out->ended || out->hit.why != WH_DEBUG_NONE;
    pthread_mutex_unlock(&m->run_lock);
    return any;
}

int wh_debug_event_fd(wh_machine *m)
{
    return m->debug.event_fd;
}

wh_debug_points *wh_debug_table(wh_machine *m)
{
    return &m->debug.points;
}

unsigned wh_debug_hart_count(const wh_machine *m)
{
    return m->config.harts;
}

const char *wh_debug_hart_state(wh_machine *m, unsigned index)
{
    static const char *const names[] = {"started", "stopped", "starting", "stopping", "suspended"};
    pthread_mutex_lock(&m->lock);
    unsigned state = m->hart[index].hsm;
    pthread_mutex_unlock(&m->lock);
    return state < WH_ARRAY_LEN(names) ? names[state] : "unknown";
}

void wh_debug_kill(wh_machine *m)
{
    wh_events_end(&m->events, WH_EV_POWEROFF, 137, "killed by the debugger");
    wh_run_halt(m);
}

bool wh_debug_held(wh_board_hart *h)
{
    uint32_t seq = atomic_load(&h->wake);
    if (!atomic_load(&h->held))
        return false;
    if (atomic_load(&h->machine->go))
        wh_hart_sleep(h, seq, UINT64_MAX, UINT64_MAX);
    return true;
}
