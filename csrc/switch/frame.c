#include "switch/frame.h"

#include "switch/layers.h"

#include <endian.h>

#define ETH_HEADER 14u

/* The packet that the segments are cut from must be what its headers say, because they are rewritten. */
static enum wh_vnet_verdict check_gso(struct wh_frame *f, uint8_t type)
{
    struct wh_layers y;
    if (f->csum != WH_CSUM_PARTIAL || f->gso_size < WH_GSO_SIZE_MIN)
        return WH_VNET_BAD_GSO;
    if (!wh_layers_of(f->data, f->len, &y))
        return WH_VNET_BAD_PACKET;
    bool tcp = type != WH_VNET_GSO_UDP_L4;
    if (y.proto != (tcp ? WH_PROTO_TCP : WH_PROTO_UDP) || y.end != f->len || y.l4 != f->csum_start ||
        f->csum_offset != (tcp ? WH_TCP_CSUM : WH_UDP_CSUM) || y.data > WH_GSO_HEADERS_MAX)
        return WH_VNET_BAD_PACKET;
    if (tcp && y.ip != (type == WH_VNET_GSO_TCPV4 ? 4 : 6))
        return WH_VNET_BAD_PACKET;
    f->gso = !tcp ? WH_GSO_UDP : y.ip == 4 ? WH_GSO_TCP4 : WH_GSO_TCP6;
    f->hdr_len = y.data;
    if (f->len - f->hdr_len <= f->gso_size) { /* one segment: it is that already */
        f->gso = WH_GSO_NONE;
        f->ecn = false;
    }
    return WH_VNET_GOOD;
}

enum wh_vnet_verdict wh_frame_from_vnet(struct wh_frame *f, const struct wh_vnet *v)
{
    uint8_t type = v->gso_type & (uint8_t)~WH_VNET_GSO_ECN;
    *f = wh_frame_plain(f->data, f->len);
    if (v->flags & WH_VNET_NEEDS_CSUM) {
        f->csum = WH_CSUM_PARTIAL;
        f->csum_start = le16toh(v->csum_start);
        f->csum_offset = le16toh(v->csum_offset);
        if (f->csum_start < ETH_HEADER || f->csum_offset > WH_CSUM_OFFSET_MAX ||
            (uint32_t)f->csum_start + f->csum_offset + 2 > f->len)
            return WH_VNET_BAD_CSUM;
    } else if (v->flags & WH_VNET_DATA_VALID) {
        f->csum = WH_CSUM_VERIFIED;
    }
    if (type == WH_VNET_GSO_NONE)
        return v->gso_type == WH_VNET_GSO_NONE ? WH_VNET_GOOD : WH_VNET_BAD_GSO;
    if (type != WH_VNET_GSO_TCPV4 && type != WH_VNET_GSO_TCPV6 && type != WH_VNET_GSO_UDP_L4)
        return WH_VNET_BAD_GSO;
    if (le16toh(v->hdr_len) > f->len)
        return WH_VNET_BAD_PACKET;
    f->ecn = (v->gso_type & WH_VNET_GSO_ECN) != 0;
    f->gso_size = le16toh(v->gso_size);
    return check_gso(f, type);
}

void wh_frame_to_vnet(const struct wh_frame *f, struct wh_vnet *v)
{
    static const uint8_t types[] = {WH_VNET_GSO_NONE, WH_VNET_GSO_TCPV4, WH_VNET_GSO_TCPV6, WH_VNET_GSO_UDP_L4};
    *v = (struct wh_vnet){.num_buffers = htole16(1)};
    if (f->csum == WH_CSUM_PARTIAL) {
        v->flags = WH_VNET_NEEDS_CSUM;
        v->csum_start = htole16(f->csum_start);
        v->csum_offset = htole16(f->csum_offset);
    } else if (f->csum == WH_CSUM_VERIFIED) {
        v->flags = WH_VNET_DATA_VALID;
    }
    if (f->gso == WH_GSO_NONE)
        return;
    v->gso_type = (uint8_t)(types[f->gso] | (f->ecn ? WH_VNET_GSO_ECN : 0));
    v->gso_size = htole16(f->gso_size);
    v->hdr_len = htole16(f->hdr_len);
}

uint32_t wh_frame_needs(const struct wh_frame *f)
{
    static const uint8_t needs[] = {0, WH_TAKES_TSO4, WH_TAKES_TSO6, WH_TAKES_USO};
    return (f->csum == WH_CSUM_PARTIAL ? WH_TAKES_CSUM : 0u) | needs[f->gso] | (f->ecn ? WH_TAKES_ECN : 0u);
}
