/* cache: what is translated. Blocks are keyed by the guest physical address of their head and shared by all harts.
 *
 * Everything lives in one arena: code upward, records downward, nothing is freed one by one. When it is full, all harts
 * leave translated code and everything is dropped (wh_jit_reset).
 *
 * Changed code: a block keeps the bytes it was made from. FENCE.I of any hart raises the epoch; a hart's first fetch of
 * a page afterwards compares the page's blocks with RAM. A block that changed is dead: its entry is diverted to a stub
 * that looks its head up again, later to the block that takes its place, so that links to it need no list. An
 * instruction across two pages belongs to both: it runs while the hart's code slot of the next page holds the record
 * that it was made with, which it does only if that page was compared since the last FENCE.I (help_split in helpers.c
 * sees to it).
 *
 * The lock guards every record. Readers without it: wh_jit_find (chains only ever get longer at the front, and nothing
 * is reused before a reset). */
#ifndef WH_JIT_CACHE_H
#define WH_JIT_CACHE_H

#include "cpu/hart.h"
#include "jit/backend.h"
#include "jit/jit.h"

#include <pthread.h>

typedef struct wh_jit_page {
    uint64_t pfn;
    uint64_t checked; /* epoch of the last comparison */
    uint32_t next;    /* hash chain; references are offsets in the arena, 0: none */
    uint32_t blocks;  /* list of its blocks, dead ones too */
    uint32_t tails;   /* list of blocks whose instruction ends in its first two bytes (WH_JIT_SPLIT), dead ones too */
    uint32_t changes; /* how restless its code is (cache.c) */
} wh_jit_page;

typedef struct wh_jit_segment {
    uint16_t at, length; /* a run of guest bytes in the page */
} wh_jit_segment;

typedef struct wh_jit_block {
    uint64_t pa; /* of the head */
    _Atomic uint32_t next;
    uint32_t page_next, tail_next;
    wh_jit_code code;
    uint16_t segments;
    _Atomic bool dead;
    bool user;                /* made for user mode; it is right in every mode */
    uint8_t tail[2];          /* of a block in the list of tails */
    wh_jit_segment segment[]; /* then the bytes of all segments */
} wh_jit_block;

#define WH_JIT_BUCKETS      16384u
#define WH_JIT_PAGE_BUCKETS 1024u

/* Which accesses look by page number: bit of a hash of the instruction's address (cache.c). */
#define WH_JIT_RESTLESS 32768u

struct wh_jit {
    wh_jit_arena arena;
    int fd;
    pthread_mutex_t lock;
    _Atomic uint64_t epoch;
    _Atomic uint32_t generation, resetting;
    _Atomic bool full;
    bool slots_everywhere; /* not only for user mode: for tests, whose programs run in M */
    _Atomic(wh_hart *) hart[WH_MAX_HARTS];
    _Atomic uint32_t bucket[WH_JIT_BUCKETS];
    uint32_t page_bucket[WH_JIT_PAGE_BUCKETS];
    uint64_t restless[WH_JIT_RESTLESS / 64]; /* under lock */
    struct wh_jit_shrinking {                /* shrink.c; one thread at a time */
        uint64_t *heads;                     /* of what was dropped, the newest first; or NULL */
        unsigned count, next;
        uint32_t keep;    /* so many bytes are made again */
        uint32_t punched; /* as far as the arena was looked through */
    } shrink;
    uint64_t blocks, instructions, resets, discarded, remade; /* under lock; since the machine was made */
};

/* arena.c. Lock held; NULL: full. */
void *wh_jit_record(wh_jit *j, size_t bytes);
/* Drop everything, once nobody uses it: the caller is not guarded (run.c). Or another hart is doing it. */
void wh_jit_reset(wh_jit *j);
/* Drop everything, full or not, but what is known of places (restless). The same conditions. False: not done, another
 * hart is resetting it. */
bool wh_jit_drop_all(wh_jit *j);
void wh_jit_shrink_end(wh_jit *j); /* shrink.c */
/* Give the host back what of [at, at + bytes) of the arena is in no use. False: there is no more of that behind it. */
bool wh_jit_punch(wh_jit *j, uint32_t at, uint32_t bytes);

/* va's page record, now in the hart's code slot; *status is a trap cause, with trap_value set, or 0. NULL with status
 * 0: not a page of RAM that can be executed as a whole. */
wh_jit_page *wh_jit_enter_page(wh_hart *h, uint64_t va, int *status);
/* The same, if the code slot has it; else NULL. */
wh_jit_page *wh_jit_page_in_slot(const wh_hart *h, uint64_t va);
wh_jit_block *wh_jit_find(wh_jit *j, const wh_jit_page *page, uint32_t offset);
/* Translate at this offset; NULL: not possible there, or the arena is full (j->full). next: the record of the virtual
 * page behind; NULL: nothing is made of an instruction that goes on there. */
wh_jit_block *wh_jit_make(wh_hart *h, wh_jit_page *page, wh_jit_page *next, uint32_t offset);
void wh_jit_link(wh_hart *h, uint32_t site, uint32_t page_ref, const wh_jit_block *to);

/* The access at pc goes to another page too often to remember one: what is translated of it is made anew. Guarded. */
void wh_jit_make_restless(wh_hart *h, uint64_t pc);

/* Warm start. Heads of live blocks, newest first, bit 0: made for user mode; returns how many. */
unsigned wh_jit_heads(wh_jit *j, uint64_t *out, unsigned most);
/* Translate at pa (bit 0 as above) from what RAM holds now, as if it were hot. Any thread; h tells RAM and ISA only.
 * False: no more room. Whether it is still the same when it is first fetched is checked then, as after any FENCE.I. */
bool wh_jit_warm_one(wh_hart *h, uint64_t pa);
void wh_jit_heat_page(wh_hart *h, wh_code_page *page); /* wh_engine.page_decoded */

static inline void *wh_jit_at(const wh_jit *j, uint32_t ref)
{
    return j->arena.rw + ref;
}
static inline uint32_t wh_jit_ref(const wh_jit *j, const void *record)
{
    return (uint32_t)((const uint8_t *)record - j->arena.rw);
}

#endif
