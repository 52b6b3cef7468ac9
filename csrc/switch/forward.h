/* forward: what happens to one frame: source check, learning, lookup, delivery or flooding. */
#ifndef WH_SWITCH_FORWARD_H
#define WH_SWITCH_FORWARD_H

#include "switch/switch.h"

/* frame has at least WH_FRAME_PREFIX writable bytes in front of it. */
void wh_forward_from_port(wh_switch *s, struct wh_port *p, uint8_t *frame, uint32_t len);
void wh_forward_from_tunnel(wh_switch *s, struct wh_peer *peer, uint32_t vni, const uint8_t *frame, uint32_t len);
/* A frame that followed its guest (moved.h). */
void wh_forward_moved(wh_switch *s, struct wh_peer *peer, uint32_t vni, const uint8_t *mac, const uint8_t *frame,
                      uint32_t len);
uint32_t wh_forward_vni(const struct wh_port *p);

#endif
