/* forward: what happens to one frame: source check, learning, lookup, delivery or flooding. */
#ifndef WH_SWITCH_FORWARD_H
#define WH_SWITCH_FORWARD_H

#include "switch/frame.h"
#include "switch/switch.h"

/* What a frame is to each: its bytes are the callee's to change, and of no use to the caller afterwards. */
void wh_forward_from_port(wh_switch *s, struct wh_port *p, struct wh_frame *f);
void wh_forward_from_tunnel(wh_switch *s, struct wh_peer *peer, uint32_t vni, struct wh_frame *f);
/* Alone: one that was put aside behind ingress (aside.h). */
void wh_forward_admitted(wh_switch *s, struct wh_port *p, struct wh_frame *f, uint16_t vid);
/* A frame that followed its guest (moved.h). */
void wh_forward_moved(wh_switch *s, struct wh_peer *peer, uint32_t vni, const uint8_t *mac, struct wh_frame *f);
uint32_t wh_forward_vni(const struct wh_port *p);

#endif
