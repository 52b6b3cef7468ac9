/* peer: another node as the tunnel sees it: keys by epoch, where it is, what is sealed for it and opened from it.
 * It is reached by UDP or, where that does not come through, by a stream over TCP (stream.h). Whether it answers, and
 * how long a datagram may be on the way, is probe.h's. */
#ifndef WH_SWITCH_PEER_H
#define WH_SWITCH_PEER_H

#include "switch/aead.h"
#include "switch/frame.h"
#include "switch/pmtu.h"
#include "switch/replay.h"
#include "switch/udp.h"

#define WH_PROBE_KEPT 8u /* probes of one path that may still be answered */

/* One key seals at most 2^32 datagrams; from 2^26 datagrams or 64 GiB on the owner is asked for another one. Far inside
 * the bounds of AES-GCM with unique nonces (2^-57 advantage at about 2^34 blocks, RFC 8446 section 5.5 uses the same).
 */
#define WH_REKEY_DATAGRAMS (1ull << 26)
#define WH_REKEY_BYTES     (1ull << 36)
#define WH_KEY_DATAGRAMS   (1ull << 32)

/* Datagrams that claim to be a peer's but come from where none of it came from so far: so many a second are opened,
 * and a burst of so many. The rest costs a flood of forged ones nothing but their headers' checks. */
#define WH_STRANGE_EVERY_NS 1000000ull
#define WH_STRANGE_BURST    64u

#define WH_TAKES_LANES 0x100u /* beside WH_TAKES_CSUM: it tells lanes apart */

/* One lane of it. */
struct wh_tx_key {
    wh_aead *aead; /* NULL: none */
    uint32_t epoch;
    uint64_t counter, bytes;
    uint64_t tell_datagrams, tell_bytes; /* ask for a new key here */
};

struct wh_rx_key {
    wh_aead *aead[WH_WORKERS_MAX]; /* of each worker, that two may open at once; the first NULL: no key */
    uint32_t epoch;
    struct wh_replay *lane[WH_LANES]; /* the first always, others from their first datagram on; each is one worker's */
};

/* What a worker has of a peer, to itself. */
struct wh_peer_part {
    _Alignas(WH_CACHE_LINE) struct wh_tx_key tx;
    struct wh_way way;
    uint32_t rx_used;     /* the epoch of the last authentic datagram */
    bool rx_any;          /* there was one, under a key that is still held */
    uint64_t rx_ns;       /* when */
    struct wh_addr heard; /* where that came from, also by a relay */
    uint64_t strange_ns;  /* of rate.h: datagrams from strange addresses */
    wh_counters counters;
};

/* The probes of one of the two paths to a peer: UDP and, while there is one, its stream. */
struct wh_beat {
    bool up;
    uint32_t id, unanswered;
    uint32_t in_a_row; /* that were answered */
    uint64_t sent_ns[WH_PROBE_KEPT];
    uint64_t next_ns, rtt_ns;
};

struct wh_stream;

struct wh_peer {
    uint32_t node, via;
    struct wh_addr addr, configured;
    struct wh_rx_key rx[3]; /* newest first */
    uint32_t takes;         /* WH_TAKES_CSUM: frames with open checksums, WH_TAKES_LANES; the link has said so */
    bool odd;               /* of several workers only who is alone may send to it: it has a stream, or no lanes */
    bool up, on_stream;     /* which path frames take, and whether it answers: what was told */
    uint64_t told_rtt_ns;
    struct wh_beat udp, tcp;
    struct wh_stream *stream; /* NULL: none */
    struct wh_addr stream_at; /* its address (stream.h) */
    struct wh_pmtu pmtu;
    uint16_t told_limit;
    uint32_t workers;
    uint64_t rate;            /* bytes of IP packets a second that may be sent its way; 0: no bound */
    _Atomic uint64_t free_ns; /* when what has left is paid for at this rate */
    struct wh_peer_part part[];
};

struct wh_peer *wh_peer_new(const wh_switch *s, uint32_t node);
void wh_peer_free(struct wh_peer *p);
void wh_peer_place(wh_switch *s, struct wh_peer *p, uint32_t via, const struct wh_addr *addr);
int wh_peer_set_tx(wh_switch *s, struct wh_peer *p, uint32_t epoch, int cipher, const uint8_t key[32]);
int wh_peer_set_rx(wh_switch *s, struct wh_peer *p, uint32_t epoch, int cipher, const uint8_t key[32]);
int wh_peer_drop_rx(struct wh_peer *p, uint32_t epoch); /* erases it; WH_E_NOTFOUND, WH_E_STATE: in use */

/* f is one frame of a wire (no gso: who forwards has cut it), with an open checksum only if the peer takes that. Its
 * headroom is written, its bytes are not: the same frame may go to further peers. They are of use until it returns. It
 * may have to wait (egress.h); send_now: not any more. */
void wh_peer_send_frame(wh_switch *s, struct wh_peer *p, uint32_t vni, const struct wh_frame *f);
void wh_peer_send_now(wh_switch *s, struct wh_peer *p, uint32_t vni, const struct wh_frame *f);
/* A moved frame (moved.h), complete; room for WH_MOVED_SUFFIX behind it. */
void wh_peer_send_moved(wh_switch *s, struct wh_peer *p, uint32_t vni, const struct wh_frame *f, const uint8_t *mac);
/* A payload and the frames in it, which are what is counted. */
struct wh_content {
    uint32_t frames, bytes;
    uint8_t tos; /* of all of them (tos.h) */
};
void wh_peer_send_payload(wh_switch *s, struct wh_peer *p, const uint8_t *plain, uint32_t len,
                          const struct wh_content *of);
/* Where its datagrams go: its address, or its stream's. */
static inline const struct wh_addr *wh_peer_at(const struct wh_peer *p)
{
    return p->on_stream ? &p->stream_at : &p->addr;
}
/* Bytes of plaintext that the path to it carries, as far as that is known. */
uint32_t wh_peer_payload_max(const wh_switch *s, const struct wh_peer *p);
/* One datagram to `to` for p. */
enum wh_seal_verdict {
    WH_SEAL_DONE,
    WH_SEAL_NO_KEY, /* or it is used up */
    WH_SEAL_NO_ROOM /* the send queue is full, and so is the socket */
};
enum wh_seal_verdict wh_peer_seal(wh_switch *s, struct wh_peer *p, enum wh_tunnel_type type, const struct wh_addr *to,
                                  const uint8_t *plain, size_t len, uint8_t tos);
void wh_peer_flush(wh_switch *s); /* all that was sent so far leaves */
/* Alone: what is odd about it may have changed. */
void wh_peer_judge(wh_switch *s, struct wh_peer *p);
/* May s send to it now? */
static inline bool wh_peer_sendable(const wh_switch *s, const struct wh_peer *p)
{
    if (s->alone)
        return true;
    const struct wh_peer *next = p->via == p->node ? p : wh_idmap_get(&s->all->peers, p->via);
    return !p->odd && !(next && next->odd);
}
/* An opened payload. False: it is none. */
bool wh_peer_payload(wh_switch *s, struct wh_peer *p, const uint8_t *plain, size_t len, bool direct,
                     const struct wh_addr *from);
void wh_peer_input(wh_switch *s, uint8_t *data, size_t len, const struct wh_addr *from);
void wh_peer_tick(wh_switch *s, struct wh_peer *p); /* probes that are due (probe.c) */

#endif
