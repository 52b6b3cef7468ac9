/* switch: the data path of one node, inside its agent.
 *
 * Theory. One thread owns all forwarding. It sleeps in epoll on the UDP socket, streams to peers, the ports' doorbells
 * and its wake eventfd. A turn: take the lock; receive one batch of datagrams; give each port that has frames a bounded
 * share; send the sealed batch; ring the doorbells of the guests that got frames; look at timers; release the lock.
 * Control calls take the same lock, so that tables need no finer locking and a deleted port is gone when the call
 * returns. The lock is a pair: who wants it waits at the gate first, therefore a busy thread cannot starve a control
 * call.
 *
 * What is hostile: the shared part of a ring (base/ring.h checks it; a frame is copied out before any check of its
 * bytes), a doorbell that a guest process keeps ringing (costs turns, nothing else), datagrams (counted and dropped),
 * frames. What is trusted: who calls api.cdef.
 *
 * Loops: a frame from a tunnel goes to local ports only (split horizon), but one for a guest that has moved away
 * follows it once (moved.h); a datagram for another node is relayed by its header alone and its hop limit ends a relay
 * loop.
 *
 * Limits: frames of one VLAN tag at most; no fragmentation (a network's MTU has to fit the underlay: 1400 inside 1500).
 */
#ifndef WH_SWITCH_SWITCH_H
#define WH_SWITCH_SWITCH_H

#include "base/ring.h"
#include "switch/coalesce.h"
#include "switch/egress.h"
#include "switch/eventq.h"
#include "switch/frameq.h"
#include "switch/idmap.h"
#include "switch/spin.h"
#include "switch/wire.h"

#include <pthread.h>

#define WH_RELAY_KNOWN     64u
#define WH_RELAY_SEARCH_NS 1000000ull

struct wh_port;
struct wh_peer;
struct wh_network;
struct wh_udp;
struct wh_crypto;
struct wh_packs;
struct wh_stream;

struct wh_switch {
    uint32_t node_id;
    uint32_t fdb_max;
    bool ports_off; /* new ports are */
    uint64_t fdb_age_ns;
    uint64_t hash_seed;

    pthread_mutex_t gate, lock;
    pthread_t thread;
    bool running; /* the thread exists */
    _Atomic bool stop;
    int epoll_fd, wake_fd;
    struct wh_spin spin; /* the thread's own, as spinning */
    bool spinning;

    struct wh_crypto *crypto;
    struct wh_packs *packs;
    struct wh_udp *udp;                   /* NULL: no tunnels */
    struct wh_stream *streams;            /* all */
    struct wh_stream *out_stream;         /* whose slot was given last; NULL: a slot of udp's */
    uint8_t outer_tos;                    /* traffic class of the datagram in hand */
    uint32_t relay_known[WH_RELAY_KNOWN]; /* nodes, by hash of the address that uses us as a relay */
    uint64_t relay_search_ns;             /* of rate.h */
    struct wh_eventq events;
    struct wh_idmap ports, peers, networks;
    struct wh_port *active_head, *active_tail; /* ring ports that may hold frames */
    struct wh_port *touched;                   /* ring ports whose guest has to be woken */
    wh_counters total;
    uint64_t now_ns;         /* of this turn */
    uint64_t timer_ns;       /* next time that tick has something to do */
    struct wh_frameq parked; /* from tunnels, with a source that is placed elsewhere (moved.h) */
    struct wh_coalesce coalesce;
    struct wh_egress egress;
    uint8_t frame_room[WH_HEADROOM + WH_RING_MAX_FRAME + 64]; /* the frame in hand, with headroom */
};

/* One event counts in the totals and at whoever caused or suffered it. */
#define WH_COUNT(s, who, field)          ((void)((s)->total.field++, (who)->counters.field++))
#define WH_COUNT_MANY(s, who, field, n)  ((void)((s)->total.field += (n), (who)->counters.field += (n)))
#define WH_COUNT_BYTES(s, who, field, n) ((void)((s)->total.field += (n), (who)->counters.field += (n)))

void wh_switch_lock(wh_switch *s);
void wh_switch_unlock(wh_switch *s);
void wh_switch_wake(wh_switch *s);                  /* look at timers and ports again */
void wh_switch_timer(wh_switch *s, uint64_t at_ns); /* tick no later than this */
void wh_switch_tell(wh_switch *s, const wh_switch_event *event);
int wh_switch_watch(wh_switch *s, int fd, uint32_t events, uint64_t tag);

/* epoll tags: what kind of descriptor it is, and the port's id. Ids and not pointers, since a port may be deleted
 * between epoll_wait and the turn. */
#define WH_TAG(kind, id) ((uint64_t)(kind) << 32 | (id))
enum wh_tag { WH_TAG_WAKE = 0, WH_TAG_UDP = 1, WH_TAG_RING = 2, WH_TAG_TAP = 3, WH_TAG_STREAM = 4 };

#endif
