/* coalesce: the segments of a flow that come in one batch out of tunnels, put together again for a local port that can
 * take the whole packet: one pass through ring, driver and guest instead of forty.
 *
 * Only what wh_cut would make out of the result is put together: same headers, sequence without a gap, all segments of
 * one size but the last, IPv4 ids in a row, CWR in the first and FIN and PSH in the last one, checksums left open or,
 * of long enough frames, filled in and right. Anything else of a flow sends off what was collected of it first, so that
 * each flow keeps its order. Nothing waits for longer than the batch. */
#ifndef WH_SWITCH_COALESCE_H
#define WH_SWITCH_COALESCE_H

#include "switch/csum.h"
#include "switch/wire.h"

#define WH_FLOWS 8u

struct wh_peer;
struct wh_port;

struct wh_flow {
    struct wh_port *to; /* NULL: not in use */
    struct wh_layers y;
    struct wh_frame whole; /* its bytes stand in the flow's own room */
    uint32_t next_seq, segments;
    uint16_t id;   /* IPv4: of the first segment */
    uint64_t used; /* when, for the choice of a victim */
};

struct wh_coalesce {
    struct wh_flow flow[WH_FLOWS];
    uint8_t *room; /* WH_FLOWS packets; made when there is something to put together */
    uint32_t open; /* flows in use */
    uint64_t clock;
    /* What the frame before this one was: of that peer and network, and now a part of hot. NULL: of none. */
    struct wh_flow *hot;
    const struct wh_peer *from;
    uint32_t vni;
    uint8_t under[WH_OPEN_PREFIX + WH_GSO_HEADERS_MAX]; /* what wh_coalesce_ahead lets be overwritten */
};

/* As wh_port_deliver, but it may keep a copy until wh_coalesce_flush. */
void wh_coalesce_deliver(wh_switch *s, struct wh_port *p, struct wh_frame *f);
/* A frame of this peer and network came by the way of all frames and was delivered. */
void wh_coalesce_came(struct wh_coalesce *c, const struct wh_peer *from, uint32_t vni);
/* Is it the next segment of the packet that the frame directly before it became a part of, from the same peer and for
 * the same network? Then it is a part of it now; nothing was asked about it that was not answered for that one: it has
 * the same addresses, and no table has changed in between. False: it has to go the way of all frames. */
bool wh_coalesce_next(wh_switch *s, const struct wh_peer *from, uint32_t vni, const struct wh_frame *f);
/* Where a payload of so many bytes from this peer may be opened to: if it is [5, ...] with that next segment, the
 * segment's own payload then stands where it belongs. NULL: nowhere. Until settle or undo, one of which must be called
 * before anything else here, the packet's last bytes are not its own. */
uint8_t *wh_coalesce_ahead(wh_switch *s, const struct wh_peer *from, size_t bytes);
/* It was opened there. True: it was that and is a part of the packet now. False: it stands at `back` and all is as it
 * was before. */
bool wh_coalesce_settle(wh_switch *s, uint8_t *back, size_t bytes);
void wh_coalesce_undo(wh_switch *s); /* it could not be opened */
/* At the end of each batch, and before anything may happen to a port. */
void wh_coalesce_flush(wh_switch *s);
void wh_coalesce_free(struct wh_coalesce *c);

#endif
