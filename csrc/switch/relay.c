#include "switch/relay.h"

#include "switch/out.h"
#include "switch/rate.h"
#include "switch/stream.h"

const struct wh_addr *wh_relay_next_hop(const wh_switch *s, const struct wh_peer *p)
{
    const struct wh_peer *next = p->via == p->node ? p : wh_idmap_get(&s->all->peers, p->via);
    return next && wh_peer_at(next)->len ? wh_peer_at(next) : NULL;
}

static uint32_t slot_of(const wh_switch *s, const struct wh_addr *a)
{
    uint64_t h = s->hash_seed; /* secret, so that nobody can choose addresses that share a slot */
    const uint8_t *ip =
        a->sa.sa_family == AF_INET ? (const uint8_t *)&a->v4.sin_addr : (const uint8_t *)&a->v6.sin6_addr;
    for (size_t i = 0; i < (a->sa.sa_family == AF_INET ? sizeof(a->v4.sin_addr) : sizeof(a->v6.sin6_addr)); i++)
        h = (h ^ ip[i]) * 0x100000001b3ull;
    h = (h ^ a->v4.sin_port) * 0x100000001b3ull; /* at the same place in both families */
    return (uint32_t)(h >> 32) % WH_RELAY_KNOWN;
}

/* Only nodes of ours may use us as a relay: else anybody could hide behind this address. Nothing is authenticated here,
 * so this is a fence and no lock; the receiver authenticates. Strangers cost a look at two peers: all of them are
 * searched so often a second only, and who was found is remembered. */
static struct wh_peer *previous_hop(wh_switch *s, uint32_t sender, const struct wh_addr *from)
{
    if (wh_addr_is_stream(from))
        return wh_idmap_get(&s->all->peers, wh_stream_node(from));
    uint32_t *known = &s->relay_known[slot_of(s, from)];
    struct wh_peer *p = wh_idmap_get(&s->all->peers, *known);
    if (p && wh_addr_equal(&p->addr, from))
        return p;
    p = wh_idmap_get(&s->all->peers, sender);
    if (!p || !wh_addr_equal(&p->addr, from)) {
        if (!wh_rate_take(&s->relay_search_ns, s->now_ns, WH_RELAY_SEARCH_NS, WH_RELAY_KNOWN))
            return NULL;
        for (uint32_t i = 0; (p = wh_idmap_next(&s->all->peers, &i));)
            if (wh_addr_equal(&p->addr, from))
                break;
    }
    if (p)
        *known = p->node;
    return p;
}

bool wh_relay_send(wh_switch *s, const struct wh_peer *dest, const struct wh_addr *to, const uint8_t *data, size_t len,
                   uint8_t tos)
{
    uint8_t *slot = wh_out_slot(s, to, tos);
    if (!slot)
        return false;
    memcpy(slot, data, len);
    wh_out_commit(s, len);
    if (s->egress.slow)
        wh_egress_spent(s, dest, to, len);
    return true;
}

void wh_relay(wh_switch *s, uint8_t *data, size_t len, const struct wh_header *h, const struct wh_addr *from)
{
    struct wh_peer *prev =
        h->type == WH_TUNNEL_RELAYED && h->sender != s->node_id ? previous_hop(s, h->sender, from) : NULL;
    if (!prev) {
        s->total.drop_invalid++;
        return;
    }
    struct wh_peer *dest = wh_idmap_get(&s->all->peers, h->dest);
    const struct wh_addr *to = dest ? wh_relay_next_hop(s, dest) : NULL;
    if (!to) {
        WH_COUNT(s, prev, drop_no_peer);
        return;
    }
    if (h->hops <= 1) {
        WH_COUNT(s, prev, drop_ttl);
        return;
    }
    if (!wh_peer_sendable(s, dest)) {
        const struct wh_aside_item about = {.kind = WH_ASIDE_DATAGRAM, .tos = s->outer_tos, .addr = *from};
        const struct wh_frame bytes = wh_frame_plain(data, (uint32_t)len);
        if (!wh_aside_put(s, &about, &bytes))
            WH_COUNT(s, prev, drop_queue);
        return;
    }
    data[2] = (uint8_t)(h->hops - 1);
    WH_COUNT(s, prev, relayed);
    if (s->egress.slow && wh_egress_relayed(s, dest, data, len))
        return;
    if (!wh_relay_send(s, dest, to, data, len, s->outer_tos))
        WH_COUNT(s, prev, drop_queue);
}
