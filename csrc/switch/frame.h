/* frame: an Ethernet frame on its way through the switch, with what is still to be done to it: a transport checksum
 * that was left open, a packet that is to be cut into segments. Every frame has WH_HEADROOM writable bytes in front of
 * it, for what a tunnel or a TAP puts there. */
#ifndef WH_SWITCH_FRAME_H
#define WH_SWITCH_FRAME_H

#include "base/vnet.h"

#define WH_HEADROOM        32u
#define WH_GSO_SIZE_MIN    32u  /* bounds the segments that one frame can make; a smaller MSS is an attack */
#define WH_CSUM_OFFSET_MAX 127u /* from csum_start; transport headers have it far in front */
#define WH_GSO_HEADERS_MAX 256u /* Ethernet, two tags, IPv4 or IPv6 with options, TCP with options */

enum wh_csum {
    WH_CSUM_COMPLETE, /* the bytes are as they go onto a wire; nobody has looked whether they are right */
    WH_CSUM_PARTIAL,  /* the sum from csum_start to the end belongs at csum_start + csum_offset, where the sum of the
                         pseudo header stands */
    WH_CSUM_VERIFIED  /* complete, and right */
};
enum wh_gso { WH_GSO_NONE, WH_GSO_TCP4, WH_GSO_TCP6, WH_GSO_UDP };

struct wh_frame {
    uint8_t *data;
    uint32_t len;
    uint8_t csum; /* enum wh_csum */
    uint8_t gso;  /* enum wh_gso; else than none only with WH_CSUM_PARTIAL */
    bool ecn;     /* TCP: the first segment has CWR */
    uint16_t csum_start, csum_offset;
    uint16_t gso_size; /* payload of each segment but the last */
    uint16_t hdr_len;  /* gso: bytes of headers, repeated in front of each segment */
};

/* The same frame without anything left to do. */
static inline struct wh_frame wh_frame_plain(uint8_t *data, uint32_t len)
{
    return (struct wh_frame){.data = data, .len = len};
}

enum wh_vnet_verdict {
    WH_VNET_GOOD,
    WH_VNET_BAD_CSUM,  /* the open checksum does not lie in the frame */
    WH_VNET_BAD_GSO,   /* no kind of packet that is cut here, or in pieces that are too small */
    WH_VNET_BAD_PACKET /* the packet to be cut is not what the header says */
};
/* A private copy of a header that somebody else wrote. Not good: it asks for what cannot be done to this frame; *f is
 * then not to be used. data and len are set before. */
enum wh_vnet_verdict wh_frame_from_vnet(struct wh_frame *f, const struct wh_vnet *v);
void wh_frame_to_vnet(const struct wh_frame *f, struct wh_vnet *v);
/* What a receiver must take (WH_TAKES_*) to be given this frame as it is. */
uint32_t wh_frame_needs(const struct wh_frame *f);

#endif
