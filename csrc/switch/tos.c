#include "switch/tos.h"

#include "switch/layers.h"

enum { TYPE_IPV4 = 0x0800, TYPE_IPV6 = 0x86dd, TYPE_VLAN = 0x8100, TYPE_SERVICE_VLAN = 0x88a8 };
enum { TYPE_AT = 12, TAG_BYTES = 4, IPV4_HEADER = 20, IPV4_TOS = 1, IPV4_CHECKSUM = 10, NETWORK_CONTROL = 48 };

/* Offset of the IP header, and its version in *ip; 0: there is none. */
static uint32_t find_ip(const uint8_t *frame, uint32_t len, uint8_t *ip)
{
    uint32_t at = TYPE_AT;
    for (unsigned tags = 0; at + 2 <= len; tags++, at += TAG_BYTES) {
        uint16_t type = wh_get16(frame + at);
        if ((type == TYPE_VLAN || type == TYPE_SERVICE_VLAN) && tags < 2)
            continue;
        *ip = type == TYPE_IPV4 ? 4 : 6;
        uint32_t header = type == TYPE_IPV4 ? IPV4_HEADER : type == TYPE_IPV6 ? WH_IPV6_HEADER : len;
        at += 2;
        return at + header <= len && frame[at] >> 4 == *ip ? at : 0;
    }
    return 0;
}

static uint8_t get(const uint8_t *header, uint8_t ip)
{
    return ip == 4 ? header[IPV4_TOS] : (uint8_t)(header[0] << 4 | header[1] >> 4);
}

static void set_ecn(uint8_t *header, uint8_t ip, uint8_t ecn)
{
    if (ip == 6) {
        header[1] = (uint8_t)((header[1] & ~0x30) | ecn << 4);
        return;
    }
    /* RFC 1624, equation 3: ~(~sum + ~old + new) of the word that changes. */
    uint16_t old = wh_get16(header), now = (uint16_t)((old & ~3) | ecn);
    uint32_t sum = (uint32_t)(uint16_t)~wh_get16(header + IPV4_CHECKSUM) + (uint16_t)~old + now;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    wh_set16(header, now);
    wh_set16(header + IPV4_CHECKSUM, (uint16_t)~sum);
}

uint8_t wh_tos_outer(const uint8_t *frame, uint32_t len)
{
    uint8_t ip, tos;
    uint32_t at = find_ip(frame, len, &ip);
    if (!at)
        return 0;
    tos = get(frame + at, ip);
    return tos >> 2 >= NETWORK_CONTROL ? tos & 3 : tos;
}

bool wh_tos_takes_mark(const uint8_t *frame, uint32_t len)
{
    uint8_t ip;
    uint32_t at = find_ip(frame, len, &ip);
    return at && (get(frame + at, ip) & 3) != WH_ECN_NOT_ECT;
}

void wh_tos_mark(uint8_t *frame, uint32_t len)
{
    uint8_t ip;
    uint32_t at = find_ip(frame, len, &ip);
    if (at && (get(frame + at, ip) & 3) != WH_ECN_CE)
        set_ecn(frame + at, ip, WH_ECN_CE);
}

bool wh_tos_arrived(uint8_t *frame, uint32_t len, uint8_t outer)
{
    uint8_t ip, ecn = outer & 3;
    if (ecn != WH_ECN_CE && ecn != WH_ECN_ECT1) /* nothing was said on the way */
        return true;
    uint32_t at = find_ip(frame, len, &ip);
    if (!at)
        return ecn != WH_ECN_CE;
    uint8_t inner = get(frame + at, ip) & 3;
    if (inner == WH_ECN_NOT_ECT)
        return ecn != WH_ECN_CE;
    if (ecn == WH_ECN_CE || inner == WH_ECN_ECT0) /* ECT(0) under ECT(1) becomes ECT(1) */
        if (inner != WH_ECN_CE && inner != ecn)
            set_ecn(frame + at, ip, ecn);
    return true;
}
