#include "switch/forward.h"

#include "switch/binding.h"
#include "switch/burst.h"
#include "switch/coalesce.h"
#include "switch/cut.h"
#include "switch/ingress.h"
#include "switch/moved.h"
#include "switch/network.h"
#include "switch/peer.h"
#include "switch/port.h"
#include "switch/proxy.h"
#include "switch/stations.h"
#include "switch/trace.h"

uint32_t wh_forward_vni(const struct wh_port *p)
{
    return p->net ? p->net->vni : 0;
}

static const uint8_t *dst_of(const uint8_t *frame)
{
    return frame;
}

static const uint8_t *src_of(const uint8_t *frame)
{
    return frame + 6;
}

static bool is_group(const uint8_t mac[6])
{
    return mac[0] & 1;
}

static bool shape_ok(const struct wh_frame *f)
{
    static const uint8_t none[6];
    return f->len >= WH_ETH_HEADER && !is_group(src_of(f->data)) && memcmp(src_of(f->data), none, 6) != 0;
}

static bool size_ok(const struct wh_network *net, const struct wh_frame *f)
{
    uint32_t most = net->mtu + WH_ETH_OVERHEAD;
    uint32_t on_wire = f->gso == WH_GSO_NONE ? f->len : (uint32_t)f->hdr_len + f->gso_size;
    if (on_wire <= most)
        return true;
    return on_wire <= most + WH_VLAN_TAG && on_wire <= WH_FRAME_MAX && wh_vlan_tags(f) > 1;
}

static void flood_local(wh_switch *s, struct wh_network *net, const struct wh_port *except, struct wh_frame *f)
{
    for (uint32_t i = 0; i < net->port_count; i++)
        if (net->ports[i] != except)
            wh_port_deliver(s, net->ports[i], f);
}

static void send_one(wh_switch *s, struct wh_peer *peer, uint32_t vni, struct wh_frame *f)
{
    if (!(peer->takes & WH_TAKES_CSUM))
        wh_csum_complete(f);
    wh_peer_send_frame(s, peer, vni, f);
}

/* Datagrams carry frames of a wire: what is larger is cut, so that each piece is of use without the others. */
static void send_node(wh_switch *s, struct wh_port *from, uint32_t node, struct wh_frame *f)
{
    struct wh_peer *peer = wh_idmap_get(&s->all->peers, node);
    struct wh_cut cut;
    struct wh_frame segment;
    if (!peer) {
        WH_COUNT(s, from, drop_no_peer);
        return;
    }
    if (f->gso == WH_GSO_NONE) {
        send_one(s, peer, from->net->vni, f);
        return;
    }
    /* TCP does not mind shorter segments than it asked for, where the path carries no others. */
    uint32_t room = wh_peer_payload_max(s, peer) - WH_OPEN_PREFIX;
    if (f->gso != WH_GSO_UDP && f->hdr_len < room && (uint32_t)f->hdr_len + f->gso_size > room)
        f->gso_size = (uint16_t)(room - f->hdr_len);
    wh_cut_begin(&cut, f);
    wh_burst_send(s, peer, from->net->vni, &cut);
    while (wh_cut_next(&cut, &segment))
        send_one(s, peer, from->net->vni, &segment);
}

static void flood_one(wh_switch *s, struct wh_port *p, struct wh_frame *f)
{
    /* Nodes first: they take an open checksum, and who does not closes it for those behind. */
    for (uint32_t i = 0; i < p->net->peer_count; i++)
        send_node(s, p, p->net->peers[i], f);
    flood_local(s, p->net, p, f);
}

static void flood(wh_switch *s, struct wh_port *p, struct wh_frame *f)
{
    struct wh_cut cut;
    struct wh_frame segment;
    if (f->gso == WH_GSO_NONE) {
        flood_one(s, p, f);
        return;
    }
    /* Cutting spoils the packet for the next receiver, so all get its pieces: a flooded packet of this size is rare. */
    wh_cut_begin(&cut, f);
    while (wh_cut_next(&cut, &segment))
        flood_one(s, p, &segment);
}

static __attribute__((cold, noinline)) void put_aside(wh_switch *s, struct wh_port *p, struct wh_frame *f,
                                                      enum wh_aside_kind kind, uint16_t vid)
{
    const struct wh_aside_item about = {.kind = kind, .id = p->id, .vid = vid};
    if (!wh_aside_put(s, &about, f))
        WH_COUNT(s, p, drop_queue);
}

static const struct wh_fdb_row *way_to(const struct wh_network *net, const struct wh_frame *f, uint16_t vid)
{
    return is_group(dst_of(f->data)) ? NULL : wh_fdb_resolve(&net->fdb, dst_of(f->data), vid);
}

/* Would the frame change something that all share? Looks only. */
static __attribute__((noinline)) bool is_quiet_from_port(const wh_switch *s, const struct wh_port *p,
                                                         const struct wh_frame *f, uint16_t vid)
{
    const struct wh_network *net = p->net;
    if (wh_proxy_cares(f) || !wh_station_settled_at_port(s, p, src_of(f->data), vid))
        return false;
    const struct wh_fdb_row *to = way_to(net, f, vid);
    if (!to) /* a flood: the port's storms are counted */
        return false;
    if (wh_fdb_port(&net->fdb, to))
        return true;
    const struct wh_peer *peer = wh_idmap_get(&s->all->peers, wh_fdb_node(&net->fdb, to));
    return !peer || wh_peer_sendable(s, peer);
}

#define NOT_ADMITTED UINT32_MAX

/* admitted: its VLAN, if it has passed ingress. One body for both, so that what it calls can be laid into it. */
static __attribute__((noinline, noclone)) void forward(wh_switch *s, struct wh_port *p, struct wh_frame *f,
                                                       uint32_t admitted)
{
    struct wh_network *net = p->net;
    uint16_t vid = (uint16_t)admitted;
    if (admitted == NOT_ADMITTED) {
        if (!wh_ingress(s, p, f, &vid))
            return;
        if (!shape_ok(f)) {
            WH_COUNT(s, p, drop_invalid);
            return;
        }
        if (!size_ok(net, f)) {
            WH_COUNT(s, p, drop_oversize);
            return;
        }
    }
    if (!s->alone && !is_quiet_from_port(s, p, f, vid)) {
        put_aside(s, p, f, WH_ASIDE_ADMITTED, vid);
        return;
    }
    if (!wh_station_at_port(s, p, src_of(f->data), vid))
        return;
    if (net->bound && !wh_binding_allows(p, f)) {
        WH_COUNT(s, p, drop_spoofed);
        return;
    }
    WH_COUNT_FRAME(s, p, rx, f->len);
    if (wh_proxy_cares(f) && wh_proxy_at_port(s, p, f, vid))
        return;
    const struct wh_fdb_row *to = way_to(net, f, vid);
    struct wh_port *at = to ? wh_fdb_port(&net->fdb, to) : NULL;
    if (!to) {
        if (!wh_station_may_flood(s, p, f, vid))
            return;
        WH_COUNT(s, p, flooded);
        flood(s, p, f);
    } else if (!at) {
        send_node(s, p, wh_fdb_node(&net->fdb, to), f);
    } else if (at != p) {
        wh_port_deliver(s, at, f);
    } /* else the station is on the port that the frame came from and has it already */
}

void wh_forward_admitted(wh_switch *s, struct wh_port *p, struct wh_frame *f, uint16_t vid)
{
    if (p->enabled && !p->shut) /* which it was */
        forward(s, p, f, vid);
    else
        WH_COUNT(s, p, drop_disabled);
}

static void from_port(wh_switch *s, struct wh_port *p, struct wh_frame *f)
{
    forward(s, p, f, NOT_ADMITTED);
}

void wh_forward_from_port(wh_switch *s, struct wh_port *p, struct wh_frame *f)
{
    if (!s->alone && (p->trace || wh_ingress_shuts(p, f)))
        put_aside(s, p, f, WH_ASIDE_FROM_PORT, 0);
    else if (p->trace)
        wh_trace_forward(s, p, f, from_port);
    else
        from_port(s, p, f);
}

static void flood_from_tunnel(wh_switch *s, struct wh_network *net, struct wh_frame *f)
{
    wh_coalesce_flush(s); /* what came before it goes before it */
    flood_local(s, net, NULL, f);
}

/* The network of a frame out of a tunnel, which is a frame of it. NULL: counted. */
static struct wh_network *network_for(wh_switch *s, struct wh_peer *peer, uint32_t vni, const struct wh_frame *f)
{
    struct wh_network *net = wh_idmap_get(&s->all->networks, vni);
    if (!net || !shape_ok(f)) {
        WH_COUNT(s, peer, drop_invalid);
        return NULL;
    }
    if (!size_ok(net, f)) {
        WH_COUNT(s, peer, drop_oversize);
        return NULL;
    }
    return net;
}

static bool is_quiet_from_tunnel(const wh_switch *s, const struct wh_network *net, const struct wh_peer *peer,
                                 const struct wh_frame *f, uint16_t vid)
{
    if (wh_proxy_cares(f) || !wh_station_settled_at_node(s, net, peer, src_of(f->data), vid))
        return false;
    const struct wh_fdb_row *to = way_to(net, f, vid);
    return !to || wh_fdb_port(&net->fdb, to); /* else it may follow its guest */
}

void wh_forward_from_tunnel(wh_switch *s, struct wh_peer *peer, uint32_t vni, struct wh_frame *f)
{
    struct wh_network *net = network_for(s, peer, vni, f);
    if (!net)
        return;
    if (wh_ingress_reserved(f)) {
        WH_COUNT(s, peer, drop_reserved);
        return;
    }
    uint16_t vid = wh_vlan_of(f);
    if (!s->alone && !is_quiet_from_tunnel(s, net, peer, f, vid)) {
        const struct wh_aside_item about = {
            .kind = WH_ASIDE_FROM_TUNNEL, .id = peer->node, .vni = vni, .tos = s->outer_tos};
        if (!wh_aside_put(s, &about, f))
            WH_COUNT(s, peer, drop_queue);
        return;
    }
    enum wh_station_verdict verdict = wh_station_at_node(s, net, peer, src_of(f->data), vid);
    if (verdict == WH_STATION_WAIT)
        wh_moved_park(s, peer, vni, f);
    if (verdict != WH_STATION_GO)
        return;
    WH_COUNT_FRAME(s, peer, rx, f->len);
    if (wh_proxy_cares(f))
        wh_proxy_learn(s, net, f, vid);
    const struct wh_fdb_row *to = way_to(net, f, vid);
    struct wh_port *at = to ? wh_fdb_port(&net->fdb, to) : NULL;
    if (!to)
        flood_from_tunnel(s, net, f);
    else if (at) {
        wh_coalesce_deliver(s, at, f);
        wh_coalesce_came(&s->coalesce, peer, vni);
    } else if (!wh_moved_follow(s, net, to, f))
        WH_COUNT(s, peer, drop_no_peer); /* split horizon: its owner is another node, the sender does not know yet */
}

void wh_forward_moved(wh_switch *s, struct wh_peer *peer, uint32_t vni, const uint8_t *mac, struct wh_frame *f)
{
    struct wh_network *net = network_for(s, peer, vni, f);
    if (net)
        wh_moved_arrived(s, peer, net, mac, f);
}
