/* wire: the tunnel datagram, alone (protocol/SPEC.md, "Tunnel"). All integers are big-endian.
 *
 *   0  version u8      1
 *   1  type u8         1 direct: never relayed, its source address is the sender's own; 2 relayed: may pass other nodes
 *   2  hop limit u8    lowered by each relay, therefore zero in the AAD
 *   3  reserved u8     0
 *   4  key epoch u32
 *   8  sender node u32
 *  12  destination node u32
 *  16  lane u8         0 to 7; which of its workers sealed it, for each of which the key has a row of counters
 *  17  counter u56     from 1 on, never repeated in one lane under one key
 *  24  AEAD ciphertext of one msgpack array, then the 16-byte tag
 *
 * Nonce: epoch u32 || lane u8 || counter u56. A key serves one sender in one direction. */
#ifndef WH_SWITCH_WIRE_H
#define WH_SWITCH_WIRE_H

#include "base/base.h"

#include <endian.h>
#include <string.h>

#define WH_TUNNEL_VERSION  1u
#define WH_TUNNEL_HEADER   24u
#define WH_TUNNEL_TAG      16u
#define WH_TUNNEL_NONCE    12u
#define WH_TUNNEL_HOPS     8u
#define WH_TUNNEL_OVERHEAD (WH_TUNNEL_HEADER + WH_TUNNEL_TAG)

#define WH_LANES      8u
#define WH_LANE_SHIFT 56u

enum wh_tunnel_type { WH_TUNNEL_DIRECT = 1, WH_TUNNEL_RELAYED = 2 };
enum wh_tunnel_kind {
    WH_KIND_FRAME = 0,
    WH_KIND_BATCH = 1,
    WH_KIND_PROBE = 2,
    WH_KIND_ANSWER = 3,
    WH_KIND_MOVED = 4,
    WH_KIND_OPEN = 5
};

/* Frames: Ethernet header (one VLAN tag at most) and the largest MTU that a network may have. */
#define WH_ETH_HEADER   14u
#define WH_ETH_OVERHEAD 18u
#define WH_MTU_MIN      576u
#define WH_MTU_MAX      9000u
#define WH_FRAME_MAX    (WH_MTU_MAX + WH_ETH_OVERHEAD)
/* [0, vni, frame] in front of a frame, always this long: 0x93 0x00 0xce vni32 0xc5 len16. */
#define WH_FRAME_PREFIX 10u
/* [5, vni, start, offset, frame]: 0x95 0x05 0xce vni32 0xcd start16 offset 0xc5 len16; offset is below 128. */
#define WH_OPEN_PREFIX  14u
#define WH_DATAGRAM_MAX 9216u

struct wh_header {
    uint8_t version, type, hops, reserved;
    uint32_t epoch, sender, dest;
    uint64_t counter; /* with the lane in its top byte */
};

static inline uint32_t wh_header_lane(const struct wh_header *h)
{
    return (uint32_t)(h->counter >> WH_LANE_SHIFT);
}

static inline void wh_header_encode(const struct wh_header *h, uint8_t out[WH_TUNNEL_HEADER])
{
    uint32_t word[3] = {htobe32(h->epoch), htobe32(h->sender), htobe32(h->dest)};
    uint64_t counter = htobe64(h->counter);
    out[0] = h->version;
    out[1] = h->type;
    out[2] = h->hops;
    out[3] = h->reserved;
    memcpy(out + 4, word, sizeof(word));
    memcpy(out + 16, &counter, sizeof(counter));
}

/* False when the bytes are no header of this version; nothing in it is trusted before the AEAD opened. */
static inline bool wh_header_decode(const uint8_t *data, size_t len, struct wh_header *h)
{
    uint32_t word[3];
    uint64_t counter;
    if (len < WH_TUNNEL_HEADER)
        return false;
    memcpy(word, data + 4, sizeof(word));
    memcpy(&counter, data + 16, sizeof(counter));
    *h = (struct wh_header){.version = data[0], .type = data[1], .hops = data[2], .reserved = data[3]};
    h->epoch = be32toh(word[0]);
    h->sender = be32toh(word[1]);
    h->dest = be32toh(word[2]);
    h->counter = be64toh(counter);
    return h->version == WH_TUNNEL_VERSION && (h->type == WH_TUNNEL_DIRECT || h->type == WH_TUNNEL_RELAYED) &&
           h->reserved == 0;
}

static inline void wh_header_aad(const uint8_t header[WH_TUNNEL_HEADER], uint8_t aad[WH_TUNNEL_HEADER])
{
    memcpy(aad, header, WH_TUNNEL_HEADER);
    aad[2] = 0;
}

static inline void wh_header_nonce(const uint8_t header[WH_TUNNEL_HEADER], uint8_t nonce[WH_TUNNEL_NONCE])
{
    memcpy(nonce, header + 4, 4);
    memcpy(nonce + 4, header + 16, 8);
}

/* [4, vni, frame, mac or nil]: as a frame's own prefix in front of it, and mac behind it, where the buffer needs this
 * much. */
#define WH_MOVED_SUFFIX 8u

/* Written directly in front of a frame that stands in a buffer with headroom, so that the frame is not copied again. */
static inline void wh_open_prefix(uint8_t *frame, uint32_t len, uint32_t vni, uint16_t start, uint8_t offset)
{
    uint8_t *p = frame - WH_OPEN_PREFIX;
    uint32_t be_vni = htobe32(vni);
    uint16_t be_len = htobe16((uint16_t)len), be_start = htobe16(start);
    p[0] = 0x95;
    p[1] = WH_KIND_OPEN;
    p[2] = 0xce;
    memcpy(p + 3, &be_vni, 4);
    p[7] = 0xcd;
    memcpy(p + 8, &be_start, 2);
    p[10] = offset;
    p[11] = 0xc5;
    memcpy(p + 12, &be_len, 2);
}

static inline void wh_frame_prefix(uint8_t *frame, uint32_t len, uint32_t vni)
{
    uint8_t *p = frame - WH_FRAME_PREFIX;
    uint32_t be_vni = htobe32(vni);
    uint16_t be_len = htobe16((uint16_t)len);
    p[0] = 0x93;
    p[1] = WH_KIND_FRAME;
    p[2] = 0xce;
    memcpy(p + 3, &be_vni, 4);
    p[7] = 0xc5;
    memcpy(p + 8, &be_len, 2);
}

#endif
