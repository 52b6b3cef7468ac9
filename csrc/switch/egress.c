#include "switch/egress.h"

#include "switch/csum.h"
#include "switch/flow.h"
#include "switch/peer.h"
#include "switch/relay.h"
#include "switch/stream.h"
#include "switch/tos.h"

#include <stdlib.h>

#define TURN_BYTES  (512u << 10) /* of one run: bounds the latency that it adds to what comes in */
#define SHARE_BYTES (32u << 10)  /* of one way in one round, at most ... */
#define SHARE_LEAST (4u << 10)   /* ... and at least */
#define IDLE_NS     10000000000ull
#define HEADERS_V4  28u /* of IP and UDP */
#define HEADERS_V6  48u

enum kind { FRAME, RELAYED, PAYLOAD };

struct wh_held {
    struct wh_fq_item item; /* the first, so that one is the other */
    uint8_t kind, tos;
    uint32_t dest, vni;
    struct wh_addr to;     /* control */
    struct wh_content of;  /* payloads */
    struct wh_frame frame; /* frames; data and len of all kinds, behind headroom in room */
    uint8_t room[];
};

static struct wh_held *held_of(struct wh_fq_item *item)
{
    return (struct wh_held *)(void *)item;
}

/* The bytes are copied, behind headroom. */
static struct wh_held *hold(enum kind kind, uint32_t dest, const uint8_t *data, uint32_t len)
{
    struct wh_held *h = malloc(sizeof(*h) + WH_HEADROOM + len);
    if (!h)
        return NULL;
    *h = (struct wh_held){.item = {.bytes = len}, .kind = (uint8_t)kind, .dest = dest};
    h->frame = wh_frame_plain(h->room + WH_HEADROOM, len);
    memcpy(h->frame.data, data, len);
    return h;
}

/* What s has of it. */
static struct wh_way *way_in(const wh_switch *s, struct wh_peer *way)
{
    return &way->part[s->index].way;
}

static bool is_paced(const wh_switch *s, const struct wh_peer *way)
{
    return way->rate && atomic_load_explicit(&way->free_ns, memory_order_relaxed) > s->now_ns;
}

static struct wh_peer *way_of(const wh_switch *s, struct wh_peer *dest)
{
    return dest->via == dest->node ? dest : wh_idmap_get(&s->all->peers, dest->via);
}

/* ---- what is lost ---- */

/* frames: that were in it. */
static void count_lost(wh_switch *s, uint32_t node, uint64_t frames, bool aqm)
{
    struct wh_peer *dest = wh_idmap_get(&s->all->peers, node);
    *(aqm ? &s->total.drop_aqm : &s->total.drop_queue) += frames;
    if (dest)
        *(aqm ? &dest->part[s->index].counters.drop_aqm : &dest->part[s->index].counters.drop_queue) += frames;
}

static void lose(wh_switch *s, struct wh_fq_item *list, bool aqm)
{
    while (list) {
        struct wh_held *h = held_of(list);
        list = list->next;
        count_lost(s, h->dest, 1, aqm);
        free(h);
    }
}

/* ---- into the queues ---- */

static void list_way(wh_switch *s, struct wh_peer *way)
{
    struct wh_egress *e = &s->egress;
    if (way_in(s, way)->listed)
        return;
    way_in(s, way)->listed = true;
    way_in(s, way)->next = NULL;
    if (e->tail)
        way_in(s, e->tail)->next = way;
    else
        e->head = way;
    e->tail = way;
    e->ways++;
    e->slow++;
    e->at_ns = 0; /* the next run finds out when */
}

static struct wh_peer *first_way(wh_switch *s)
{
    struct wh_egress *e = &s->egress;
    struct wh_peer *way = e->head;
    e->head = way_in(s, way)->next;
    if (!e->head)
        e->tail = NULL;
    way_in(s, way)->listed = false;
    e->ways--;
    e->slow--;
    return way;
}

/* Takes h; NULL: there was no memory for it. */
static void queue(wh_switch *s, struct wh_peer *way, struct wh_held *h, uint32_t dest, uint32_t hash)
{
    if (!way_in(s, way)->fq && wh_fq_new(WH_EGRESS_WAY_BYTES, &way_in(s, way)->fq)) {
        free(h);
        h = NULL;
    }
    if (!h || s->egress.bytes >= WH_EGRESS_ALL_BYTES) {
        free(h);
        count_lost(s, dest, 1, false);
        return;
    }
    size_t before = wh_fq_bytes(way_in(s, way)->fq);
    lose(s, wh_fq_put(way_in(s, way)->fq, &h->item, hash, s->now_ns), false);
    s->egress.bytes += wh_fq_bytes(way_in(s, way)->fq) - before;
    way_in(s, way)->used_ns = s->now_ns;
    if (wh_fq_bytes(way_in(s, way)->fq))
        list_way(s, way);
}

/* The socket or the stream that its datagrams would be laid into is full. */
static bool is_blocked(const wh_switch *s, const struct wh_peer *way)
{
    return way->on_stream ? wh_stream_blocked(way) : s->egress.blocked;
}

static bool must_wait(const wh_switch *s, struct wh_peer *way)
{
    return is_blocked(s, way) || way_in(s, way)->listed || is_paced(s, way);
}

bool wh_egress_frame(wh_switch *s, struct wh_peer *dest, uint32_t vni, const struct wh_frame *f)
{
    struct wh_peer *way = way_of(s, dest);
    if (!way || !must_wait(s, way))
        return false;
    struct wh_held *h = hold(FRAME, dest->node, f->data, f->len);
    if (h) {
        uint8_t *data = h->frame.data;
        h->frame = *f;
        h->frame.data = data;
        h->vni = vni;
        h->item.takes_mark = wh_tos_takes_mark(f->data, f->len);
        WH_COUNT(s, dest, queued);
    }
    queue(s, way, h, dest->node, wh_flow_hash(f->data, f->len, s->hash_seed ^ dest->node));
    return true;
}

bool wh_egress_relayed(wh_switch *s, struct wh_peer *dest, const uint8_t *data, size_t len)
{
    struct wh_peer *way = way_of(s, dest);
    if (!way || !must_wait(s, way))
        return false;
    struct wh_header header = {0};
    struct wh_held *h = hold(RELAYED, dest->node, data, (uint32_t)len);
    if (h) {
        h->tos = s->outer_tos;
        h->item.takes_mark = (s->outer_tos & 3) != WH_ECN_NOT_ECT;
    }
    (void)wh_header_decode(data, len, &header); /* it is one: its sender and destination are a flow to us */
    queue(s, way, h, dest->node, header.sender * 0x9e3779b9u ^ header.dest * 0x85ebca6bu);
    return true;
}

/* False: the bound is reached, or there is no memory. */
static bool put_urgent(struct wh_urgent *u, size_t max, struct wh_held *h)
{
    if (!h || h->item.bytes + WH_FQ_COST > max - u->bytes) {
        free(h);
        return false;
    }
    if (u->tail)
        u->tail->item.next = &h->item;
    else
        u->head = h;
    u->tail = h;
    u->bytes += h->item.bytes + WH_FQ_COST;
    return true;
}

static struct wh_held *take_urgent(struct wh_urgent *u)
{
    struct wh_held *h = u->head;
    if (h) {
        u->head = h->item.next ? held_of(h->item.next) : NULL;
        u->tail = u->head ? u->tail : NULL;
        u->bytes -= h->item.bytes + WH_FQ_COST;
    }
    return h;
}

bool wh_egress_moved(wh_switch *s, struct wh_peer *dest, const uint8_t *plain, uint32_t len,
                     const struct wh_content *of)
{
    const struct wh_peer *way = way_of(s, dest);
    if (!s->egress.blocked || !way || way->on_stream)
        return false;
    struct wh_held *h = hold(PAYLOAD, dest->node, plain, len);
    if (h)
        h->of = *of;
    if (!put_urgent(&s->egress.moved, WH_EGRESS_MOVED_BYTES, h))
        count_lost(s, dest->node, of->frames, false);
    return true;
}

bool wh_egress_control(wh_switch *s, struct wh_peer *dest, const struct wh_addr *to, const uint8_t *plain, size_t len)
{
    if (!s->egress.blocked || wh_addr_is_stream(to))
        return false;
    struct wh_held *h = hold(PAYLOAD, dest->node, plain, (uint32_t)len);
    if (h)
        h->to = *to;
    if (!put_urgent(&s->egress.control, WH_EGRESS_CONTROL_BYTES, h))
        count_lost(s, dest->node, 1, false);
    return true;
}

/* ---- out of the queues ---- */

void wh_egress_spent(wh_switch *s, const struct wh_peer *dest, const struct wh_addr *to, size_t len)
{
    struct wh_peer *way = wh_idmap_get(&s->all->peers, dest->via);
    if (!way || !way->rate)
        return;
    uint64_t bytes = len + (to->sa.sa_family == AF_INET ? HEADERS_V4 : HEADERS_V6), next;
    uint64_t free_ns = atomic_load_explicit(&way->free_ns, memory_order_relaxed);
    do {
        next = free_ns + WH_EGRESS_BURST_NS < s->now_ns ? s->now_ns - WH_EGRESS_BURST_NS : free_ns;
        next += bytes * 1000000000u / way->rate;
    } while (!atomic_compare_exchange_weak_explicit(&way->free_ns, &free_ns, next, memory_order_relaxed,
                                                    memory_order_relaxed));
}

static void send_frame(wh_switch *s, struct wh_held *h, bool mark)
{
    struct wh_peer *dest = wh_idmap_get(&s->all->peers, h->dest);
    if (!dest) {
        s->total.drop_no_peer++;
        return;
    }
    if (mark) {
        wh_tos_mark(h->frame.data, h->frame.len);
        WH_COUNT(s, dest, marked);
    }
    if (!(dest->takes & WH_TAKES_CSUM))
        wh_csum_complete(&h->frame);
    wh_peer_send_now(s, dest, h->vni, &h->frame);
}

static void send_relayed(wh_switch *s, struct wh_held *h, bool mark)
{
    struct wh_peer *dest = wh_idmap_get(&s->all->peers, h->dest);
    if (!dest) {
        s->total.drop_no_peer++;
        return;
    }
    const struct wh_addr *to = wh_relay_next_hop(s, dest); /* which may have changed while it waited */
    if (!to) {
        WH_COUNT(s, dest, drop_no_peer);
        return;
    }
    if (mark)
        WH_COUNT(s, dest, marked);
    if (!wh_relay_send(s, dest, to, h->frame.data, h->frame.len, (uint8_t)(h->tos | (mark ? WH_ECN_CE : 0))))
        count_lost(s, h->dest, 1, false);
}

static void send_payload(wh_switch *s, struct wh_held *h)
{
    struct wh_peer *dest = wh_idmap_get(&s->all->peers, h->dest);
    if (!dest)
        s->total.drop_no_peer += h->of.frames;
    else if (h->of.frames)
        wh_peer_send_payload(s, dest, h->frame.data, h->frame.len, &h->of);
    else
        (void)wh_peer_seal(s, dest, WH_TUNNEL_DIRECT, &h->to, h->frame.data, h->frame.len, WH_TOS_CONTROL);
}

static void send_urgent(wh_switch *s, struct wh_urgent *u)
{
    while (!s->egress.blocked) {
        struct wh_held *h = take_urgent(u);
        if (!h)
            return;
        send_payload(s, h);
        free(h);
    }
}

/* Up to a share of what waits for a way. The bytes that left. */
static size_t serve(wh_switch *s, struct wh_peer *way)
{
    size_t sent = 0, before = wh_fq_bytes(way_in(s, way)->fq), share = s->egress.share ? s->egress.share : SHARE_BYTES;
    share = share > SHARE_BYTES ? SHARE_BYTES : share < SHARE_LEAST ? SHARE_LEAST : share;
    while (sent < share && !is_blocked(s, way) && !is_paced(s, way)) {
        struct wh_fq_item *lost;
        bool mark;
        struct wh_fq_item *item = wh_fq_take(way_in(s, way)->fq, s->now_ns, &mark, &lost);
        lose(s, lost, true);
        if (!item)
            break;
        struct wh_held *h = held_of(item);
        sent += h->item.bytes;
        if (h->kind == FRAME)
            send_frame(s, h, mark);
        else
            send_relayed(s, h, mark);
        free(h);
    }
    way_in(s, way)->used_ns = s->now_ns;
    s->egress.bytes -= before - wh_fq_bytes(way_in(s, way)->fq);
    return sent;
}

/* In turns, until all are empty, or paced, or blocked, or it is enough. */
static void serve_ways(wh_switch *s)
{
    struct wh_egress *e = &s->egress;
    size_t total = 0;
    for (uint32_t in_vain = 0; e->head && in_vain < e->ways + 1;) {
        struct wh_peer *way = first_way(s);
        size_t sent = serve(s, way);
        in_vain = sent ? 0 : in_vain + 1;
        if (wh_fq_bytes(way_in(s, way)->fq)) {
            uint64_t at = e->at_ns;
            list_way(s, way);
            bool paced = way->rate && !is_blocked(s, way); /* else an event says when */
            uint64_t free_ns = atomic_load_explicit(&way->free_ns, memory_order_relaxed);
            e->at_ns = paced && free_ns < at ? free_ns : at;
        }
        if (sent)
            wh_peer_flush(s);
        total += sent;
        if (total >= TURN_BYTES) {
            e->at_ns = s->now_ns;
            return;
        }
    }
}

void wh_egress_run(wh_switch *s)
{
    struct wh_egress *e = &s->egress;
    if (!e->blocked || wh_udp_retry(s))
        e->at_ns = UINT64_MAX;
    send_urgent(s, &e->control);
    send_urgent(s, &e->moved);
    serve_ways(s);
    wh_peer_flush(s);
}

/* ---- settings, end ---- */

void wh_egress_soon(wh_switch *s)
{
    for (uint32_t i = 0; i < s->all->workers; i++) {
        wh_switch *w = s->all->worker[i];
        w->egress.at_ns = 0;
        if (w != s && w->egress.ways)
            wh_switch_wake(w);
    }
}

void wh_egress_set_rate(wh_switch *s, struct wh_peer *way, uint64_t rate)
{
    for (uint32_t i = 0; i < s->all->workers; i++)
        s->all->worker[i]->egress.slow += (rate != 0) - (way->rate != 0);
    wh_egress_soon(s);
    way->rate = rate;
    atomic_store_explicit(&way->free_ns, 0, memory_order_relaxed);
}

/* Of s's own. */
static void drop_queue(wh_switch *s, struct wh_peer *way)
{
    struct wh_way *w = way_in(s, way);
    if (!w->fq)
        return;
    s->egress.bytes -= wh_fq_bytes(w->fq);
    lose(s, wh_fq_clear(w->fq), false);
    wh_fq_free(w->fq);
    w->fq = NULL;
}

void wh_egress_tick(wh_switch *s, struct wh_peer *way)
{
    for (uint32_t i = 0; i < s->all->workers; i++) {
        wh_switch *of = s->all->worker[i];
        const struct wh_way *w = way_in(of, way);
        if (w->fq && !w->listed && s->now_ns > w->used_ns + IDLE_NS)
            drop_queue(of, way);
    }
}

static void forget(wh_switch *s, struct wh_peer *way)
{
    if (way_in(s, way)->listed) {
        for (uint32_t n = s->egress.ways; n > 0; n--) { /* once round: the others keep their order */
            struct wh_peer *p = first_way(s);
            if (p != way)
                list_way(s, p);
        }
    }
    drop_queue(s, way);
}

void wh_egress_forget(wh_switch *s, struct wh_peer *way)
{
    for (uint32_t i = 0; i < s->all->workers; i++)
        forget(s->all->worker[i], way);
    wh_egress_set_rate(s, way, 0);
}

static void clear_urgent(struct wh_urgent *u)
{
    for (struct wh_held *h; (h = take_urgent(u));)
        free(h);
}

void wh_egress_free(wh_switch *s)
{
    clear_urgent(&s->egress.control);
    clear_urgent(&s->egress.moved);
}
