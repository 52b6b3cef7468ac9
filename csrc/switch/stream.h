/* stream: the tunnel over TCP, for a peer to which UDP does not come through. Each end's agent has dialled or accepted
 * the connection and knows whose it is; from then on it is the switch's. It carries the same sealed datagrams, each
 * behind a record header (protocol/SPEC.md, 8.10): length u16, traffic class u8, zero u8.
 *
 * What TCP does not take at once waits in a buffer here; while that is so the way to the peer is blocked, and frames
 * wait where flows are known (egress.h), as for a full socket. The kernel holds little that it has not sent yet
 * (TCP_NOTSENT_LOWAT). Control and moved frames, which must not wait there, go into what room is left.
 *
 * A stream breaks by its connection's end, by a record that is none, and by silence (probe.c). It is then dead: it
 * takes nothing more, and goes away with the end of the turn (wh_stream_reap), when nobody can hold it any more.
 *
 * Streams are all workers', and touched by who is alone only (aside.h); epoll's word of them comes to the first.
 *
 * In the switch the other end of a stream has an address of its own kind, so that an answer goes where the question
 * came from. */
#ifndef WH_SWITCH_STREAM_H
#define WH_SWITCH_STREAM_H

#include "switch/peer.h"

#define WH_STREAM_RECORD 4u
#define WH_STREAM_FAMILY ((sa_family_t)0xffff)
#define WH_STREAM_SILENT 20u /* probes without an answer after which it is given up */

struct wh_stream;

/* fd: connected, SOCK_STREAM; the stream's only on success. It replaces the one that p has. */
int wh_stream_new(wh_switch *s, struct wh_peer *p, int fd, wh_error *err);
void wh_stream_free(wh_switch *s, struct wh_peer *p); /* nothing is told; p may have none */

static inline bool wh_addr_is_stream(const struct wh_addr *a)
{
    return a->len && a->sa.sa_family == WH_STREAM_FAMILY;
}
void wh_stream_address(uint32_t node, struct wh_addr *out);
uint32_t wh_stream_node(const struct wh_addr *a);

/* As wh_udp_slot; NULL also where p has no stream. */
uint8_t *wh_stream_slot(wh_switch *s, struct wh_peer *p, uint8_t tos);
void wh_stream_commit(struct wh_stream *t, size_t len);
bool wh_stream_blocked(const struct wh_peer *p);
void wh_stream_flush(wh_switch *s); /* all of them */
/* What epoll says of node's. */
void wh_stream_event(wh_switch *s, uint32_t node, uint32_t events);
void wh_stream_kill(struct wh_peer *p);
void wh_stream_reap(wh_switch *s); /* the dead are freed, and told of */

#endif
