#include "switch/layers.h"

#include <endian.h>
#include <string.h>

#define ETH_HEADER 14u
enum { ETH_IPV4 = 0x0800, ETH_IPV6 = 0x86dd, ETH_VLAN = 0x8100, ETH_QINQ = 0x88a8 };
enum { EXT_HOP = 0, EXT_DEST = 60 };

uint16_t wh_get16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return be16toh(v);
}

uint32_t wh_get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return be32toh(v);
}

void wh_set16(uint8_t *p, uint16_t v)
{
    v = htobe16(v);
    memcpy(p, &v, 2);
}

void wh_set32(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, 4);
}

static bool ipv4(const uint8_t *frame, uint32_t len, struct wh_layers *y)
{
    const uint8_t *ip = frame + y->l3;
    if (len < y->l3 + 20u || ip[0] >> 4 != 4)
        return false;
    uint32_t header = (ip[0] & 15u) * 4u, total = wh_get16(ip + 2);
    if (header < 20 || total < header || total > len - y->l3 || (wh_get16(ip + 6) & 0x3fff) != 0)
        return false;
    y->ip = 4;
    y->proto = ip[9];
    y->l4 = (uint16_t)(y->l3 + header);
    y->end = y->l3 + total;
    return true;
}

static bool ipv6(const uint8_t *frame, uint32_t len, struct wh_layers *y)
{
    const uint8_t *ip = frame + y->l3;
    if (len < y->l3 + (uint32_t)WH_IPV6_HEADER || ip[0] >> 4 != 6)
        return false;
    uint32_t payload = wh_get16(ip + 4), at = y->l3 + (uint32_t)WH_IPV6_HEADER;
    if (payload > len - at)
        return false;
    y->ip = 6;
    y->proto = ip[6];
    y->end = at + payload;
    while (y->proto == EXT_HOP || y->proto == EXT_DEST) {
        if (y->end - at < 8)
            return false;
        uint32_t length = (frame[at + 1] + 1u) * 8u;
        if (length > y->end - at)
            return false;
        y->proto = frame[at];
        at += length;
    }
    y->l4 = (uint16_t)at;
    return true;
}

bool wh_layers_of(const uint8_t *frame, uint32_t len, struct wh_layers *y)
{
    if (len < ETH_HEADER)
        return false;
    uint32_t at = 12;
    for (unsigned tags = 0; tags < 2 && len >= at + 6; tags++) {
        uint16_t type = wh_get16(frame + at);
        if (type != ETH_VLAN && type != ETH_QINQ)
            break;
        at += 4;
    }
    uint16_t type = wh_get16(frame + at);
    y->l3 = (uint16_t)(at + 2);
    if (type == ETH_IPV4 ? !ipv4(frame, len, y) : type != ETH_IPV6 || !ipv6(frame, len, y))
        return false;
    const uint8_t *l4 = frame + y->l4;
    uint32_t room = y->end - y->l4, header = WH_UDP_HEADER;
    if (y->proto == WH_PROTO_TCP) {
        if (room < WH_TCP_HEADER)
            return false;
        header = (l4[12] >> 4) * 4u;
        if (header < WH_TCP_HEADER)
            return false;
    } else if (y->proto != WH_PROTO_UDP) {
        return false;
    }
    if (header > room)
        return false;
    y->data = (uint16_t)(y->l4 + header);
    return true;
}
