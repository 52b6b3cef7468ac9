#include "switch/relay.h"

const struct wh_addr *wh_relay_next_hop(const wh_switch *s, const struct wh_peer *p)
{
    const struct wh_peer *next = p->via == p->node ? p : wh_idmap_get(&s->peers, p->via);
    return next && next->addr.len ? &next->addr : NULL;
}

/* Only nodes of ours may use us as a relay: else anybody could hide behind this address. Nothing is authenticated here,
 * so this is a fence and no lock; the receiver authenticates. */
static struct wh_peer *previous_hop(const wh_switch *s, uint32_t sender, const struct wh_addr *from)
{
    struct wh_peer *p = wh_idmap_get(&s->peers, sender);
    if (p && wh_addr_equal(&p->addr, from))
        return p;
    for (uint32_t i = 0; (p = wh_idmap_next(&s->peers, &i));)
        if (wh_addr_equal(&p->addr, from))
            return p;
    return NULL;
}

void wh_relay(wh_switch *s, const uint8_t *data, size_t len, const struct wh_header *h, const struct wh_addr *from)
{
    struct wh_peer *prev = previous_hop(s, h->sender, from);
    if (!prev || h->type != WH_TUNNEL_RELAYED || h->sender == s->node_id) {
        s->total.drop_invalid++;
        return;
    }
    struct wh_peer *dest = wh_idmap_get(&s->peers, h->dest);
    const struct wh_addr *to = dest ? wh_relay_next_hop(s, dest) : NULL;
    if (!to) {
        WH_COUNT(s, prev, drop_no_peer);
        return;
    }
    if (h->hops <= 1) {
        WH_COUNT(s, prev, drop_ttl);
        return;
    }
    uint8_t *slot = wh_udp_slot(s, to, s->outer_tos);
    memcpy(slot, data, len);
    slot[2] = (uint8_t)(h->hops - 1);
    wh_udp_commit(s, len);
    WH_COUNT(s, prev, relayed);
}
