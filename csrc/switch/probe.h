/* probe: does a peer answer at its direct address and by its stream, how fast, how long may a datagram be, and where
 * has it gone.
 *
 * Its direct address is what was configured until a direct datagram that authenticates and is the newest of its key
 * comes from somewhere else (roaming; NAT). Datagrams that were relayed never move it. Probes go to the direct address
 * every half second, also while frames go through another node, so that the direct path is found again; three
 * unanswered ones make that path down. Its stream, while it has one, is probed beside that: frames take the stream
 * while UDP is down, and go back to UDP when it has answered WH_PROBE_TRUST probes in a row. While UDP is up, longer
 * probes look for the path's MTU (pmtu.h). */
#ifndef WH_SWITCH_PROBE_H
#define WH_SWITCH_PROBE_H

#include "state/state.h"
#include "switch/peer.h"

#define WH_PROBE_EVERY_NS 500000000ull
#define WH_PROBE_GAP_NS   50000000ull
#define WH_PROBE_LOST     3u
#define WH_PROBE_TRUST    4u

void wh_probe_soon(wh_switch *s, struct wh_peer *p);
void wh_probe_down(wh_switch *s, struct wh_peer *p);   /* there is no UDP path */
void wh_probe_stream(wh_switch *s, struct wh_peer *p); /* it has another stream than before, or none */
/* A datagram that may move it came from there. */
void wh_probe_roam(wh_switch *s, struct wh_peer *p, const struct wh_addr *from);
/* A probe or an answer, behind its kind. False: it is none. */
bool wh_probe_read(wh_switch *s, struct wh_peer *p, wh_reader *r, uint64_t kind, bool direct,
                   const struct wh_addr *from);
/* This host refused to send a datagram of this length there, and did not lay it in fragments. */
void wh_probe_too_big(wh_switch *s, const struct wh_addr *to, size_t len);

#endif
