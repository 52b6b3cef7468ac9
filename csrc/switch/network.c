#include "switch/network.h"

#include "switch/binding.h"
#include "switch/port.h"

#include <stdlib.h>
#include <string.h>

#define BUSY_NS 1000000u

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
    n->storm_rate = WH_STORM_RATE;
    wh_fdb_init(&n->fdb, s->all->fdb_max, s->hash_seed ^ vni);
    wh_moves_init(&n->moves, s->hash_seed ^ vni << 8);
    wh_neighs_init(&n->neighs, s->hash_seed ^ (uint64_t)vni << 32);
    *out = n;
    return WH_OK;
}

void wh_network_free(struct wh_network *n)
{
    if (!n)
        return;
    wh_fdb_free(&n->fdb);
    wh_moves_free(&n->moves);
    wh_neighs_clear(&n->neighs);
    wh_bindings_free(n);
    free(n->ports);
    free(n->peers);
    free(n);
}

int wh_network_attach(wh_switch *s, struct wh_network *n, struct wh_port *p)
{
    if (n->port_count == n->port_cap) {
        uint32_t cap = n->port_cap ? n->port_cap * 2 : 8;
        struct wh_port **more = reallocarray(n->ports, cap, sizeof(struct wh_port *));
        if (!more)
            return WH_E_NOMEM;
        n->ports = more;
        n->port_cap = cap;
    }
    p->place = wh_fdb_place_port(&n->fdb, p, p->id, p->fdb_max);
    if (p->place == WH_FDB_NOWHERE)
        return WH_E_NOMEM;
    wh_storm_set(&p->storm[WH_STORM_SHARED], n->storm_rate, s->now_ns);
    n->ports[n->port_count++] = p;
    return WH_OK;
}

void wh_network_detach(wh_switch *s, struct wh_network *n, struct wh_port *p)
{
    for (uint32_t i = 0; i < n->port_count; i++) {
        if (n->ports[i] == p) {
            n->ports[i] = n->ports[--n->port_count];
            break;
        }
    }
    if (p->place != WH_FDB_NOWHERE)
        wh_fdb_place_gone(&n->fdb, p->place);
    n->next_slice_ns = s->now_ns;
    wh_switch_timer(s, s->now_ns);
    /* Another port with the same locked MAC, of an older generation, may speak again. */
    struct wh_port *heir = p->locked ? wh_network_locked(n, p->mac) : NULL;
    if (heir && !wh_fdb_find(&n->fdb, p->mac, 0))
        wh_network_claim(s, n, heir);
}

int wh_network_limit(wh_switch *s, struct wh_network *n, uint32_t fdb_max, uint32_t storm_rate)
{
    if (fdb_max > WH_FDB_LIMIT)
        return WH_E_INVAL;
    n->fdb.max = fdb_max ? fdb_max : s->all->fdb_max;
    n->storm_rate = storm_rate;
    return WH_OK;
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
    struct wh_fdb_row row = {.is_static = 1, .place = p->place, .seen = wh_fdb_ticks(s->now_ns)};
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

struct told {
    wh_switch *s;
    struct wh_network *n;
};

/* Only what this node learned on a port, and said so, was told to others, so only its end is told. A row whose end
 * finds no room in the queue waits for the next round. */
static bool tell_aged(const struct wh_fdb_row *row, void *arg)
{
    const struct told *t = arg;
    const struct wh_fdb_place *place = &t->n->fdb.places[row->place];
    if (row->is_static || place->node || !row->told)
        return true;
    wh_switch_event event = {.kind = WH_SW_MAC_AGED, .port = place->port_id, .vni = t->n->vni, .value = row->vid};
    memcpy(event.mac, row->mac, 6);
    return wh_eventq_put(&t->s->all->events, &event);
}

void wh_network_tick(wh_switch *s, struct wh_network *n)
{
    if (s->now_ns >= n->next_slice_ns) {
        struct told t = {s, n};
        wh_fdb_slice(&n->fdb, &(struct wh_fdb_sweep){wh_fdb_ticks(s->now_ns), (uint32_t)(s->fdb_age_ns / WH_FDB_TICK),
                                                     tell_aged, &t});
        /* A round takes an eighth of the age, so that an entry outlives it by a quarter at most. A table with work
         * left, of a port that is gone or of its growth, is gone through at once, with a pause for others after each
         * slice. */
        uint64_t slices = n->fdb.now.cap / WH_FDB_SLICE + 1;
        bool busy = n->fdb.lost || n->fdb.old.cap;
        n->next_slice_ns = s->now_ns + (busy ? BUSY_NS : s->fdb_age_ns / 8 / slices);
    }
    wh_switch_timer(s, n->next_slice_ns);
}
