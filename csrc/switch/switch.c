#include "switch/switch.h"

#include "switch/moved.h"
#include "switch/network.h"
#include "switch/pack.h"
#include "switch/peer.h"
#include "switch/port.h"
#include "switch/stream.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#define WAKES         64
#define AGE_S_DEFAULT 300u
#define FDB_DEFAULT   65536u

void wh_switch_lock(wh_switch *s)
{
    pthread_mutex_lock(&s->gate);
    pthread_mutex_lock(&s->lock);
    pthread_mutex_unlock(&s->gate);
}

void wh_switch_unlock(wh_switch *s)
{
    pthread_mutex_unlock(&s->lock);
}

void wh_switch_wake(wh_switch *s)
{
    uint64_t one = 1;
    ssize_t n = write(s->wake_fd, &one, sizeof(one));
    (void)n; /* EAGAIN: it is awake */
}

void wh_switch_timer(wh_switch *s, uint64_t at_ns)
{
    if (at_ns < s->timer_ns)
        s->timer_ns = at_ns;
}

void wh_switch_tell(wh_switch *s, const wh_switch_event *event)
{
    if (!wh_eventq_put(&s->events, event))
        s->total.events_lost++;
}

int wh_switch_watch(wh_switch *s, int fd, uint32_t events, uint64_t tag)
{
    struct epoll_event e = {.events = events, .data.u64 = tag};
    return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0 ? WH_OK : WH_E_IO;
}

static void tick(wh_switch *s)
{
    void *v;
    s->timer_ns = s->now_ns + s->fdb_age_ns / 8;
    for (uint32_t i = 0; (v = wh_idmap_next(&s->networks, &i));)
        wh_network_tick(s, v);
    wh_moved_tick(s);
    wh_udp_tick(s);
    for (uint32_t i = 0; (v = wh_idmap_next(&s->peers, &i));)
        wh_peer_tick(s, v); /* each brings the timer forward to its own next time */
}

static void heard(wh_switch *s, const struct epoll_event *e)
{
    uint64_t count;
    struct wh_port *p;
    switch ((enum wh_tag)(e->data.u64 >> 32)) {
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
        p = wh_idmap_get(&s->ports, (uint32_t)e->data.u64);
        if (p && p->is_ring)
            wh_port_activate(s, p);
        break;
    case WH_TAG_TAP:
        p = wh_idmap_get(&s->ports, (uint32_t)e->data.u64);
        if (p && !p->is_ring)
            wh_port_drain(s, p);
        break;
    case WH_TAG_STREAM:
        wh_stream_event(s, (uint32_t)e->data.u64, e->events);
        break;
    }
}

/* Each active port once; what still has frames stays, behind those that came meanwhile. */
static void serve_rings(wh_switch *s)
{
    struct wh_port *last = s->active_tail, *p;
    do {
        p = s->active_head;
        if (!p)
            return;
        s->active_head = p->next_active;
        if (!s->active_head)
            s->active_tail = NULL;
        p->active = false;
        if (wh_port_drain(s, p))
            wh_port_activate(s, p);
    } while (p != last);
}

/* How long the thread may sleep after this turn, in milliseconds. */
static int turn(wh_switch *s, const struct epoll_event *wakes, int count)
{
    wh_switch_lock(s);
    uint64_t frames = s->total.rx_frames, bytes = s->total.rx_bytes;
    s->now_ns = wh_now_ns();
    for (int i = 0; i < count; i++)
        heard(s, &wakes[i]);
    serve_rings(s);
    if (s->now_ns >= s->timer_ns)
        tick(s);
    wh_peer_flush(s);
    if (s->egress.slow && s->now_ns >= s->egress.at_ns)
        wh_egress_run(s);
    wh_stream_reap(s);
    wh_port_kick_touched(s);
    uint64_t next_ns = s->egress.slow && s->egress.at_ns < s->timer_ns ? s->egress.at_ns : s->timer_ns;
    int timeout = 0;
    if (!s->active_head && next_ns > s->now_ns) {
        uint64_t ms = (next_ns - s->now_ns) / 1000000 + 1;
        timeout = ms > 60000 ? 60000 : (int)ms;
    }
    s->spinning = wh_spin_after_turn(&s->spin, s->now_ns, s->total.rx_frames - frames, s->total.rx_bytes - bytes);
    wh_switch_unlock(s);
    return timeout;
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

static int start(wh_switch *s, wh_error *err)
{
    sigset_t all, old;
    sigfillset(&all); /* signals belong to the agent's main thread */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&s->thread, NULL, run, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error)
        return wh_fail(err, WH_E_IO, "thread", "%s", strerror(error));
    pthread_setname_np(s->thread, "wh-switch");
    s->running = true;
    return WH_OK;
}

static int configure(wh_switch *s, const wh_switch_config *c, wh_error *err)
{
    if (c->node_id == 0)
        return wh_fail(err, WH_E_INVAL, "node_id", "0 is no node");
    if (c->fdb_max > WH_FDB_LIMIT)
        return wh_fail(err, WH_E_INVAL, "fdb_max", "%u is more than %u", c->fdb_max, WH_FDB_LIMIT);
    s->node_id = c->node_id;
    s->ports_off = c->ports_off != 0;
    s->fdb_max = c->fdb_max ? c->fdb_max : FDB_DEFAULT;
    s->fdb_age_ns = (c->fdb_age_s ? c->fdb_age_s : AGE_S_DEFAULT) * 1000000000ull;
    s->now_ns = wh_now_ns();
    s->timer_ns = s->now_ns + s->fdb_age_ns / 8;
    s->egress.at_ns = UINT64_MAX;
    wh_spin_init(&s->spin, s->now_ns);
    if (getrandom(&s->hash_seed, sizeof(s->hash_seed), 0) != sizeof(s->hash_seed))
        return wh_fail(err, WH_E_IO, "random", "%s", strerror(errno));
    return WH_OK;
}

static int open_fds(wh_switch *s, const wh_switch_config *c, wh_error *err)
{
    int status = wh_eventq_init(&s->events, err);
    if (status)
        return status;
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (s->epoll_fd < 0 || s->wake_fd < 0 || wh_switch_watch(s, s->wake_fd, EPOLLIN, WH_TAG(WH_TAG_WAKE, 0)))
        return wh_fail(err, WH_E_IO, "epoll", "%s", strerror(errno));
    if (c->udp_fd < 0)
        return WH_OK;
    status = wh_udp_new(c->udp_fd, &s->udp, err);
    if (!status && wh_switch_watch(s, c->udp_fd, EPOLLIN, WH_TAG(WH_TAG_UDP, 0)))
        status = wh_fail(err, WH_E_IO, "udp_fd", "epoll: %s", strerror(errno));
    return status;
}

int wh_switch_new(const wh_switch_config *config, wh_switch **out, wh_error *err)
{
    wh_switch *s = calloc(1, sizeof(*s));
    if (!s)
        return wh_fail(err, WH_E_NOMEM, "switch", "out of memory");
    s->epoll_fd = s->wake_fd = s->events.fd = -1;
    pthread_mutex_init(&s->gate, NULL);
    pthread_mutex_init(&s->lock, NULL);
    int status = configure(s, config, err);
    if (!status && (wh_crypto_new(&s->crypto) || wh_packs_new(&s->packs)))
        status = wh_fail(err, WH_E_NOMEM, "switch", "out of memory");
    if (!status)
        status = open_fds(s, config, err);
    if (!status)
        status = start(s, err);
    if (status) {
        wh_udp_give_back(s->udp);
        wh_switch_free(s);
        return status;
    }
    *out = s;
    return WH_OK;
}

void wh_switch_free(wh_switch *s)
{
    void *v;
    if (!s)
        return;
    if (s->running) {
        atomic_store(&s->stop, true);
        wh_switch_wake(s);
        pthread_join(s->thread, NULL);
    }
    for (uint32_t i = 0; (v = wh_idmap_next(&s->ports, &i));)
        wh_port_free(s, v);
    for (uint32_t i = 0; (v = wh_idmap_next(&s->networks, &i));)
        wh_network_free(v);
    for (uint32_t i = 0; (v = wh_idmap_next(&s->peers, &i));) {
        wh_stream_free(s, v);
        wh_egress_forget(s, v);
    }
    wh_egress_free(s);
    for (uint32_t i = 0; (v = wh_idmap_next(&s->peers, &i));)
        wh_peer_free(v);
    wh_frameq_clear(&s->parked);
    wh_coalesce_free(&s->coalesce);
    wh_idmap_free(&s->ports);
    wh_idmap_free(&s->networks);
    wh_idmap_free(&s->peers);
    wh_crypto_free(s->crypto);
    wh_packs_free(s->packs);
    wh_udp_free(s->udp);
    wh_eventq_close(&s->events);
    int fds[] = {s->epoll_fd, s->wake_fd};
    for (size_t i = 0; i < WH_ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    pthread_mutex_destroy(&s->gate);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
