/* port_life: how a port begins and ends, and which worker reads it. */
#include "switch/port.h"

#include "switch/dgram.h"
#include "switch/forward.h"
#include "switch/tap.h"
#include "switch/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define GUEST_MACS 1024u /* learned behind a guest whose port is open, unless it is told otherwise */

static int dup_fd(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* A doorbell comes from a guest process: writing to something else than an eventfd could block the thread or worse. */
static bool is_eventfd(int fd)
{
    char path[32], target[64] = "";
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, target, sizeof(target) - 1);
    return n > 0 && strcmp(target, "anon_inode:[eventfd]") == 0;
}

static int take_eventfd(int fd, const char *field, int *out, wh_error *err)
{
    if (!is_eventfd(fd))
        return wh_fail(err, WH_E_INVAL, field, "descriptor %d is not an eventfd", fd);
    *out = dup_fd(fd);
    if (*out < 0 || fcntl(*out, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
        return wh_fail(err, WH_E_IO, field, "%s", strerror(errno));
    return WH_OK;
}

static void pair_free(struct wh_pair *r)
{
    if (!r)
        return;
    wh_ring_unmap(r->from_guest);
    wh_ring_unmap(r->to_guest);
    int fds[] = {r->in_event, r->ring_fd};
    for (size_t i = 0; i < WH_ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static int pair_new(struct wh_port *p, int ring_fd, int to_switch_event, struct wh_pair **out, wh_error *err)
{
    struct wh_pair *r = calloc(1, sizeof(*r));
    if (!r)
        return wh_fail(err, WH_E_NOMEM, "port", "out of memory");
    pthread_mutex_init(&r->lock, NULL);
    r->port = p;
    r->in_event = r->ring_fd = -1;
    int status = take_eventfd(to_switch_event, "to_switch_event", &r->in_event, err);
    if (!status)
        status = wh_ring_map(ring_fd, 0, false, &r->from_guest, err);
    if (!status)
        status = wh_ring_map(ring_fd, 1, true, &r->to_guest, err);
    if (!status && (r->ring_fd = dup_fd(ring_fd)) < 0)
        status = wh_fail(err, WH_E_IO, "ring_fd", "%s", strerror(errno));
    if (status)
        pair_free(r);
    else
        *out = r;
    return status;
}

static void destroy(struct wh_port *p)
{
    for (uint32_t i = 0; i < p->pairs; i++)
        pair_free(p->pair[i]);
    wh_dgram_free(p->dgram);
    wh_trace_free(p->trace);
    int fds[] = {p->out_event, p->tap_fd};
    for (size_t i = 0; i < WH_ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    wh_vlan_clear(&p->vlan);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

static struct wh_port *blank(const wh_switch *s, uint32_t id)
{
    size_t size = sizeof(struct wh_port) + s->all->workers * sizeof(struct wh_port_part);
    struct wh_port *p = aligned_alloc(_Alignof(struct wh_port), size);
    if (p) {
        memset(p, 0, size);
        pthread_mutex_init(&p->lock, NULL);
        p->id = id;
        p->enabled = true;
        p->fdb_max = UINT32_MAX;
        p->out_event = p->tap_fd = -1;
    }
    return p;
}

int wh_port_new_ring(const wh_switch *s, uint32_t id, const struct wh_port_ring_spec *spec, struct wh_port **out,
                     wh_error *err)
{
    static const uint8_t any[6];
    if (spec->locked_mac[0] & 1)
        return wh_fail(err, WH_E_INVAL, "locked_mac", "a group address cannot be a port's own");
    struct wh_port *p = blank(s, id);
    if (!p)
        return wh_fail(err, WH_E_NOMEM, "port", "out of memory");
    p->is_ring = true;
    p->generation = spec->generation;
    memcpy(p->mac, spec->locked_mac, 6);
    p->locked = memcmp(p->mac, any, 6) != 0;
    p->fdb_max = GUEST_MACS;
    int status = pair_new(p, spec->ring_fd, spec->to_switch_event, &p->pair[0], err);
    p->pairs = status ? 0 : 1;
    if (!status)
        status = take_eventfd(spec->to_guest_event, "to_guest_event", &p->out_event, err);
    if (status) {
        destroy(p);
        return status;
    }
    *out = p;
    return WH_OK;
}

int wh_port_new_tap(const wh_switch *s, uint32_t id, int tap_fd, struct wh_port **out, wh_error *err)
{
    struct wh_port *p = blank(s, id);
    if (!p)
        return wh_fail(err, WH_E_NOMEM, "port", "out of memory");
    p->tap_fd = dup_fd(tap_fd);
    int flags = p->tap_fd < 0 ? -1 : fcntl(p->tap_fd, F_GETFL);
    if (flags < 0 || fcntl(p->tap_fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        int error = errno;
        destroy(p);
        return wh_fail(err, WH_E_IO, "tap_fd", "%s", strerror(error));
    }
    int status = wh_tap_setup(p->tap_fd, &p->tap_vnet, &p->tap_takes, err);
    if (status) {
        destroy(p);
        return status;
    }
    p->guard = true;
    *out = p;
    return WH_OK;
}

int wh_port_new_dgram(const wh_switch *s, uint32_t id, int fd, struct wh_dgram *dgram, struct wh_port **out,
                      wh_error *err)
{
    int status = wh_port_new_tap(s, id, fd, out, err);
    if (!status)
        (*out)->dgram = dgram;
    return status;
}

/* The worker that reads least; of several, the one behind `from`, so that the pairs of a port do not meet. */
static wh_switch *least_loaded(const wh_switch *s, uint32_t from)
{
    struct wh_shared *all = s->all;
    wh_switch *best = all->worker[from % all->workers];
    for (uint32_t i = 1; i < all->workers; i++) {
        wh_switch *w = all->worker[(from + i) % all->workers];
        if (w->reads < best->reads)
            best = w;
    }
    return best;
}

/* Each worker delivers by a pair that it reads itself, if there is one, and nobody else does then. */
static void share_out(const wh_switch *s, struct wh_port *p)
{
    for (uint32_t w = 0; w < s->all->workers; w++) {
        p->part[w].pair = p->pair[w % p->pairs];
        for (uint32_t i = 0; i < p->pairs; i++)
            if (p->pair[i]->home->index == w) {
                p->part[w].pair = p->pair[i];
                break;
            }
    }
}

static int watch_pair(wh_switch *s, struct wh_port *p, uint32_t i, wh_error *err)
{
    struct wh_pair *r = p->pair[i];
    wh_switch *home = least_loaded(s, i ? p->pair[i - 1]->home->index + 1 : 0);
    /* Edge-triggered: the doorbell's count is never read, each ring is a new edge. */
    if (wh_switch_watch(home, r->in_event, EPOLLIN | EPOLLET, WH_TAG(WH_TAG_RING | i << 8, p->id)))
        return wh_fail(err, WH_E_IO, "to_switch_event", "epoll: %s", strerror(errno));
    r->home = home;
    home->reads++;
    share_out(s, p);
    wh_ring_attend(r->from_guest, true);
    wh_pair_activate(home, r); /* frames may wait since before the port existed */
    return WH_OK;
}

int wh_port_watch(wh_switch *s, struct wh_port *p, wh_error *err)
{
    if (p->is_ring)
        return watch_pair(s, p, 0, err);
    wh_switch *home = least_loaded(s, 0);
    if (wh_switch_watch(home, p->tap_fd, EPOLLIN, WH_TAG(WH_TAG_TAP, p->id)))
        return wh_fail(err, WH_E_IO, "tap_fd", "epoll: %s", strerror(errno));
    p->home = home;
    home->reads++;
    return WH_OK;
}

int wh_port_add_pair(wh_switch *s, struct wh_port *p, int ring_fd, int to_switch_event, wh_error *err)
{
    if (!p->is_ring || p->down)
        return wh_fail(err, WH_E_STATE, "port", "port %u takes no more rings", p->id);
    if (p->pairs == WH_PORT_PAIRS_MAX)
        return wh_fail(err, WH_E_FULL, "port", "port %u has %u pairs of rings", p->id, p->pairs);
    int status = pair_new(p, ring_fd, to_switch_event, &p->pair[p->pairs], err);
    if (status)
        return status;
    p->pair[p->pairs]->home = p->pair[0]->home;
    p->pairs++;
    status = watch_pair(s, p, p->pairs - 1, err);
    if (status)
        pair_free(p->pair[--p->pairs]);
    return status;
}

void wh_port_ring_bell(struct wh_port *p)
{
    uint64_t one = 1;
    ssize_t n = write(p->out_event, &one, sizeof(one));
    (void)n; /* EAGAIN: it is rung already */
}

/* Nobody reads what its guest sends any more: that shall not wait. */
static void leave(struct wh_port *p)
{
    for (uint32_t i = 0; i < p->pairs; i++)
        wh_ring_attend(p->pair[i]->from_guest, false);
    wh_port_ring_bell(p);
}

static void forget_active(struct wh_pair *r)
{
    wh_switch *home = r->home;
    home->active_tail = NULL;
    for (struct wh_pair **link = &home->active_head; *link;) {
        if (*link == r) {
            *link = r->next_active;
            continue;
        }
        home->active_tail = *link;
        link = &(*link)->next_active;
    }
}

static void unwatch(struct wh_port *p)
{
    for (uint32_t i = 0; i < p->pairs; i++)
        if (p->pair[i]->home)
            epoll_ctl(p->pair[i]->home->epoll_fd, EPOLL_CTL_DEL, p->pair[i]->in_event, NULL);
    if (p->home)
        epoll_ctl(p->home->epoll_fd, EPOLL_CTL_DEL, p->tap_fd, NULL);
}

static void forget_touched(wh_switch *w, struct wh_port *p)
{
    for (struct wh_port **link = &w->touched; *link; link = &(*link)->part[w->index].next_touched) {
        if (*link == p) {
            *link = p->part[w->index].next_touched;
            return;
        }
    }
}

void wh_port_free(wh_switch *s, struct wh_port *p)
{
    if (p->is_ring)
        leave(p);
    unwatch(p);
    for (uint32_t i = 0; i < p->pairs; i++) {
        if (p->pair[i]->home) {
            forget_active(p->pair[i]);
            p->pair[i]->home->reads--;
        }
    }
    if (p->home)
        p->home->reads--;
    for (struct wh_waiting *w; (w = wh_frameq_take(&p->waiting)); free(w))
        WH_COUNT(s, p, drop_disabled);
    for (uint32_t i = 0; i < s->all->workers; i++)
        forget_touched(s->all->worker[i], p);
    destroy(p);
}

void wh_port_fail(wh_switch *s, struct wh_port *p)
{
    if (p->down)
        return;
    if (!s->alone) {
        (void)wh_aside_put(s, &(struct wh_aside_item){.kind = WH_ASIDE_PORT_FAIL, .id = p->id}, NULL);
        return; /* no room: it fails again */
    }
    p->down = true;
    if (p->is_ring)
        leave(p);
    WH_COUNT(s, p, drop_invalid);
    unwatch(p); /* its rings leave their lists with the next turn, or with the port */
    wh_switch_tell(s, &(wh_switch_event){.kind = WH_SW_PORT_DOWN, .port = p->id, .vni = wh_forward_vni(p)});
}
