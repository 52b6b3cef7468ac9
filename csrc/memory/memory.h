/* memory: guest RAM as a memfd, its page states, and the share page through which another process follows it.
 *
 * RAM is one memfd mapped by the guest process and by the agent. Beside it stands the share memfd: header, one dirty
 * bit per page, one round request and one acknowledgement per hart. Dirty tracking works on TLB fills: a page's dirty
 * bit is set (atomic or, release) when a write translation is made, and a hart drops its write translations when it
 * sees a new round number. A round is therefore: exchange the bits with zero; raise the round number; wait until each
 * hart has acknowledged or is parked (a parked hart acknowledges before its next instruction); only then read pages. A
 * page that is written between the exchange and the acknowledgement is in the set that was fetched; one written after
 * it has its bit set anew. Devices write first and set the bit afterwards, so their pages are read again in the next
 * round at worst. Tracking off: wh_ram_mark_dirty is one predictable branch. */
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
    _Alignas(WH_CACHE_LINE) _Atomic uint64_t round;
    struct wh_hart_share hart[WH_MAX_HARTS];
    _Alignas(WH_CACHE_LINE) _Atomic uint64_t dirty[]; /* one bit per page */
};

typedef struct wh_ram {
    uint8_t *host; /* guest physical WH_RAM_BASE */
    uint64_t bytes;
    int ram_fd, share_fd;
    struct wh_share *share;
    size_t share_bytes;
} wh_ram;

int wh_ram_new(uint64_t bytes, uint32_t harts, wh_ram *out, wh_error *err);
void wh_ram_free(wh_ram *ram);

/* The host address of [pa, pa+len) or NULL when any byte lies outside RAM. Never wraps. */
static inline uint8_t *wh_ram_at(const wh_ram *ram, uint64_t pa, uint64_t len)
{
    uint64_t off = pa - WH_RAM_BASE;
    if (WH_UNLIKELY(off >= ram->bytes || len > ram->bytes - off))
        return NULL;
    return ram->host + off;
}

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
