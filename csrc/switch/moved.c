#include "switch/moved.h"

#include "switch/forward.h"

#include <stdlib.h>

#define HEADROOM   16u
#define DRAIN_MAX  256u /* turns' shares of frames; a guest process that fills as fast as we take ends here */
#define RINGED_MAX 16384u

static void send_moved(wh_switch *s, struct wh_port *p, uint32_t node, const uint8_t *frame, uint32_t len)
{
    struct wh_peer *peer = wh_idmap_get(&s->peers, node);
    if (!peer || len < WH_ETH_HEADER || len > WH_FRAME_MAX) {
        WH_COUNT(s, p, drop_no_peer);
        return;
    }
    uint8_t *room = s->frame_room + HEADROOM;
    memcpy(room, frame, len); /* it may lie in shared memory: what is compared is what is sent */
    wh_peer_send_moved(s, peer, p->net->vni, room, len, memcmp(room, p->mac, 6) == 0 ? NULL : p->mac);
}

void wh_moved_hold(wh_switch *s, struct wh_port *p)
{
    p->held = true;
    p->waiting.max = WH_HOLD_BYTES;
    if (!p->is_ring)
        return;
    for (unsigned i = 0; i < DRAIN_MAX && wh_port_drain(s, p); i++)
        ;
}

/* What lies in the ring of a guest that will not take it any more. It stands still, so this end may read in its place;
 * if its process goes on all the same, its copy of these frames is nobody's business: it is fenced. */
static void send_ringed(wh_switch *s, struct wh_port *p, uint32_t node)
{
    const uint8_t *frame;
    uint32_t len;
    wh_ring *r;
    if (!p->is_ring || p->down || wh_ring_map(p->ring_fd, 1, false, &r, NULL) != WH_OK)
        return;
    for (unsigned n = 0; n < RINGED_MAX && wh_ring_peek(r, &frame, &len) == WH_OK; n++) {
        send_moved(s, p, node, frame, len);
        wh_ring_consume(r);
    }
    wh_ring_unmap(r);
}

void wh_moved_release(wh_switch *s, struct wh_port *p)
{
    if (!p->held)
        return;
    p->held = false;
    const struct wh_fdb_row *row = p->locked ? wh_fdb_find(&p->net->fdb, p->mac) : NULL;
    uint32_t node = row && row->is_static && !row->port ? row->node : 0;
    struct wh_port *here = row && row->port ? row->port : p; /* a newer copy on this node has the MAC, or it itself */
    if (node)
        send_ringed(s, p, node);
    struct wh_waiting *w = wh_frameq_take_all(&p->waiting);
    while (w) {
        struct wh_waiting *next = w->next;
        if (node)
            send_moved(s, p, node, w->frame, w->len);
        else
            wh_port_deliver(s, here, w->frame, w->len);
        free(w);
        w = next;
    }
}

bool wh_moved_follow(wh_switch *s, const struct wh_fdb_row *row, uint32_t vni, const uint8_t *frame, uint32_t len)
{
    struct wh_peer *peer = row->was_here ? wh_idmap_get(&s->peers, row->node) : NULL;
    if (!peer)
        return false;
    uint8_t *room = s->frame_room + HEADROOM;
    memcpy(room, frame, len);
    wh_peer_send_moved(s, peer, vni, room, len, NULL);
    return true;
}

void wh_moved_arrived(wh_switch *s, struct wh_peer *from, struct wh_network *net, const uint8_t *mac,
                      const uint8_t *frame, uint32_t len)
{
    const struct wh_fdb_row *row = wh_fdb_find(&net->fdb, mac ? mac : frame);
    struct wh_port *p = row && row->is_static ? row->port : NULL;
    if (!p || p->came_from != from->node) {
        WH_COUNT(s, from, drop_fenced);
        return;
    }
    WH_COUNT(s, from, rx_frames);
    WH_COUNT_BYTES(s, from, rx_bytes, len);
    wh_port_deliver(s, p, frame, len);
}

static void give_up(wh_switch *s, uint32_t node)
{
    struct wh_peer *peer = wh_idmap_get(&s->peers, node);
    s->total.drop_fenced++;
    if (peer)
        peer->counters.drop_fenced++;
}

void wh_moved_park(wh_switch *s, struct wh_peer *from, uint32_t vni, const uint8_t *frame, uint32_t len)
{
    const struct wh_waiting about = {.since_ns = s->now_ns, .vni = vni, .node = from->node};
    s->parked.max = WH_PARK_BYTES;
    if (!wh_frameq_put(&s->parked, &about, frame, len))
        give_up(s, from->node);
    else
        wh_switch_timer(s, s->parked.head->since_ns + WH_PARK_FOR_NS);
}

void wh_moved_unpark(wh_switch *s, uint32_t vni, const uint8_t mac[6], uint32_t node)
{
    struct wh_waiting *w = wh_frameq_take_all(&s->parked);
    while (w) {
        struct wh_waiting *next = w->next;
        struct wh_peer *peer = wh_idmap_get(&s->peers, w->node);
        if (peer && w->vni == vni && w->node == node && memcmp(w->frame + 6, mac, 6) == 0)
            wh_forward_from_tunnel(s, peer, vni, w->frame, w->len);
        else if (!wh_frameq_put(&s->parked, w, w->frame, w->len))
            give_up(s, w->node);
        free(w);
        w = next;
    }
}

void wh_moved_tick(wh_switch *s)
{
    while (s->parked.head && s->now_ns >= s->parked.head->since_ns + WH_PARK_FOR_NS) {
        struct wh_waiting *w = wh_frameq_take(&s->parked);
        give_up(s, w->node);
        free(w);
    }
    if (s->parked.head)
        wh_switch_timer(s, s->parked.head->since_ns + WH_PARK_FOR_NS);
}
