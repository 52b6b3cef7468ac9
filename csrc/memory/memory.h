/* memory: guest RAM as a memfd, its page states, and the share page through which another process follows it.
 *
 * RAM is one memfd mapped by the guest process and by the agent. Beside it stands the share memfd: header, one dirty
 * bit per page, one round request and one acknowledgement per hart. Dirty tracking works on TLB fills: a page's dirty
 * bit is set (atomic or, release) when a write translation is made, and a hart drops its write translations when it
 * sees a new round number. A round is therefore: exchange the bits with zero; raise the round number; wait until each
 * hart has acknowledged or is parked (a parked hart acknowledges before its next instruction); only then read pages. A
 * page that is written between the exchange and the acknowledgement is in the set that was fetched; one written after
 * it has its bit set anew. Devices write first and set the bit afterwards, so their pages are read again in the next
 * round at worst. Tracking off: wh_ram_mark_dirty is one predictable branch.
 *
 * A page is present or absent. An absent page's content is elsewhere (a snapshot file; later the source of a post-copy
 * migration, or swap) and the memfd has no memory for it, so that it would read as zeros: nobody may touch it. The one
 * door is wh_ram_at: the pages behind the address that it gives are present. It brings absent ones in first, and gives
 * NULL when that fails. Then wh_ram_lost is true for ever, and the machine's owner has been told why
 * (page_source.lost): the guest ends, it never sees zeros. A present page stays present: whoever has an address from
 * the door (a TLB entry, a virtqueue's areas) need not ask again. The fast check is one load of a word that is zero
 * once every page is there. A page is filled by whoever claims it first; others that want the same page wait for it,
 * and nobody else waits for anything. The caller may hold locks (DMA holds the board's), so a source may take none of
 * the machine's.
 *
 * Or the other process brings them (post-copy, wh_ram_set_remote): then it alone clears absent bits and counts. Who
 * needs such a page sets its wanted bit in the share page, rings the other process's bell and sleeps on `arrived`,
 * which the bringer raises behind the bits that it has cleared. Wanted bits stay set, so that a successor of a bringer
 * that died finds what is waited for. There is no end to the wait but the page or wh_ram_remote_cancel.
 *
 * Plain atomics (decision 14): with one hart, its atomics may be a load and a store of the host, which other threads
 * can see between, and order no store before a later load. Others write no word that the hart does atomics on; who has
 * stored something and decides by a load that the guest need not, or did not, react, calls wh_ram_settle between. */
#ifndef WH_MEMORY_H
#define WH_MEMORY_H

#include "base/base.h"

#define WH_RAM_BASE  0x80000000ull
#define WH_MAX_HARTS 64u

struct wh_hart_share { /* one per hart; a cache line each */
    _Alignas(WH_CACHE_LINE) _Atomic uint64_t round_seen;
    _Atomic uint32_t parked; /* 1: not executing and will look at `round` (seq_cst) before it does */
};

struct wh_share { /* start of the share memfd; layout is private to one build of Wherry on one host */
    uint64_t magic, version;
    uint64_t ram_bytes, pages;
    uint32_t harts;
    _Atomic uint32_t tracking;
    _Atomic uint32_t wanted;       /* futex: the other process asks for all pages, see wh_ram_fill_wait */
    _Atomic uint32_t lost;         /* an absent page could not be had: none of them will come any more */
    _Atomic uint64_t absent_pages; /* zero once every page is present */
    _Atomic uint32_t arrived;      /* futex: raised by the other process when it has brought pages */
    _Atomic uint32_t waiting;      /* how many sleep on it */
    _Alignas(WH_CACHE_LINE) _Atomic uint64_t round;
    struct wh_hart_share hart[WH_MAX_HARTS];
    _Alignas(WH_CACHE_LINE) _Atomic uint64_t dirty[]; /* one bit per page; then as many absent bits, then wanted bits */
};

/* The absent bits: bit set with relaxed before anyone else looks, cleared with release behind the page's content. */
static inline _Atomic uint64_t *wh_share_absent(struct wh_share *s, uint64_t pages)
{
    return s->dirty + (pages + 63) / 64;
}

/* The wanted bits: set by who waits for a page that the other process is to bring. */
static inline _Atomic uint64_t *wh_share_wanted(struct wh_share *s, uint64_t pages)
{
    return s->dirty + (pages + 63) / 64 * 2;
}

/* Where absent pages are. Called from any thread, by several at once, whatever locks they hold. */
typedef struct wh_page_source {
    void *ctx;
    /* Read pages [first, first+count) of RAM to `to`; each of them is one that was named absent, and is asked for once.
     */
    int (*fill)(void *ctx, uint64_t first, uint64_t count, uint8_t *to, wh_error *err);
    void (*lost)(void *ctx, const wh_error *err); /* once, when fill has failed */
    void (*done)(void *ctx);                      /* once, when every page is there: nobody is in fill, nor will be */
} wh_page_source;

typedef struct wh_door wh_door; /* private to door.c */

typedef struct wh_ram {
    uint8_t *host; /* guest physical WH_RAM_BASE */
    uint64_t bytes;
    int ram_fd, share_fd;
    struct wh_share *share;
    size_t share_bytes;
    wh_door *door;      /* NULL: no page has ever been absent */
    bool plain_atomics; /* see above */
} wh_ram;

int wh_ram_new(uint64_t bytes, uint32_t harts, wh_ram *out, wh_error *err);
void wh_ram_free(wh_ram *ram);

/* Ask for plain atomics, before there is any other thread: they are where the host has what wh_ram_settle needs. */
void wh_ram_use_plain_atomics(wh_ram *ram);
/* With plain atomics: each store that the hart has executed is seen by our loads behind this, or each load that the
 * hart executes behind that store sees our stores before it. Without: nothing. About a microsecond; any thread. */
void wh_ram_settle(const wh_ram *ram);

/* [pa, pa+len) lies in RAM; present or not. Never wraps. */
static inline bool wh_ram_has(const wh_ram *ram, uint64_t pa, uint64_t len)
{
    uint64_t off = pa - WH_RAM_BASE;
    return !WH_UNLIKELY(off >= ram->bytes || len > ram->bytes - off);
}

/* Bring in what is absent of [pa, pa+len), which lies in RAM. May block on the source. WH_E_IO: lost. */
int wh_ram_fetch(const wh_ram *ram, uint64_t pa, uint64_t len);

/* The host address of [pa, pa+len), present; or NULL when any byte lies outside RAM or is lost. */
static inline uint8_t *wh_ram_at(const wh_ram *ram, uint64_t pa, uint64_t len)
{
    if (!wh_ram_has(ram, pa, len))
        return NULL;
    if (WH_UNLIKELY(atomic_load_explicit(&ram->share->absent_pages, memory_order_acquire) != 0) &&
        wh_ram_fetch(ram, pa, len) != WH_OK)
        return NULL;
    return ram->host + (pa - WH_RAM_BASE);
}
static inline bool wh_ram_lost(const wh_ram *ram)
{
    return WH_UNLIKELY(atomic_load_explicit(&ram->share->lost, memory_order_acquire) != 0);
}

/* Name the absent pages: one bit per page, at least one set, those pages never touched so far. Before any other thread
 * uses the RAM. The source must live until wh_ram_free. */
int wh_ram_set_absent(wh_ram *ram, const uint64_t *bitmap, const wh_page_source *source, wh_error *err);
/* The same for pages that the other process brings; bell is an eventfd that it watches, borrowed. */
int wh_ram_set_remote(wh_ram *ram, const uint64_t *bitmap, int bell, wh_error *err);
/* Pages are to come, or came, from the other process: there is nothing to fill here. */
bool wh_ram_is_remote(const wh_ram *ram);
/* The machine ends: who waits for the other process waits no longer, its page is lost. Harmless when nothing is
 * missing. */
void wh_ram_remote_cancel(const wh_ram *ram);
/* Bring in the next absent pages at or after *cursor, at most so many; *cursor moves on. WH_E_AGAIN: nothing is left to
 * do at or after it. Any one thread besides those that fault. */
int wh_ram_fill(const wh_ram *ram, uint64_t *cursor, uint64_t most);
/* Sleep until the other process wants all pages or so much time has passed (true), or wh_ram_fill_cancel was called
 * (false). timeout_ms < 0: for ever. */
bool wh_ram_fill_wait(const wh_ram *ram, int timeout_ms);
void wh_ram_fill_cancel(const wh_ram *ram);
/* Pages that were absent first; that a toucher had to wait for; that are absent now. */
typedef struct wh_door_stats {
    uint64_t named, faulted, absent;
    uint64_t wait_ns, wait_median_ns, wait_max_ns; /* of those that waited for the other process: together ... */
} wh_door_stats;
void wh_ram_door_stats(const wh_ram *ram, wh_door_stats *out);

static inline void wh_ram_mark_dirty(wh_ram *ram, uint64_t pa)
{
    struct wh_share *s = ram->share;
    if (atomic_load_explicit(&s->tracking, memory_order_relaxed)) {
        uint64_t pfn = (pa - WH_RAM_BASE) >> WH_PAGE_SHIFT;
        atomic_fetch_or_explicit(&s->dirty[pfn >> 6], 1ull << (pfn & 63), memory_order_release);
    }
}
void wh_ram_mark_dirty_range(wh_ram *ram, uint64_t pa, uint64_t len);

#endif
