/* out: where a sealed datagram is laid for its way: into the UDP socket's queue (udp.h) or a peer's stream (stream.h).
 * Which of the two an address is on is said by its family. */
#ifndef WH_SWITCH_OUT_H
#define WH_SWITCH_OUT_H

#include "switch/peer.h"

/* Room for one datagram of WH_DATAGRAM_MAX to `to`, of this traffic class; it leaves with the turn once wh_out_commit
 * gives its length. NULL: there is no room, or no such way any more. */
uint8_t *wh_out_slot(wh_switch *s, const struct wh_addr *to, uint8_t tos);
void wh_out_commit(wh_switch *s, size_t len);
void wh_out_flush(wh_switch *s);

#endif
