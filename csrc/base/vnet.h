/* vnet: what is still to be done to a frame, as the 12 bytes that virtio drivers, TAPs and our rings put in front of it
 * (virtio 1.3, 5.1.6; little-endian). Whoever reads one that another process wrote checks it (switch/frame.h). */
#ifndef WH_VNET_H
#define WH_VNET_H

#include "base/base.h"

enum { WH_VNET_NEEDS_CSUM = 1, WH_VNET_DATA_VALID = 2 };
enum {
    WH_VNET_GSO_NONE = 0,
    WH_VNET_GSO_TCPV4 = 1,
    WH_VNET_GSO_TCPV6 = 4,
    WH_VNET_GSO_UDP_L4 = 5,
    WH_VNET_GSO_ECN = 128
};

struct wh_vnet {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};
#define WH_VNET_BYTES 12u
_Static_assert(sizeof(struct wh_vnet) == WH_VNET_BYTES, "wire format");

/* What the reader of a ring can take besides whole frames with complete checksums. */
enum {
    WH_TAKES_CSUM = 1, /* WH_VNET_NEEDS_CSUM; the others are nothing without it */
    WH_TAKES_TSO4 = 2,
    WH_TAKES_TSO6 = 4,
    WH_TAKES_ECN = 8, /* TCP segments with CWR in the first */
    WH_TAKES_USO = 16,
    WH_TAKES_ALL = 31
};

#endif
