#include "switch/network.h"

#include "switch/port.h"

#include <stdlib.h>
#include <string.h>

int wh_network_new(wh_switch *s, uint32_t vni, uint32_t mtu, struct wh_network **out, wh_error *err)
{
    if (vni == 0 || vni > 0xffffff)
        return wh_fail(err, WH_E_INVAL, "vni", "%u is not in 1..16777215", vni);
    if (mtu < WH_MTU_MIN || mtu > WH_MTU_MAX)
        return wh_fail(err, WH_E_INVAL, "mtu", "%u is not in %u..%u", mtu, WH_MTU_MIN, WH_MTU_MAX);
    struct wh_network *n = calloc(1, sizeof(*n));
    if (!n)
        return wh_fail(err, WH_E_NOMEM, "network", "out of memory");
    n->vni = vni;
    n->mtu = mtu;
    wh_fdb_init(&n->fdb, s->fdb_max, s->hash_seed ^ vni);
    *out = n;
    return WH_OK;
}

void wh_network_free(struct wh_network *n)
{
    if (!n)
        return;
    wh_fdb_free(&n->fdb);
    free(n->ports);
    free(n->peers);
    free(n);
}

int wh_network_attach(struct wh_network *n, struct wh_port *p)
{
    if (n->port_count == n->port_cap) {
        uint32_t cap = n->port_cap ? n->port_cap * 2 : 8;
        struct wh_port **more = reallocarray(n->ports, cap, sizeof(struct wh_port *));
        if (!more)
            return WH_E_NOMEM;
        n->ports = more;
        n->port_cap = cap;
    }
    n->ports[n->port_count++] = p;
    return WH_OK;
}

struct told {
    wh_switch *s;
    uint32_t vni;
};

/* Only what this node learned on a port was told to others, so only its end is told. */
static void tell_aged(const struct wh_fdb_row *row, void *arg)
{
    struct told *t = arg;
    if (row->is_static || !row->port)
        return;
    wh_switch_event event = {.kind = WH_SW_MAC_AGED, .port = row->port->id, .vni = t->vni};
    memcpy(event.mac, row->mac, 6);
    wh_switch_tell(t->s, &event);
}

static bool of_port(const struct wh_fdb_row *row, const void *ctx)
{
    return row->port == ctx;
}

void wh_network_detach(wh_switch *s, struct wh_network *n, struct wh_port *p)
{
    for (uint32_t i = 0; i < n->port_count; i++) {
        if (n->ports[i] == p) {
            n->ports[i] = n->ports[--n->port_count];
            break;
        }
    }
    struct told t = {s, n->vni};
    wh_fdb_sweep(&n->fdb, of_port, p, tell_aged, &t);
    /* Another port with the same locked MAC, of an older generation, may speak again. */
    struct wh_port *heir = p->locked ? wh_network_locked(n, p->mac) : NULL;
    if (heir && !wh_fdb_find(&n->fdb, p->mac))
        wh_network_claim(s, n, heir);
}

int wh_network_set_peers(wh_switch *s, struct wh_network *n, const uint32_t *nodes, uint32_t count)
{
    if (count > WH_NETWORK_PEERS_MAX)
        return WH_E_INVAL;
    uint32_t *list = count ? calloc(count, sizeof(*list)) : NULL;
    if (count && !list)
        return WH_E_NOMEM;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++)
        if (nodes[i] != 0 && nodes[i] != s->node_id)
            list[kept++] = nodes[i];
    free(n->peers);
    n->peers = list;
    n->peer_count = kept;
    return WH_OK;
}

int wh_network_claim(wh_switch *s, struct wh_network *n, struct wh_port *p)
{
    struct wh_fdb_row row = {.is_static = true, .port = p, .seen_ns = s->now_ns};
    memcpy(row.mac, p->mac, 6);
    return wh_fdb_put(&n->fdb, &row);
}

struct wh_port *wh_network_locked(const struct wh_network *n, const uint8_t mac[6])
{
    struct wh_port *best = NULL;
    for (uint32_t i = 0; i < n->port_count; i++) {
        struct wh_port *p = n->ports[i];
        if (p->locked && memcmp(p->mac, mac, 6) == 0 && (!best || p->generation > best->generation))
            best = p;
    }
    return best;
}

static bool is_old(const struct wh_fdb_row *row, const void *ctx)
{
    const uint64_t *before = ctx;
    return !row->is_static && row->seen_ns < *before;
}

void wh_network_age(wh_switch *s, struct wh_network *n)
{
    uint64_t before = s->now_ns > s->fdb_age_ns ? s->now_ns - s->fdb_age_ns : 0;
    struct told t = {s, n->vni};
    wh_fdb_sweep(&n->fdb, is_old, &before, tell_aged, &t);
}
