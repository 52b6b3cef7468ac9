/* switch: the data path of one node, inside its agent.
 *
 * Theory. Workers, one by default, are threads that forward from what they own: some ports' receive sides and a UDP
 * socket. Each sleeps in epoll on them and its wake eventfd; the first also on streams to peers. A turn: take the own
 * lock; receive one batch of datagrams; give each port that has frames a bounded share; send the sealed batch; ring the
 * doorbells of the guests that got frames; release the lock. Control calls take the locks of all workers, so that
 * tables stand still in a turn and need no finer locking, and a deleted port is gone when the call returns. The lock is
 * a pair: who wants it waits at the gate first, therefore a busy thread cannot starve a control call.
 *
 * What would change a table in a turn is put aside and done at its end, with the locks of all: then the worker is alone
 * (aside.h). One worker always is. Timers are the first worker's, who is alone for them.
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
#include "switch/aside.h"
#include "switch/coalesce.h"
#include "switch/egress.h"
#include "switch/eventq.h"
#include "switch/frameq.h"
#include "switch/idmap.h"
#include "switch/spin.h"
#include "switch/wire.h"

#include <pthread.h>

#define WH_WORKERS_MAX 8u

#define WH_RELAY_KNOWN     64u
#define WH_RELAY_SEARCH_NS 1000000ull

struct wh_pair;
struct wh_port;
struct wh_peer;
struct wh_network;
struct wh_udp;
struct wh_crypto;
struct wh_packs;
struct wh_stream;

/* What all workers read in their turns, and who is alone may change. */
struct wh_shared {
    uint32_t workers;
    struct wh_switch *worker[WH_WORKERS_MAX]; /* the first is the switch that its owner has */
    uint32_t fdb_max;
    bool ports_off; /* new ports are */
    struct wh_crypto *crypto;
    struct wh_stream *streams; /* all */
    uint32_t odd;              /* peers for which only who is alone may send (peer.h) */
    struct wh_eventq events;   /* with a lock of its own */
    struct wh_idmap ports, peers, networks;
    uint64_t timer_ns;       /* next time that tick has something to do */
    struct wh_frameq parked; /* from tunnels, with a source that is placed elsewhere (moved.h) */
};

/* A worker, and all that its thread needs. */
struct wh_switch {
    struct wh_shared *all;
    uint32_t index; /* among the workers; its part of a port or a peer, and its lane (wire.h) */
    bool alone;     /* it holds the locks of all: it may change what is shared */
    uint32_t node_id;
    uint64_t fdb_age_ns;
    uint64_t hash_seed;

    pthread_mutex_t gate, lock;
    pthread_t thread;
    bool running; /* the thread exists */
    _Atomic bool stop;
    int epoll_fd, wake_fd;
    struct wh_spin spin; /* the thread's own, as spinning */
    bool spinning;

    struct wh_packs *packs;
    struct wh_udp *udp;                        /* NULL: no tunnels */
    struct wh_stream *out_stream;              /* whose slot was given last; NULL: a slot of udp's */
    uint8_t outer_tos;                         /* traffic class of the datagram in hand */
    uint32_t relay_known[WH_RELAY_KNOWN];      /* nodes, by hash of the address that uses us as a relay */
    uint64_t relay_search_ns;                  /* of rate.h */
    uint32_t reads;                            /* ports and pairs of rings that it does */
    struct wh_pair *active_head, *active_tail; /* rings that may hold frames */
    struct wh_port *touched;                   /* ring ports whose guest has to be woken */
    wh_counters total;
    uint64_t now_ns; /* of this turn */
    struct wh_aside aside;
    struct wh_coalesce coalesce;
    struct wh_egress egress;
    uint8_t frame_room[WH_HEADROOM + WH_RING_MAX_FRAME + 64]; /* the frame in hand, with headroom */
};

/* One event counts in the totals and at whoever caused or suffered it: a port or a peer, in the worker's part of it. */
#define WH_COUNT_MANY(s, who, field, n) ((void)((s)->total.field += (n), (who)->part[(s)->index].counters.field += (n)))
#define WH_COUNT(s, who, field)         WH_COUNT_MANY(s, who, field, 1)
#define WH_COUNT_BYTES(s, who, field, n) WH_COUNT_MANY(s, who, field, n)
/* A frame of so many bytes; way: rx or tx. The part is found once: nothing says that the stores leave s->index alone.
 */
#define WH_COUNT_FRAME(s, who, way, bytes)                                                                             \
    do {                                                                                                               \
        wh_counters *part_ = &(who)->part[(s)->index].counters, *total_ = &(s)->total;                                 \
        uint64_t bytes_ = (bytes);                                                                                     \
        total_->way##_frames++;                                                                                        \
        total_->way##_bytes += bytes_;                                                                                 \
        part_->way##_frames++;                                                                                         \
        part_->way##_bytes += bytes_;                                                                                  \
    } while (0)
void wh_counters_add(wh_counters *sum, const wh_counters *more);

/* s: the first worker for control calls, the calling worker else. It is alone in between. */
void wh_switch_lock(wh_switch *s);
void wh_switch_unlock(wh_switch *s);
/* By who is alone: from here on it does w's work, all that w has put aside first. Gives what wh_switch_acted is to be
 * told. */
bool wh_switch_act_as(wh_switch *w, uint64_t now_ns);
void wh_switch_acted(wh_switch *w, bool was);
void wh_switch_wake(wh_switch *s); /* a worker: look at timers and ports again */
void wh_switch_wake_all(wh_switch *s);
void wh_switch_timer(wh_switch *s, uint64_t at_ns); /* alone: tick no later than this */
int wh_switch_start(wh_switch *s, wh_error *err);   /* a worker's thread */
void wh_switch_tell(wh_switch *s, const wh_switch_event *event);
int wh_switch_watch(wh_switch *s, int fd, uint32_t events, uint64_t tag);

/* epoll tags: what kind of descriptor it is, and the port's id. Ids and not pointers, since a port may be deleted
 * between epoll_wait and the turn. */
#define WH_TAG(kind, id) ((uint64_t)(kind) << 32 | (id))
#define WH_TAG_KIND(tag) ((enum wh_tag)((tag) >> 32 & 0xff))
#define WH_TAG_PAIR(tag) ((uint32_t)((tag) >> 40)) /* of a ring port */
enum wh_tag { WH_TAG_WAKE = 0, WH_TAG_UDP = 1, WH_TAG_RING = 2, WH_TAG_TAP = 3, WH_TAG_STREAM = 4 };

#endif
