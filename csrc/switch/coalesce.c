#include "switch/coalesce.h"

#include "switch/port.h"
#include "switch/tos.h"

#include <stdlib.h>
#include <string.h>

#define ROOM         (WH_HEADROOM + WH_RING_MAX_FRAME)
#define PACKET_MAX   65535u
#define REOPEN_LEAST 512u /* frames from this length on are worth a sum */
#define UDP_SEGMENTS 64u  /* what receivers of UDP_GRO are prepared for */

static void send_off(wh_switch *s, struct wh_flow *flow)
{
    struct wh_frame *f = &flow->whole;
    if (flow->segments > 1) {
        uint8_t *ip = f->data + flow->y.l3, *l4 = f->data + flow->y.l4;
        uint32_t length = f->len - flow->y.l4;
        if (flow->y.ip == 4) {
            wh_set16(ip + 2, (uint16_t)(f->len - flow->y.l3));
            memset(ip + 10, 0, 2);
            uint16_t sum = (uint16_t)~wh_csum_fold(wh_csum_add(0, ip, (size_t)(flow->y.l4 - flow->y.l3)));
            memcpy(ip + 10, &sum, 2);
        } else {
            wh_set16(ip + 4, (uint16_t)(f->len - flow->y.l3 - WH_IPV6_HEADER));
        }
        uint16_t pseudo = wh_csum_fold(wh_csum_pseudo(f->data, &flow->y, length));
        memcpy(l4 + f->csum_offset, &pseudo, 2);
        if (flow->y.proto == WH_PROTO_UDP)
            wh_set16(l4 + 4, (uint16_t)length);
    } else {
        f->gso = WH_GSO_NONE;
        f->ecn = false;
    }
    struct wh_port *to = flow->to;
    flow->to = NULL;
    s->coalesce.hot = NULL;
    s->coalesce.open--;
    wh_port_deliver(s, to, f);
}

void wh_coalesce_flush(wh_switch *s)
{
    /* In the order in which they began, so that two flows of one port do not change places for ever. */
    while (s->coalesce.open) {
        struct wh_flow *oldest = NULL;
        for (struct wh_flow *flow = s->coalesce.flow; flow < s->coalesce.flow + WH_FLOWS; flow++)
            if (flow->to && (!oldest || flow->used < oldest->used))
                oldest = flow;
        send_off(s, oldest);
    }
}

/* What must not overtake each other: the same addresses and ports. */
static bool same_flow(const struct wh_flow *flow, const struct wh_frame *f, const struct wh_layers *y)
{
    const struct wh_layers *was = &flow->y;
    const uint8_t *a = flow->whole.data, *b = f->data;
    uint32_t from = y->ip == 4 ? 12u : 8u, bytes = y->ip == 4 ? 8u : 32u;
    return was->ip == y->ip && was->proto == y->proto && memcmp(a + was->l4, b + y->l4, 4) == 0 &&
           memcmp(a + was->l3 + from, b + y->l3 + from, bytes) == 0;
}

/* Everything in the headers that a cut repeats in each segment; same_flow has looked at the rest of them. */
static bool same_headers(const struct wh_flow *flow, const struct wh_frame *f, const struct wh_layers *other)
{
    const struct wh_layers *y = &flow->y;
    const uint8_t *a = flow->whole.data, *b = f->data;
    if (y->l3 != other->l3 || y->l4 != other->l4 || y->data != other->data || memcmp(a, b, y->l3) != 0)
        return false;
    if (y->ip == 4) {
        const uint8_t *ip_a = a + y->l3, *ip_b = b + y->l3;
        uint16_t id = (uint16_t)(flow->id + flow->segments);
        if (memcmp(ip_a, ip_b, 2) != 0 || memcmp(ip_a + 6, ip_b + 6, 4) != 0 || wh_get16(ip_b + 4) != id ||
            memcmp(ip_a + 20, ip_b + 20, y->l4 - y->l3 - 20u) != 0)
            return false;
    } else if (memcmp(a + y->l3, b + y->l3, 4) != 0 || memcmp(a + y->l3 + 6, b + y->l3 + 6, y->l4 - y->l3 - 6u) != 0) {
        return false;
    }
    if (y->proto == WH_PROTO_UDP)
        return true;
    const uint8_t *tcp_a = a + y->l4, *tcp_b = b + y->l4;
    const uint8_t ends = WH_TCP_FIN | WH_TCP_PSH | WH_TCP_CWR;
    return wh_get32(tcp_b + 4) == flow->next_seq && memcmp(tcp_a + 8, tcp_b + 8, 5) == 0 && !(tcp_b[13] & WH_TCP_CWR) &&
           ((tcp_a[13] ^ tcp_b[13]) & ~ends) == 0 && memcmp(tcp_a + 14, tcp_b + 14, 2) == 0 &&
           memcmp(tcp_a + 18, tcp_b + 18, y->data - y->l4 - 18u) == 0;
}

/* A frame that came with its checksum filled in, by a sender who leaves none open: if the sum is right it is put back
 * into the form in which segments are put together, and the receiver need not sum it up either. A wrong one stays. */
static void reopen(const struct wh_port *p, struct wh_frame *f, const struct wh_layers *y)
{
    const uint16_t offset = y->proto == WH_PROTO_TCP ? WH_TCP_CSUM : WH_UDP_CSUM;
    uint8_t *l4 = f->data + y->l4;
    uint32_t length = y->end - y->l4, whole = y->ip == 4 ? WH_TAKES_TSO4 : WH_TAKES_TSO6;
    if (f->gso != WH_GSO_NONE || f->len < REOPEN_LEAST || y->end != f->len ||
        !(wh_port_takes(p) & (y->proto == WH_PROTO_TCP ? whole : WH_TAKES_USO)))
        return;
    if (y->proto == WH_PROTO_UDP && wh_get16(l4 + offset) == 0) /* it has none */
        return;
    uint64_t pseudo = wh_csum_pseudo(f->data, y, length);
    if (f->csum != WH_CSUM_VERIFIED && wh_csum_fold(wh_csum_add(pseudo, l4, length)) != 0xffff)
        return;
    uint16_t open = wh_csum_fold(pseudo);
    memcpy(l4 + offset, &open, 2);
    f->csum = WH_CSUM_PARTIAL;
    f->csum_start = y->l4;
    f->csum_offset = offset;
}

/* The flags of a TCP segment that can be a part of something larger. */
static bool plain_flags(uint8_t flags)
{
    const uint8_t plain = WH_TCP_ACK | WH_TCP_PSH | WH_TCP_FIN | WH_TCP_ECE | WH_TCP_CWR;
    return (flags & WH_TCP_ACK) && !(flags & ~plain);
}

/* Could it be a part of something larger that this port takes? */
static bool is_segment(const struct wh_port *p, const struct wh_frame *f, const struct wh_layers *y)
{
    uint32_t takes = wh_port_takes(p), payload = y->end - y->data;
    if (f->csum != WH_CSUM_PARTIAL || f->gso != WH_GSO_NONE || f->csum_start != y->l4 || payload == 0 ||
        y->data > WH_GSO_HEADERS_MAX || !(takes & WH_TAKES_CSUM))
        return false;
    if (y->proto == WH_PROTO_UDP)
        return (takes & WH_TAKES_USO) && f->csum_offset == WH_UDP_CSUM &&
               wh_get16(f->data + y->l4 + 4) == y->end - y->l4;
    uint8_t flags = f->data[y->l4 + 13];
    return (takes & (y->ip == 4 ? WH_TAKES_TSO4 : WH_TAKES_TSO6)) && f->csum_offset == WH_TCP_CSUM &&
           plain_flags(flags) && (!(flags & WH_TCP_CWR) || (takes & WH_TAKES_ECN));
}

static struct wh_flow *find(wh_switch *s, const struct wh_port *p, const struct wh_frame *f, const struct wh_layers *y)
{
    for (struct wh_flow *flow = s->coalesce.flow; flow < s->coalesce.flow + WH_FLOWS; flow++)
        if (flow->to == p && same_flow(flow, f, y))
            return flow;
    return NULL;
}

/* By its flags no segment of the same packet follows. */
static bool is_last(const struct wh_frame *f, const struct wh_layers *y)
{
    return y->proto == WH_PROTO_TCP && (f->data[y->l4 + 13] & (WH_TCP_FIN | WH_TCP_PSH)) != 0;
}

static bool may_begin(const struct wh_frame *f, const struct wh_layers *y)
{
    return !is_last(f, y) && y->end - y->data >= WH_GSO_SIZE_MIN;
}

static bool may_go_on(const struct wh_flow *flow, uint32_t payload)
{
    return payload == flow->whole.gso_size && !is_last(&flow->whole, &flow->y) &&
           (flow->y.proto == WH_PROTO_TCP || flow->segments < UDP_SEGMENTS);
}

/* False: no memory. */
static bool begin(wh_switch *s, struct wh_port *p, const struct wh_frame *f, const struct wh_layers *y)
{
    struct wh_coalesce *c = &s->coalesce;
    struct wh_flow *flow = NULL;
    if (!c->room && !(c->room = malloc((size_t)WH_FLOWS * ROOM)))
        return false;
    for (struct wh_flow *at = c->flow; at < c->flow + WH_FLOWS; at++)
        if (!flow || !at->to || (flow->to && at->used < flow->used))
            flow = at;
    if (flow->to)
        send_off(s, flow);
    uint32_t payload = y->end - y->data;
    bool tcp = y->proto == WH_PROTO_TCP;
    *flow = (struct wh_flow){.to = p, .y = *y, .whole = *f, .segments = 1, .used = ++c->clock};
    flow->whole.data = c->room + (size_t)(flow - c->flow) * ROOM + WH_HEADROOM;
    flow->whole.len = y->end; /* without padding */
    flow->whole.gso = !tcp ? WH_GSO_UDP : y->ip == 4 ? WH_GSO_TCP4 : WH_GSO_TCP6;
    flow->whole.gso_size = (uint16_t)payload;
    flow->whole.hdr_len = y->data;
    memcpy(flow->whole.data, f->data, y->end);
    flow->id = y->ip == 4 ? wh_get16(f->data + y->l3 + 4) : 0;
    if (tcp) {
        flow->next_seq = wh_get32(f->data + y->l4 + 4) + payload;
        flow->whole.ecn = (f->data[y->l4 + 13] & WH_TCP_CWR) != 0;
    }
    c->open++;
    c->hot = flow;
    return true;
}

static bool append(struct wh_flow *flow, const struct wh_frame *f, const struct wh_layers *y)
{
    uint32_t payload = y->end - y->data;
    if (payload > flow->whole.gso_size || flow->whole.len + payload - flow->y.l3 > PACKET_MAX ||
        !same_headers(flow, f, y))
        return false;
    uint8_t *end = flow->whole.data + flow->whole.len;
    if (f->data + y->data != end) /* else it was opened there */
        memcpy(end, f->data + y->data, payload);
    flow->whole.len += payload;
    flow->segments++;
    if (y->proto == WH_PROTO_TCP) {
        flow->next_seq += payload;
        flow->whole.data[y->l4 + 13] |= f->data[y->l4 + 13] & (WH_TCP_FIN | WH_TCP_PSH);
    }
    return true;
}

/* Has the frame its headers where the flow has them, and nothing behind the packet? Then *y are its layers. That the
 * headers say the same as the flow's is not looked at. */
static bool same_layers(const struct wh_flow *flow, const struct wh_frame *f, struct wh_layers *y)
{
    *y = flow->y;
    y->end = f->len;
    if (f->csum != WH_CSUM_PARTIAL || f->gso != WH_GSO_NONE || f->csum_start != y->l4 ||
        f->csum_offset != flow->whole.csum_offset || f->len <= y->data)
        return false;
    const uint8_t *ip = f->data + y->l3, *l4 = f->data + y->l4;
    uint32_t length = y->ip == 4 ? wh_get16(ip + 2) : wh_get16(ip + 4) + (uint32_t)WH_IPV6_HEADER;
    if (length != f->len - y->l3)
        return false;
    return y->proto == WH_PROTO_TCP ? plain_flags(l4[13]) : wh_get16(l4 + 4) == f->len - y->l4;
}

void wh_coalesce_came(struct wh_coalesce *c, const struct wh_peer *from, uint32_t vni)
{
    c->from = from;
    c->vni = vni;
}

bool wh_coalesce_next(wh_switch *s, const struct wh_peer *from, uint32_t vni, const struct wh_frame *f)
{
    struct wh_coalesce *c = &s->coalesce;
    struct wh_flow *flow = c->hot;
    struct wh_layers y;
    c->hot = NULL;
    if (!flow || c->from != from || c->vni != vni || !same_layers(flow, f, &y) || !same_flow(flow, f, &y) ||
        !append(flow, f, &y))
        return false;
    if (may_go_on(flow, y.end - y.data))
        c->hot = flow;
    else
        send_off(s, flow);
    return true;
}

/* What stands in front of the payload of a segment of this flow when it comes out of a tunnel. */
static uint32_t front_of(const struct wh_flow *flow)
{
    return WH_OPEN_PREFIX + flow->y.data;
}

static uint8_t *place_ahead(const struct wh_flow *flow)
{
    return flow->whole.data + flow->whole.len - front_of(flow);
}

uint8_t *wh_coalesce_ahead(wh_switch *s, const struct wh_peer *from, size_t bytes)
{
    struct wh_coalesce *c = &s->coalesce;
    const struct wh_flow *flow = c->hot;
    if (!flow || c->from != from || bytes <= front_of(flow) || bytes > front_of(flow) + flow->whole.gso_size ||
        flow->whole.len < flow->y.data + front_of(flow) || flow->whole.len + bytes > WH_RING_MAX_FRAME ||
        (s->outer_tos & 3) == WH_ECN_CE || (s->outer_tos & 3) == WH_ECN_ECT1) /* these may change the frame */
        return NULL;
    memcpy(c->under, place_ahead(flow), front_of(flow));
    return place_ahead(flow);
}

void wh_coalesce_undo(wh_switch *s)
{
    memcpy(place_ahead(s->coalesce.hot), s->coalesce.under, front_of(s->coalesce.hot));
}

bool wh_coalesce_settle(wh_switch *s, uint8_t *back, size_t bytes)
{
    struct wh_coalesce *c = &s->coalesce;
    struct wh_flow *flow = c->hot;
    struct wh_frame f = {.data = place_ahead(flow) + WH_OPEN_PREFIX,
                         .len = (uint32_t)bytes - WH_OPEN_PREFIX,
                         .csum = WH_CSUM_PARTIAL,
                         .csum_start = flow->y.l4,
                         .csum_offset = flow->whole.csum_offset};
    uint8_t prefix[WH_OPEN_PREFIX], *place = place_ahead(flow);
    struct wh_layers y;
    wh_open_prefix(prefix + sizeof(prefix), f.len, c->vni, f.csum_start, (uint8_t)f.csum_offset);
    bool next = memcmp(place, prefix, sizeof(prefix)) == 0 && same_layers(flow, &f, &y) && same_flow(flow, &f, &y) &&
                append(flow, &f, &y);
    if (!next)
        memcpy(back, place, bytes);
    memcpy(place, c->under, front_of(flow));
    if (next && !may_go_on(flow, y.end - y.data))
        send_off(s, flow);
    return next;
}

void wh_coalesce_deliver(wh_switch *s, struct wh_port *p, struct wh_frame *f)
{
    struct wh_layers y;
    s->coalesce.hot = NULL;
    if (!s->coalesce.open && f->csum != WH_CSUM_PARTIAL && f->len < REOPEN_LEAST) {
        wh_port_deliver(s, p, f);
        return;
    }
    if (!wh_layers_of(f->data, f->len, &y)) {
        wh_coalesce_flush(s); /* whose order it belongs to is not known */
        wh_port_deliver(s, p, f);
        return;
    }
    if (f->csum != WH_CSUM_PARTIAL)
        reopen(p, f, &y);
    struct wh_flow *flow = s->coalesce.open ? find(s, p, f, &y) : NULL;
    bool segment = is_segment(p, f, &y);
    if (flow && (!segment || !append(flow, f, &y))) {
        send_off(s, flow);
        flow = NULL;
    }
    if (flow) {
        if (may_go_on(flow, y.end - y.data))
            s->coalesce.hot = flow;
        else
            send_off(s, flow);
    } else if (!segment || !may_begin(f, &y) || !begin(s, p, f, &y)) {
        wh_port_deliver(s, p, f);
    }
}

void wh_coalesce_free(struct wh_coalesce *c)
{
    free(c->room);
}
