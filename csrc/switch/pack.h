/* pack: small frames of one turn that go to the same node travel in one datagram (kind BATCH): one AEAD, one pass
 * through the hosts' stacks, for up to a score of them. A frame that finds the datagram full sends it off filled up to
 * its full size, so that the datagrams of a burst are equal and leave in one UDP_SEGMENT run. Nothing waits: what the
 * end of a turn finds goes out as it is, a frame that is alone as an ordinary one. Frames keep the order in which they
 * were given, because whoever sends something else to the node flushes first. */
#ifndef WH_SWITCH_PACK_H
#define WH_SWITCH_PACK_H

#include "switch/peer.h"

#define WH_PACK_FRAME_MAX 512u  /* what is larger gains nothing */
#define WH_PACK_BYTES     1428u /* plaintext of a full one: the same datagram as a frame of the default MTU of 1400 */
#define WH_PACK_MIN       600u  /* a path that carries less gets every frame alone */

struct wh_packs;

int wh_packs_new(struct wh_packs **out);
void wh_packs_free(struct wh_packs *packs);
/* False: not one for here, the caller sends it. The frame is copied. */
bool wh_pack_put(wh_switch *s, struct wh_peer *p, uint32_t vni, const struct wh_frame *f);
void wh_pack_flush_peer(wh_switch *s, struct wh_peer *p);
/* Before the end of each turn and of each control call that sends: no pack outlives its peer. */
void wh_pack_flush(wh_switch *s);

#endif
