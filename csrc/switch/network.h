/* network: one virtual Ethernet segment of this switch: its forwarding table, its local ports and the nodes to which
 * its broadcasts go. Owns the table; ports belong to the switch. */
#ifndef WH_SWITCH_NETWORK_H
#define WH_SWITCH_NETWORK_H

#include "switch/fdb.h"
#include "switch/moves.h"
#include "switch/neigh.h"
#include "switch/switch.h"

#define WH_NETWORK_PEERS_MAX 65536u

struct wh_network {
    uint32_t vni, mtu;
    struct wh_fdb fdb;
    struct wh_moves moves;
    struct wh_neighs neighs;
    struct wh_idmap bindings; /* by IPv4 address (binding.h) */
    bool bound;               /* they are enforced */
    bool no_proxy;            /* address requests are flooded like others (proxy.h) */
    uint32_t storm_rate;      /* of ports that are added from now on */
    uint64_t next_slice_ns;   /* of the table */
    struct wh_port **ports;
    uint32_t port_count, port_cap;
    uint32_t *peers; /* node ids */
    uint32_t peer_count;
};

/* The switch's, or NULL. */
static inline struct wh_network *wh_network_of(const wh_switch *s, uint32_t vni)
{
    return wh_idmap_get(&s->all->networks, vni);
}

int wh_network_new(wh_switch *s, uint32_t vni, uint32_t mtu, struct wh_network **out, wh_error *err);
void wh_network_free(struct wh_network *n);
int wh_network_attach(wh_switch *s, struct wh_network *n, struct wh_port *p);
void wh_network_detach(wh_switch *s, struct wh_network *n, struct wh_port *p); /* also forgets what it learned there */
/* 0: the switch's own maximum. What is there already stays until it ages. */
int wh_network_limit(wh_switch *s, struct wh_network *n, uint32_t fdb_max, uint32_t storm_rate);
int wh_network_set_peers(wh_switch *s, struct wh_network *n, const uint32_t *nodes, uint32_t count);
/* The port's locked MAC becomes its own in the table, whoever had it. */
int wh_network_claim(wh_switch *s, struct wh_network *n, struct wh_port *p);
/* The local port that would own this locked MAC: the one of the highest generation, or NULL. */
struct wh_port *wh_network_locked(const struct wh_network *n, const uint8_t mac[6]);
/* Ages a slice of the table when it is time, and asks to be called again. */
void wh_network_tick(wh_switch *s, struct wh_network *n);

#endif
