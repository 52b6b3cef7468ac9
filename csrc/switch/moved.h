/* moved: what a guest's move to another node must not lose.
 *
 * Three short times in which a frame would come too early or too late, and what is done about each:
 * - The guest stands still on this node. Its port is held: frames for it wait in the port (bounded). On release they go
 *   into its ring if it runs here again, or after it, in a "moved" datagram, if the control plane has put its MAC on
 *   another node meanwhile. What the paused guest had not taken out of its ring goes first.
 * - The guest runs elsewhere and another node has not heard of it: its frames still come here, and follow in the same
 *   way. A moved frame is delivered to the guest's port or dropped, never sent on: it cannot loop. It is taken from the
 *   node only that had the MAC right before, so that no other can speak through this door.
 * - The guest's own first frames outrun the news of its move. A frame from a tunnel whose source is placed elsewhere
 *   waits a moment: if the control plane places the MAC on that node it goes on, else it is dropped as fenced. */
#ifndef WH_SWITCH_MOVED_H
#define WH_SWITCH_MOVED_H

#include "switch/network.h"
#include "switch/peer.h"
#include "switch/port.h"

#define WH_HOLD_BYTES  (512u << 10)
#define WH_PARK_BYTES  (256u << 10)
#define WH_PARK_FOR_NS 200000000ull

/* The port holds from now on; what its guest has sent so far is forwarded before it returns, so that calling it again
 * behind the guest's pause makes sure of the guest's last frames. */
void wh_moved_hold(wh_switch *s, struct wh_port *p);
void wh_moved_release(wh_switch *s, struct wh_port *p);

/* A frame that came by a tunnel, for a station that row places on another node. False: it is not ours to send on. */
bool wh_moved_follow(wh_switch *s, const struct wh_network *net, const struct wh_fdb_row *row,
                     const struct wh_frame *f);
/* A moved datagram. mac: whose port it is for, NULL: the frame's destination. */
void wh_moved_arrived(wh_switch *s, struct wh_peer *from, struct wh_network *net, const uint8_t *mac,
                      struct wh_frame *f);

void wh_moved_park(wh_switch *s, struct wh_peer *from, uint32_t vni, const struct wh_frame *f);
/* This source is on this node now: its frames that wait go on. */
void wh_moved_unpark(wh_switch *s, uint32_t vni, const uint8_t mac[6], uint32_t node);
void wh_moved_tick(wh_switch *s); /* gives up on what has waited long enough */

#endif
