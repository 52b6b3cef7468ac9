/* burst: the segments of one packet on their way to one node. They have the same headers, so the way, the path's limit,
 * the traffic class and the counters are asked and kept once for all of them. */
#ifndef WH_SWITCH_BURST_H
#define WH_SWITCH_BURST_H

#include "switch/cut.h"
#include "switch/peer.h"

/* Sends the segments of a cut that has begun, as wh_peer_send_frame would, as long as they are of full size and may
 * leave at once. What is left in the cut then is the caller's: all of it where the way or the peer is not such a one.
 */
void wh_burst_send(wh_switch *s, struct wh_peer *p, uint32_t vni, struct wh_cut *cut);

#endif
