/* ring: a single-producer, single-consumer ring of frames in a memfd that two processes share (see ring.h).
 *
 * Publication: the producer writes the record and then `head`; the consumer reads `head` and then the record. A record
 * and the skip mark before it are published by one store, so that a skip mark at the end of the published bytes is
 * damage. Sleeping is Dekker's handshake: the consumer stores need_kick and then loads head, the producer stores head
 * and then loads need_kick, all four sequentially consistent, so at least one of them sees the other. Waiting for room
 * is the same the other way: need_room and tail.
 *
 * Trust: the size of the file is sealed, so the mapping never faults. Our own index lives in private memory. The other
 * side's index must be a multiple of 8 and within `capacity` of ours; each length is loaded once and must fit between
 * the two. The frame itself can still change while it is looked at: a consumer that checks a field copies it first. */
#include "base/ring_layout.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RING_BYTES (WH_PAGE_SIZE + WH_RING_CAPACITY)
#define RING_MASK  (WH_RING_CAPACITY - 1u)
#define RING_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

_Static_assert((WH_RING_CAPACITY & RING_MASK) == 0, "capacity is a power of two");
_Static_assert(2u * (WH_RING_MAX_FRAME + WH_RING_RECORD + 8u) <= WH_RING_CAPACITY,
               "any frame fits an empty ring, with a skip before it");
_Static_assert(sizeof(struct wh_ring_shared) <= WH_PAGE_SIZE, "the header is one page");

int wh_ring_file_new(wh_error *err)
{
    int fd = memfd_create("wherry-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return wh_fail(err, WH_E_IO, "ring", "memfd_create: %s", strerror(errno));
    if (ftruncate(fd, WH_RING_FILE_BYTES) != 0 || fcntl(fd, F_ADD_SEALS, RING_SEALS | F_SEAL_SEAL) != 0) {
        int status = wh_fail(err, WH_E_IO, "ring", "cannot size and seal the ring file: %s", strerror(errno));
        close(fd);
        return status;
    }
    return fd;
}

/* An unsealed file could shrink under us and turn our next access into SIGBUS. */
static int check_file(int fd, wh_error *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return wh_fail(err, WH_E_IO, "ring", "fstat: %s", strerror(errno));
    int seals = fcntl(fd, F_GET_SEALS);
    if (st.st_size != (off_t)WH_RING_FILE_BYTES || seals < 0 || (seals & RING_SEALS) != RING_SEALS)
        return wh_fail(err, WH_E_FORMAT, "ring", "not a sealed ring file of %u bytes", WH_RING_FILE_BYTES);
    return WH_OK;
}

static bool distance_ok(uint64_t head, uint64_t tail)
{
    return head - tail <= WH_RING_CAPACITY && ((head | tail) & 7u) == 0;
}

int wh_ring_map(int fd, unsigned direction, bool producer, wh_ring **out, wh_error *err)
{
    *out = NULL;
    if (direction > 1)
        return wh_fail(err, WH_E_INVAL, "direction", "%u; it is 0 or 1", direction);
    int status = check_file(fd, err);
    if (status != WH_OK)
        return status;
    wh_ring *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return wh_fail(err, WH_E_NOMEM, "ring", "out of memory");
    void *base = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(direction * RING_BYTES));
    if (base == MAP_FAILED) {
        free(r);
        return wh_fail(err, WH_E_IO, "ring", "mmap: %s", strerror(errno));
    }
    r->shared = base;
    r->data = (uint8_t *)base + WH_PAGE_SIZE;
    r->producer = producer;
    /* Our own index goes on where an earlier process of our side left it: a restarted agent finds a live ring. */
    uint64_t head = 0, tail = 0;
    if (producer) {
        r->own = head = atomic_load(&r->shared->head);
        tail = atomic_load(&r->shared->tail);
    } else {
        r->own = tail = atomic_load(&r->shared->tail);
        head = atomic_load(&r->shared->head);
    }
    if (!distance_ok(head, tail)) {
        wh_ring_unmap(r);
        return wh_fail(err, WH_E_FORMAT, "ring", "indexes do not fit: head %llu, tail %llu", (unsigned long long)head,
                       (unsigned long long)tail);
    }
    *out = r;
    return WH_OK;
}

void wh_ring_unmap(wh_ring *r)
{
    if (r == NULL)
        return;
    munmap(r->shared, RING_BYTES);
    free(r);
}

static uint32_t record_bytes(uint32_t len)
{
    return (len + WH_RING_RECORD + 7u) & ~7u;
}

/* A length word is written and read whole, so that the reader's one load is one value. */
static _Atomic uint32_t *length_at(wh_ring *r, uint32_t pos)
{
    return (_Atomic uint32_t *)(void *)(r->data + pos);
}

static int damage(wh_ring *r)
{
    r->damaged = true;
    return WH_E_FORMAT;
}

int wh_ring_reserve(wh_ring *r, uint32_t len, uint8_t **frame)
{
    r->pending = 0;
    if (len == 0 || len > WH_RING_MAX_FRAME)
        return WH_E_INVAL;
    uint64_t tail = atomic_load_explicit(&r->shared->tail, memory_order_acquire);
    if (r->damaged || !distance_ok(r->own, tail))
        return damage(r);
    uint32_t pos = (uint32_t)r->own & RING_MASK;
    uint32_t to_end = WH_RING_CAPACITY - pos;
    uint32_t record = record_bytes(len);
    uint32_t skip = record > to_end ? to_end : 0;
    if (WH_RING_CAPACITY - (r->own - tail) < (uint64_t)skip + record)
        return WH_E_FULL;
    if (skip != 0) {
        atomic_store_explicit(length_at(r, pos), htole32(WH_RING_SKIP), memory_order_relaxed);
        pos = 0;
    }
    r->pending = skip + record;
    r->reserved_at = pos;
    r->reserved_len = len;
    *frame = r->data + pos + WH_RING_RECORD;
    return WH_OK;
}

/* Bytes that a record of this length takes at our position, with the skip before it. */
static uint64_t needs(const wh_ring *r, uint32_t len)
{
    uint32_t to_end = WH_RING_CAPACITY - ((uint32_t)r->own & RING_MASK), record = record_bytes(len);
    return (uint64_t)record + (record > to_end ? to_end : 0);
}

bool wh_ring_await_room(wh_ring *r, uint32_t len)
{
    if (atomic_load_explicit(&r->shared->attended, memory_order_relaxed) == 0)
        return false;
    atomic_store(&r->shared->need_room, 1);
    uint64_t tail = atomic_load(&r->shared->tail);
    if (distance_ok(r->own, tail) && WH_RING_CAPACITY - (r->own - tail) < needs(r, len))
        return true;
    atomic_store_explicit(&r->shared->need_room, 0, memory_order_relaxed);
    return false;
}

void wh_ring_commit(wh_ring *r, const struct wh_vnet *todo, bool *kick)
{
    *kick = false;
    if (r->pending == 0)
        return;
    atomic_store_explicit(length_at(r, r->reserved_at), htole32(r->reserved_len), memory_order_relaxed);
    memcpy(r->data + r->reserved_at + 4, todo, WH_VNET_BYTES);
    r->own += r->pending;
    r->pending = 0;
    atomic_store(&r->shared->head, r->own);
    /* The plain load keeps the line shared while the consumer is awake. */
    if (atomic_load(&r->shared->need_kick) != 0)
        *kick = atomic_exchange(&r->shared->need_kick, 0) != 0;
}

int wh_ring_put(wh_ring *r, const void *frame, uint32_t len, bool *kick)
{
    static const struct wh_vnet nothing;
    uint8_t *room;
    *kick = false;
    int status = wh_ring_reserve(r, len, &room);
    if (status != WH_OK)
        return status;
    memcpy(room, frame, len);
    wh_ring_commit(r, &nothing, kick);
    return WH_OK;
}

uint32_t wh_ring_takes(const wh_ring *r)
{
    return atomic_load_explicit(&r->shared->takes, memory_order_relaxed) & WH_TAKES_ALL;
}

void wh_ring_set_takes(wh_ring *r, uint32_t takes)
{
    atomic_store_explicit(&r->shared->takes, takes, memory_order_relaxed);
}

void wh_ring_todo(const uint8_t *frame, struct wh_vnet *todo)
{
    memcpy(todo, frame - WH_VNET_BYTES, WH_VNET_BYTES);
}

int wh_ring_peek(wh_ring *r, const uint8_t **frame, uint32_t *len)
{
    if (r->damaged)
        return WH_E_FORMAT;
    uint64_t head = atomic_load_explicit(&r->shared->head, memory_order_acquire);
    if (head == r->own)
        return WH_E_AGAIN;
    if (!distance_ok(head, r->own))
        return damage(r);
    uint32_t avail = (uint32_t)(head - r->own);
    uint32_t pos = (uint32_t)r->own & RING_MASK;
    uint32_t skip = 0;
    uint32_t n = le32toh(atomic_load_explicit(length_at(r, pos), memory_order_relaxed));
    if (n == WH_RING_SKIP) {
        skip = WH_RING_CAPACITY - pos;
        if (skip >= avail) /* so too a skip at the start: it is `capacity` long */
            return damage(r);
        avail -= skip;
        pos = 0;
        n = le32toh(atomic_load_explicit(length_at(r, 0), memory_order_relaxed));
    }
    if (n == 0 || n > WH_RING_MAX_FRAME)
        return damage(r);
    uint32_t record = record_bytes(n);
    if (record > avail || record > WH_RING_CAPACITY - pos)
        return damage(r);
    r->pending = skip + record;
    *frame = r->data + pos + WH_RING_RECORD;
    *len = n;
    return WH_OK;
}

void wh_ring_consume(wh_ring *r)
{
    r->own += r->pending;
    r->pending = 0;
    atomic_store_explicit(&r->shared->tail, r->own, memory_order_release);
}

void wh_ring_attend(wh_ring *r, bool there)
{
    atomic_store(&r->shared->attended, there);
}

bool wh_ring_owes_room(wh_ring *r)
{
    atomic_store(&r->shared->tail, r->own); /* as consume has, but ordered before the look */
    if (atomic_load(&r->shared->need_room) == 0)
        return false;
    uint64_t head = atomic_load_explicit(&r->shared->head, memory_order_relaxed);
    if (distance_ok(head, r->own) && head - r->own > WH_RING_CAPACITY / 2)
        return false; /* there is something left to consume, and then another look */
    return atomic_exchange(&r->shared->need_room, 0) != 0;
}

bool wh_ring_sleep(wh_ring *r)
{
    atomic_store(&r->shared->need_kick, 1);
    if (atomic_load(&r->shared->head) == r->own)
        return true;
    wh_ring_wake(r);
    return false;
}

void wh_ring_wake(wh_ring *r)
{
    atomic_store_explicit(&r->shared->need_kick, 0, memory_order_relaxed);
}
