/* port: where frames enter and leave the switch on this host: a guest's pair of rings, or a TAP (any descriptor that
 * gives and takes one frame per read and write). Owns dup's of the descriptors it was given. */
#ifndef WH_SWITCH_PORT_H
#define WH_SWITCH_PORT_H

#include "base/ring.h"
#include "switch/frameq.h"
#include "switch/storm.h"
#include "switch/switch.h"
#include "switch/vlan.h"

struct wh_dgram;
struct wh_trace;
struct wh_network;

#define WH_PORT_PAIRS_MAX 8u

/* Two rings, one each way, of which a NIC has one for each of its queues. */
struct wh_pair {
    struct wh_port *port;
    wh_switch *home; /* the worker that reads it */
    wh_ring *from_guest, *to_guest;
    int in_event, ring_fd;
    bool active; /* member of its home's list */
    struct wh_pair *next_active;
    pthread_mutex_t lock; /* for who delivers and is not alone */
};

/* What a worker has of a port, to itself. */
struct wh_port_part {
    _Alignas(WH_CACHE_LINE) wh_counters counters;
    struct wh_pair *pair; /* by which it delivers; NULL: no ring port */
    uint64_t owns_at;     /* version of the table in which a locked MAC was nobody else's */
    bool touched;         /* member of its list */
    struct wh_port *next_touched;
};

struct wh_port {
    uint32_t id;
    wh_switch *home; /* of what is no ring: the worker that reads it */
    struct wh_network *net;
    bool is_ring, locked, enabled;
    bool down;          /* damaged ring or TAP gone: told once, silent from then on */
    bool held;          /* frames for it wait (moved.h) */
    uint32_t came_from; /* the node that had the MAC before this port was enabled; 0: none */
    uint8_t mac[6];
    uint64_t generation;
    uint32_t place;   /* in its network's table */
    uint32_t fdb_max; /* learned here; UINT32_MAX: as many as the network takes */
    struct wh_storm storm[WH_STORM_CLASSES];
    bool storm_own[WH_STORM_CLASSES]; /* not the shared one */
    struct wh_vlan vlan;
    bool guard, shut; /* ingress.h */
    uint32_t pairs;
    struct wh_pair *pair[WH_PORT_PAIRS_MAX];
    int out_event, tap_fd;
    bool tap_vnet;          /* the TAP's frames have a wh_vnet in front */
    uint32_t tap_takes;     /* WH_TAKES_* */
    struct wh_trace *trace; /* NULL: off (trace.h) */
    struct wh_dgram *dgram; /* tap_fd is a datagram socket (dgram.h) */
    struct wh_frameq waiting;
    /* For who is not alone: the frames that wait, the address of datagrams. */
    pthread_mutex_t lock;
    struct wh_port_part part[]; /* of each worker */
};

struct wh_port_ring_spec {
    int ring_fd, to_switch_event, to_guest_event;
    const uint8_t *locked_mac; /* 6 bytes, all zero: any source */
    uint64_t generation;
};
/* s: for the number of its workers. */
int wh_port_new_ring(const wh_switch *s, uint32_t id, const struct wh_port_ring_spec *spec, struct wh_port **out,
                     wh_error *err);
int wh_port_new_tap(const wh_switch *s, uint32_t id, int tap_fd, struct wh_port **out, wh_error *err);
/* Takes dgram when it succeeds. */
int wh_port_new_dgram(const wh_switch *s, uint32_t id, int fd, struct wh_dgram *dgram, struct wh_port **out,
                      wh_error *err);
/* Gives it to the workers that have least. */
int wh_port_watch(wh_switch *s, struct wh_port *p, wh_error *err);
/* One more pair of rings for a ring port that is watched. WH_E_STATE: it is none. WH_E_FULL. */
int wh_port_add_pair(wh_switch *s, struct wh_port *p, int ring_fd, int to_switch_event, wh_error *err);
void wh_port_free(wh_switch *s, struct wh_port *p); /* leaves the switch's lists and epoll first */

void wh_port_rung(wh_switch *s, struct wh_port *p, uint32_t pair); /* one of its doorbells */
void wh_pair_activate(wh_switch *s, struct wh_pair *r);
/* Take up to a turn's share of frames out of it and forward them. True: there may be more. */
bool wh_pair_drain(wh_switch *s, struct wh_pair *r);
void wh_port_drain(wh_switch *s, struct wh_port *p); /* the same of what is no ring port; epoll says if there is more */
/* A frame out of one of its rings, f->len long: copied to frame_room, and what is to be done to it checked there.
 * False: nonsense, counted. */
bool wh_port_take(wh_switch *s, struct wh_port *p, const uint8_t *shared, struct wh_frame *f);
uint32_t wh_port_takes(const struct wh_port *p); /* WH_TAKES_* */
/* Hand it a frame; every way to lose it is counted. What it cannot take as it is is done here: the frame may have been
 * cut to pieces afterwards, unless it had no gso, or completed. */
void wh_port_deliver(wh_switch *s, struct wh_port *p, struct wh_frame *f);
void wh_port_fail(wh_switch *s, struct wh_port *p); /* -> down, WH_SW_PORT_DOWN; soon, if s is not alone */
void wh_port_ring_bell(struct wh_port *p);
void wh_port_kick_touched(wh_switch *s);

#endif
