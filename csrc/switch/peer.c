#include "switch/peer.h"

#include "state/state.h"
#include "switch/egress.h"
#include "switch/forward.h"
#include "switch/out.h"
#include "switch/pack.h"
#include "switch/probe.h"
#include "switch/rate.h"
#include "switch/relay.h"
#include "switch/stream.h"
#include "switch/tos.h"

#include <openssl/crypto.h>
#include <stdlib.h>

struct wh_peer *wh_peer_new(uint32_t node)
{
    struct wh_peer *p = calloc(1, sizeof(*p));
    if (p) {
        p->node = p->via = node;
        wh_pmtu_reset(&p->pmtu, 0);
        wh_stream_address(node, &p->stream_at);
    }
    return p;
}

void wh_peer_free(struct wh_peer *p)
{
    if (!p)
        return;
    wh_aead_free(p->tx.aead);
    for (unsigned i = 0; i < WH_ARRAY_LEN(p->rx); i++)
        wh_aead_free(p->rx[i].aead);
    free(p);
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

int wh_peer_set_tx(wh_switch *s, struct wh_peer *p, uint32_t epoch, int cipher, const uint8_t key[32])
{
    /* The same key again keeps its counter: a counter that starts anew under one key would repeat nonces. */
    if (p->tx.epoch == epoch && wh_aead_same(p->tx.aead, cipher, key))
        return WH_OK;
    wh_aead *aead;
    int status = wh_aead_new(s->crypto, cipher, key, true, &aead);
    if (status)
        return status;
    wh_aead_free(p->tx.aead);
    p->tx = (struct wh_tx_key){
        .aead = aead, .epoch = epoch, .tell_datagrams = WH_REKEY_DATAGRAMS, .tell_bytes = WH_REKEY_BYTES};
    wh_probe_soon(s, p);
    return WH_OK;
}

static struct wh_rx_key *rx_key(struct wh_peer *p, uint32_t epoch)
{
    for (unsigned i = 0; i < WH_ARRAY_LEN(p->rx); i++)
        if (p->rx[i].aead && p->rx[i].epoch == epoch)
            return &p->rx[i];
    return NULL;
}

static bool in_use(const struct wh_peer *p, const struct wh_rx_key *key)
{
    return p->rx_any && key->aead && key->epoch == p->rx_used;
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
    if (at && wh_aead_same(at->aead, cipher, key))
        return WH_OK; /* and its window stays, or old datagrams would be taken again */
    wh_aead *aead;
    int status = wh_aead_new(s->crypto, cipher, key, false, &aead);
    if (status)
        return status;
    if (!at)
        at = place_for_rx(p);
    else if (in_use(p, at)) /* a new key under a known epoch: the peer began anew */
        p->rx_any = false;
    wh_aead_free(at->aead);
    memmove(&p->rx[1], &p->rx[0], (size_t)(at - p->rx) * sizeof(p->rx[0]));
    p->rx[0] = (struct wh_rx_key){.aead = aead, .epoch = epoch};
    return WH_OK;
}

int wh_peer_drop_rx(struct wh_peer *p, uint32_t epoch)
{
    struct wh_rx_key *at = rx_key(p, epoch), *last = &p->rx[WH_ARRAY_LEN(p->rx) - 1];
    if (!at)
        return WH_E_NOTFOUND;
    if (in_use(p, at))
        return WH_E_STATE;
    wh_aead_free(at->aead);
    memmove(at, at + 1, (size_t)(last - at) * sizeof(*at));
    *last = (struct wh_rx_key){0};
    return WH_OK;
}

/* ---- out ---- */

uint32_t wh_peer_payload_max(const wh_switch *s, const struct wh_peer *p)
{
    const struct wh_peer *next = p->via == p->node ? p : wh_idmap_get(&s->peers, p->via);
    next = next ? next : p;
    return (next->on_stream ? WH_DATAGRAM_MAX : next->pmtu.limit) - WH_TUNNEL_OVERHEAD;
}

void wh_peer_flush(wh_switch *s)
{
    wh_pack_flush(s);
    wh_out_flush(s);
}

static void ask_for_key(wh_switch *s, struct wh_peer *p)
{
    if (p->tx.counter < p->tx.tell_datagrams && p->tx.bytes < p->tx.tell_bytes)
        return;
    /* Again after another sixteenth: the event may have been lost. */
    p->tx.tell_datagrams = p->tx.counter + WH_REKEY_DATAGRAMS / 16;
    p->tx.tell_bytes = p->tx.bytes + WH_REKEY_BYTES / 16;
    tell(s, p, WH_SW_REKEY, p->tx.counter);
}

enum wh_seal_verdict wh_peer_seal(wh_switch *s, struct wh_peer *p, enum wh_tunnel_type type, const struct wh_addr *to,
                                  const uint8_t *plain, size_t len, uint8_t tos)
{
    if (!p->tx.aead || p->tx.counter >= WH_KEY_DATAGRAMS)
        return WH_SEAL_NO_KEY;
    uint8_t *slot = wh_out_slot(s, to, tos);
    if (!slot)
        return WH_SEAL_NO_ROOM;
    struct wh_header h = {.version = WH_TUNNEL_VERSION,
                          .type = (uint8_t)type,
                          .hops = type == WH_TUNNEL_DIRECT ? 1 : WH_TUNNEL_HOPS,
                          .epoch = p->tx.epoch,
                          .sender = s->node_id,
                          .dest = p->node,
                          .counter = ++p->tx.counter};
    uint8_t header[WH_TUNNEL_HEADER];
    wh_header_encode(&h, header);
    if (wh_aead_seal(p->tx.aead, header, plain, len, slot) != WH_OK)
        return WH_SEAL_NO_KEY;
    wh_out_commit(s, len + WH_TUNNEL_OVERHEAD);
    p->tx.bytes += len;
    ask_for_key(s, p);
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
        WH_COUNT(s, p, rx_frames);
        WH_COUNT_BYTES(s, p, rx_bytes, f->len);
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

static bool payload(wh_switch *s, struct wh_peer *p, const uint8_t *plain, size_t len, bool direct,
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
    if (kind == WH_KIND_MOVED && items >= 4)
        return read_moved(s, p, &r);
    if (kind == WH_KIND_OPEN && items >= 5)
        return read_open(s, p, &r);
    if (kind == WH_KIND_BATCH && items >= 2)
        return read_batch(s, p, &r);
    if ((kind == WH_KIND_PROBE || kind == WH_KIND_ANSWER) && items >= 3)
        return wh_probe_read(s, p, &r, kind, direct, from);
    return false;
}

/* May a datagram from there be tried with the peer's key? An authentic one gives back what it took. */
static bool affordable(wh_switch *s, struct wh_peer *p, const struct wh_addr *from)
{
    return wh_addr_is_stream(from) || wh_addr_equal(from, &p->heard) || wh_addr_equal(from, &p->addr) ||
           wh_rate_take(&p->strange_ns, s->now_ns, WH_STRANGE_EVERY_NS, WH_STRANGE_BURST);
}

static void heard(struct wh_peer *p, const struct wh_addr *from)
{
    if (wh_addr_is_stream(from) || wh_addr_equal(from, &p->heard))
        return;
    if (p->strange_ns >= WH_STRANGE_EVERY_NS)
        p->strange_ns -= WH_STRANGE_EVERY_NS;
    p->heard = *from;
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
    bool direct = h.type == WH_TUNNEL_DIRECT, stream = wh_addr_is_stream(from);
    if (stream && direct && wh_stream_node(from) != h.sender) { /* only its own stream brings what was not relayed */
        s->total.drop_invalid++;
        return;
    }
    struct wh_peer *p = wh_idmap_get(&s->peers, h.sender);
    if (!p) {
        s->total.drop_no_peer++;
        return;
    }
    struct wh_rx_key *key = rx_key(p, h.epoch);
    if (!key) {
        WH_COUNT(s, p, drop_no_key);
        return;
    }
    if (!wh_replay_check(&key->replay, h.counter)) {
        WH_COUNT(s, p, drop_replay);
        return;
    }
    if (!affordable(s, p, from)) {
        WH_COUNT(s, p, drop_flood);
        return;
    }
    size_t bytes = len - WH_TUNNEL_OVERHEAD;
    uint8_t *plain = data + WH_TUNNEL_HEADER, *ahead = wh_coalesce_ahead(s, p, bytes);
    if (wh_aead_open(key->aead, data, len, ahead ? ahead : plain) != WH_OK) {
        if (ahead)
            wh_coalesce_undo(s);
        WH_COUNT(s, p, drop_auth);
        return;
    }
    wh_replay_accept(&key->replay, h.counter);
    p->rx_used = key->epoch;
    p->rx_any = true;
    heard(p, from);
    if (direct && !stream && key == &p->rx[0] && key->replay.top == h.counter)
        wh_probe_roam(s, p, from);
    if (ahead && wh_coalesce_settle(s, plain, bytes)) {
        WH_COUNT(s, p, rx_frames);
        WH_COUNT_BYTES(s, p, rx_bytes, bytes - WH_OPEN_PREFIX);
    } else if (!payload(s, p, plain, bytes, direct, from)) {
        WH_COUNT(s, p, drop_invalid);
    }
}
