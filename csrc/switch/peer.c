#include "switch/peer.h"

#include "state/state.h"
#include "switch/egress.h"
#include "switch/forward.h"
#include "switch/out.h"
#include "switch/pack.h"
#include "switch/probe.h"
#include "switch/rate.h"
#include "switch/relay.h"
#include "switch/steer.h"
#include "switch/stream.h"
#include "switch/tos.h"

#include <openssl/crypto.h>
#include <stdlib.h>

struct wh_peer *wh_peer_new(const wh_switch *s, uint32_t node)
{
    size_t size = sizeof(struct wh_peer) + s->all->workers * sizeof(struct wh_peer_part);
    struct wh_peer *p = aligned_alloc(_Alignof(struct wh_peer), size);
    if (p) {
        memset(p, 0, size);
        p->workers = s->all->workers;
        p->node = p->via = node;
        wh_pmtu_reset(&p->pmtu, 0);
        wh_stream_address(node, &p->stream_at);
    }
    return p;
}

static void rx_key_free(struct wh_rx_key *key)
{
    for (unsigned i = 0; i < WH_ARRAY_LEN(key->aead); i++)
        wh_aead_free(key->aead[i]);
    for (unsigned i = 0; i < WH_ARRAY_LEN(key->lane); i++)
        free(key->lane[i]);
    *key = (struct wh_rx_key){0};
}

void wh_peer_free(struct wh_peer *p)
{
    if (!p)
        return;
    for (uint32_t i = 0; i < p->workers; i++)
        wh_aead_free(p->part[i].tx.aead);
    for (unsigned i = 0; i < WH_ARRAY_LEN(p->rx); i++)
        rx_key_free(&p->rx[i]);
    free(p);
}

void wh_peer_judge(wh_switch *s, struct wh_peer *p)
{
    bool odd = p->workers > 1 && (p->stream || !(p->takes & WH_TAKES_LANES));
    s->all->odd += (uint32_t)odd - (uint32_t)p->odd;
    p->odd = odd;
}

static void tell(wh_switch *s, struct wh_peer *p, enum wh_switch_event_kind kind, uint64_t value)
{
    wh_switch_tell(s, &(wh_switch_event){.kind = kind, .node = p->node, .value = value});
}

void wh_peer_place(wh_switch *s, struct wh_peer *p, uint32_t via, const struct wh_addr *addr)
{
    p->via = via;
    /* Said again, the same address must not undo what roaming has found since. */
    if (wh_addr_equal(&p->configured, addr))
        return;
    p->configured = p->addr = *addr;
    wh_pmtu_reset(&p->pmtu, s->now_ns);
    if (!addr->len)
        wh_probe_down(s, p);
    wh_probe_soon(s, p);
}

/* One context for each worker. */
static int make_contexts(wh_switch *s, int cipher, const uint8_t key[32], bool seal, wh_aead *out[WH_WORKERS_MAX])
{
    int status = WH_OK;
    uint32_t made = 0;
    memset(out, 0, WH_WORKERS_MAX * sizeof(wh_aead *));
    while (!status && made < s->all->workers) {
        status = wh_aead_new(s->all->crypto, cipher, key, seal, &out[made]);
        made += !status;
    }
    while (status && made > 0)
        wh_aead_free(out[--made]);
    return status;
}

int wh_peer_set_tx(wh_switch *s, struct wh_peer *p, uint32_t epoch, int cipher, const uint8_t key[32])
{
    /* The same key again keeps its counters: one that starts anew under one key would repeat nonces. */
    if (p->part[0].tx.epoch == epoch && wh_aead_same(p->part[0].tx.aead, cipher, key))
        return WH_OK;
    wh_aead *aead[WH_WORKERS_MAX];
    int status = make_contexts(s, cipher, key, true, aead);
    if (status)
        return status;
    for (uint32_t i = 0; i < p->workers; i++) {
        struct wh_tx_key *tx = &p->part[i].tx;
        wh_aead_free(tx->aead);
        *tx = (struct wh_tx_key){.aead = aead[i],
                                 .epoch = epoch,
                                 .tell_datagrams = WH_REKEY_DATAGRAMS / p->workers,
                                 .tell_bytes = WH_REKEY_BYTES / p->workers};
    }
    wh_probe_soon(s, p);
    return WH_OK;
}

static struct wh_rx_key *rx_key(struct wh_peer *p, uint32_t epoch)
{
    for (unsigned i = 0; i < WH_ARRAY_LEN(p->rx); i++)
        if (p->rx[i].aead[0] && p->rx[i].epoch == epoch)
            return &p->rx[i];
    return NULL;
}

/* That of the last authentic datagram, of whichever worker. */
static bool in_use(const struct wh_peer *p, const struct wh_rx_key *key)
{
    const struct wh_peer_part *last = NULL;
    for (uint32_t i = 0; i < p->workers; i++)
        if (p->part[i].rx_any && (!last || p->part[i].rx_ns > last->rx_ns))
            last = &p->part[i];
    return last && key->aead[0] && key->epoch == last->rx_used;
}

/* Free, or the oldest, but not the one in use: the peer may never have learned that it could use those behind it. */
static struct wh_rx_key *place_for_rx(struct wh_peer *p)
{
    struct wh_rx_key *last = &p->rx[WH_ARRAY_LEN(p->rx) - 1];
    return in_use(p, last) ? last - 1 : last;
}

int wh_peer_set_rx(wh_switch *s, struct wh_peer *p, uint32_t epoch, int cipher, const uint8_t key[32])
{
    struct wh_rx_key *at = rx_key(p, epoch);
    if (at && wh_aead_same(at->aead[0], cipher, key))
        return WH_OK; /* and its windows stay, or old datagrams would be taken again */
    struct wh_rx_key fresh = {.epoch = epoch};
    fresh.lane[0] = calloc(1, sizeof(struct wh_replay));
    int status = fresh.lane[0] ? make_contexts(s, cipher, key, false, fresh.aead) : WH_E_NOMEM;
    if (status) {
        free(fresh.lane[0]);
        return status;
    }
    if (!at)
        at = place_for_rx(p);
    else if (in_use(p, at)) /* a new key under a known epoch: the peer began anew */
        for (uint32_t i = 0; i < p->workers; i++)
            p->part[i].rx_any = false;
    rx_key_free(at);
    memmove(&p->rx[1], &p->rx[0], (size_t)(at - p->rx) * sizeof(p->rx[0]));
    p->rx[0] = fresh;
    return WH_OK;
}

int wh_peer_drop_rx(struct wh_peer *p, uint32_t epoch)
{
    struct wh_rx_key *at = rx_key(p, epoch), *last = &p->rx[WH_ARRAY_LEN(p->rx) - 1];
    if (!at)
        return WH_E_NOTFOUND;
    if (in_use(p, at))
        return WH_E_STATE;
    rx_key_free(at);
    memmove(at, at + 1, (size_t)(last - at) * sizeof(*at));
    *last = (struct wh_rx_key){0};
    return WH_OK;
}

/* ---- out ---- */

uint32_t wh_peer_payload_max(const wh_switch *s, const struct wh_peer *p)
{
    const struct wh_peer *next = p->via == p->node ? p : wh_idmap_get(&s->all->peers, p->via);
    next = next ? next : p;
    return (next->on_stream ? WH_DATAGRAM_MAX : next->pmtu.limit) - WH_TUNNEL_OVERHEAD;
}

void wh_peer_flush(wh_switch *s)
{
    wh_pack_flush(s);
    wh_out_flush(s);
}

static void ask_for_key(wh_switch *s, struct wh_peer *p, struct wh_tx_key *tx)
{
    if (tx->counter < tx->tell_datagrams && tx->bytes < tx->tell_bytes)
        return;
    /* Again after another sixteenth: the event may have been lost. */
    tx->tell_datagrams = tx->counter + WH_REKEY_DATAGRAMS / 16;
    tx->tell_bytes = tx->bytes + WH_REKEY_BYTES / 16;
    tell(s, p, WH_SW_REKEY, tx->counter);
}

enum wh_seal_verdict wh_peer_seal(wh_switch *s, struct wh_peer *p, enum wh_tunnel_type type, const struct wh_addr *to,
                                  const uint8_t *plain, size_t len, uint8_t tos)
{
    /* Who knows no lanes is sent to by who is alone, in the first. */
    uint32_t lane = p->takes & WH_TAKES_LANES ? s->index : 0;
    struct wh_tx_key *tx = &p->part[lane].tx;
    if (!tx->aead || tx->counter >= WH_KEY_DATAGRAMS / p->workers)
        return WH_SEAL_NO_KEY;
    uint8_t *slot = wh_out_slot(s, to, tos);
    if (!slot)
        return WH_SEAL_NO_ROOM;
    struct wh_header h = {.version = WH_TUNNEL_VERSION,
                          .type = (uint8_t)type,
                          .hops = type == WH_TUNNEL_DIRECT ? 1 : WH_TUNNEL_HOPS,
                          .epoch = tx->epoch,
                          .sender = s->node_id,
                          .dest = p->node,
                          .counter = ++tx->counter | (uint64_t)lane << WH_LANE_SHIFT};
    uint8_t header[WH_TUNNEL_HEADER];
    wh_header_encode(&h, header);
    if (wh_aead_seal(tx->aead, header, plain, len, slot) != WH_OK)
        return WH_SEAL_NO_KEY;
    wh_out_commit(s, len + WH_TUNNEL_OVERHEAD);
    tx->bytes += len;
    ask_for_key(s, p, tx);
    if (s->egress.slow)
        wh_egress_spent(s, p, to, len + WH_TUNNEL_OVERHEAD);
    return WH_SEAL_DONE;
}

void wh_peer_send_payload(wh_switch *s, struct wh_peer *p, const uint8_t *plain, uint32_t len,
                          const struct wh_content *of)
{
    const struct wh_addr *to = s->udp ? wh_relay_next_hop(s, p) : NULL;
    enum wh_tunnel_type type = p->via == p->node ? WH_TUNNEL_DIRECT : WH_TUNNEL_RELAYED;
    if (!to) {
        WH_COUNT_MANY(s, p, drop_no_peer, of->frames);
    } else if (len > wh_peer_payload_max(s, p)) {
        WH_COUNT_MANY(s, p, drop_too_big, of->frames);
    } else {
        switch (wh_peer_seal(s, p, type, to, plain, len, of->tos)) {
        case WH_SEAL_DONE:
            WH_COUNT_MANY(s, p, tx_frames, of->frames);
            WH_COUNT_BYTES(s, p, tx_bytes, of->bytes);
            break;
        case WH_SEAL_NO_KEY:
            WH_COUNT_MANY(s, p, drop_no_key, of->frames);
            break;
        case WH_SEAL_NO_ROOM:
            WH_COUNT_MANY(s, p, drop_queue, of->frames);
            break;
        }
    }
}

static struct wh_content content_of(const struct wh_frame *f)
{
    return (struct wh_content){.frames = 1, .bytes = f->len, .tos = wh_tos_outer(f->data, f->len)};
}

/* The payload begins with a prefix of so many bytes in front of the frame. */
static void send_behind(wh_switch *s, struct wh_peer *p, const struct wh_frame *f, uint32_t prefix)
{
    wh_pack_flush_peer(s, p);
    struct wh_content of = content_of(f);
    wh_peer_send_payload(s, p, f->data - prefix, prefix + f->len, &of);
}

void wh_peer_send_frame(wh_switch *s, struct wh_peer *p, uint32_t vni, const struct wh_frame *f)
{
    if (!s->egress.slow || !wh_egress_frame(s, p, vni, f))
        wh_peer_send_now(s, p, vni, f);
}

void wh_peer_send_now(wh_switch *s, struct wh_peer *p, uint32_t vni, const struct wh_frame *f)
{
    if (wh_pack_put(s, p, vni, f))
        return;
    if (f->csum == WH_CSUM_PARTIAL) {
        wh_open_prefix(f->data, f->len, vni, f->csum_start, (uint8_t)f->csum_offset);
        send_behind(s, p, f, WH_OPEN_PREFIX);
    } else {
        wh_frame_prefix(f->data, f->len, vni);
        send_behind(s, p, f, WH_FRAME_PREFIX);
    }
}

void wh_peer_send_moved(wh_switch *s, struct wh_peer *p, uint32_t vni, const struct wh_frame *f, const uint8_t *mac)
{
    static const uint8_t bin6[] = {0xc4, 6};
    uint8_t *frame = f->data;
    uint32_t len = f->len;
    wh_frame_prefix(frame, len, vni);
    frame[-(int)WH_FRAME_PREFIX] = 0x94;
    frame[1 - (int)WH_FRAME_PREFIX] = WH_KIND_MOVED;
    uint32_t suffix = 1;
    if (mac) {
        memcpy(frame + len, bin6, sizeof(bin6));
        memcpy(frame + len + sizeof(bin6), mac, 6);
        suffix = WH_MOVED_SUFFIX;
    } else {
        frame[len] = 0xc0; /* nil */
    }
    wh_pack_flush_peer(s, p);
    struct wh_content of = content_of(f);
    uint32_t whole = WH_FRAME_PREFIX + len + suffix;
    if (!s->egress.slow || !wh_egress_moved(s, p, frame - WH_FRAME_PREFIX, whole, &of))
        wh_peer_send_payload(s, p, frame - WH_FRAME_PREFIX, whole, &of);
}

/* ---- in ---- */

static void arrived(wh_switch *s, struct wh_peer *p, uint32_t vni, struct wh_frame *f)
{
    if (!wh_tos_arrived(f->data, f->len, s->outer_tos)) {
        WH_COUNT(s, p, drop_ce); /* where the mark was set, a queue was */
    } else if (wh_coalesce_next(s, p, vni, f)) {
        WH_COUNT_FRAME(s, p, rx, f->len);
    } else {
        wh_forward_from_tunnel(s, p, vni, f);
    }
}

static bool read_frame(wh_switch *s, struct wh_peer *p, wh_reader *r)
{
    size_t len = 0;
    uint64_t vni = wh_get_uint_max(r, 0xffffff);
    const uint8_t *frame = wh_get_bin(r, &len);
    if (r->status || len > WH_FRAME_MAX)
        return false;
    struct wh_frame f = wh_frame_plain((uint8_t *)frame, (uint32_t)len); /* headers in front of it are its headroom */
    arrived(s, p, (uint32_t)vni, &f);
    return true;
}

/* The sender of the datagram vouches for the bytes, so that nobody has to sum them up but who leaves this world. */
static bool read_open(wh_switch *s, struct wh_peer *p, wh_reader *r)
{
    size_t len = 0;
    uint64_t vni = wh_get_uint_max(r, 0xffffff), start = wh_get_uint_max(r, WH_FRAME_MAX),
             offset = wh_get_uint_max(r, WH_CSUM_OFFSET_MAX);
    const uint8_t *frame = wh_get_bin(r, &len);
    if (r->status || len > WH_FRAME_MAX || start < WH_ETH_HEADER || start + offset + 2 > len)
        return false;
    struct wh_frame f = wh_frame_plain((uint8_t *)frame, (uint32_t)len);
    f.csum = WH_CSUM_PARTIAL;
    f.csum_start = (uint16_t)start;
    f.csum_offset = (uint16_t)offset;
    arrived(s, p, (uint32_t)vni, &f);
    return true;
}

static bool read_moved(wh_switch *s, struct wh_peer *p, wh_reader *r)
{
    size_t len = 0, mac_len = 0;
    uint64_t vni = wh_get_uint_max(r, 0xffffff);
    const uint8_t *frame = wh_get_bin(r, &len), *mac = NULL;
    if (!wh_get_nil(r))
        mac = wh_get_bin(r, &mac_len);
    if (r->status || len > WH_FRAME_MAX || (mac && mac_len != 6))
        return false;
    struct wh_frame f = wh_frame_plain((uint8_t *)frame, (uint32_t)len);
    wh_forward_moved(s, p, (uint32_t)vni, mac, &f);
    return true;
}

static bool read_batch(wh_switch *s, struct wh_peer *p, wh_reader *r)
{
    uint32_t count = wh_get_array(r);
    for (uint32_t i = 0; i < count && !r->status; i++)
        switch (wh_get_array(r)) {
        case 2:
            if (!read_frame(s, p, r))
                return false;
            break;
        case 4:
            if (!read_open(s, p, r))
                return false;
            break;
        default:
            return false;
        }
    return !r->status;
}

/* Probes and what follows a guest are few. */
static bool put_aside(wh_switch *s, struct wh_peer *p, const uint8_t *plain, size_t len, bool direct,
                      const struct wh_addr *from)
{
    const struct wh_aside_item about = {
        .kind = WH_ASIDE_PAYLOAD, .id = p->node, .direct = direct, .tos = s->outer_tos, .addr = *from};
    const struct wh_frame bytes = wh_frame_plain((uint8_t *)plain, (uint32_t)len);
    if (!wh_aside_put(s, &about, &bytes))
        WH_COUNT(s, p, drop_queue);
    return true;
}

bool wh_peer_payload(wh_switch *s, struct wh_peer *p, const uint8_t *plain, size_t len, bool direct,
                     const struct wh_addr *from)
{
    wh_reader r;
    wh_reader_init(&r, plain, len);
    uint32_t items = wh_get_array(&r);
    uint64_t kind = wh_get_uint(&r);
    if (r.status)
        return false;
    if (kind == WH_KIND_FRAME && items >= 3)
        return read_frame(s, p, &r);
    if (kind == WH_KIND_OPEN && items >= 5)
        return read_open(s, p, &r);
    if (kind == WH_KIND_BATCH && items >= 2)
        return read_batch(s, p, &r);
    if (!s->alone)
        return put_aside(s, p, plain, len, direct, from);
    if (kind == WH_KIND_MOVED && items >= 4)
        return read_moved(s, p, &r);
    if ((kind == WH_KIND_PROBE || kind == WH_KIND_ANSWER) && items >= 3)
        return wh_probe_read(s, p, &r, kind, direct, from);
    return false;
}

/* May a datagram from there be tried with the peer's key? An authentic one gives back what it took. */
static bool affordable(wh_switch *s, struct wh_peer *p, const struct wh_addr *from)
{
    struct wh_peer_part *part = &p->part[s->index];
    return wh_addr_is_stream(from) || wh_addr_equal(from, &part->heard) || wh_addr_equal(from, &p->addr) ||
           wh_rate_take(&part->strange_ns, s->now_ns, WH_STRANGE_EVERY_NS, WH_STRANGE_BURST);
}

static void heard(wh_switch *s, struct wh_peer *p, uint32_t epoch, const struct wh_addr *from)
{
    struct wh_peer_part *part = &p->part[s->index];
    part->rx_used = epoch;
    part->rx_any = true;
    part->rx_ns = s->now_ns;
    if (wh_addr_is_stream(from) || wh_addr_equal(from, &part->heard))
        return;
    if (part->strange_ns >= WH_STRANGE_EVERY_NS)
        part->strange_ns -= WH_STRANGE_EVERY_NS;
    part->heard = *from;
}

/* Its newest datagram came from there, directly. */
static void roam(wh_switch *s, struct wh_peer *p, const struct wh_addr *from)
{
    if (s->alone)
        wh_probe_roam(s, p, from);
    else if (!wh_addr_equal(&p->addr, from)) /* no room: it sends more */
        (void)wh_aside_put(s, &(struct wh_aside_item){.kind = WH_ASIDE_ROAM, .id = p->node, .addr = *from}, NULL);
}

/* Is the lane's window another worker's, and s not alone? Then it waits until it is. */
static bool is_anothers(wh_switch *s, struct wh_peer *p, uint8_t *data, size_t len, uint32_t lane,
                        const struct wh_addr *from)
{
    if (s->alone || wh_steer_to(p->node, lane, s->all->workers) == s->index)
        return false;
    const struct wh_aside_item about = {.kind = WH_ASIDE_DATAGRAM, .tos = s->outer_tos, .addr = *from};
    const struct wh_frame bytes = wh_frame_plain(data, (uint32_t)len);
    if (!wh_aside_put(s, &about, &bytes))
        WH_COUNT(s, p, drop_queue);
    return true;
}

/* Opened, in place or (*ahead) where the coalescer expects it, and its counter is taken. False: counted. */
static bool open_datagram(wh_switch *s, struct wh_peer *p, struct wh_rx_key *key, uint8_t *data, size_t len,
                          const struct wh_header *h, const struct wh_addr *from, bool *ahead)
{
    struct wh_replay **window = &key->lane[wh_header_lane(h)];
    uint64_t counter = h->counter & ~(UINT64_MAX << WH_LANE_SHIFT);
    if (*window ? !wh_replay_check(*window, counter) : counter == 0) {
        WH_COUNT(s, p, drop_replay);
        return false;
    }
    if (!affordable(s, p, from)) {
        WH_COUNT(s, p, drop_flood);
        return false;
    }
    if (!*window && !(*window = calloc(1, sizeof(**window)))) {
        WH_COUNT(s, p, drop_queue);
        return false;
    }
    uint8_t *to = wh_coalesce_ahead(s, p, len - WH_TUNNEL_OVERHEAD);
    *ahead = to != NULL;
    if (wh_aead_open(key->aead[s->index], data, len, to ? to : data + WH_TUNNEL_HEADER) != WH_OK) {
        if (to)
            wh_coalesce_undo(s);
        WH_COUNT(s, p, drop_auth);
        return false;
    }
    wh_replay_accept(*window, counter);
    heard(s, p, key->epoch, from);
    if (h->type == WH_TUNNEL_DIRECT && !wh_addr_is_stream(from) && key == &p->rx[0] && (*window)->top == counter)
        roam(s, p, from);
    return true;
}

void wh_peer_input(wh_switch *s, uint8_t *data, size_t len, const struct wh_addr *from)
{
    struct wh_header h;
    if (len < WH_TUNNEL_OVERHEAD || len > WH_DATAGRAM_MAX || !wh_header_decode(data, len, &h)) {
        s->total.drop_invalid++;
        return;
    }
    if (h.dest != s->node_id) {
        wh_relay(s, data, len, &h, from);
        return;
    }
    bool direct = h.type == WH_TUNNEL_DIRECT;
    /* Only its own stream brings what was not relayed. */
    bool stranger = wh_addr_is_stream(from) && direct && wh_stream_node(from) != h.sender;
    if (stranger || wh_header_lane(&h) >= WH_LANES) {
        s->total.drop_invalid++;
        return;
    }
    struct wh_peer *p = wh_idmap_get(&s->all->peers, h.sender);
    if (!p) {
        s->total.drop_no_peer++;
        return;
    }
    struct wh_rx_key *key = rx_key(p, h.epoch);
    if (!key) {
        WH_COUNT(s, p, drop_no_key);
        return;
    }
    uint8_t *plain = data + WH_TUNNEL_HEADER;
    size_t bytes = len - WH_TUNNEL_OVERHEAD;
    bool ahead;
    if (is_anothers(s, p, data, len, wh_header_lane(&h), from) ||
        !open_datagram(s, p, key, data, len, &h, from, &ahead))
        return;
    if (ahead && wh_coalesce_settle(s, plain, bytes)) {
        WH_COUNT_FRAME(s, p, rx, bytes - WH_OPEN_PREFIX);
    } else if (!wh_peer_payload(s, p, plain, bytes, direct, from)) {
        WH_COUNT(s, p, drop_invalid);
    }
}
