/* vlan: 802.1Q at the ports. Inside the switch and on tunnels a frame has the tag of its VLAN, or none.
 *
 * A port with no settings is transparent: frames pass as they are, tagged or not. An access port is in one VLAN and its
 * station knows nothing of it: the tag is put on and taken off here, and frames that come tagged are dropped. A trunk
 * carries the tags of its set, and untagged frames for its native VLAN, if it has one. Double tags (QinQ: 802.1ad's
 * 0x88a8 outside, or 0x8100 twice) pass trunks unchanged, by their outer tag; one whose outer tag is the native VLAN's
 * keeps it, so that nobody reaches another VLAN by a second tag inside. */
#ifndef WH_SWITCH_VLAN_H
#define WH_SWITCH_VLAN_H

#include "base/base.h"
#include "switch/frame.h"

#define WH_VLAN_TAG 4u
#define WH_VLAN_MAX 4094u

enum wh_vlan_mode { WH_VLAN_TRANSPARENT = 0, WH_VLAN_ACCESS = 1, WH_VLAN_TRUNK = 2 };

struct wh_vlan {
    uint8_t mode;  /* enum wh_vlan_mode */
    uint16_t vid;  /* the access VLAN; a trunk's native one, 0: none */
    uint64_t *set; /* trunk: 4096 bits; owned */
};

/* allowed: the VLANs of a trunk. WH_E_INVAL with the field, WH_E_NOMEM; *v is as it was then. */
int wh_vlan_set(struct wh_vlan *v, int mode, uint32_t vid, const uint16_t *allowed, uint32_t count, wh_error *err);
void wh_vlan_clear(struct wh_vlan *v);

/* The VLAN of a frame of at least an Ethernet header: its outer tag's, 0: untagged. */
uint16_t wh_vlan_of(const struct wh_frame *f);
uint32_t wh_vlan_tags(const struct wh_frame *f); /* 0..2 */

/* A frame that came in: with its tag afterwards; the tag goes into its headroom. False: it has no business here. */
bool wh_vlan_in(const struct wh_vlan *v, struct wh_frame *f);
/* A frame that is to leave: *out is what leaves, over the same bytes. False: it does not leave here. What wh_vlan_out
 * did to the bytes is taken back by wh_vlan_back, when *out was sent; a packet that was cut meanwhile is spoiled as it
 * would have been without. */
bool wh_vlan_out(const struct wh_vlan *v, const struct wh_frame *f, struct wh_frame *out);
void wh_vlan_back(struct wh_frame *f, const struct wh_frame *out, uint16_t tci);
uint16_t wh_vlan_tci(const struct wh_frame *f); /* of a tagged frame */

#endif
