/* room: how much a full socket may hold: as little as keeps it from running dry before we come back with more, so that
 * what waits is waiting where flows are known (egress.h). The idea is that of dynamic queue limits (Linux, "BQL"): a
 * socket that was empty when we came gets twice the room; one that still held some each of WH_ROOM_LOOKS times loses
 * half of what it held at least. Pure. */
#ifndef WH_SWITCH_ROOM_H
#define WH_SWITCH_ROOM_H

#include "base/base.h"

#define WH_ROOM_FIRST (128u << 10) /* bytes of kernel memory: some half more than the datagrams in it */
#define WH_ROOM_LEAST (16u << 10)
#define WH_ROOM_MOST  (4u << 20)
#define WH_ROOM_LOOKS 4u

struct wh_room {
    uint32_t limit; /* 0: not begun */
    uint32_t least; /* of what it held, of the last looks */
    uint32_t looks;
};

static inline void wh_room_begin(struct wh_room *r)
{
    *r = (struct wh_room){.limit = WH_ROOM_FIRST, .least = UINT32_MAX};
}

/* We have more to send, the socket can take it, and holds this much still. True: the limit has changed. */
static inline bool wh_room_look(struct wh_room *r, uint32_t holds)
{
    uint32_t was = r->limit;
    r->least = holds < r->least ? holds : r->least;
    r->looks++;
    if (holds == 0)
        r->limit = was * 2 < WH_ROOM_MOST ? was * 2 : WH_ROOM_MOST;
    else if (r->looks >= WH_ROOM_LOOKS)
        r->limit = was - r->least / 2 > WH_ROOM_LEAST ? was - r->least / 2 : WH_ROOM_LEAST;
    else
        return false;
    r->least = UINT32_MAX;
    r->looks = 0;
    return r->limit != was;
}

#endif
