/* ring_layout: what lies in the shared memory of one ring, and one process's view of it. For ring.c and for the tests
 * that play a lying peer; everybody else uses ring.h. */
#ifndef WH_RING_LAYOUT_H
#define WH_RING_LAYOUT_H

#include "base/ring.h"

#define WH_RING_SKIP   0xffffffffu /* instead of a length: the next record stands at the start of the data */
#define WH_RING_RECORD 16u         /* a record's length word and wh_vnet, in front of the frame */

/* The first page of a ring. Each index has one writer and a cache line of its own. */
struct wh_ring_shared {
    _Alignas(WH_CACHE_LINE) _Atomic uint64_t head;      /* bytes ever produced; the producer writes it */
    _Alignas(WH_CACHE_LINE) _Atomic uint64_t tail;      /* bytes ever consumed; the consumer writes it */
    _Alignas(WH_CACHE_LINE) _Atomic uint32_t need_kick; /* the consumer sets it, the producer takes it */
    _Alignas(WH_CACHE_LINE) _Atomic uint32_t takes;     /* WH_TAKES_*; the consumer writes it */
    _Atomic uint32_t attended;                          /* 1: there is a consumer; it writes this */
    _Alignas(WH_CACHE_LINE) _Atomic uint32_t need_room; /* the producer sets it, the consumer takes it */
};

struct wh_ring {
    struct wh_ring_shared *shared;
    uint8_t *data;
    /* Our own index. The shared copy of it is only ever written: what stands there is the other side's business. */
    uint64_t own;
    /* Consumer: bytes that the frame under peek occupies, with its skip. Producer: those of the room reserved. */
    uint32_t pending;
    uint32_t reserved_at, reserved_len; /* producer */
    bool producer, damaged;
};

#endif
