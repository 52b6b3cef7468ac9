/* tap: whether a descriptor is a TAP that speaks of offloads, and the switch of both sides' offers. */
#ifndef WH_SWITCH_TAP_H
#define WH_SWITCH_TAP_H

#include "base/vnet.h"

/* *vnet: each read and write has 12 bytes of struct wh_vnet in front of the frame; the kernel was then told that we
 * take all that it can leave to us. *takes: what it takes of us. Anything but a TAP with IFF_VNET_HDR has neither. A
 * TAP with packet information (no IFF_NO_PI) is refused: WH_E_INVAL. */
int wh_tap_setup(int fd, bool *vnet, uint32_t *takes, wh_error *err);

#endif
