/* layers: where the headers of a frame begin: Ethernet, up to two VLAN tags, IPv4 or IPv6, TCP or UDP. */
#ifndef WH_SWITCH_LAYERS_H
#define WH_SWITCH_LAYERS_H

#include "base/base.h"

enum { WH_PROTO_TCP = 6, WH_PROTO_UDP = 17 };
enum {
    WH_TCP_FIN = 0x01,
    WH_TCP_SYN = 0x02,
    WH_TCP_PSH = 0x08,
    WH_TCP_ACK = 0x10,
    WH_TCP_ECE = 0x40,
    WH_TCP_CWR = 0x80
};
enum { WH_TCP_HEADER = 20, WH_UDP_HEADER = 8, WH_TCP_CSUM = 16, WH_UDP_CSUM = 6, WH_IPV6_HEADER = 40 };

struct wh_layers {
    uint8_t ip;      /* 4, 6 */
    uint8_t proto;   /* WH_PROTO_TCP or _UDP */
    uint16_t l3, l4; /* offsets of the IP and of the transport header */
    uint16_t data;   /* offset of the payload */
    uint32_t end;    /* offset behind the payload, by the IP header; at most the frame's length */
};

/* False: no whole, unfragmented TCP or UDP packet whose headers lie in the frame and agree with its length. IPv6 with a
 * routing header is refused: the pseudo header's destination is not the one in front. */
bool wh_layers_of(const uint8_t *frame, uint32_t len, struct wh_layers *out);

/* Big-endian fields at any alignment. */
uint16_t wh_get16(const uint8_t *p);
uint32_t wh_get32(const uint8_t *p);
void wh_set16(uint8_t *p, uint16_t v);
void wh_set32(uint8_t *p, uint32_t v);

#endif
