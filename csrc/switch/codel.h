/* codel: whether a packet that leaves a queue has waited too long (RFC 8289). Not the length of a queue is what hurts
 * but the time that packets stand in it: when that has been above WH_CODEL_TARGET_NS for a whole WH_CODEL_INTERVAL_NS,
 * packets are hit, one after the other at a rate that grows with the square root of their number, until it is below
 * again. What it means to be hit - to be dropped or to be marked - is the caller's. Pure: times are the caller's. */
#ifndef WH_SWITCH_CODEL_H
#define WH_SWITCH_CODEL_H

#include "base/base.h"

#define WH_CODEL_TARGET_NS   5000000ull
#define WH_CODEL_INTERVAL_NS 100000000ull
#define WH_CODEL_LEAST       1514u /* bytes: a queue that holds no more than a packet is no queue */

struct wh_codel {
    uint64_t above_ns; /* when the time above the target is an interval long; 0: it is below */
    uint64_t next_ns;  /* hitting: when the next one is */
    uint32_t count, last_count;
    bool hitting;
};

/* A packet has waited for so long and leaves this many bytes behind it. True: it is hit. */
bool wh_codel_hit(struct wh_codel *c, uint64_t waited_ns, size_t left, uint64_t now_ns);
void wh_codel_empty(struct wh_codel *c); /* the queue was found empty */

#endif
