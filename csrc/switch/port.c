#include "switch/port.h"

#include "switch/cut.h"
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

/* Of one port in one turn: bounds the latency that it adds to others. */
#define SHARE_FRAMES 64u
#define SHARE_BYTES  (256u << 10)
#define GUEST_MACS   1024u /* learned behind a guest whose port is open, unless it is told otherwise */

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

static void destroy(struct wh_port *p)
{
    wh_ring_unmap(p->from_guest);
    wh_ring_unmap(p->to_guest);
    wh_dgram_free(p->dgram);
    wh_trace_free(p->trace);
    int fds[] = {p->in_event, p->out_event, p->tap_fd, p->ring_fd};
    for (size_t i = 0; i < WH_ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    wh_vlan_clear(&p->vlan);
    free(p);
}

static struct wh_port *blank(uint32_t id)
{
    struct wh_port *p = calloc(1, sizeof(*p));
    if (p) {
        p->id = id;
        p->enabled = true;
        p->fdb_max = UINT32_MAX;
        p->in_event = p->out_event = p->tap_fd = p->ring_fd = -1;
    }
    return p;
}

int wh_port_new_ring(uint32_t id, const struct wh_port_ring_spec *spec, struct wh_port **out, wh_error *err)
{
    static const uint8_t any[6];
    if (spec->locked_mac[0] & 1)
        return wh_fail(err, WH_E_INVAL, "locked_mac", "a group address cannot be a port's own");
    struct wh_port *p = blank(id);
    if (!p)
        return wh_fail(err, WH_E_NOMEM, "port", "out of memory");
    p->is_ring = true;
    p->generation = spec->generation;
    memcpy(p->mac, spec->locked_mac, 6);
    p->locked = memcmp(p->mac, any, 6) != 0;
    p->fdb_max = GUEST_MACS;
    int status = take_eventfd(spec->to_switch_event, "to_switch_event", &p->in_event, err);
    if (!status)
        status = take_eventfd(spec->to_guest_event, "to_guest_event", &p->out_event, err);
    if (!status)
        status = wh_ring_map(spec->ring_fd, 0, false, &p->from_guest, err);
    if (!status)
        status = wh_ring_map(spec->ring_fd, 1, true, &p->to_guest, err);
    if (!status && (p->ring_fd = dup_fd(spec->ring_fd)) < 0)
        status = wh_fail(err, WH_E_IO, "ring_fd", "%s", strerror(errno));
    if (status) {
        destroy(p);
        return status;
    }
    *out = p;
    return WH_OK;
}

int wh_port_new_tap(uint32_t id, int tap_fd, struct wh_port **out, wh_error *err)
{
    struct wh_port *p = blank(id);
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

int wh_port_new_dgram(uint32_t id, int fd, struct wh_dgram *dgram, struct wh_port **out, wh_error *err)
{
    int status = wh_port_new_tap(id, fd, out, err);
    if (!status)
        (*out)->dgram = dgram;
    return status;
}

int wh_port_watch(wh_switch *s, struct wh_port *p, wh_error *err)
{
    /* Edge-triggered: the doorbell's count is never read, each ring is a new edge. */
    int status = p->is_ring ? wh_switch_watch(s, p->in_event, EPOLLIN | EPOLLET, WH_TAG(WH_TAG_RING, p->id))
                            : wh_switch_watch(s, p->tap_fd, EPOLLIN, WH_TAG(WH_TAG_TAP, p->id));
    if (status)
        return wh_fail(err, WH_E_IO, p->is_ring ? "to_switch_event" : "tap_fd", "epoll: %s", strerror(errno));
    if (p->is_ring) {
        wh_ring_attend(p->from_guest, true);
        wh_port_activate(s, p); /* frames may wait since before the port existed */
    }
    return WH_OK;
}

static void ring_bell(struct wh_port *p)
{
    uint64_t one = 1;
    ssize_t n = write(p->out_event, &one, sizeof(one));
    (void)n; /* EAGAIN: it is rung already */
}

/* Nobody reads what its guest sends any more: that shall not wait. */
static void leave(struct wh_port *p)
{
    wh_ring_attend(p->from_guest, false);
    ring_bell(p);
}

void wh_port_free(wh_switch *s, struct wh_port *p)
{
    if (p->is_ring)
        leave(p);
    int fd = p->is_ring ? p->in_event : p->tap_fd;
    epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    for (struct wh_waiting *w; (w = wh_frameq_take(&p->waiting)); free(w))
        WH_COUNT(s, p, drop_disabled);
    struct wh_port **link = &s->active_head;
    s->active_tail = NULL;
    while (*link) {
        if (*link == p) {
            *link = p->next_active;
            continue;
        }
        s->active_tail = *link;
        link = &(*link)->next_active;
    }
    for (link = &s->touched; *link; link = &(*link)->next_touched) {
        if (*link == p) {
            *link = p->next_touched;
            break;
        }
    }
    destroy(p);
}

void wh_port_activate(wh_switch *s, struct wh_port *p)
{
    if (p->active || p->down)
        return;
    p->active = true;
    p->next_active = NULL;
    if (s->active_tail)
        s->active_tail->next_active = p;
    else
        s->active_head = p;
    s->active_tail = p;
    wh_ring_wake(p->from_guest);
}

void wh_port_fail(wh_switch *s, struct wh_port *p)
{
    if (p->down)
        return;
    p->down = true;
    if (p->is_ring)
        leave(p);
    WH_COUNT(s, p, drop_invalid);
    epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, p->is_ring ? p->in_event : p->tap_fd, NULL);
    wh_switch_tell(s, &(wh_switch_event){.kind = WH_SW_PORT_DOWN, .port = p->id, .vni = wh_forward_vni(p)});
}

static __attribute__((cold, noinline)) void refuse(wh_switch *s, struct wh_port *p, enum wh_vnet_verdict why)
{
    if (why == WH_VNET_BAD_CSUM)
        WH_COUNT(s, p, drop_vnet_csum);
    else if (why == WH_VNET_BAD_GSO)
        WH_COUNT(s, p, drop_vnet_gso);
    else
        WH_COUNT(s, p, drop_vnet_packet);
}

/* Is the frame one with which what its header asks for can be done? False: counted. */
static inline bool accept_vnet(wh_switch *s, struct wh_port *p, struct wh_frame *f, const struct wh_vnet *todo)
{
    enum wh_vnet_verdict verdict = wh_frame_from_vnet(f, todo);
    if (verdict != WH_VNET_GOOD)
        refuse(s, p, verdict);
    return verdict == WH_VNET_GOOD;
}

bool wh_port_take(wh_switch *s, struct wh_port *p, const uint8_t *shared, struct wh_frame *f)
{
    struct wh_vnet todo;
    /* Out of shared memory first: what is checked must be what is sent. */
    wh_ring_todo(shared, &todo);
    f->data = s->frame_room + WH_HEADROOM;
    memcpy(f->data, shared, f->len);
    return accept_vnet(s, p, f, &todo);
}

/* Its guest's doorbell rings at the end of the turn. */
static void touch(wh_switch *s, struct wh_port *p)
{
    if (p->touched)
        return;
    p->touched = true;
    p->next_touched = s->touched;
    s->touched = p;
}

static bool take_share(wh_switch *s, struct wh_port *p)
{
    uint32_t bytes = 0;
    for (unsigned n = 0; n < SHARE_FRAMES && bytes < SHARE_BYTES; n++) {
        const uint8_t *shared;
        struct wh_frame f;
        int status = wh_ring_peek(p->from_guest, &shared, &f.len);
        if (status == WH_E_AGAIN)
            return !wh_ring_sleep(p->from_guest);
        if (status) {
            wh_port_fail(s, p);
            return false;
        }
        bool good = wh_port_take(s, p, shared, &f);
        wh_ring_consume(p->from_guest);
        bytes += f.len;
        if (good)
            wh_forward_from_port(s, p, &f);
    }
    return true;
}

static bool drain_ring(wh_switch *s, struct wh_port *p)
{
    bool more = take_share(s, p);
    if (wh_ring_owes_room(p->from_guest))
        touch(s, p);
    return more;
}

/* One read: a frame, with what is to be done to it in the headroom where the TAP says so. False: counted. */
static bool from_tap(wh_switch *s, struct wh_port *p, ssize_t len, struct wh_frame *f)
{
    struct wh_vnet todo;
    *f = wh_frame_plain(s->frame_room + WH_HEADROOM, (uint32_t)len);
    if (!p->tap_vnet)
        return true;
    if (len < (ssize_t)WH_VNET_BYTES) {
        WH_COUNT(s, p, drop_invalid);
        return false;
    }
    f->len -= WH_VNET_BYTES;
    memcpy(&todo, f->data - WH_VNET_BYTES, sizeof(todo));
    return accept_vnet(s, p, f, &todo);
}

static void drain_tap(wh_switch *s, struct wh_port *p)
{
    const uint32_t front = WH_HEADROOM - (p->tap_vnet ? WH_VNET_BYTES : 0);
    uint32_t bytes = 0;
    for (unsigned n = 0; n < SHARE_FRAMES && bytes < SHARE_BYTES; n++) {
        struct wh_frame f;
        ssize_t len = read(p->tap_fd, s->frame_room + front, sizeof(s->frame_room) - front);
        if (len < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (len <= 0) { /* EOF, EBADFD, EIO: the device is gone */
            wh_port_fail(s, p);
            return;
        }
        bytes += (uint32_t)len;
        if (from_tap(s, p, len, &f))
            wh_forward_from_port(s, p, &f);
    }
}

bool wh_port_drain(wh_switch *s, struct wh_port *p)
{
    if (p->down)
        return false;
    if (p->is_ring)
        return drain_ring(s, p);
    if (p->dgram)
        wh_dgram_drain(s, p, SHARE_FRAMES);
    else
        drain_tap(s, p); /* level-triggered: epoll says again when there is more */
    return false;
}

uint32_t wh_port_takes(const struct wh_port *p)
{
    return p->is_ring ? wh_ring_takes(p->to_guest) : p->tap_takes;
}

/* Two of the ways out. False: no room. */
static bool to_ring(wh_switch *s, struct wh_port *p, const struct wh_frame *f)
{
    struct wh_vnet todo;
    uint8_t *room;
    bool kick;
    int status = wh_ring_reserve(p->to_guest, f->len, &room);
    if (status == WH_E_FULL)
        return false;
    if (status) {
        wh_port_fail(s, p);
        return false;
    }
    memcpy(room, f->data, f->len);
    wh_frame_to_vnet(f, &todo);
    wh_ring_commit(p->to_guest, &todo, &kick);
    if (kick)
        touch(s, p);
    return true;
}

static bool to_tap(struct wh_port *p, const struct wh_frame *f)
{
    struct wh_vnet todo;
    if (!p->tap_vnet)
        return write(p->tap_fd, f->data, f->len) == (ssize_t)f->len;
    wh_frame_to_vnet(f, &todo);
    memcpy(f->data - WH_VNET_BYTES, &todo, sizeof(todo));
    size_t whole = (size_t)f->len + WH_VNET_BYTES;
    return write(p->tap_fd, f->data - WH_VNET_BYTES, whole) == (ssize_t)whole;
}

/* f is what the port takes. */
static void give(wh_switch *s, struct wh_port *p, const struct wh_frame *f)
{
    if (p->dgram) {
        wh_dgram_deliver(s, p, f);
        return;
    }
    if (!(p->is_ring ? to_ring(s, p, f) : to_tap(p, f))) { /* a TAP: its queue is full, or it is down for now (EIO) */
        WH_COUNT(s, p, drop_full);
        return;
    }
    WH_COUNT(s, p, tx_frames);
    WH_COUNT_BYTES(s, p, tx_bytes, f->len);
}

static void cut_for(wh_switch *s, struct wh_port *p, const struct wh_frame *f, uint32_t takes)
{
    struct wh_cut cut;
    struct wh_frame segment;
    wh_cut_begin(&cut, f);
    while (wh_cut_next(&cut, &segment)) {
        if (!(takes & WH_TAKES_CSUM))
            wh_csum_complete(&segment);
        give(s, p, &segment);
    }
}

/* Cut and completed as far as the port does not take it as it is. */
static void give_as_taken(wh_switch *s, struct wh_port *p, struct wh_frame *f)
{
    uint32_t takes = wh_port_takes(p), lacks = wh_frame_needs(f) & ~takes;
    if (lacks && f->gso != WH_GSO_NONE) {
        cut_for(s, p, f, takes);
        return;
    }
    if (lacks)
        wh_csum_complete(f);
    give(s, p, f);
}

void wh_port_deliver(wh_switch *s, struct wh_port *p, struct wh_frame *f)
{
    if (p->held) {
        if (!wh_frameq_put(&p->waiting, &(struct wh_waiting){.since_ns = s->now_ns}, f))
            WH_COUNT(s, p, drop_full);
        return;
    }
    if (!p->enabled || p->down) {
        WH_COUNT(s, p, drop_disabled);
        return;
    }
    if (p->shut) {
        WH_COUNT(s, p, drop_guard);
        return;
    }
    if (p->vlan.mode == WH_VLAN_TRANSPARENT) {
        give_as_taken(s, p, f);
        return;
    }
    struct wh_frame out;
    uint16_t tci = wh_vlan_tags(f) ? wh_vlan_tci(f) : 0;
    if (!wh_vlan_out(&p->vlan, f, &out)) {
        WH_COUNT(s, p, drop_vlan);
        return;
    }
    give_as_taken(s, p, &out);
    wh_vlan_back(f, &out, tci);
}

void wh_port_kick_touched(wh_switch *s)
{
    while (s->touched) {
        struct wh_port *p = s->touched;
        s->touched = p->next_touched;
        p->touched = false;
        ring_bell(p);
    }
}
