/* control: the calls of api.cdef (those about networks: control_networks.c). Each takes the switch lock, changes tables
 * and wakes the thread where it has to look again. Nothing here blocks but for the turn in hand. */
#include "switch/dgram.h"
#include "switch/forward.h"
#include "switch/moved.h"
#include "switch/network.h"
#include "switch/peer.h"
#include "switch/port.h"
#include "switch/stations.h"
#include "switch/stream.h"
#include "switch/trace.h"

#include <stdlib.h>

static void done(wh_switch *s)
{
    wh_switch_unlock(s);
    wh_switch_wake_all(s);
}

/* ---- ports ---- */

/* A MAC that the control plane put elsewhere stays there until it says otherwise or the port is enabled: a migration's
 * target has the port before it has the guest. */
static int claim_if_free(wh_switch *s, struct wh_port *p)
{
    if (!p->locked)
        return WH_OK;
    const struct wh_fdb_row *row = wh_fdb_find(&p->net->fdb, p->mac, 0);
    const struct wh_port *at = row ? wh_fdb_port(&p->net->fdb, row) : NULL;
    bool taken = row && row->is_static && (!at || at->generation > p->generation);
    return taken ? WH_OK : wh_network_claim(s, p->net, p);
}

/* Takes p, also when it fails. */
static int port_add(wh_switch *s, struct wh_port *p, uint32_t vni, wh_error *err)
{
    wh_switch_lock(s);
    p->enabled = !s->all->ports_off;
    p->net = wh_network_of(s, vni);
    int status = p->net ? WH_OK : wh_fail(err, WH_E_NOTFOUND, "vni", "no network %u", vni);
    if (!status && wh_idmap_put(&s->all->ports, p->id, p))
        status = wh_fail(err, wh_idmap_get(&s->all->ports, p->id) ? WH_E_EXISTS : WH_E_NOMEM, "port",
                         "port %u cannot be added", p->id);
    else if (!status) {
        if (wh_network_attach(s, p->net, p) || claim_if_free(s, p))
            status = wh_fail(err, WH_E_FULL, "port", "network %u is full", vni);
        else
            status = wh_port_watch(s, p, err);
        if (status) {
            wh_network_detach(s, p->net, p);
            wh_idmap_take(&s->all->ports, p->id);
        }
    }
    if (status)
        wh_port_free(s, p);
    done(s);
    return status;
}

int wh_switch_port_ring(wh_switch *s, uint32_t port, uint32_t vni, int ring_fd, int to_switch_event, int to_guest_event,
                        const uint8_t locked_mac[6], uint64_t generation, wh_error *err)
{
    struct wh_port *p = NULL;
    struct wh_port_ring_spec spec = {ring_fd, to_switch_event, to_guest_event, locked_mac, generation};
    int status = wh_port_new_ring(s, port, &spec, &p, err);
    return status ? status : port_add(s, p, vni, err);
}

int wh_switch_port_queue(wh_switch *s, uint32_t port, int ring_fd, int to_switch_event, wh_error *err)
{
    wh_switch_lock(s);
    struct wh_port *p = wh_idmap_get(&s->all->ports, port);
    int status = p ? wh_port_add_pair(s, p, ring_fd, to_switch_event, err)
                   : wh_fail(err, WH_E_NOTFOUND, "port", "no port %u", port);
    done(s);
    return status;
}

int wh_switch_port_tap(wh_switch *s, uint32_t port, uint32_t vni, int tap_fd, wh_error *err)
{
    struct wh_port *p = NULL;
    int status = wh_port_new_tap(s, port, tap_fd, &p, err);
    return status ? status : port_add(s, p, vni, err);
}

int wh_switch_port_dgram(wh_switch *s, uint32_t port, uint32_t vni, int fd, const void *remote, uint32_t remote_len,
                         wh_error *err)
{
    struct wh_dgram *d;
    struct wh_port *p = NULL;
    int status = wh_dgram_new(fd, remote, remote_len, &d, err);
    if (status)
        return status;
    status = wh_port_new_dgram(s, port, fd, d, &p, err);
    if (status) {
        wh_dgram_free(d);
        return status;
    }
    return port_add(s, p, vni, err);
}

int wh_switch_port_del(wh_switch *s, uint32_t port)
{
    wh_switch_lock(s);
    struct wh_port *p = wh_idmap_take(&s->all->ports, port);
    if (p) {
        wh_network_detach(s, p->net, p);
        wh_port_free(s, p);
    }
    done(s);
    return p ? WH_OK : WH_E_NOTFOUND;
}

int wh_switch_port_enable(wh_switch *s, uint32_t port, int on)
{
    int status = WH_E_NOTFOUND;
    wh_switch_lock(s);
    struct wh_port *p = wh_idmap_get(&s->all->ports, port);
    if (p) {
        status = WH_OK;
        if (on && !p->enabled && p->locked && wh_network_locked(p->net, p->mac) == p) {
            const struct wh_fdb_row *had = wh_fdb_find(&p->net->fdb, p->mac, 0);
            p->came_from = had && had->is_static ? wh_fdb_node(&p->net->fdb, had) : 0;
            status = wh_network_claim(s, p->net, p);
        }
        if (!status) {
            p->enabled = on != 0;
            p->shut = p->shut && !on;
        }
    }
    done(s);
    return status;
}

int wh_switch_port_hold(wh_switch *s, uint32_t port, int on)
{
    wh_switch_lock(s);
    struct wh_port *p = wh_idmap_get(&s->all->ports, port);
    s->now_ns = wh_now_ns();
    if (p && on)
        wh_moved_hold(s, p);
    else if (p)
        wh_moved_release(s, p);
    wh_peer_flush(s);
    wh_port_kick_touched(s);
    done(s);
    return p ? WH_OK : WH_E_NOTFOUND;
}

/* A RARP request for its own address, as QEMU sends: every switch on the way learns where the MAC is now, and no host
 * takes it for more than that. */
static void rarp(uint8_t frame[60], const uint8_t mac[6])
{
    static const uint8_t fixed[] = {0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3};
    memset(frame, 0, 60);
    memset(frame, 0xff, 6);
    memcpy(frame + 6, mac, 6);
    memcpy(frame + 12, fixed, sizeof(fixed));
    memcpy(frame + 22, mac, 6);
    memcpy(frame + 32, mac, 6);
}

int wh_switch_port_announce(wh_switch *s, uint32_t port)
{
    wh_switch_lock(s);
    struct wh_port *p = wh_idmap_get(&s->all->ports, port);
    int status = !p ? WH_E_NOTFOUND : !p->locked || !p->enabled || p->down ? WH_E_STATE : WH_OK;
    if (!status) {
        struct wh_frame f = wh_frame_plain(s->frame_room + WH_HEADROOM, 60);
        rarp(f.data, p->mac);
        s->now_ns = wh_now_ns();
        wh_forward_from_port(s, p, &f);
        wh_peer_flush(s);
        wh_port_kick_touched(s);
    }
    wh_switch_unlock(s);
    return status;
}

/* ---- limits ---- */

int wh_switch_port_limits(wh_switch *s, uint32_t port, uint32_t fdb_max, uint32_t storm_rate, wh_error *err)
{
    wh_switch_lock(s);
    struct wh_port *p = wh_idmap_get(&s->all->ports, port);
    if (p) {
        p->fdb_max = fdb_max ? fdb_max : UINT32_MAX;
        p->net->fdb.places[p->place].max = p->fdb_max;
        wh_storm_set(&p->storm[WH_STORM_SHARED], storm_rate, wh_now_ns());
    }
    wh_switch_unlock(s);
    return p ? WH_OK : wh_fail(err, WH_E_NOTFOUND, "port", "no port %u", port);
}

int wh_switch_port_storms(wh_switch *s, uint32_t port, uint32_t broadcast, uint32_t multicast, uint32_t unknown)
{
    const uint32_t rates[WH_STORM_CLASSES] = {WH_STORM_NONE, broadcast, multicast, unknown};
    wh_switch_lock(s);
    struct wh_port *p = wh_idmap_get(&s->all->ports, port);
    for (unsigned i = WH_STORM_BROADCAST; p && i < WH_STORM_CLASSES; i++) {
        p->storm_own[i] = rates[i] != WH_STORM_NONE;
        wh_storm_set(&p->storm[i], p->storm_own[i] ? rates[i] : 0, wh_now_ns());
    }
    wh_switch_unlock(s);
    return p ? WH_OK : WH_E_NOTFOUND;
}

int wh_switch_port_vlan(wh_switch *s, uint32_t port, int mode, uint32_t vid, const uint16_t *allowed, uint32_t count,
                        wh_error *err)
{
    wh_switch_lock(s);
    struct wh_port *p = wh_idmap_get(&s->all->ports, port);
    int status = p ? wh_vlan_set(&p->vlan, mode, vid, allowed, count, err)
                   : wh_fail(err, WH_E_NOTFOUND, "port", "no port %u", port);
    wh_switch_unlock(s);
    return status;
}

int wh_switch_port_guard(wh_switch *s, uint32_t port, int on)
{
    wh_switch_lock(s);
    struct wh_port *p = wh_idmap_get(&s->all->ports, port);
    if (p)
        p->guard = on != 0;
    wh_switch_unlock(s);
    return p ? WH_OK : WH_E_NOTFOUND;
}

/* ---- peers ---- */

int wh_switch_peer_set(wh_switch *s, uint32_t node, uint32_t via, const void *addr, uint32_t addr_len, wh_error *err)
{
    struct wh_addr at;
    if (node == 0 || node == s->node_id)
        return wh_fail(err, WH_E_INVAL, "node", "%u is no other node", node);
    if (via == 0 || via == s->node_id)
        return wh_fail(err, WH_E_INVAL, "via", "%u is no other node", via);
    int status = wh_udp_address(s->udp, addr, addr_len, &at, err);
    if (status)
        return status;
    wh_switch_lock(s);
    struct wh_peer *p = wh_idmap_get(&s->all->peers, node);
    if (!p) {
        p = wh_peer_new(s, node);
        if (!p || wh_idmap_put(&s->all->peers, node, p)) {
            wh_peer_free(p);
            wh_switch_unlock(s);
            return wh_fail(err, WH_E_NOMEM, "node", "out of memory");
        }
    }
    wh_peer_place(s, p, via, &at);
    wh_peer_judge(s, p);
    done(s);
    return WH_OK;
}

int wh_switch_peer_del(wh_switch *s, uint32_t node)
{
    wh_switch_lock(s);
    struct wh_peer *p = wh_idmap_take(&s->all->peers, node);
    if (p) {
        wh_stream_free(s, p);
        wh_egress_forget(s, p);
        s->all->odd -= p->odd;
    }
    wh_peer_free(p);
    wh_switch_unlock(s);
    return p ? WH_OK : WH_E_NOTFOUND;
}

int wh_switch_peer_stream(wh_switch *s, uint32_t node, int fd, wh_error *err)
{
    wh_switch_lock(s);
    struct wh_peer *p = wh_idmap_get(&s->all->peers, node);
    int status = p ? WH_OK : wh_fail(err, WH_E_NOTFOUND, "node", "no peer %u", node);
    s->now_ns = wh_now_ns();
    if (p && fd < 0)
        wh_stream_free(s, p);
    else if (p)
        status = wh_stream_new(s, p, fd, err);
    done(s);
    return status;
}

int wh_switch_peer_rate(wh_switch *s, uint32_t node, uint64_t bytes_per_s)
{
    wh_switch_lock(s);
    struct wh_peer *p = wh_idmap_get(&s->all->peers, node);
    if (p)
        wh_egress_set_rate(s, p, bytes_per_s);
    done(s);
    return p ? WH_OK : WH_E_NOTFOUND;
}

int wh_switch_peer_takes(wh_switch *s, uint32_t node, uint32_t takes)
{
    wh_switch_lock(s);
    struct wh_peer *p = wh_idmap_get(&s->all->peers, node);
    if (p) {
        p->takes = takes & (WH_TAKES_CSUM | WH_TAKES_LANES);
        wh_peer_judge(s, p);
    }
    wh_switch_unlock(s);
    return p ? WH_OK : WH_E_NOTFOUND;
}

static int set_key(wh_switch *s, bool tx, uint32_t node, uint32_t epoch, int cipher, const uint8_t key[32],
                   wh_error *err)
{
    wh_switch_lock(s);
    struct wh_peer *p = wh_idmap_get(&s->all->peers, node);
    int status = !p   ? WH_E_NOTFOUND
                 : tx ? wh_peer_set_tx(s, p, epoch, cipher, key)
                      : wh_peer_set_rx(s, p, epoch, cipher, key);
    done(s);
    if (status == WH_E_NOTFOUND)
        return wh_fail(err, status, "node", "no peer %u", node);
    return status ? wh_fail(err, status, "cipher", "cipher %d for node %u", cipher, node) : WH_OK;
}

int wh_switch_peer_tx_key(wh_switch *s, uint32_t node, uint32_t epoch, int cipher, const uint8_t key[32], wh_error *err)
{
    return set_key(s, true, node, epoch, cipher, key, err);
}

int wh_switch_peer_rx_key(wh_switch *s, uint32_t node, uint32_t epoch, int cipher, const uint8_t key[32], wh_error *err)
{
    return set_key(s, false, node, epoch, cipher, key, err);
}

int wh_switch_peer_rx_drop(wh_switch *s, uint32_t node, uint32_t epoch)
{
    wh_switch_lock(s);
    struct wh_peer *p = wh_idmap_get(&s->all->peers, node);
    int status = p ? wh_peer_drop_rx(p, epoch) : WH_E_NOTFOUND;
    wh_switch_unlock(s);
    return status;
}

/* ---- MACs ---- */

/* Back to the local port that has it as its locked MAC, or away. */
static int give_back(wh_switch *s, struct wh_network *n, const uint8_t mac[6])
{
    struct wh_port *own = wh_network_locked(n, mac);
    if (own)
        return wh_network_claim(s, n, own);
    const struct wh_fdb_row *row = wh_fdb_find(&n->fdb, mac, 0);
    if (!row || !row->is_static)
        return WH_E_NOTFOUND;
    wh_fdb_remove(&n->fdb, mac, 0);
    return WH_OK;
}

static int mac_elsewhere(struct wh_network *n, const uint8_t mac[6], uint32_t node)
{
    const struct wh_fdb_row *had = wh_fdb_find(&n->fdb, mac, 0);
    bool bound = had && had->is_static, same = bound && wh_fdb_node(&n->fdb, had) == node;
    struct wh_fdb_row row = {.is_static = 1};
    if (same)
        row = *had;
    row.was_here = bound && (wh_fdb_port(&n->fdb, had) || (had->was_here && same));
    row.place = wh_fdb_place_node(&n->fdb, node);
    memcpy(row.mac, mac, 6);
    return row.place == WH_FDB_NOWHERE ? WH_E_NOMEM : wh_fdb_put(&n->fdb, &row);
}

int wh_switch_mac_set(wh_switch *s, uint32_t vni, const uint8_t mac[6], uint32_t node, wh_error *err)
{
    if (mac[0] & 1)
        return wh_fail(err, WH_E_INVAL, "mac", "a group address has no owner");
    if (node == 0)
        return wh_fail(err, WH_E_INVAL, "node", "0 is no node");
    wh_switch_lock(s);
    struct wh_network *n = wh_network_of(s, vni);
    int status = WH_E_NOTFOUND;
    if (n && node == s->node_id) {
        status = give_back(s, n, mac);
        if (status == WH_E_NOTFOUND) /* ours, and no port has it locked: it is learned when it speaks */
            status = WH_OK;
    } else if (n) {
        status = mac_elsewhere(n, mac, node);
        if (!status)
            wh_moved_unpark(s, vni, mac, node);
    }
    done(s);
    if (status == WH_E_NOTFOUND)
        return wh_fail(err, status, "vni", "no network %u", vni);
    return status ? wh_fail(err, status, "mac", "the table of network %u is full", vni) : WH_OK;
}

int wh_switch_mac_del(wh_switch *s, uint32_t vni, const uint8_t mac[6])
{
    wh_switch_lock(s);
    struct wh_network *n = wh_network_of(s, vni);
    int status = n ? give_back(s, n, mac) : WH_E_NOTFOUND;
    wh_switch_unlock(s);
    return status;
}

int wh_switch_mac_release(wh_switch *s, uint32_t vni, const uint8_t mac[6])
{
    wh_switch_lock(s);
    struct wh_network *n = wh_network_of(s, vni);
    int status = n ? wh_station_let_go(n, mac) : WH_E_NOTFOUND;
    wh_switch_unlock(s);
    return status;
}

int wh_switch_fdb(wh_switch *s, uint32_t vni, wh_fdb_entry *out, uint32_t cap, uint32_t *count)
{
    uint32_t n = 0, at = 0;
    *count = 0;
    wh_switch_lock(s);
    struct wh_network *net = wh_network_of(s, vni);
    uint32_t now = wh_fdb_ticks(wh_now_ns());
    while (net && n < cap) {
        const struct wh_fdb_row *row = wh_fdb_next(&net->fdb, &at);
        if (!row)
            break;
        const struct wh_port *port = wh_fdb_port(&net->fdb, row);
        wh_fdb_entry *e = &out[n++];
        *e = (wh_fdb_entry){.vni = vni, .node = port ? s->node_id : wh_fdb_node(&net->fdb, row)};
        e->port = port ? port->id : 0;
        e->is_static = row->is_static;
        e->vid = row->vid;
        e->age_s = row->is_static ? 0 : (uint32_t)(wh_fdb_age(row, now) * WH_FDB_TICK / 1000000000u);
        e->held = wh_moves_held(&net->moves, row->mac, row->vid, s->now_ns);
        memcpy(e->mac, row->mac, 6);
    }
    wh_switch_unlock(s);
    *count = n;
    return net ? WH_OK : WH_E_NOTFOUND;
}

/* ---- what it tells ---- */

int wh_switch_event_fd(wh_switch *s)
{
    return s->all->events.fd;
}

int wh_switch_next_event(wh_switch *s, wh_switch_event *out)
{
    return wh_eventq_take(&s->all->events, out);
}

int wh_switch_port_counters(wh_switch *s, uint32_t port, wh_counters *out)
{
    wh_switch_lock(s);
    struct wh_port *p = wh_idmap_get(&s->all->ports, port);
    *out = (wh_counters){0};
    for (uint32_t i = 0; p && i < s->all->workers; i++)
        wh_counters_add(out, &p->part[i].counters);
    wh_switch_unlock(s);
    return p ? WH_OK : WH_E_NOTFOUND;
}

int wh_switch_port_trace(wh_switch *s, uint32_t port, uint32_t every)
{
    struct wh_trace *t = every ? wh_trace_new(every) : NULL;
    if (every && !t)
        return WH_E_NOMEM;
    wh_switch_lock(s);
    struct wh_port *p = wh_idmap_get(&s->all->ports, port);
    struct wh_trace *old = p ? p->trace : t;
    if (p)
        p->trace = t;
    wh_switch_unlock(s);
    wh_trace_free(old);
    return p ? WH_OK : WH_E_NOTFOUND;
}

int wh_switch_port_traced(wh_switch *s, uint32_t port, wh_trace_event *out, uint32_t cap, uint32_t *count,
                          uint64_t *lost)
{
    *count = 0;
    *lost = 0;
    wh_switch_lock(s);
    struct wh_port *p = wh_idmap_get(&s->all->ports, port);
    int status = !p ? WH_E_NOTFOUND : p->trace ? WH_OK : WH_E_STATE;
    if (!status)
        *count = wh_trace_read(p->trace, out, cap, lost);
    wh_switch_unlock(s);
    return status;
}

int wh_switch_peer_counters(wh_switch *s, uint32_t node, wh_counters *out)
{
    wh_switch_lock(s);
    struct wh_peer *p = wh_idmap_get(&s->all->peers, node);
    *out = (wh_counters){0};
    for (uint32_t i = 0; p && i < s->all->workers; i++)
        wh_counters_add(out, &p->part[i].counters);
    wh_switch_unlock(s);
    return p ? WH_OK : WH_E_NOTFOUND;
}

const char *wh_switch_crypto(wh_switch *s)
{
    return wh_crypto_name(s->all->crypto);
}

int wh_switch_counters(wh_switch *s, wh_counters *out)
{
    *out = (wh_counters){0};
    wh_switch_lock(s);
    for (uint32_t i = 0; i < s->all->workers; i++) {
        wh_counters_add(out, &s->all->worker[i]->total);
        out->drop_socket += wh_udp_dropped(s->all->worker[i]->udp);
    }
    wh_switch_unlock(s);
    return WH_OK;
}

uint32_t wh_switch_workers(wh_switch *s)
{
    return s->all->workers;
}

int wh_switch_worker_counters(wh_switch *s, uint32_t worker, wh_counters *out)
{
    if (worker >= s->all->workers)
        return WH_E_NOTFOUND;
    wh_switch_lock(s);
    *out = s->all->worker[worker]->total;
    out->drop_socket += wh_udp_dropped(s->all->worker[worker]->udp);
    wh_switch_unlock(s);
    return WH_OK;
}
