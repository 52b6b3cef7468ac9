/* cut: a packet larger than the network's MTU into segments, each of which can be delivered alone.
 *
 * The segments stand in the packet's own bytes: the headers of each are written in front of its payload, over the end
 * of the payload before, which has left by then. So a segment is good until the next one is asked for, nothing is
 * copied but headers, and the packet is of no use afterwards. The checksums of segments are left open, as the packet's
 * was. */
#ifndef WH_SWITCH_CUT_H
#define WH_SWITCH_CUT_H

#include "switch/csum.h"

struct wh_cut {
    struct wh_frame whole;
    struct wh_layers y;
    uint32_t at;     /* offset of the next payload byte */
    uint64_t ip_sum; /* IPv4: of the header but for length, id and checksum */
    uint64_t pseudo; /* but for the length */
    uint32_t seq;    /* TCP: of the first payload byte */
    uint16_t id;     /* IPv4 */
    uint8_t flags;   /* TCP */
    uint8_t head[WH_GSO_HEADERS_MAX];
};

/* whole is a checked one (frame.h) with gso. */
void wh_cut_begin(struct wh_cut *c, const struct wh_frame *whole);
/* False: that was the last one. */
bool wh_cut_next(struct wh_cut *c, struct wh_frame *segment);

#endif
