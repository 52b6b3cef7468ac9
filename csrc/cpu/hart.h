/* hart: what is inside a wh_hart. Private to cpu/. The engine owns the hot members while it runs (pc, budget and the
 * MXCSR are in host registers then); every function below that reads pc says so, and the engine writes it back before
 * calling. */
#ifndef WH_HART_H
#define WH_HART_H

#include "cpu/cpu.h"
#include "cpu/csr.h"
#include "cpu/debug.h"
#include "cpu/insn.h"
#include "cpu/model.h"
#include "mmu/mmu.h"

#include <pthread.h>

/* Instructions between two looks at the outside world (interrupts, timer, rounds, attention): about 5 us of guest work.
 */
#define WH_SLICE 2048

/* Decoded code, one guest page a piece. A page is filled as it is executed. FENCE.I does not throw it away: the page
 * keeps the bytes that it was decoded from, and the first fetch after a FENCE.I compares them with RAM and undecodes
 * what changed. So no store, of any hart or device, has to look for code, and guests that fence often stay fast. */
#define WH_PAGE_SLOTS (WH_PAGE_SIZE / 2)
typedef struct wh_code_page {
    wh_insn insn[WH_PAGE_SLOTS + 2]; /* the last two: PAGE_END */
    uint8_t bytes[WH_PAGE_SIZE];
    uint64_t pfn;     /* 0: free */
    uint64_t checked; /* wh_code.epoch at the last comparison */
    uint32_t next;    /* hash chain, index + 1 */
    uint32_t used;    /* fetched since the clock hand passed */
    uint32_t isa;     /* what the hart's model has: wh_decode_for */
} wh_code_page;

typedef struct wh_code {
    wh_code_page *pages; /* anonymous mapping: untouched pages cost nothing */
    uint32_t count, filled, hand;
    uint32_t *buckets; /* count of them, index + 1 */
    uint64_t epoch;    /* raised by FENCE.I */
    /* One byte a decoded entry, WH_HEAT_HOT at most by counting: how often the tier interpreter arrived there by a jump
     * or in another page. Follows the array of pages at 1/8 of its size; untouched it costs nothing. */
    uint8_t *heat;
} wh_code;

/* A slot at or above WH_HEAT_HOT makes the tier interpreter return. Who translated it may leave it so, set
 * WH_HEAT_TRANSLATED, or 0 to be asked again later. Code that changed, and a page that leaves the cache, are cold. */
enum { WH_HEAT_HOT = 16, WH_HEAT_TRANSLATED = 255 };
static inline uint8_t *wh_code_heat(const wh_code *c, const wh_insn *i)
{
    return c->heat + ((uintptr_t)i - (uintptr_t)c->pages) / sizeof(wh_insn);
}

typedef struct wh_engine {
    const char *name;
    enum wh_exit (*run)(wh_hart *h);
    void (*code_changed)(wh_hart *h);         /* FENCE.I or a restored state: recheck before the next fetch */
    int (*attach)(wh_hart *h, wh_error *err); /* a new hart, and its end; NULL: nothing to do */
    void (*detach)(wh_hart *h);
    /* A page came into the decode cache: heat for what is translated of it already (by another hart, by a warm start).
     * NULL: nothing to do. */
    void (*page_decoded)(wh_hart *h, wh_code_page *page);
} wh_engine;
extern const wh_engine wh_engine_interpreter;

/* What the parts of an engine tell each other; the board never sees these. */
enum wh_private_exit {
    WH_EXIT_HOT = 16,    /* pc is at code worth translating, or translated; pc and budget are right */
    WH_EXIT_SLICE = 17,  /* wh_hart_poll is due: budget is 0 or less, a trap was taken, recheck is set */
    WH_EXIT_LOOKUP = 18, /* go on at pc, but translation or privilege may be another, or it is in another page */
};

enum wh_fp_state {
    WH_FP_FAST = 0, /* FS is Dirty, frm is a mode that the host has: the host may do it */
    WH_FP_SLOW = 1
};

/* Remote SFENCE.VMAs that name pages or an address space (fence.c). */
typedef struct wh_fence_range {
    uint64_t start, pages; /* no pages: the whole address space */
    uint32_t asid;
} wh_fence_range;
typedef struct wh_fence_list {
    pthread_mutex_t lock;
    unsigned count;
    wh_fence_range range[8];
} wh_fence_list;

struct wh_hart {
    uint64_t x[33]; /* 32: where writes to x0 go */
    uint64_t pc;
    int64_t budget, slice; /* instructions left of the slice; what it began with */
    /* Of translated code (jit/backend.h). */
    uint64_t vpage;                       /* the virtual page that runs */
    uint64_t keep[4];                     /* of look-ups that several accesses share (jit/x86/memory.c) */
    uint64_t returns_base, returns_limit; /* host addresses: the stack of returns (jit/x86/returns.c) */
    uint32_t link_site, link_page;        /* the exit that was taken */
    int leave_status;                     /* of a helper that made the code leave: 0, enum wh_exit or wh_private_exit */
    bool fp_live;                         /* the f registers are in the host's */
    wh_mmu mmu;                           /* its first members are hot */
    uint64_t f[32];
    uint32_t fp_state; /* enum wh_fp_state */
    bool fs_on, fs_dirty;
    bool block_zero; /* cbo.zero is allowed at this privilege: what translated code asks */
    bool recheck;    /* an interrupt may have become deliverable, or translation changed: look before going on */

    wh_cpu_env env;
    const wh_engine *engine;
    unsigned id;
    uint32_t isa; /* enum wh_isa bits of env.model */
    enum wh_priv priv;
    int trap_cause; /* of the access or CSR that failed last; wh_trap takes them as arguments */
    uint64_t trap_value;

    wh_insn single[4]; /* an instruction that no code page can hold: across pages, or outside RAM */
    uint64_t single_pc;

    uint64_t reservation; /* host address, 0: none */
    uint64_t reserved_value;

    uint32_t fflags, frm;
    uint32_t host_mxcsr;
    bool fp_entered, has_fma;

    uint64_t retired; /* instructions before the slice */
    uint64_t limit;   /* steps at which an exact hart (env.steps_until) exits */
    wh_csrs csr;
    _Atomic uint64_t lines; /* mip bits driven from outside; SSIP also by the guest */
    _Atomic uint32_t attention;
    _Atomic uint32_t fences, fence_busy;
    wh_fence_list fence_list;
    uint64_t round;

    wh_code code;
    _Atomic uint32_t in_code; /* inside translated code: the cache must not be reset */
    uint32_t code_generation; /* of the cache that jumps and fetch translations lead into */
    int64_t slice_length;     /* what a slice begins with */
    _Atomic uint64_t stat_instructions, stat_traps, stat_interrupts, stat_mmio, stat_misses;

    struct {
        bool on; /* wh_hart_run goes to wh_debug_run */
        bool stepped;
        const wh_debug_points *points;
        wh_debug_step step;
        wh_debug_hit hit;
    } debug;
};

static inline uint64_t wh_hart_retired(const wh_hart *h)
{
    return h->retired + (uint64_t)(h->slice - h->budget);
}
static inline bool wh_hart_exact(const wh_hart *h)
{
    return h->env.steps_until != NULL;
}
/* The next look at the world comes right after this instruction. h->budget is right; whoever keeps it elsewhere reads
 * it back. */
static inline void wh_hart_end_slice(wh_hart *h)
{
    h->retired = wh_hart_retired(h);
    h->budget = h->slice = 0;
}
/* menvcfg's writable bits; senvcfg's are those among them that it has too. */
static inline uint64_t wh_menvcfg_mask(const wh_hart *h)
{
    uint64_t v = WH_ENVCFG_FIOM;
    v |= (h->isa & WH_ISA_ZICBOM) ? WH_ENVCFG_CBIE | WH_ENVCFG_CBCFE : 0;
    v |= (h->isa & WH_ISA_ZICBOZ) ? WH_ENVCFG_CBZE : 0;
    v |= (h->isa & WH_ISA_SVADU) ? WH_MENVCFG_ADUE : 0;
    v |= (h->isa & WH_ISA_SVPBMT) ? WH_MENVCFG_PBMTE : 0;
    v |= (h->isa & WH_ISA_SSTC) ? WH_MENVCFG_STCE : 0;
    return v;
}
#define WH_SENVCFG_BITS (WH_ENVCFG_FIOM | WH_ENVCFG_CBIE | WH_ENVCFG_CBCFE | WH_ENVCFG_CBZE)
/* stimecmp drives STIP: with Sstc, and always where the SBI is built in, for it sets the timer by it. */
static inline bool wh_timer_used(const wh_hart *h)
{
    return h->env.direct_boot || (h->csr.menvcfg & WH_MENVCFG_STCE);
}
static inline void wh_count(_Atomic uint64_t *counter) /* only the hart's own thread writes */
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

/* code.c */
int wh_code_init(wh_code *c, unsigned pages, wh_error *err);
void wh_code_free(wh_code *c);
wh_code_page *wh_code_get(wh_hart *h, uint64_t pa,
                          const uint8_t *host); /* never NULL; may drop every fetch translation */
void wh_code_decode(wh_code_page *page, unsigned slot);
/* What an idle guest runs - its clock, the work queues of its kernel, a daemon that looks around - takes 50 to 90 pages
 * of 300 (a Debian guest's, by measurement), of each a part. More than the lower bound of that is given back. */
static inline unsigned wh_code_modest(const wh_code *c)
{
    return c->count / 6;
}
void wh_code_give_back(wh_hart *h); /* all of it; not while the interpreter runs */
static inline void wh_code_expire(wh_hart *h)
{
    h->code.epoch++;
    wh_mmu_drop_fetches(&h->mmu);
}

/* interp*.c: one interpreter in four variants (interp_run.h). All begin at h->pc and end with pc and budget right; all
 * run between wh_fp_enter and wh_fp_leave, which the caller calls. Each returns enum wh_exit or wh_private_exit.
 *  run        polls when budget is 0 or less, also at the start; returns public exits only.
 *  run_tier   the same, counting heat at each taken jump and page entry but the first; WH_EXIT_HOT before it executes
 *             hot code.
 *  run_exact  needs budget > 0 and never polls: WH_EXIT_SLICE after exactly `budget` instructions, or earlier when a
 *             trap was taken or a device access set recheck (budget is then below what remained, retired is right).
 *  one        executes one instruction, decoded with any page offset, that stands at h->pc; h->budget counts it. 0: the
 *             next one in sequence, or the target of a near jump, is at pc. Of a pair it does the first half. PAGE_END,
 *             SPLIT and UNDECODED mean: fetch and decode what is at pc.
 *  step       run_exact for one instruction (debuggers); an interrupt is not looked for. */
int wh_interp_run(wh_hart *h);
int wh_interp_run_tier(wh_hart *h);
int wh_interp_run_exact(wh_hart *h);
int wh_interp_one(wh_hart *h, const wh_insn *one);
int wh_interp_step(wh_hart *h);

/* debug.c, debug_run.c */
bool wh_debug_breaks_at(const wh_debug_points *p, uint64_t address);
enum wh_exit wh_debug_run(wh_hart *h);

/* mem.c: the slow ways of memory access. 0, or -1 with trap_cause and trap_value set. */
int wh_load(wh_hart *h, uint64_t va, unsigned size, uint64_t *value);
int wh_store(wh_hart *h, uint64_t va, unsigned size, uint64_t value);
int wh_atomic_address(wh_hart *h, uint64_t va, unsigned size, enum wh_access access, uint8_t **host);
int wh_fetch_bits(wh_hart *h, uint64_t va, uint32_t *bits); /* 4 bytes, or 2 when these are a whole instruction */

/* fence.c */
void wh_serve_fences(wh_hart *h); /* everything that was asked for until now */

/* trap.c */
void wh_hart_update_mode(wh_hart *h);                     /* after privilege, mstatus or satp changed */
bool wh_trap(wh_hart *h, uint64_t cause, uint64_t value); /* pc: the trapping instruction; true: wedged */
uint64_t wh_pending(wh_hart *h);                          /* deliverable now at this privilege, mip bits */
uint64_t wh_mip(wh_hart *h);
void wh_timer_check(wh_hart *h); /* refresh STIP from the clock (Sstc) */
int wh_hart_poll(wh_hart *h);    /* 0: go on at pc; else enum wh_exit */
int wh_hart_look(wh_hart *h);    /* the same, but takes no interrupt */
bool wh_sret(wh_hart *h);        /* false: illegal here */
bool wh_mret(wh_hart *h);
bool wh_wfi_allowed(const wh_hart *h);
bool wh_wrs_allowed(const wh_hart *h, bool no_timeout);
bool wh_sfence_allowed(const wh_hart *h);

/* extra.c: what is too long for the loop. 0; -1 with trap_cause and trap_value set; 1: illegal here. */
bool wh_cbo_allowed(const wh_hart *h, unsigned kind);
int wh_cbo(wh_hart *h, unsigned kind, uint64_t va); /* enum WH_CBO_x */
int wh_amocas_q(wh_hart *h, const wh_insn *i);

/* csr_access.c: one CSR instruction as packed by the decoder. False: illegal. */
bool wh_csr_instruction(wh_hart *h, int32_t imm, uint64_t operand, uint64_t *old);

/* fp.c */
void wh_fp_enter(wh_hart *h); /* host FP control belongs to the guest from here ... */
void wh_fp_leave(wh_hart *h); /* ... to here; flags are collected */
void wh_fp_collect(wh_hart *h);
void wh_fp_update(wh_hart *h);                 /* after FS, frm or fflags changed */
bool wh_fp_slow(wh_hart *h, const wh_insn *i); /* any operation in software; false: illegal */
static inline void wh_fp_touch(wh_hart *h)
{
    h->csr.mstatus |= WH_MSTATUS_FS;
    wh_fp_update(h);
}

#endif
