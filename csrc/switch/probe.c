#include "switch/probe.h"

#include "switch/tos.h"

#define SIZE_PROBE (1ull << 63) /* ids of probes for the path's MTU: their length in the low bits */
/* What a frame of a network's MTU becomes: Ethernet header, VLAN tag, the longest prefix, header and tag. */
#define MTU_OVERHEAD (WH_ETH_OVERHEAD + WH_OPEN_PREFIX + WH_TUNNEL_OVERHEAD)

static void tell(wh_switch *s, struct wh_peer *p, enum wh_switch_event_kind kind, uint64_t value)
{
    wh_switch_tell(s, &(wh_switch_event){.kind = kind, .node = p->node, .value = value});
}

void wh_probe_down(wh_switch *s, struct wh_peer *p)
{
    if (p->up)
        tell(s, p, WH_SW_PEER_DOWN, 0);
    p->up = false;
    p->rtt_ns = p->told_rtt_ns = 0;
}

void wh_probe_soon(wh_switch *s, struct wh_peer *p)
{
    p->next_probe_ns = 0;
    wh_switch_timer(s, 0);
}

/* length: of the whole datagram, which is filled up to it; 0: as long as it comes. */
static void send_probe(wh_switch *s, struct wh_peer *p, enum wh_tunnel_kind kind, const struct wh_addr *to, uint64_t id,
                       uint64_t t, uint32_t length)
{
    uint8_t plain[WH_DATAGRAM_MAX - WH_TUNNEL_OVERHEAD];
    wh_writer w;
    wh_writer_fixed(&w, plain, sizeof(plain));
    wh_put_array(&w, 3);
    wh_put_uint(&w, kind);
    wh_put_uint(&w, id);
    wh_put_uint(&w, t);
    size_t len = w.len;
    if (length > len + WH_TUNNEL_OVERHEAD) {
        memset(plain + len, 0, length - WH_TUNNEL_OVERHEAD - len);
        len = length - WH_TUNNEL_OVERHEAD;
    }
    if (w.status != WH_OK || !to->len || !p->tx.aead) /* a probe that comes before our key is not a loss to count */
        return;
    if (!s->egress.slow || !wh_egress_control(s, p, to, plain, len))
        (void)wh_peer_seal(s, p, WH_TUNNEL_DIRECT, to, plain, len, WH_TOS_CONTROL);
}

/* The owner hears of what networks may use when the search is over, and when it shrinks. */
static void tell_mtu(wh_switch *s, struct wh_peer *p)
{
    uint16_t limit = p->pmtu.limit;
    if (limit == p->told_limit || (!p->pmtu.done && (limit > p->told_limit || !p->told_limit)))
        return;
    p->told_limit = limit;
    tell(s, p, WH_SW_PATH_MTU, limit - MTU_OVERHEAD);
}

static void look_for_mtu(wh_switch *s, struct wh_peer *p)
{
    uint16_t size = p->up ? wh_pmtu_due(&p->pmtu, s->now_ns, p->rtt_ns) : 0;
    tell_mtu(s, p);
    if (size)
        send_probe(s, p, WH_KIND_PROBE, &p->addr, SIZE_PROBE | size, wh_now_ns(), size);
    if (p->up)
        wh_switch_timer(s, p->pmtu.next_ns);
}

void wh_peer_tick(wh_switch *s, struct wh_peer *p)
{
    wh_egress_tick(s, p);
    bool possible = s->udp && p->tx.aead && (p->addr.len || p->configured.len);
    if (s->now_ns >= p->next_probe_ns) {
        p->next_probe_ns = s->now_ns + WH_PROBE_EVERY_NS;
        if (!possible || p->unanswered >= WH_PROBE_LOST)
            wh_probe_down(s, p);
        if (possible) {
            uint64_t now = wh_now_ns();
            p->probe_id++;
            p->unanswered++;
            p->probe_sent_ns[p->probe_id % WH_PROBE_KEPT] = now;
            send_probe(s, p, WH_KIND_PROBE, &p->addr, p->probe_id, now, 0);
            /* It may be back where it was configured, with another port than the one it roamed to. */
            if (!p->up && !wh_addr_equal(&p->addr, &p->configured))
                send_probe(s, p, WH_KIND_PROBE, &p->configured, p->probe_id, now, 0);
        }
    }
    if (!possible)
        return;
    look_for_mtu(s, p);
    wh_switch_timer(s, p->next_probe_ns);
}

void wh_probe_roam(wh_switch *s, struct wh_peer *p, const struct wh_addr *from)
{
    if (wh_addr_equal(&p->addr, from))
        return;
    p->addr = *from;
    wh_pmtu_reset(&p->pmtu, s->now_ns);
    wh_probe_soon(s, p);
}

/* The state of the path is told when it changes, and its RTT again when it moved by half and by more than noise. */
static void answered(wh_switch *s, struct wh_peer *p, uint64_t id)
{
    if (id & SIZE_PROBE) {
        uint64_t size = id & ~SIZE_PROBE;
        if (size && size == p->pmtu.probing) { /* what is not under way is late, or a lie */
            wh_pmtu_answered(&p->pmtu, (uint16_t)size, s->now_ns);
            wh_switch_timer(s, p->pmtu.next_ns);
        }
        return;
    }
    uint64_t *sent = &p->probe_sent_ns[id % WH_PROBE_KEPT];
    if (id > p->probe_id || p->probe_id - id >= WH_PROBE_KEPT || *sent == 0)
        return;
    uint64_t rtt = wh_now_ns() - *sent;
    *sent = 0;
    p->unanswered = 0;
    p->rtt_ns = p->rtt_ns ? (p->rtt_ns * 7 + rtt) / 8 : rtt;
    uint64_t gap = p->rtt_ns > p->told_rtt_ns ? p->rtt_ns - p->told_rtt_ns : p->told_rtt_ns - p->rtt_ns;
    if (p->up && (gap < 1000000 || gap < p->told_rtt_ns / 2))
        return;
    if (!p->up)
        wh_switch_timer(s, 0); /* the search for the MTU begins */
    p->up = true;
    p->told_rtt_ns = p->rtt_ns;
    tell(s, p, WH_SW_PEER_UP, p->rtt_ns / 1000);
}

bool wh_probe_read(wh_switch *s, struct wh_peer *p, wh_reader *r, uint64_t kind, bool direct,
                   const struct wh_addr *from)
{
    uint64_t id = wh_get_uint(r), t = wh_get_uint(r);
    if (r->status || !direct)
        return false;
    if (kind == WH_KIND_PROBE) {
        send_probe(s, p, WH_KIND_ANSWER, from, id, t, 0);
        /* It is there: find out now and not at the next probe, but no more often than a burst of probes would. */
        if (!p->up && p->next_probe_ns < s->now_ns + WH_PROBE_EVERY_NS - WH_PROBE_GAP_NS)
            wh_probe_soon(s, p);
    } else {
        answered(s, p, id);
    }
    return true;
}

void wh_probe_too_big(wh_switch *s, const struct wh_addr *to, size_t len)
{
    struct wh_peer *p;
    for (uint32_t i = 0; (p = wh_idmap_next(&s->peers, &i));) {
        if (!wh_addr_equal(&p->addr, to))
            continue;
        if (p->pmtu.probing == len && s->total.drop_too_big) /* that was a probe and no frame */
            s->total.drop_too_big--;
        wh_pmtu_refused(&p->pmtu, (uint16_t)len, s->now_ns);
        wh_switch_timer(s, p->pmtu.next_ns);
    }
}
