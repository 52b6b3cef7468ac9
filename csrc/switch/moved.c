#include "switch/moved.h"

#include "switch/cut.h"
#include "switch/forward.h"

#include <stdlib.h>

#define DRAIN_MAX  256u /* turns' shares of frames; a guest process that fills as fast as we take ends here */
#define RINGED_MAX 16384u

/* Where there is room behind it too. */
static struct wh_frame in_hand(wh_switch *s, const struct wh_frame *f)
{
    struct wh_frame copy = *f;
    copy.data = s->frame_room + WH_HEADROOM;
    if (copy.data != f->data)
        memcpy(copy.data, f->data, f->len);
    return copy;
}

/* All by the first worker, alone: in one lane none overtakes another, whichever worker has met them. */
static void send_complete(wh_switch *s, struct wh_peer *peer, uint32_t vni, struct wh_frame *f, const uint8_t *mac)
{
    wh_switch *first = s->all->worker[0];
    wh_csum_complete(f);
    first->now_ns = s->now_ns;
    wh_peer_send_moved(first, peer, vni, f, mac);
    if (first != s)
        wh_peer_flush(first);
}

static void send_moved(wh_switch *s, struct wh_port *p, uint32_t node, const struct wh_frame *f)
{
    struct wh_peer *peer = wh_idmap_get(&s->all->peers, node);
    if (!peer || f->len < WH_ETH_HEADER || (f->gso == WH_GSO_NONE && f->len > WH_FRAME_MAX)) {
        WH_COUNT(s, p, drop_no_peer);
        return;
    }
    struct wh_frame copy = in_hand(s, f);
    const uint8_t *mac = memcmp(copy.data, p->mac, 6) == 0 ? NULL : p->mac;
    if (copy.gso == WH_GSO_NONE) {
        send_complete(s, peer, p->net->vni, &copy, mac);
        return;
    }
    struct wh_cut cut;
    struct wh_frame piece;
    wh_cut_begin(&cut, &copy);
    while (wh_cut_next(&cut, &piece)) {
        /* What follows a moved frame in its buffer is overwritten: here the payload of the next piece. */
        uint8_t next[WH_MOVED_SUFFIX], *behind = piece.data + piece.len;
        memcpy(next, behind, sizeof(next));
        send_complete(s, peer, p->net->vni, &piece, mac);
        memcpy(behind, next, sizeof(next));
    }
}

/* By the worker that reads it, so that they go the way of those before them. */
static void drain(wh_switch *s, struct wh_pair *r)
{
    wh_switch *w = r->home;
    bool was = wh_switch_act_as(w, s->now_ns);
    for (unsigned i = 0; i < DRAIN_MAX && wh_pair_drain(w, r); i++)
        ;
    wh_switch_acted(w, was);
}

void wh_moved_hold(wh_switch *s, struct wh_port *p)
{
    p->held = true;
    p->waiting.max = WH_HOLD_BYTES;
    for (uint32_t i = 0; i < p->pairs; i++)
        drain(s, p->pair[i]);
}

/* What lies in the ring of a guest that will not take it any more. It stands still, so this end may read in its place;
 * if its process goes on all the same, its copy of these frames is nobody's business: it is fenced. */
static void send_pair(wh_switch *s, struct wh_port *p, const struct wh_pair *pair, uint32_t node)
{
    const uint8_t *frame;
    struct wh_frame f;
    wh_ring *r;
    if (wh_ring_map(pair->ring_fd, 1, false, &r, NULL) != WH_OK)
        return;
    for (unsigned n = 0; n < RINGED_MAX && wh_ring_peek(r, &frame, &f.len) == WH_OK; n++) {
        if (wh_port_take(s, p, frame, &f) && wh_vlan_in(&p->vlan, &f)) /* back into what is on tunnels */
            send_moved(s, p, node, &f);
        wh_ring_consume(r);
    }
    wh_ring_unmap(r);
}

static void send_ringed(wh_switch *s, struct wh_port *p, uint32_t node)
{
    for (uint32_t i = 0; !p->down && i < p->pairs; i++)
        send_pair(s, p, p->pair[i], node);
}

void wh_moved_release(wh_switch *s, struct wh_port *p)
{
    if (!p->held)
        return;
    p->held = false;
    const struct wh_fdb *fdb = &p->net->fdb;
    const struct wh_fdb_row *row = p->locked ? wh_fdb_find(fdb, p->mac, 0) : NULL;
    uint32_t node = row && row->is_static ? wh_fdb_node(fdb, row) : 0;
    struct wh_port *here = row && wh_fdb_port(fdb, row) ? wh_fdb_port(fdb, row)
                                                        : p; /* a newer copy on this node has the MAC, or it itself */
    if (node)
        send_ringed(s, p, node);
    struct wh_waiting *w = wh_frameq_take_all(&p->waiting);
    while (w) {
        struct wh_waiting *next = w->next;
        if (node)
            send_moved(s, p, node, &w->frame);
        else
            wh_port_deliver(s->all->worker[w->node], here, &w->frame); /* before what that one delivers from now on */
        free(w);
        w = next;
    }
}

bool wh_moved_follow(wh_switch *s, const struct wh_network *net, const struct wh_fdb_row *row, const struct wh_frame *f)
{
    struct wh_peer *peer = row->was_here ? wh_idmap_get(&s->all->peers, wh_fdb_node(&net->fdb, row)) : NULL;
    if (!peer)
        return false;
    struct wh_frame copy = in_hand(s, f);
    send_complete(s, peer, net->vni, &copy, NULL); /* from a tunnel: never more than a frame of a wire */
    return true;
}

void wh_moved_arrived(wh_switch *s, struct wh_peer *from, struct wh_network *net, const uint8_t *mac,
                      struct wh_frame *f)
{
    const struct wh_fdb_row *row = wh_fdb_find(&net->fdb, mac ? mac : f->data, 0);
    struct wh_port *p = row && row->is_static ? wh_fdb_port(&net->fdb, row) : NULL;
    if (!p || p->came_from != from->node) {
        WH_COUNT(s, from, drop_fenced);
        return;
    }
    WH_COUNT(s, from, rx_frames);
    WH_COUNT_BYTES(s, from, rx_bytes, f->len);
    wh_coalesce_flush(s);
    wh_port_deliver(s, p, f);
}

static void give_up(wh_switch *s, uint32_t node)
{
    struct wh_peer *peer = wh_idmap_get(&s->all->peers, node);
    s->total.drop_fenced++;
    if (peer)
        peer->part[s->index].counters.drop_fenced++;
}

void wh_moved_park(wh_switch *s, struct wh_peer *from, uint32_t vni, const struct wh_frame *f)
{
    const struct wh_waiting about = {.since_ns = s->now_ns, .vni = vni, .node = from->node};
    s->all->parked.max = WH_PARK_BYTES;
    if (!wh_frameq_put(&s->all->parked, &about, f))
        give_up(s, from->node);
    else
        wh_switch_timer(s, s->all->parked.head->since_ns + WH_PARK_FOR_NS);
}

void wh_moved_unpark(wh_switch *s, uint32_t vni, const uint8_t mac[6], uint32_t node)
{
    struct wh_waiting *w = wh_frameq_take_all(&s->all->parked);
    while (w) {
        struct wh_waiting *next = w->next;
        struct wh_peer *peer = wh_idmap_get(&s->all->peers, w->node);
        if (peer && w->vni == vni && w->node == node && memcmp(w->frame.data + 6, mac, 6) == 0)
            wh_forward_from_tunnel(s, peer, vni, &w->frame);
        else if (!wh_frameq_put(&s->all->parked, w, &w->frame))
            give_up(s, w->node);
        free(w);
        w = next;
    }
    wh_coalesce_flush(s);
}

void wh_moved_tick(wh_switch *s)
{
    while (s->all->parked.head && s->now_ns >= s->all->parked.head->since_ns + WH_PARK_FOR_NS) {
        struct wh_waiting *w = wh_frameq_take(&s->all->parked);
        give_up(s, w->node);
        free(w);
    }
    if (s->all->parked.head)
        wh_switch_timer(s, s->all->parked.head->since_ns + WH_PARK_FOR_NS);
}
