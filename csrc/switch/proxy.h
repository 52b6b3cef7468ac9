/* proxy: address requests (ARP, IPv6 neighbour discovery) that the switch answers itself, because it knows the answer,
 * instead of flooding them to every node and port of the network (RFC 9161; RFC 7432, section 10).
 *
 * What is known comes from the stations' own packets, at ports here and out of tunnels, where the sender's address in
 * the packet is the frame's own source, which has been checked (stations.h), so a station can speak for its own MAC
 * only. See neigh.h for what is believed.
 *
 * Before a station has said anything, the address that the control plane gave it holds (binding.h; VLAN tags: none).
 *
 * Answered: a broadcast ARP request, or a multicast neighbour solicitation with no options that we do not know, for an
 * address whose station is in the table of the network, reachable, and not at the asker's own port. All else goes on as
 * it came: announcements (gratuitous ARP, unsolicited advertisements), probes and duplicate address detection (RFC
 * 5227, RFC 4862), which must reach whoever has the address to be of any use, unicast requests, which ask whether a
 * station is still there, and what has two VLAN tags. */
#ifndef WH_SWITCH_PROXY_H
#define WH_SWITCH_PROXY_H

#include "switch/layers.h"
#include "switch/port.h"

enum { WH_TYPE_IPV4 = 0x0800, WH_TYPE_ARP = 0x0806, WH_TYPE_VLAN = 0x8100, WH_TYPE_IPV6 = 0x86dd };
enum { WH_PROTO_ICMPV6 = 58 };

/* Is this a frame to show to the functions below? A look at few bytes, of at least an Ethernet header. */
static inline bool wh_proxy_cares(const struct wh_frame *f)
{
    const uint8_t *at = f->data + 12;
    uint16_t type = wh_get16(at);
    if (type == WH_TYPE_IPV4)
        return false;
    if (type == WH_TYPE_VLAN && f->len >= WH_ETH_HEADER + WH_VLAN_TAG) {
        at += WH_VLAN_TAG;
        type = wh_get16(at);
    }
    return type == WH_TYPE_ARP ||
           (type == WH_TYPE_IPV6 && f->len >= (uint32_t)(at + 9 - f->data) && at[8] == WH_PROTO_ICMPV6);
}

/* A frame of a station at this port. True: it was answered, and is done with. */
bool wh_proxy_at_port(wh_switch *s, struct wh_port *p, const struct wh_frame *f, uint16_t vid);
/* A frame of a station elsewhere, which is only learned from. */
void wh_proxy_learn(wh_switch *s, struct wh_network *net, const struct wh_frame *f, uint16_t vid);

#endif
