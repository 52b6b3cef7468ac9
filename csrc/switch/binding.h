/* binding: which IPv4 address the control plane gave to which station (a guest's NIC). What it is for:
 * - address requests for a station that has not spoken yet are answered from the start (proxy.h);
 * - in a network that is bound, addresses are nobody else's: a port that is locked to a MAC sends packets and ARP with
 *   that MAC's own address only (or none, 0.0.0.0, as in DHCP and probes), other ports and nodes not with one that is
 *   bound to another station, and whoever says that he has one is not believed.
 * IPv6 addresses, which a station makes itself, are not looked at, nor is what has two VLAN tags. Only the control
 * plane fills the table, so it needs no bound against strangers. */
#ifndef WH_SWITCH_BINDING_H
#define WH_SWITCH_BINDING_H

#include "switch/frame.h"
#include "switch/network.h"

/* ip: as in packets. One address has one station; the last word counts. */
int wh_binding_set(struct wh_network *n, const uint8_t ip[4], const uint8_t mac[6]);
/* False: it is not bound to this station. */
bool wh_binding_del(struct wh_network *n, const uint8_t ip[4], const uint8_t mac[6]);
void wh_bindings_free(struct wh_network *n);
const uint8_t *wh_binding_of(const struct wh_network *n, const uint8_t ip[4]); /* NULL: nobody's */
/* May this frame, whose source MAC has been checked, come in here? To be asked in a bound network. */
bool wh_binding_allows(const struct wh_port *p, const struct wh_frame *f);

#endif
