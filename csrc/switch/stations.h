/* stations: whose a source address is. Decides whether a frame's sender may speak from where the frame came, and learns
 * where it is: the rules of docs/architecture.md, "Switch". */
#ifndef WH_SWITCH_STATIONS_H
#define WH_SWITCH_STATIONS_H

#include "switch/network.h"
#include "switch/peer.h"
#include "switch/port.h"

/* True: the frame goes on. Else it is counted, at the port. */
bool wh_station_at_port(wh_switch *s, struct wh_port *p, const uint8_t src[6], uint16_t vid);

enum wh_station_verdict {
    WH_STATION_GO,
    WH_STATION_WAIT, /* the control plane has it elsewhere: the frame may have outrun the news (moved.h) */
    WH_STATION_DROP  /* counted, at the peer */
};
enum wh_station_verdict wh_station_at_node(wh_switch *s, struct wh_network *net, struct wh_peer *peer,
                                           const uint8_t src[6], uint16_t vid);

/* Would the two above change no table? Then a worker that is not alone may call them. */
bool wh_station_settled_at_port(const wh_switch *s, const struct wh_port *p, const uint8_t src[6], uint16_t vid);
bool wh_station_settled_at_node(const wh_switch *s, const struct wh_network *net, const struct wh_peer *peer,
                                const uint8_t src[6], uint16_t vid);

/* A frame of this port is to be flooded. False: too many are; counted. */
bool wh_station_may_flood(wh_switch *s, struct wh_port *p, const struct wh_frame *f, uint16_t vid);
/* Where it is now is where it stays, until it moves again: the operator's word. WH_E_NOTFOUND: it was not held. */
int wh_station_let_go(struct wh_network *net, const uint8_t mac[6]);

#endif
