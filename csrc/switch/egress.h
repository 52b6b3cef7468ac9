/* egress: what waits for the way to another node, and in which order it leaves.
 *
 * Nothing waits as long as the socket takes everything and no rate is set: then frames are sealed into the send queue
 * at once, and all that egress costs is a look at `slow`. When the socket is full, or a way has used up its rate,
 * frames wait here, not sealed yet, so that they can still be dropped or marked:
 * - control (probes and their answers): behind nothing but what was sealed already; bounded, never paced;
 * - moved frames (moved.h), which must not be lost: next; bounded, never paced;
 * - all others: by flows, in a queue of each way (fq.h), kept short by marks (ECN) and drops. Ways take turns.
 * A way is the path to the next node, whose address it has: frames that another node relays wait in that one's queue,
 * and so do datagrams that we relay, with the mark on the outside.
 *
 * A stream (stream.h) that is full blocks the ways of its one peer, as the socket those of all others.
 *
 * While the socket is full its buffer is kept small (room.h), so that the waiting is done here, where flows are known.
 */
#ifndef WH_SWITCH_EGRESS_H
#define WH_SWITCH_EGRESS_H

#include "switch/fq.h"
#include "switch/frame.h"
#include "switch/sendq.h"

#define WH_EGRESS_WAY_BYTES     (8u << 20)
#define WH_EGRESS_ALL_BYTES     (64u << 20)
#define WH_EGRESS_CONTROL_BYTES (512u << 10) /* some 2000 peers probed once */
#define WH_EGRESS_MOVED_BYTES   (1u << 20)
#define WH_EGRESS_BURST_NS      4000000ull /* of a rate: what a late wake-up may catch up */

struct wh_peer;
struct wh_content;
struct wh_held;

/* A part of each peer for each worker: the way to it. */
struct wh_way {
    struct wh_fq *fq; /* NULL: nothing has waited lately */
    uint64_t used_ns;
    struct wh_peer *next;
    bool listed;
};

struct wh_urgent {
    struct wh_held *head, *tail;
    size_t bytes;
};

/* A part of each worker. */
struct wh_egress {
    uint32_t slow;               /* ways with a rate or a queue, and one for a full socket. 0: all goes straight */
    uint32_t ways;               /* listed */
    bool blocked;                /* the socket is full */
    struct wh_peer *head, *tail; /* ways on which something waits, in turns */
    struct wh_urgent control, moved;
    size_t bytes;   /* in the queues of all ways */
    uint32_t share; /* bytes that a full socket is given at a time; 0: it is not full */
    uint64_t at_ns; /* when something may go, as far as no event says it; UINT64_MAX: never */
};

/* Each: true if it waits or was lost (counted); false: it may leave at once. To be asked only while s->egress.slow. */
bool wh_egress_frame(wh_switch *s, struct wh_peer *dest, uint32_t vni, const struct wh_frame *f);
bool wh_egress_moved(wh_switch *s, struct wh_peer *dest, const uint8_t *plain, uint32_t len,
                     const struct wh_content *of);
bool wh_egress_control(wh_switch *s, struct wh_peer *dest, const struct wh_addr *to, const uint8_t *plain, size_t len);
bool wh_egress_relayed(wh_switch *s, struct wh_peer *dest, const uint8_t *data, size_t len);

/* A datagram for dest was committed to the send queue. */
void wh_egress_spent(wh_switch *s, const struct wh_peer *dest, const struct wh_addr *to, size_t len);
/* Of s: what may leave leaves; asks to be called again by at_ns. */
void wh_egress_run(wh_switch *s);
/* Alone, from here on: for all workers. */
void wh_egress_soon(wh_switch *s); /* what waits may go now */
void wh_egress_set_rate(wh_switch *s, struct wh_peer *way, uint64_t rate);
void wh_egress_tick(wh_switch *s, struct wh_peer *way);   /* gives memory back */
void wh_egress_forget(wh_switch *s, struct wh_peer *way); /* it goes away; what waits is counted and dropped */
void wh_egress_free(wh_switch *s);                        /* of s; after the peers */

#endif
