/* ingress: what a port lets in, before anybody asks who sends it: nothing while it is off or shut, no frames that
 * bridges keep to themselves, only its own VLANs.
 *
 * Frames to 01-80-c2-00-00-00 .. 0f (IEEE 802.1Q, 8.6.3: spanning tree, pause, LACP, LLDP ...) go no further. A BPDU on
 * a guarded port, which is any TAP unless it is told otherwise, means that a bridge is behind it: two such ports of one
 * network make a loop that no spanning tree sees, so the port is shut until it is enabled again, and the control plane
 * is told. Addresses of GARP and MRP applications (01-80-c2-00-00-2x) are flooded, as by any bridge that does not take
 * part. */
#ifndef WH_SWITCH_INGRESS_H
#define WH_SWITCH_INGRESS_H

#include "switch/port.h"

/* False: counted, at the port. Else the frame has its VLAN's tag, and *vid is that VLAN. */
bool wh_ingress(wh_switch *s, struct wh_port *p, struct wh_frame *f, uint16_t *vid);
/* Will wh_ingress shut the port for this frame? */
bool wh_ingress_shuts(const struct wh_port *p, const struct wh_frame *f);
bool wh_ingress_reserved(const struct wh_frame *f);

#endif
