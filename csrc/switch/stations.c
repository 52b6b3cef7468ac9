#include "switch/stations.h"

#define CLAIM_TICKS 15u /* a second */
#define FRESH_TICKS 15u

static bool tell(wh_switch *s, uint32_t kind, const struct wh_network *net, uint32_t port, const uint8_t mac[6],
                 uint16_t vid)
{
    wh_switch_event event = {.kind = kind, .port = port, .vni = net->vni, .value = vid};
    memcpy(event.mac, mac, 6);
    return wh_eventq_put(&s->all->events, &event);
}

/* The address is in two places. One event for all that it will still do. */
static void tell_duplicate(wh_switch *s, const struct wh_network *net, const struct wh_fdb_row *row, uint32_t port,
                           uint32_t node)
{
    const struct wh_port *here = wh_fdb_port(&net->fdb, row);
    wh_switch_event event = {.kind = WH_SW_DUPLICATE,
                             .vni = net->vni,
                             .port = here ? here->id : 0,
                             .node = here ? 0 : wh_fdb_node(&net->fdb, row),
                             .value = (uint64_t)port << 32 | node};
    memcpy(event.mac, row->mac, 6);
    wh_switch_tell(s, &event);
}

/* May the station of this row turn up at another place, which is this port or node? */
static bool may_move(wh_switch *s, struct wh_network *net, struct wh_fdb_row *row, uint32_t port, uint32_t node)
{
    enum wh_move_verdict verdict = wh_moves_note(&net->moves, row->mac, row->vid, s->now_ns);
    row->frozen = verdict != WH_MOVE_GO;
    if (verdict == WH_MOVE_HOLD)
        tell_duplicate(s, net, row, port, node);
    return verdict == WH_MOVE_GO;
}

/* Seen where it is known to be. Who is not alone has seen that there is nothing to write down (is_fresh). */
static void refresh(wh_switch *s, struct wh_network *net, struct wh_fdb_row *row)
{
    if (!s->alone)
        return;
    const struct wh_port *port = wh_fdb_port(&net->fdb, row);
    row->seen = wh_fdb_ticks(s->now_ns);
    if (port && !row->told)
        row->told = tell(s, WH_SW_MAC_LEARNED, net, port->id, row->mac, row->vid);
    if (row->frozen && !wh_moves_held(&net->moves, row->mac, row->vid, s->now_ns))
        row->frozen = 0;
}

/* Learned at a new place. False: no room; it is as if nobody had spoken. */
static bool settle(wh_switch *s, struct wh_network *net, const uint8_t mac[6], uint16_t vid, uint32_t place)
{
    const struct wh_fdb_row *old = wh_fdb_find(&net->fdb, mac, vid);
    const struct wh_port *left = old ? wh_fdb_port(&net->fdb, old) : NULL;
    bool told = left && old->told;
    uint32_t left_id = left ? left->id : 0;
    struct wh_fdb_row row = {.vid = vid & 0xfffu, .place = place, .seen = wh_fdb_ticks(s->now_ns)};
    memcpy(row.mac, mac, 6);
    const struct wh_port *here = wh_fdb_port(&net->fdb, &row);
    if (wh_fdb_put(&net->fdb, &row) != WH_OK)
        return false;
    if (told && !here) /* it left our ports: what was told of it no longer holds */
        tell(s, WH_SW_MAC_AGED, net, left_id, mac, vid);
    if (here) {
        bool said = tell(s, WH_SW_MAC_LEARNED, net, here->id, mac, vid);
        wh_fdb_find(&net->fdb, mac, vid)->told = said;
    }
    return true;
}

/* A static entry that is another's. */
static bool claim(wh_switch *s, struct wh_port *p, struct wh_fdb_row *row, uint16_t vid)
{
    struct wh_network *net = p->net;
    uint32_t now = wh_fdb_ticks(s->now_ns);
    if (p->locked) { /* a newer generation of this guest lives elsewhere */
        WH_COUNT(s, p, drop_fenced);
        return false;
    }
    if (wh_fdb_port(&net->fdb,
                    row)) { /* the guest of a port of ours: somebody takes its name, or its frames come back */
        may_move(s, net, row, p->id, 0);
        row->frozen = 0; /* the guest's own broadcasts are not the liar's to stop */
        WH_COUNT(s, p, drop_spoofed);
        return false;
    }
    /* A station seems to have moved to a port of ours; only the control plane may say so. It is asked once a second;
     * its answers, not the questions, count as moves. */
    if (row->frozen || (row->told && wh_fdb_age(row, now) < CLAIM_TICKS)) {
        if (row->frozen && !wh_moves_held(&net->moves, row->mac, row->vid, s->now_ns))
            row->frozen = 0;
    } else if (row->told || may_move(s, net, row, p->id, 0)) {
        row->seen = now;
        row->told = tell(s, WH_SW_MAC_LEARNED, net, p->id, row->mac, vid);
    }
    if (row->frozen)
        WH_COUNT(s, p, drop_moving);
    else
        WH_COUNT(s, p, drop_spoofed);
    return false;
}

/* Seen not long ago, and nothing about it is open. */
static bool is_fresh(const wh_switch *s, const struct wh_network *net, const struct wh_fdb_row *row)
{
    uint64_t most = s->fdb_age_ns / 8 / WH_FDB_TICK;
    most = most < FRESH_TICKS ? most : FRESH_TICKS;
    return !row->frozen && wh_fdb_age(row, wh_fdb_ticks(s->now_ns)) <= most &&
           (row->told || !wh_fdb_port(&net->fdb, row));
}

bool wh_station_settled_at_port(const wh_switch *s, const struct wh_port *p, const uint8_t src[6], uint16_t vid)
{
    const struct wh_fdb_row *row = p->locked ? NULL : wh_fdb_resolve(&p->net->fdb, src, vid);
    return p->locked || (row && row->place == p->place && (row->is_static || is_fresh(s, p->net, row)));
}

bool wh_station_settled_at_node(const wh_switch *s, const struct wh_network *net, const struct wh_peer *peer,
                                const uint8_t src[6], uint16_t vid)
{
    const struct wh_fdb_row *row = wh_fdb_resolve(&net->fdb, src, vid);
    return row && wh_fdb_node(&net->fdb, row) == peer->node && is_fresh(s, net, row);
}

bool wh_station_at_port(wh_switch *s, struct wh_port *p, const uint8_t src[6], uint16_t vid)
{
    struct wh_network *net = p->net;
    if (p->locked && memcmp(src, p->mac, 6) != 0) {
        WH_COUNT(s, p, drop_spoofed);
        return false;
    }
    struct wh_port_part *part = &p->part[s->index];
    if (p->locked && part->owns_at == net->fdb.version) /* and static rows, which alone could say no, are of any VLAN */
        return true;
    struct wh_fdb_row *row = wh_fdb_resolve(&net->fdb, src, vid);
    if (row && row->is_static && row->place != p->place)
        return claim(s, p, row, vid);
    if (p->locked)
        part->owns_at = net->fdb.version;
    if (p->locked || (row && row->is_static))
        return true;
    if (row && row->place == p->place) {
        refresh(s, net, row);
        return true;
    }
    if (row && !may_move(s, net, row, p->id, 0)) {
        WH_COUNT(s, p, drop_moving);
        return false;
    }
    bool moved = row != NULL;
    if (!settle(s, net, src, vid, p->place))
        WH_COUNT(s, p, fdb_full);
    else if (moved)
        WH_COUNT(s, p, moves);
    return true;
}

enum wh_station_verdict wh_station_at_node(wh_switch *s, struct wh_network *net, struct wh_peer *peer,
                                           const uint8_t src[6], uint16_t vid)
{
    struct wh_fdb_row *row = wh_fdb_resolve(&net->fdb, src, vid);
    if (row && wh_fdb_node(&net->fdb, row) == peer->node) {
        refresh(s, net, row);
        return WH_STATION_GO;
    }
    if (row && row->is_static)
        return WH_STATION_WAIT;
    if (row && !may_move(s, net, row, 0, peer->node)) {
        WH_COUNT(s, peer, drop_moving);
        return WH_STATION_DROP;
    }
    bool moved = row != NULL;
    uint32_t place = wh_fdb_place_node(&net->fdb, peer->node);
    if (place == WH_FDB_NOWHERE || !settle(s, net, src, vid, place))
        WH_COUNT(s, peer, fdb_full);
    else if (moved)
        WH_COUNT(s, peer, moves);
    return WH_STATION_GO;
}

bool wh_station_may_flood(wh_switch *s, struct wh_port *p, const struct wh_frame *f, uint16_t vid)
{
    const uint8_t *src = f->data + 6;
    enum wh_storm_class class = wh_storm_class_of(f->data);
    struct wh_storm *storm = &p->storm[p->storm_own[class] ? class : WH_STORM_SHARED];
    const struct wh_fdb_row *row = wh_fdb_resolve(&p->net->fdb, src, vid);
    enum wh_storm_verdict verdict = wh_storm_ask(storm, s->now_ns);
    if (verdict == WH_STORM_BEGINS)
        wh_switch_tell(s, &(wh_switch_event){
                              .kind = WH_SW_STORM, .port = p->id, .vni = p->net->vni, .value = wh_storm_rate(storm)});
    bool may = verdict == WH_STORM_GO &&
               (!row || !row->frozen || wh_moves_may_flood(&p->net->moves, row->mac, row->vid, s->now_ns));
    if (!may)
        WH_COUNT(s, p, drop_storm);
    return may;
}

int wh_station_let_go(struct wh_network *net, const uint8_t mac[6])
{
    return wh_moves_forget(&net->moves, mac) ? WH_OK : WH_E_NOTFOUND; /* its rows are thawed when they are next seen */
}
