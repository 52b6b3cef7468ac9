#include "switch/probe.h"

#include "switch/stream.h"
#include "switch/tos.h"

#define SIZE_PROBE (1ull << 63) /* ids of probes for the path's MTU: their length in the low bits */
/* What a frame of a network's MTU becomes: Ethernet header, VLAN tag, the longest prefix, header and tag. */
#define MTU_OVERHEAD (WH_ETH_OVERHEAD + WH_OPEN_PREFIX + WH_TUNNEL_OVERHEAD)

static void tell(wh_switch *s, struct wh_peer *p, enum wh_switch_event_kind kind, uint64_t value)
{
    wh_switch_tell(s, &(wh_switch_event){.kind = kind, .node = p->node, .value = value});
}

/* Which path frames take; told when that or whether it answers changes, and the RTT again when it moved by half and by
 * more than noise. */
static void choose(wh_switch *s, struct wh_peer *p)
{
    bool stream = p->tcp.up && (!p->udp.up || (p->on_stream && p->udp.in_a_row < WH_PROBE_TRUST));
    const struct wh_beat *b = stream ? &p->tcp : &p->udp;
    uint64_t gap = b->rtt_ns > p->told_rtt_ns ? b->rtt_ns - p->told_rtt_ns : p->told_rtt_ns - b->rtt_ns;
    bool same = p->up == b->up && p->on_stream == stream;
    if (same && (!b->up || gap < 1000000 || gap < p->told_rtt_ns / 2))
        return;
    if (p->on_stream != stream)
        wh_egress_soon(s); /* what waits for one path may leave by the other */
    p->on_stream = stream;
    p->up = b->up;
    p->told_rtt_ns = b->rtt_ns;
    wh_switch_event event = {.kind = p->up ? WH_SW_PEER_UP : WH_SW_PEER_DOWN, .node = p->node};
    event.port = stream;
    event.value = b->rtt_ns / 1000;
    wh_switch_tell(s, &event);
}

static void path_down(wh_switch *s, struct wh_peer *p, struct wh_beat *b)
{
    b->up = false;
    b->rtt_ns = 0;
    choose(s, p);
}

void wh_probe_down(wh_switch *s, struct wh_peer *p)
{
    path_down(s, p, &p->udp);
}

void wh_probe_stream(wh_switch *s, struct wh_peer *p)
{
    p->tcp = (struct wh_beat){0};
    choose(s, p);
    wh_switch_timer(s, 0);
}

void wh_probe_soon(wh_switch *s, struct wh_peer *p)
{
    p->udp.next_ns = p->tcp.next_ns = 0;
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
    if (w.status != WH_OK || !to->len ||
        !p->part[0].tx.aead) /* a probe that comes before our key is not a loss to count */
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
    uint16_t size = p->udp.up ? wh_pmtu_due(&p->pmtu, s->now_ns, p->udp.rtt_ns) : 0;
    tell_mtu(s, p);
    if (size)
        send_probe(s, p, WH_KIND_PROBE, &p->addr, SIZE_PROBE | size, wh_now_ns(), size);
    if (p->udp.up)
        wh_switch_timer(s, p->pmtu.next_ns);
}

/* The next probe of a path, if it is time for it; false: it is not, or there is no such path. */
static bool next_probe(wh_switch *s, struct wh_peer *p, struct wh_beat *b, bool possible)
{
    if (s->now_ns < b->next_ns)
        return false;
    b->next_ns = s->now_ns + WH_PROBE_EVERY_NS;
    if (b->unanswered)
        b->in_a_row = 0;
    if (!possible || b->unanswered >= WH_PROBE_LOST)
        path_down(s, p, b);
    if (!possible)
        return false;
    b->id++;
    b->unanswered++;
    b->sent_ns[b->id % WH_PROBE_KEPT] = wh_now_ns();
    return true;
}

static void probe_udp(wh_switch *s, struct wh_peer *p)
{
    bool possible = s->udp && p->part[0].tx.aead && (p->addr.len || p->configured.len);
    if (next_probe(s, p, &p->udp, possible)) {
        uint64_t now = p->udp.sent_ns[p->udp.id % WH_PROBE_KEPT];
        send_probe(s, p, WH_KIND_PROBE, &p->addr, p->udp.id, now, 0);
        /* It may be back where it was configured, with another port than the one it roamed to. */
        if (!p->udp.up && !wh_addr_equal(&p->addr, &p->configured))
            send_probe(s, p, WH_KIND_PROBE, &p->configured, p->udp.id, now, 0);
    }
    if (!possible)
        return;
    look_for_mtu(s, p);
    wh_switch_timer(s, p->udp.next_ns);
}

static void probe_stream(wh_switch *s, struct wh_peer *p)
{
    struct wh_beat *b = &p->tcp;
    if (!p->stream || !p->part[0].tx.aead)
        return;
    if (next_probe(s, p, b, true))
        send_probe(s, p, WH_KIND_PROBE, &p->stream_at, b->id, b->sent_ns[b->id % WH_PROBE_KEPT], 0);
    if (b->unanswered >= WH_STREAM_SILENT)
        wh_stream_kill(p);
    wh_switch_timer(s, b->next_ns);
}

void wh_peer_tick(wh_switch *s, struct wh_peer *p)
{
    wh_egress_tick(s, p);
    probe_udp(s, p);
    probe_stream(s, p);
}

void wh_probe_roam(wh_switch *s, struct wh_peer *p, const struct wh_addr *from)
{
    if (wh_addr_equal(&p->addr, from))
        return;
    p->addr = *from;
    wh_pmtu_reset(&p->pmtu, s->now_ns);
    wh_probe_soon(s, p);
}

static void answered_size(wh_switch *s, struct wh_peer *p, uint64_t size)
{
    if (!size || size != p->pmtu.probing) /* what is not under way is late, or a lie */
        return;
    wh_pmtu_answered(&p->pmtu, (uint16_t)size, s->now_ns);
    wh_switch_timer(s, p->pmtu.next_ns);
}

static void answered(wh_switch *s, struct wh_peer *p, struct wh_beat *b, uint64_t id)
{
    uint64_t *sent = &b->sent_ns[id % WH_PROBE_KEPT];
    if (id > b->id || b->id - id >= WH_PROBE_KEPT || *sent == 0)
        return;
    uint64_t rtt = wh_now_ns() - *sent;
    *sent = 0;
    b->unanswered = 0;
    b->in_a_row++;
    b->rtt_ns = b->rtt_ns ? (b->rtt_ns * 7 + rtt) / 8 : rtt;
    if (!b->up)
        wh_switch_timer(s, 0); /* the search for the MTU begins */
    b->up = true;
    choose(s, p);
}

bool wh_probe_read(wh_switch *s, struct wh_peer *p, wh_reader *r, uint64_t kind, bool direct,
                   const struct wh_addr *from)
{
    uint64_t id = wh_get_uint(r), t = wh_get_uint(r);
    struct wh_beat *b = wh_addr_is_stream(from) ? &p->tcp : &p->udp;
    if (r->status || !direct)
        return false;
    if (kind == WH_KIND_PROBE) {
        send_probe(s, p, WH_KIND_ANSWER, from, id, t, 0);
        /* It is there: find out now and not at the next probe, but no more often than a burst of probes would. */
        if (!b->up && b->next_ns < s->now_ns + WH_PROBE_EVERY_NS - WH_PROBE_GAP_NS) {
            b->next_ns = 0;
            wh_switch_timer(s, 0);
        }
    } else if (id & SIZE_PROBE) {
        if (b == &p->udp)
            answered_size(s, p, id & ~SIZE_PROBE);
    } else {
        answered(s, p, b, id);
    }
    return true;
}

void wh_probe_too_big(wh_switch *s, const struct wh_addr *to, size_t len)
{
    struct wh_peer *p;
    if (!s->alone) { /* no room: others will be too big as well */
        const struct wh_aside_item about = {.kind = WH_ASIDE_TOO_BIG, .number = (uint32_t)len, .addr = *to};
        (void)wh_aside_put(s, &about, NULL);
        return;
    }
    for (uint32_t i = 0; (p = wh_idmap_next(&s->all->peers, &i));) {
        if (!wh_addr_equal(&p->addr, to))
            continue;
        if (p->pmtu.probing == len && s->total.drop_too_big) /* that was a probe and no frame */
            s->total.drop_too_big--;
        wh_pmtu_refused(&p->pmtu, (uint16_t)len, s->now_ns);
        wh_switch_timer(s, p->pmtu.next_ns);
    }
}
