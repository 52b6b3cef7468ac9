/* ring: one direction of frames between a guest process and the switch. Single producer, single consumer, in a shared
 * memfd. Neither side trusts the other: every index and length read from the shared part is checked before use, and a
 * ring that lies is reported as damaged (WH_E_FORMAT), never followed.
 *
 * A memfd holds two rings behind one another: [0] guest to switch, [1] switch to guest. Each: one header page, then
 * `capacity` bytes (a power of two). A record is a little-endian u32 length of the frame, the 12 bytes of base/vnet.h,
 * then the frame, padded to 8 bytes; a record never wraps: length 0xffffffff means "skip to the start". head and tail
 * are free-running byte counts. The doorbell is an eventfd, rung only if the consumer had set need_kick. A producer
 * that finds the ring full may wait until the consumer rings back: pressure goes on to whoever fills the ring. */
#ifndef WH_RING_H
#define WH_RING_H

#include "base/vnet.h"

#define WH_RING_CAPACITY   (1024u * 1024u) /* some frames of 64 KiB; pages that no frame touched take no memory */
#define WH_RING_MAX_FRAME  65557u          /* the largest IP packet behind an Ethernet header with two VLAN tags */
#define WH_RING_FILE_BYTES (2u * (WH_PAGE_SIZE + WH_RING_CAPACITY))

typedef struct wh_ring wh_ring; /* this process's view of one direction */

int wh_ring_file_new(wh_error *err); /* a sealed memfd with both rings, or a negative status */
int wh_ring_map(int fd, unsigned direction, bool producer, wh_ring **out, wh_error *err);
void wh_ring_unmap(wh_ring *r);

/* Producer. WH_E_FULL when there is no room. *kick is set when the consumer sleeps and its eventfd must be rung. */
int wh_ring_put(wh_ring *r, const void *frame, uint32_t len, bool *kick);
/* The same in two steps, without a copy: room for a frame of len bytes, and its publication with what is to be done to
 * it. Reserve again to give the room up. */
int wh_ring_reserve(wh_ring *r, uint32_t len, uint8_t **frame);
void wh_ring_commit(wh_ring *r, const struct wh_vnet *todo, bool *kick);
/* After WH_E_FULL for a frame of len bytes. True: there is a consumer, and it rings the producer's own doorbell once
 * half of the ring is free, or when it leaves: wait for that. False: reserve again, and if the ring is full still give
 * the frame up: nobody reads. */
bool wh_ring_await_room(wh_ring *r, uint32_t len);
/* What the consumer has said it takes (WH_TAKES_*); a consumer that lies gets what it cannot read. */
uint32_t wh_ring_takes(const wh_ring *r);
/* Consumer. Peek gives the frame in place (valid until the next wh_ring_consume); the length is read once.
 * WH_E_AGAIN when empty, WH_E_FORMAT when damaged. */
int wh_ring_peek(wh_ring *r, const uint8_t **frame, uint32_t *len);
/* A copy of what stands in front of a peeked frame, unchecked. */
void wh_ring_todo(const uint8_t *frame, struct wh_vnet *todo);
void wh_ring_set_takes(wh_ring *r, uint32_t takes);
void wh_ring_consume(wh_ring *r);
/* Consumer: ask for a kick; returns true when the ring is still empty after asking, so that it may sleep. */
bool wh_ring_sleep(wh_ring *r);
void wh_ring_wake(wh_ring *r); /* consumer: no kicks while it polls */
/* Consumer: from now on it reads what comes, or it does not any more, and then it has to ring the producer's doorbell
 * once. One that was killed is taken to come back. */
void wh_ring_attend(wh_ring *r, bool there);
/* Consumer, when it has consumed: true if the producer waits for room, there is enough, and it has to be rung. */
bool wh_ring_owes_room(wh_ring *r);

#endif
