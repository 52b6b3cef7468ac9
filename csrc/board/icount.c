/* icount: a machine whose time is the number of its instructions, so that the same seed and the same inputs give the
 * same run, whatever the host, its load and the engine.
 *
 *   virtual ns = steps of all harts + what was skipped;  mtime = virtual ns / 100
 *
 * A step is an instruction retired or an exception taken (cpu.h). One thread does everything: harts run in turns of
 * QUANTUM steps, round robin, those that wait for an interrupt or are stopped left out; so a machine with one busy hart
 * runs at 1 GHz of its own time, one with n busy harts each at 1/n of that. A turn ends early by WFI, PAUSE or a stop.
 * Where nobody can run, time jumps to the next timer, or in a paced machine passes as the host's does.
 *
 * The order of everything else hangs on turns. Before each turn, and only there: what came from outside is let in
 * (inputs.c writes it down, or plays it back), devices that asked to be polled are, in the order of their slots. So
 * a disk request is complete at the end of the turn in which it was made. Timers of the board (ACLINT, RTC) and of the
 * hart itself (stimecmp) come in exactly at their step: nobody runs past one (wh_hart_set_limit). A pause, a state
 * digest or the driver's own stop falls between two steps of a turn, which then goes on: they leave no trace. */
#include "board/machine.h"

#include <stdio.h>
#include <unistd.h>

#define QUANTUM    10000u /* steps: 10 us of machine time, the most that an interrupt between harts waits */
#define MAX_EVENTS 16

static void tick(wh_machine *m)
{
    pthread_mutex_lock(&m->lock);
    if (!m->cpu_env.direct_boot)
        wh_aclint_tick(m->aclint);
    wh_rtc_tick(m->rtc);
    pthread_mutex_unlock(&m->lock);
}

struct nic {
    wh_machine *machine;
    unsigned index;
};

/* Devices that rang their own bell, in the order of their slots; NICs always, for theirs is rung from outside too. */
static void poll_devices(wh_machine *m)
{
    struct epoll_event ev[MAX_EVENTS];
    bool ready[WH_VIRTIO_SLOTS] = {false};
    for (unsigned s = 0; s < m->slots_used; s++)
        for (unsigned i = 0; i < m->nics; i++)
            ready[s] |= m->virtio[s] == m->nic[i];
    int n = epoll_wait(m->io_epoll, ev, MAX_EVENTS, 0);
    for (int i = 0; i < n; i++)
        for (unsigned s = 0; s < m->slots_used; s++)
            ready[s] |= ev[i].data.ptr == m->virtio[s];
    for (unsigned s = 0; s < m->slots_used; s++) {
        uint64_t count;
        if (!ready[s])
            continue;
        (void)!read(m->virtio[s]->poll_fd, &count, sizeof count);
        m->virtio[s]->ops->poll(m->virtio[s]);
    }
}

static void note_frame(void *ctx, const uint8_t *frame, uint32_t len)
{
    const struct nic *n = ctx;
    wh_inputs_note(n->machine, WH_INPUT_FRAME, n->index, frame, len, 0);
}

/* From outside. Returns a bit for each channel whose device has a reason to look. */
static uint32_t admit(wh_machine *m)
{
    uint32_t channels = 0;
    for (unsigned i = 0; i < WH_CHANNELS; i++)
        channels |= wh_channel_admit(&m->channel[i], wh_inputs_note) ? 1u << i : 0;
    for (unsigned i = 0; i < m->nics; i++)
        wh_virtio_net_admit(m->nic[i], note_frame, &(struct nic){m, i});
    return channels;
}

/* False: what is played back does not belong to this run. */
static bool let_in(wh_machine *m)
{
    uint32_t channels = 0;
    bool right = true;
    pthread_mutex_lock(&m->lock);
    if (m->inputs.playing)
        right = wh_inputs_play(m, &channels);
    else
        channels = admit(m);
    if (channels & 1u << WH_CH_UART)
        m->uart->ops->poll(m->uart);
    if (channels & (1u << WH_CH_CONSOLE | 1u << WH_CH_AGENT))
        m->virtio[0]->ops->poll(m->virtio[0]);
    poll_devices(m);
    pthread_mutex_unlock(&m->lock);
    return right;
}

/* May this one run? If not, *next falls to the mtime at which it may. */
static bool ready(wh_board_hart *h, uint64_t *next)
{
    uint64_t until;
    if (atomic_load(&h->held))
        return false;
    if (!wh_hsm_advance(h, &until)) {
        *next = until < *next ? until : *next;
        return false;
    }
    if (h->waiting && !wh_hart_runnable(h->cpu)) {
        until = wh_hart_next_timer(h->cpu);
        *next = until < *next ? until : *next;
        return false;
    }
    h->waiting = false;
    return true;
}

/* Whose turn it is; false: nobody's, before time has passed or something came from outside. */
static bool choose(wh_machine *m, uint64_t *due)
{
    uint64_t next = UINT64_MAX;
    for (unsigned i = 1; i <= m->config.harts; i++) {
        unsigned index = (m->icount.hart + i) % m->config.harts;
        if (ready(&m->hart[index], &next)) {
            m->icount.hart = index;
            m->icount.turn_left = QUANTUM;
            return true;
        }
    }
    *due = next == UINT64_MAX ? UINT64_MAX : wh_icount_steps_until(m, next);
    return false;
}

static void end_astray(wh_machine *m)
{
    char text[120];
    snprintf(text, sizeof text, "this run is not the one that was recorded: another way before step %llu",
             (unsigned long long)m->icount.steps);
    wh_events_end(&m->events, WH_EV_CRASH, 0, text);
    wh_run_halt(m);
}

static void pass_time(wh_machine *m, uint64_t ns)
{
    m->icount.skipped += ns;
    tick(m);
}

/* False: nobody may run, before something comes from outside or, in a paced machine, m->icount.due ns have passed. */
static bool begin_turn(wh_machine *m)
{
    wh_icount *c = &m->icount;
    if (!c->idle) {
        c->turns++;
        if (!let_in(m)) {
            end_astray(m);
            return true;
        }
    }
    uint64_t due, passed;
    while (!choose(m, &due)) {
        uint64_t board = wh_icount_board_due(m);
        c->due = due = board < due ? board : due;
        if (wh_inputs_passed(m, due, &passed)) {
            pass_time(m, passed);
            return true; /* and what came then is let in before the next turn */
        }
        c->idle = c->paced && !m->inputs.playing;
        if (due == UINT64_MAX || c->idle)
            return false;
        pass_time(m, due);
    }
    c->idle = false;
    return true;
}

static void run_stretch(wh_machine *m)
{
    wh_icount *c = &m->icount;
    wh_board_hart *h = &m->hart[c->hart];
    tick(m);
    c->since = wh_hart_steps(h->cpu);
    c->running = h;
    wh_hart_set_limit(h->cpu, c->since + wh_icount_stretch(m));
    enum wh_exit why = wh_run_execute(h);
    uint64_t taken = wh_hart_steps(h->cpu) - c->since;
    c->running = NULL;
    c->steps += taken;
    c->turn_left -= taken < c->turn_left ? taken : c->turn_left;
    if (why == WH_EXIT_SBI)
        wh_sbi_call(h);
    else if (why == WH_EXIT_WEDGED)
        wh_run_crash(h);
    else if (why == WH_EXIT_DEBUG)
        wh_debug_hit_by(h);
    h->waiting = why == WH_EXIT_WFI;
    if (why == WH_EXIT_WFI || why == WH_EXIT_PAUSE || h->hsm != WH_HSM_STARTED)
        c->turn_left = 0;
}

enum wh_icount_stop wh_icount_run(wh_machine *m, uint64_t until)
{
    m->icount.stop = until;
    while (atomic_load_explicit(&m->go, memory_order_acquire)) {
        if (m->icount.steps >= until)
            return WH_ICOUNT_REACHED;
        bool over = m->icount.turn_left == 0 || atomic_load(&m->hart[m->icount.hart].held);
        if (!over)
            run_stretch(m);
        else if (!begin_turn(m) && !m->inputs.pending) /* what is recorded comes at a later look */
            return WH_ICOUNT_IDLE;
    }
    return WH_ICOUNT_ENDED;
}

/* ---- the machine's own thread, and its sleep */

static bool outside_waits(wh_machine *m)
{
    bool waits = false;
    for (unsigned i = 0; i < WH_CHANNELS; i++)
        waits |= wh_channel_waits(&m->channel[i]);
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < m->nics; i++)
        waits |= wh_virtio_net_waits(m->nic[i]);
    pthread_mutex_unlock(&m->lock);
    return waits;
}

enum woken { BY_BELL_OR_TIME, BY_DEVICE, BY_PAUSE };

/* Until a bell rings or `ns` have passed. A device's bell is left to the next turn, which polls it. */
static enum woken sleep_for(wh_machine *m, uint64_t ns)
{
    struct epoll_event ev[MAX_EVENTS];
    enum woken why = BY_BELL_OR_TIME;
    wh_io_set_timer(m, ns == UINT64_MAX ? UINT64_MAX : wh_now_ns() + ns);
    int n = wh_io_wait(m, ev, MAX_EVENTS, -1);
    for (int i = 0; i < n; i++) {
        const int *own = ev[i].data.ptr;
        uint64_t count;
        if (own == &m->io_timer || own == &m->io_event)
            (void)!read(*own, &count, sizeof count);
        else
            why = BY_DEVICE;
    }
    return atomic_load(&m->go) ? why : BY_PAUSE;
}

/* Time passes as the host's does until the next timer is due or something came from outside, which is then let in by a
 * new turn; that it came before the timer, and when, is an input itself. Bells with nothing behind them, and pauses,
 * leave no trace. */
static void idle(wh_machine *m)
{
    wh_icount *c = &m->icount;
    uint64_t begun = wh_now_ns(), left = c->due > c->slept ? c->due - c->slept : 0;
    enum woken why = outside_waits(m) ? BY_DEVICE : sleep_for(m, c->due == UINT64_MAX ? UINT64_MAX : left);
    c->slept += wh_now_ns() - begun;
    if (why == BY_PAUSE) /* hands off the devices before the next checkpoint */
        return;
    bool reached = c->slept >= c->due;
    if (!reached && why != BY_DEVICE && !outside_waits(m))
        return;
    pass_time(m, reached ? c->due : c->slept);
    c->slept = 0;
    if (reached)
        return;
    c->idle = false;
    wh_inputs_note(m, WH_INPUT_TIME, 0, NULL, 0, wh_icount_ns(m));
}

void *wh_icount_main(void *ctx)
{
    wh_machine *m = ctx;
    pthread_setname_np(pthread_self(), "guest icount");
    m->icount.paced = m->config.icount == WH_ICOUNT_PACED;
    while (wh_run_checkpoint(m, &m->io_parked)) {
        if (wh_icount_run(m, UINT64_MAX) != WH_ICOUNT_IDLE)
            continue;
        if (m->icount.idle)
            idle(m);
        else if (!outside_waits(m))
            (void)sleep_for(m, UINT64_MAX);
    }
    return NULL;
}

void wh_icount_save(const wh_machine *m, wh_writer *w)
{
    const wh_icount *c = &m->icount;
    uint64_t waiting = 0;
    for (unsigned i = 0; i < m->config.harts; i++)
        waiting |= (uint64_t)m->hart[i].waiting << i;
    wh_put_map(w, 7);
    wh_put_kuint(w, "steps", c->steps);
    wh_put_kuint(w, "skipped", c->skipped);
    wh_put_kuint(w, "hart", c->hart);
    wh_put_kuint(w, "turn_left", c->turn_left);
    wh_put_kuint(w, "turns", c->turns);
    wh_put_kuint(w, "waiting", waiting);
    wh_put_kuint(w, "idle", c->idle);
}

/* A machine that did not count before begins to, at its mtime. */
void wh_icount_load(wh_machine *m, const wh_reader *doc, wh_reader *fail)
{
    wh_icount *c = &m->icount;
    if (!wh_map_has(doc, "icount"))
        return;
    wh_reader map = wh_map_find(doc, "icount"), r = map;
    c->steps = wh_map_uint(&map, "steps", &r);
    c->skipped = wh_map_uint(&map, "skipped", &r);
    uint64_t hart = wh_map_uint(&map, "hart", &r), left = wh_map_uint(&map, "turn_left", &r);
    c->turns = wh_map_uint(&map, "turns", &r);
    uint64_t waiting = wh_map_uint(&map, "waiting", &r);
    bool idle = wh_map_has(&map, "idle") && wh_map_uint(&map, "idle", &r) != 0;
    if (hart >= m->config.harts || left > QUANTUM)
        wh_reader_fail(&r, "icount");
    if (r.status) {
        *fail = r;
        return;
    }
    c->hart = (unsigned)hart;
    c->turn_left = left;
    c->idle = idle;
    for (unsigned i = 0; i < m->config.harts; i++)
        m->hart[i].waiting = waiting >> i & 1;
}
