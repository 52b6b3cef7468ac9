/* relay: datagrams between two other nodes. They cannot be opened here; the header says where they go. */
#ifndef WH_SWITCH_RELAY_H
#define WH_SWITCH_RELAY_H

#include "switch/peer.h"

/* Where a datagram for this peer goes next: its own address, or that of the node on the way; NULL: nowhere known. */
const struct wh_addr *wh_relay_next_hop(const wh_switch *s, const struct wh_peer *p);
/* A datagram for another node, as it came: sent on, kept for later (egress.h), or dropped and counted. */
void wh_relay(wh_switch *s, uint8_t *data, size_t len, const struct wh_header *h, const struct wh_addr *from);
/* It leaves with the batch. False: no room. */
bool wh_relay_send(wh_switch *s, const struct wh_peer *dest, const struct wh_addr *to, const uint8_t *data, size_t len,
                   uint8_t tos);

#endif
