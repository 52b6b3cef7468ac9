/* aside: what a worker meets in its turn and may only do alone, with the locks of all workers, because it changes what
 * they share. It is kept in order until the turn is over and done then. Ports and peers are named by their numbers, for
 * they may go away in between. Bounded; what does not fit is the caller's to count as lost.
 *
 * What is put aside depends on the frame and on tables that stand still in a turn: so the frames of a flow that follow
 * in the same turn are put aside too, and none overtakes another. */
#ifndef WH_SWITCH_ASIDE_H
#define WH_SWITCH_ASIDE_H

#include "switch/frame.h"
#include "switch/sendq.h"

#define WH_ASIDE_BYTES (2u << 20)

enum wh_aside_kind {
    WH_ASIDE_FROM_PORT, /* a frame as the port gave it */
    WH_ASIDE_ADMITTED,  /* one that has passed ingress, of VLAN vid */
    WH_ASIDE_FROM_TUNNEL,
    WH_ASIDE_PAYLOAD, /* opened, of a datagram that came from addr, direct or not */
    WH_ASIDE_DATAGRAM,
    WH_ASIDE_ROAM,    /* the peer is at addr */
    WH_ASIDE_TOO_BIG, /* number: bytes, to addr */
    WH_ASIDE_PORT_FAIL,
    WH_ASIDE_STREAM /* number: what epoll says of it */
};

struct wh_aside_item {
    struct wh_aside_item *next;
    enum wh_aside_kind kind;
    bool direct;
    uint8_t tos; /* traffic class outside */
    uint16_t vid;
    uint32_t id; /* port or node */
    uint32_t vni, number;
    struct wh_addr addr;
    struct wh_frame frame; /* or other bytes, behind headroom in room */
    uint8_t room[];
};

/* A part of each worker. */
struct wh_aside {
    struct wh_aside_item *head, *tail;
    size_t bytes;
    bool tick, egress; /* it is time for that */
};

/* f: copied; NULL: nothing. False: no room. */
bool wh_aside_put(wh_switch *s, const struct wh_aside_item *about, const struct wh_frame *f);
bool wh_aside_any(const wh_switch *s);
/* Alone: all of it. */
void wh_aside_run(wh_switch *s);
void wh_aside_clear(wh_switch *s);

#endif
