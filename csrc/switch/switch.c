#include "switch/switch.h"

#include "switch/aside.h"
#include "switch/moved.h"
#include "switch/network.h"
#include "switch/pack.h"
#include "switch/peer.h"
#include "switch/port.h"
#include "switch/stream.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

#define WAKES 64

static void take_lock(wh_switch *s)
{
    pthread_mutex_lock(&s->gate);
    pthread_mutex_lock(&s->lock);
    pthread_mutex_unlock(&s->gate);
}

void wh_switch_lock(wh_switch *s)
{
    for (uint32_t i = 0; i < s->all->workers; i++)
        take_lock(s->all->worker[i]);
    s->alone = true;
}

void wh_switch_unlock(wh_switch *s)
{
    s->alone = s->all->workers == 1;
    for (uint32_t i = s->all->workers; i-- > 0;)
        pthread_mutex_unlock(&s->all->worker[i]->lock);
}

bool wh_switch_act_as(wh_switch *w, uint64_t now_ns)
{
    bool was = w->alone;
    w->alone = true;
    w->now_ns = now_ns;
    wh_aside_run(w);
    return was;
}

void wh_switch_acted(wh_switch *w, bool was)
{
    wh_peer_flush(w);
    wh_port_kick_touched(w);
    w->alone = was;
}

void wh_switch_wake(wh_switch *s)
{
    uint64_t one = 1;
    ssize_t n = write(s->wake_fd, &one, sizeof(one));
    (void)n; /* EAGAIN: it is awake */
}

void wh_switch_wake_all(wh_switch *s)
{
    for (uint32_t i = 0; i < s->all->workers; i++)
        wh_switch_wake(s->all->worker[i]);
}

void wh_switch_timer(wh_switch *s, uint64_t at_ns)
{
    if (at_ns < s->all->timer_ns)
        s->all->timer_ns = at_ns;
}

void wh_switch_tell(wh_switch *s, const wh_switch_event *event)
{
    if (!wh_eventq_put(&s->all->events, event))
        s->total.events_lost++;
}

void wh_counters_add(wh_counters *sum, const wh_counters *more)
{
    uint64_t a[sizeof(*sum) / 8], b[sizeof(*more) / 8];
    memcpy(a, sum, sizeof(a));
    memcpy(b, more, sizeof(b));
    for (size_t i = 0; i < WH_ARRAY_LEN(a); i++)
        a[i] += b[i];
    memcpy(sum, a, sizeof(a));
}

int wh_switch_watch(wh_switch *s, int fd, uint32_t events, uint64_t tag)
{
    struct epoll_event e = {.events = events, .data.u64 = tag};
    return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0 ? WH_OK : WH_E_IO;
}

static void tick(wh_switch *s)
{
    void *v;
    s->all->timer_ns = s->now_ns + s->fdb_age_ns / 8;
    for (uint32_t i = 0; (v = wh_idmap_next(&s->all->networks, &i));)
        wh_network_tick(s, v);
    wh_moved_tick(s);
    for (uint32_t i = 0; i < s->all->workers; i++) {
        s->all->worker[i]->now_ns = s->now_ns;
        wh_udp_tick(s->all->worker[i]);
    }
    for (uint32_t i = 0; (v = wh_idmap_next(&s->all->peers, &i));)
        wh_peer_tick(s, v); /* each brings the timer forward to its own next time */
}

static void heard_stream(wh_switch *s, const struct epoll_event *e)
{
    uint32_t node = (uint32_t)e->data.u64;
    if (s->alone)
        wh_stream_event(s, node, e->events);
    else /* no room: epoll says it again */
        (void)wh_aside_put(s, &(struct wh_aside_item){.kind = WH_ASIDE_STREAM, .id = node, .number = e->events}, NULL);
}

static void heard(wh_switch *s, const struct epoll_event *e)
{
    uint64_t count;
    struct wh_port *p;
    switch (WH_TAG_KIND(e->data.u64)) {
    case WH_TAG_WAKE:
        if (read(s->wake_fd, &count, sizeof(count)) < 0)
            return;
        break;
    case WH_TAG_UDP:
        if (e->events & ~(uint32_t)EPOLLOUT) {
            wh_udp_receive(s);
            wh_coalesce_flush(s);
        }
        if (e->events & EPOLLOUT)
            s->egress.at_ns = 0;
        break;
    case WH_TAG_RING:
        p = wh_idmap_get(&s->all->ports, (uint32_t)e->data.u64);
        if (p && p->is_ring)
            wh_port_rung(s, p, WH_TAG_PAIR(e->data.u64));
        break;
    case WH_TAG_TAP:
        p = wh_idmap_get(&s->all->ports, (uint32_t)e->data.u64);
        if (p && !p->is_ring && p->home == s)
            wh_port_drain(s, p);
        break;
    case WH_TAG_STREAM:
        heard_stream(s, e);
        break;
    }
}

/* Each active ring once; what still has frames stays, behind those that came meanwhile. */
static void serve_rings(wh_switch *s)
{
    struct wh_pair *last = s->active_tail, *r;
    do {
        r = s->active_head;
        if (!r)
            return;
        s->active_head = r->next_active;
        if (!s->active_head)
            s->active_tail = NULL;
        r->active = false;
        if (wh_pair_drain(s, r))
            wh_pair_activate(s, r);
    } while (r != last);
}

static bool egress_is_due(const wh_switch *s)
{
    return s->egress.slow && s->now_ns >= s->egress.at_ns;
}

/* Timers are the first worker's. What waits for a stream, or for a peer without lanes, may be sent by who is alone. */
static void look_at_clock(wh_switch *s)
{
    if (s->index == 0 && s->now_ns >= s->all->timer_ns) {
        if (s->alone)
            tick(s);
        else
            s->aside.tick = true;
    }
    wh_peer_flush(s);
    if (egress_is_due(s)) {
        if (s->alone || !s->all->odd)
            wh_egress_run(s);
        else
            s->aside.egress = true;
    }
}

/* How long the thread may sleep, in milliseconds. */
static int sleep_ms(const wh_switch *s)
{
    uint64_t next_ns = s->index == 0 ? s->all->timer_ns : UINT64_MAX;
    if (s->egress.slow && s->egress.at_ns < next_ns)
        next_ns = s->egress.at_ns;
    if (s->active_head || next_ns <= s->now_ns)
        return 0;
    uint64_t ms = (next_ns - s->now_ns) / 1000000 + 1;
    return ms > 60000 ? 60000 : (int)ms;
}

/* The part of a turn for which the others have to stand still. */
static int turn_alone(wh_switch *s)
{
    wh_switch_lock(s);
    uint64_t timer_ns = s->all->timer_ns;
    s->now_ns = wh_now_ns();
    wh_aside_run(s);
    if (s->aside.tick)
        tick(s);
    wh_peer_flush(s);
    if (s->aside.egress && egress_is_due(s))
        wh_egress_run(s);
    s->aside.tick = s->aside.egress = false;
    wh_stream_reap(s);
    wh_port_kick_touched(s);
    bool sooner = s->all->timer_ns < timer_ns;
    int ms = sleep_ms(s);
    wh_switch_unlock(s);
    if (sooner && s->index != 0)
        wh_switch_wake(s->all->worker[0]);
    return ms;
}

/* How long the thread may sleep after this turn, in milliseconds. */
static int turn(wh_switch *s, const struct epoll_event *wakes, int count)
{
    take_lock(s);
    uint64_t frames = s->total.rx_frames, bytes = s->total.rx_bytes;
    s->now_ns = wh_now_ns();
    for (int i = 0; i < count; i++)
        heard(s, &wakes[i]);
    serve_rings(s);
    look_at_clock(s);
    if (s->alone)
        wh_stream_reap(s);
    wh_port_kick_touched(s);
    int ms = sleep_ms(s);
    s->spinning = wh_spin_after_turn(&s->spin, s->now_ns, s->total.rx_frames - frames, s->total.rx_bytes - bytes);
    bool more = wh_aside_any(s);
    pthread_mutex_unlock(&s->lock);
    return more ? turn_alone(s) : ms;
}

/* Looks without sleeping, and without the lock, until something is there or it is no longer worth it. */
static int look(wh_switch *s, struct epoll_event wakes[WAKES])
{
    int n;
    do {
        n = epoll_wait(s->epoll_fd, wakes, WAKES, 0);
        if (n != 0)
            return n;
        sched_yield(); /* whoever brings the frame may wait for this core */
    } while (wh_spin_go_on(&s->spin, wh_now_ns()));
    s->spinning = false;
    return 0;
}

static void *run(void *arg)
{
    wh_switch *s = arg;
    struct epoll_event wakes[WAKES];
    int timeout = 0;
    while (!atomic_load(&s->stop)) {
        int n = s->spinning && timeout ? look(s, wakes) : 0;
        if (n == 0)
            n = epoll_wait(s->epoll_fd, wakes, WAKES, timeout);
        timeout = turn(s, wakes, n < 0 ? 0 : n);
    }
    return NULL;
}

int wh_switch_start(wh_switch *s, wh_error *err)
{
    char name[16];
    sigset_t all, old;
    sigfillset(&all); /* signals belong to the agent's main thread */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&s->thread, NULL, run, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error)
        return wh_fail(err, WH_E_IO, "thread", "%s", strerror(error));
    snprintf(name, sizeof(name), s->index ? "wh-switch-%u" : "wh-switch", s->index);
    pthread_setname_np(s->thread, name);
    s->running = true;
    return WH_OK;
}
