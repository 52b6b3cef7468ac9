/* backend: what the translator asks of a host. One implementation a host architecture (jit/x86/); another one needs
 * these functions and nothing of the rest.
 *
 * Code lives in an arena that is mapped twice, once to write and once to execute; everything here speaks of offsets in
 * it, which hold for both. Code grows upward from 0, the cache's own records downward from the end.
 *
 * What translated code keeps, in every implementation:
 *  - The charge. A block's head takes the number of its instructions from the slice's budget, or those of one way
 * through it; who leaves early gives back what was not executed, who goes another way pays the difference. Thus at any
 * exit h->budget is exact, and a head whose charge would overshoot takes nothing and leaves with WH_LEAVE_BUDGET.
 *  - h->vpage is the virtual page that the code runs in.
 *  - In calls of C and after leaving, all guest registers are in h->x and h->f (fp_live false) and h->pc is right. */
#ifndef WH_JIT_BACKEND_H
#define WH_JIT_BACKEND_H

#include "cpu/hart.h"
#include "jit/ir.h"

/* Why translated code came back. */
enum wh_leave {
    WH_LEAVE_LOOKUP = 1, /* go on at h->pc, wherever that is translated */
    WH_LEAVE_LINK,       /* the same; the exit at h->link_site of page record h->link_page may be linked to it */
    WH_LEAVE_BUDGET,     /* the block at h->pc wants more than the budget has left */
    WH_LEAVE_HELPER,     /* a C helper decided: h->pc is right, h->leave_status is 0 or an enum wh_exit */
};

typedef struct wh_jit_arena {
    uint8_t *rw, *rx;             /* the same memory */
    uint32_t size, code, records; /* code: end of what is written; records: start of the cache's records */
    uint32_t thunks;              /* end of what survives a reset */
    enum wh_leave (*enter)(wh_hart *h, const void *code);
    uint32_t thunk[26], site[2]; /* the back end's own */
} wh_jit_arena;

typedef struct wh_jit_code {
    uint32_t entry; /* where jumps to the block go */
    uint32_t stale; /* where a diverted entry goes: leaves with LOOKUP at the head */
} wh_jit_code;

bool wh_backend_available(void);
/* Write what is shared by all blocks into an empty arena. */
void wh_backend_start(wh_jit_arena *a);
/* False: the arena is full (nothing is taken). page_ref comes back in h->link_page. */
bool wh_backend_translate(wh_jit_arena *a, const wh_jit_ir *ir, uint32_t page_ref, wh_jit_code *out);
/* Both are safe while other harts execute the code; the caller serialises them. */
void wh_backend_link(wh_jit_arena *a, uint32_t site, uint32_t entry);
void wh_backend_divert(wh_jit_arena *a, uint32_t entry, uint32_t to);

/* helpers.c: what translated code calls, on every host. `packed` says which instruction (WH_PACK_*). 0: go on behind
 * the instruction; 1: leave with WH_LEAVE_HELPER; 2: jump to h->pc. They find the budget as the block left it and make
 * it exact. */
int wh_jit_help_memory(wh_hart *h, uint64_t va, uint32_t packed);
int wh_jit_help_one(wh_hart *h, uint64_t insn, uint32_t packed);
int wh_jit_help_fp(wh_hart *h, uint64_t insn, uint32_t packed);
/* An instruction across two pages, fetched anew; never 0. */
int wh_jit_help_split(wh_hart *h, uint64_t unused, uint32_t packed);

/* packed: offset in the page (12) | charge to give back, this instruction included (7) | register (6) | kind (5) |
 * 4-byte instruction (1). */
#define WH_PACK(at, charge, reg, kind, length)                                                                         \
    ((uint32_t)(at) | (uint32_t)(charge) << 12 | (uint32_t)(reg) << 19 | (uint32_t)(kind) << 25 |                      \
     ((length) == 4 ? 1u << 30 : 0))
#define WH_PACK_AT(p)     ((p) & 0xfffu)
#define WH_PACK_CHARGE(p) ((p) >> 12 & 0x7fu)
#define WH_PACK_REG(p)    ((p) >> 19 & 63u)
#define WH_PACK_KIND(p)   ((p) >> 25 & 31u)
#define WH_PACK_LENGTH(p) ((p) >> 30 & 1 ? 4u : 2u)
enum wh_access_kind {
    WH_KIND_LB,
    WH_KIND_LH,
    WH_KIND_LW,
    WH_KIND_LD,
    WH_KIND_LBU,
    WH_KIND_LHU,
    WH_KIND_LWU,
    WH_KIND_SB,
    WH_KIND_SH,
    WH_KIND_SW,
    WH_KIND_SD,
    WH_KIND_FLH,
    WH_KIND_FLW,
    WH_KIND_FLD,
    WH_KIND_FSW,
    WH_KIND_FSD,
};

#endif
