#include "switch/port.h"

#include "switch/cut.h"
#include "switch/dgram.h"
#include "switch/forward.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of one port in one turn: bounds the latency that it adds to others. */
#define SHARE_FRAMES 64u
#define SHARE_BYTES  (256u << 10)

void wh_pair_activate(wh_switch *s, struct wh_pair *r)
{
    if (r->active || r->port->down)
        return;
    r->active = true;
    r->next_active = NULL;
    if (s->active_tail)
        s->active_tail->next_active = r;
    else
        s->active_head = r;
    s->active_tail = r;
    wh_ring_wake(r->from_guest);
}

void wh_port_rung(wh_switch *s, struct wh_port *p, uint32_t pair)
{
    /* The port may be another one by now, with the number of that which was rung. */
    if (pair < p->pairs && p->pair[pair]->home == s)
        wh_pair_activate(s, p->pair[pair]);
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
    struct wh_port_part *part = &p->part[s->index];
    if (part->touched)
        return;
    part->touched = true;
    part->next_touched = s->touched;
    s->touched = p;
}

static bool take_share(wh_switch *s, struct wh_pair *r)
{
    struct wh_port *p = r->port;
    uint32_t bytes = 0;
    for (unsigned n = 0; n < SHARE_FRAMES && bytes < SHARE_BYTES; n++) {
        const uint8_t *shared;
        struct wh_frame f;
        int status = wh_ring_peek(r->from_guest, &shared, &f.len);
        if (status == WH_E_AGAIN)
            return !wh_ring_sleep(r->from_guest);
        if (status) {
            wh_port_fail(s, p);
            return false;
        }
        bool good = wh_port_take(s, p, shared, &f);
        wh_ring_consume(r->from_guest);
        bytes += f.len;
        if (good)
            wh_forward_from_port(s, p, &f);
    }
    return true;
}

bool wh_pair_drain(wh_switch *s, struct wh_pair *r)
{
    if (r->port->down)
        return false;
    bool more = take_share(s, r);
    if (wh_ring_owes_room(r->from_guest))
        touch(s, r->port);
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

void wh_port_drain(wh_switch *s, struct wh_port *p)
{
    if (p->down)
        return;
    if (p->dgram)
        wh_dgram_drain(s, p, SHARE_FRAMES);
    else
        drain_tap(s, p); /* level-triggered: epoll says again when there is more */
}

uint32_t wh_port_takes(const struct wh_port *p)
{
    return p->is_ring ? wh_ring_takes(p->pair[0]->to_guest) : p->tap_takes;
}

/* Two of the ways out. False: no room. */
static inline bool to_ring(wh_switch *s, struct wh_port *p, const struct wh_port_part *part, const struct wh_frame *f)
{
    wh_ring *ring = part->pair->to_guest;
    struct wh_vnet todo;
    uint8_t *room;
    bool kick;
    int status = wh_ring_reserve(ring, f->len, &room);
    if (status == WH_E_FULL)
        return false;
    if (status) {
        wh_port_fail(s, p);
        return false;
    }
    memcpy(room, f->data, f->len);
    wh_frame_to_vnet(f, &todo);
    wh_ring_commit(ring, &todo, &kick);
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
    struct wh_port_part *part = &p->part[s->index];
    if (!(p->is_ring ? to_ring(s, p, part, f)
                     : to_tap(p, f))) { /* a TAP: its queue is full, or it is down for now (EIO) */
        WH_COUNT(s, p, drop_full);
        return;
    }
    s->total.tx_frames++;
    s->total.tx_bytes += f->len;
    part->counters.tx_frames++;
    part->counters.tx_bytes += f->len;
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

static inline __attribute__((always_inline)) void deliver(wh_switch *s, struct wh_port *p, struct wh_frame *f)
{
    if (p->held) {
        if (!wh_frameq_put(&p->waiting, &(struct wh_waiting){.since_ns = s->now_ns, .node = s->index}, f))
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

/* Others may deliver to it at the same time. */
static __attribute__((noinline)) void deliver_locked(wh_switch *s, struct wh_port *p, struct wh_frame *f)
{
    pthread_mutex_t *lock = p->held || p->dgram ? &p->lock : &p->part[s->index].pair->lock;
    pthread_mutex_lock(lock);
    deliver(s, p, f);
    pthread_mutex_unlock(lock);
}

void wh_port_deliver(wh_switch *s, struct wh_port *p, struct wh_frame *f)
{
    if (s->alone || !(p->is_ring || p->held || p->dgram)) /* a TAP is the kernel's to lock */
        deliver(s, p, f);
    else
        deliver_locked(s, p, f);
}

void wh_port_kick_touched(wh_switch *s)
{
    while (s->touched) {
        struct wh_port *p = s->touched;
        struct wh_port_part *part = &p->part[s->index];
        s->touched = part->next_touched;
        part->touched = false;
        wh_port_ring_bell(p);
    }
}
