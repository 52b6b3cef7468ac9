/* queue: the split and the packed virtqueue (virtio 1.2, sections 2.7 and 2.8), device side, with indirect descriptors
 * and event suppression. Which of the two it is, is what the driver negotiated. Knows guest RAM and nothing of devices
 * or transports. Whatever the guest wrote is checked before it is followed: an area, an index, a chain that makes no
 * sense is told by a reason and changes nothing. */
#ifndef WH_VIRTIO_QUEUE_H
#define WH_VIRTIO_QUEUE_H

#include "base/base.h"
#include "memory/memory.h"
#include "state/state.h"

#define WH_VIRTQ_MAX 256u /* largest queue that a device offers, and so the longest chain (2.7.5.3.1) */

typedef struct wh_virtq {
    uint16_t max;   /* constant: what the device offers */
    uint16_t num;   /* what the driver chose */
    bool ready;     /* the areas below were checked: they lie in RAM whole */
    bool event_idx; /* negotiated features that concern the ring */
    bool indirect;
    bool packed;
    /* Guest physical: descriptor, driver and device area. */
    uint64_t desc, avail, used;
    /* Split: free-running. Packed: an index into the ring, and the wrap counter in bit 15. */
    uint16_t next_avail; /* the next available entry to look at */
    uint16_t next_used;  /* the next entry to be used */
    /* Split: next_used when the driver was last considered for an interrupt. Packed: entries used since then. */
    uint16_t signalled;
} wh_virtq;

typedef struct wh_segment {
    uint8_t *host;
    uint64_t pa;
    uint32_t len;
} wh_segment;

/* One popped descriptor chain: out (device reads) segments first, then in (device writes) segments. */
typedef struct wh_chain {
    uint16_t head;  /* how the driver knows it again */
    uint16_t descs; /* entries of the ring that it takes */
    uint16_t out_count, in_count;
    uint32_t out_bytes, in_bytes;
    wh_segment seg[WH_VIRTQ_MAX];
} wh_chain;

/* A chain that is given back. written counts the bytes from the start of its in part. */
typedef struct wh_used {
    uint16_t head, descs;
    uint32_t written;
} wh_used;

/* Back to what it is before the driver sets it up. max stays. */
void wh_virtq_reset(wh_virtq *q);
/* NULL when size and areas are usable, else what is wrong with them. */
const char *wh_virtq_check(const wh_virtq *q, const wh_ram *ram);

/* 1: *chain holds the next one; 0: none there (the driver was asked to notify of the next); -1: nonsense, *why says
 * what. */
int wh_virtq_pop(wh_virtq *q, wh_ram *ram, wh_chain *chain, const char **why);
/* True: nothing is there, and the driver was asked to notify of the next. Who ends a turn before pop returned 0 must
 * ask this, and come back by itself when it is false: else the driver may never notify again. */
bool wh_virtq_idle(wh_virtq *q, wh_ram *ram);
/* Forget the last pops, of so many chains with so many entries of the ring together: they are there again. */
void wh_virtq_unpop(wh_virtq *q, unsigned chains, unsigned descs);
/* Give chains back, in the order in which they were popped; the driver sees all of them at once. */
void wh_virtq_push(wh_virtq *q, wh_ram *ram, const wh_used *used, unsigned count);
/* After one or more pushes: does the driver want an interrupt? */
bool wh_virtq_signal(wh_virtq *q, const wh_ram *ram);

/* Copy from the out part or to the in part, starting `offset` bytes in; returns the bytes copied, fewer at its end.
 * Writing marks the pages dirty. */
uint32_t wh_chain_read(const wh_chain *c, uint32_t offset, void *to, uint32_t len);
uint32_t wh_chain_write(const wh_chain *c, wh_ram *ram, uint32_t offset, const void *from, uint32_t len);

void wh_virtq_save(const wh_virtq *q, wh_writer *w);
/* After the driver has made the queue ready with the features that it has: where both sides begin. */
void wh_virtq_begin(wh_virtq *q);
/* Fails on anything that the driver could not have set up (hostile input). max and features are set before. */
void wh_virtq_load(wh_virtq *q, const wh_ram *ram, wh_reader *r);

#endif
