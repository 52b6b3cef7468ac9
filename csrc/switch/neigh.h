/* neigh: which station has which IP address in one network, as its ARP and neighbour discovery packets say. IPv4
 * addresses stand in the form ::ffff:a.b.c.d.
 *
 * A hint for whoever answers in a station's place (proxy.h), so it is told only while nothing speaks against it:
 * - it was confirmed within WH_NEIGH_AGE_NS;
 * - no other station claimed the address in the last WH_NEIGH_DOUBT_NS, while this one was there;
 * - the address has not gone to and fro too often (moves.h): then it is held, and nobody is answered.
 * Bounded: a table of sets that grows up to WH_NEIGH_MAX entries; in a full set a station displaces its own entry first
 * and then the oldest, so that one station with many addresses does not drive the others out. Keyed hash. Pure: times
 * are the caller's. */
#ifndef WH_SWITCH_NEIGH_H
#define WH_SWITCH_NEIGH_H

#include "switch/moves.h"

#define WH_NEIGH_AGE_NS   300000000000ull
#define WH_NEIGH_DOUBT_NS 5000000000ull
#define WH_NEIGH_MAX      8192u
#define WH_NEIGH_WAYS     4u

struct wh_neigh_key {
    uint8_t ip[16];
    uint16_t vid;
};

struct wh_neigh {
    uint8_t ip[16];
    uint8_t mac[6];
    uint16_t vid : 12;
    uint16_t used : 1;
    uint16_t held : 1;
    uint16_t is_router : 1;  /* what its advertisements say ... */
    uint16_t advertised : 1; /* ... once one has come; IPv4: always */
    uint32_t seen, doubt;    /* WH_NEIGH_TICK; doubt: until then; 0: none */
};
#define WH_NEIGH_TICK (1ull << 26)

struct wh_neighs {
    struct wh_neigh *rows; /* NULL: nothing learned yet */
    uint32_t sets;
    uint64_t seed;
    struct wh_moves moves; /* of addresses, from station to station */
};

enum wh_neigh_source {
    WH_NEIGH_SAID,  /* the station gave it as its own in passing: IPv6 only, nothing is known of its being a router */
    WH_NEIGH_HOST,  /* it answered, or spoke ARP */
    WH_NEIGH_ROUTER /* it answered, and is a router */
};

void wh_neighs_init(struct wh_neighs *n, uint64_t seed);
void wh_neighs_clear(struct wh_neighs *n); /* forgets all and gives the memory back */
/* Whoever has it as far as is known, or NULL. Valid until the next learn. */
const struct wh_neigh *wh_neigh_look(const struct wh_neighs *n, const struct wh_neigh_key *k);
/* The station has the address. contested: another one is known to have it, and is still there. */
void wh_neigh_learn(struct wh_neighs *n, const struct wh_neigh_key *k, const uint8_t mac[6], enum wh_neigh_source from,
                    bool contested, uint64_t now_ns);
/* May it be told to others? */
bool wh_neigh_good(const struct wh_neighs *n, const struct wh_neigh *row, uint64_t now_ns);

#endif
