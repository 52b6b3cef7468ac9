/* Random TCP and UDP packets of any shape that a guest's driver may leave to be cut, for tests of offloads, and a
 * checksum that is computed the slow way. */
#ifndef SWITCH_PACKETS_H
#define SWITCH_PACKETS_H

#include "switch/cut.h"
#include "switch_check.h"

#include <endian.h>
#include <string.h>

struct packet {
    uint8_t bytes[WH_HEADROOM + WH_RING_MAX_FRAME];
    struct wh_frame f;
    struct wh_vnet todo;
};

static inline uint32_t below(uint64_t *state, uint32_t limit)
{
    return (uint32_t)(next_random(state) >> 16) % limit;
}

/* One's complement sum byte by byte, as RFC 1071 says it. */
static inline uint32_t slow_sum(uint32_t sum, const uint8_t *p, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

/* 0xffff when the transport checksum is right. */
static inline uint32_t slow_transport_sum(const uint8_t *frame, const struct wh_layers *y)
{
    uint32_t len = y->end - y->l4;
    const uint8_t *ip = frame + y->l3;
    uint32_t sum = y->ip == 4 ? slow_sum(0, ip + 12, 8) : slow_sum(0, ip + 8, 32);
    uint8_t rest[4] = {0, y->proto, (uint8_t)(len >> 8), (uint8_t)len};
    sum = slow_sum(sum, rest, 4);
    return slow_sum(sum, frame + y->l4, len);
}

static inline uint8_t *put_ethernet(uint64_t *state, uint8_t *p, unsigned flow, bool v4)
{
    static const uint8_t macs[] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9};
    memcpy(p, macs, 12);
    p += 12;
    for (uint32_t tags = below(state, 3); tags > 0; tags--, p += 4) {
        wh_set16(p, 0x8100);
        wh_set16(p + 2, (uint16_t)flow);
    }
    wh_set16(p, v4 ? 0x0800 : 0x86dd);
    return p + 2;
}

static inline uint8_t *put_ip(uint64_t *state, uint8_t *p, unsigned flow, bool v4, uint8_t proto, uint32_t *ihl)
{
    if (v4) {
        *ihl = 20 + 4 * (below(state, 4) ? 0 : below(state, 11));
        memset(p, 1, *ihl); /* options: no-operation */
        p[0] = (uint8_t)(0x40 | *ihl / 4);
        p[1] = (uint8_t)below(state, 256);
        wh_set16(p + 4, (uint16_t)next_random(state));
        wh_set16(p + 6, below(state, 2) ? 0x4000 : 0);
        p[8] = 64;
        p[9] = proto;
        wh_set32(p + 12, 0x0a000001 + flow);
        wh_set32(p + 16, 0x0a0000fe);
        return p + *ihl;
    }
    bool ext = below(state, 4) == 0;
    *ihl = 40 + (ext ? 8 : 0);
    memset(p, 0, *ihl);
    wh_set32(p, 0x60000000 | (uint32_t)(next_random(state) & 0xfffffff));
    p[6] = ext ? 60 : proto;
    p[7] = 64;
    p[8] = p[24] = 0xfd;
    p[23] = (uint8_t)flow;
    p[39] = 0xfe;
    if (ext)
        p[40] = proto;
    return p + *ihl;
}

/* A packet of this flow, from `seq` on for TCP: checksum open, to be cut to random pieces or (segments 1) not at all.
 */
static inline void packet_make(struct packet *k, uint64_t *state, unsigned flow, uint32_t seq, uint32_t segments)
{
    bool v4 = flow & 1, tcp = flow % 6 < 4; /* a flow is always of one kind */
    uint8_t *eth = k->bytes + WH_HEADROOM, flags = WH_TCP_ACK;
    uint32_t ihl, header = 8;
    uint8_t *ip = put_ethernet(state, eth, flow, v4);
    uint8_t *l4 = put_ip(state, ip, flow, v4, tcp ? WH_PROTO_TCP : WH_PROTO_UDP, &ihl);
    wh_set16(l4, (uint16_t)(1000 + flow));
    wh_set16(l4 + 2, 5001);
    if (tcp) {
        header = 20 + 4 * below(state, 11);
        memset(l4 + 4, 1, header - 4);
        flags |= below(state, 2) ? WH_TCP_PSH : 0;
        flags |= below(state, 4) ? 0 : WH_TCP_FIN;
        flags |= below(state, 4) ? 0 : WH_TCP_CWR;
        flags |= below(state, 4) ? 0 : WH_TCP_ECE;
        wh_set32(l4 + 4, seq);
        l4[12] = (uint8_t)(header / 4 << 4);
        l4[13] = flags;
    }
    uint32_t head = (uint32_t)(l4 + header - eth), most = 65535 - (uint32_t)(l4 + header - ip);
    uint32_t mss = WH_GSO_SIZE_MIN + below(state, below(state, 4) ? 1400 : 8900), payload = mss;
    if (segments > 1) {
        payload = mss * (segments - 1) + 1 + below(state, mss);
        if (payload > most)
            payload = most;
    }
    for (uint32_t i = 0; i < payload; i++)
        l4[header + i] = (uint8_t)(next_random(state) >> 24);
    if (v4) {
        wh_set16(ip + 2, (uint16_t)(ihl + header + payload));
        memset(ip + 10, 0, 2);
        wh_set16(ip + 10, (uint16_t)~slow_sum(0, ip, ihl));
    } else {
        wh_set16(ip + 4, (uint16_t)(ihl - 40 + header + payload));
    }
    if (!tcp)
        wh_set16(l4 + 4, (uint16_t)(header + payload));
    struct wh_layers y;
    CHECK(wh_layers_of(eth, head + payload, &y) && y.data == head && y.l4 == (uint32_t)(l4 - eth));
    memset(l4 + (tcp ? 16 : 6), 0, 2);
    uint16_t pseudo = wh_csum_fold(wh_csum_pseudo(eth, &y, header + payload));
    memcpy(l4 + (tcp ? 16 : 6), &pseudo, 2);
    k->todo = (struct wh_vnet){.flags = WH_VNET_NEEDS_CSUM,
                               .csum_start = htole16(y.l4),
                               .csum_offset = htole16(tcp ? 16 : 6),
                               .num_buffers = htole16(1)};
    if (payload > mss) {
        k->todo.gso_type = tcp ? (v4 ? WH_VNET_GSO_TCPV4 : WH_VNET_GSO_TCPV6) : WH_VNET_GSO_UDP_L4;
        k->todo.gso_type |= tcp && (flags & WH_TCP_CWR) ? WH_VNET_GSO_ECN : 0;
        k->todo.gso_size = htole16((uint16_t)mss);
        k->todo.hdr_len = htole16((uint16_t)head);
    }
    k->f = wh_frame_plain(eth, head + payload);
    CHECK(wh_frame_from_vnet(&k->f, &k->todo) == WH_VNET_GOOD);
}

#endif
