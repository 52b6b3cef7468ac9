/* cpu: one RV64 hart behind an engine interface. The board makes harts, gives them an environment, runs each in a
 * thread of its own, and answers what they exit for. What is inside a hart (registers, CSRs, TLBs, decode cache) is
 * private to cpu/ and mmu/ (cpu/hart.h). */
#ifndef WH_CPU_H
#define WH_CPU_H

#include "base/base.h"
#include "memory/memory.h"
#include "state/state.h"

typedef struct wh_hart wh_hart;

#define WH_TIMEBASE_HZ 10000000ull

/* What a hart needs of its machine. Constant from creation on. */
typedef struct wh_cpu_env {
    wh_ram *ram;
    void *ctx;
    const struct wh_engine *engine; /* NULL: the interpreter */
    struct wh_jit *jit;             /* shared by all harts; NULL with the interpreter */
    unsigned hart_count;
    uint32_t model;   /* enum wh_cpu_model; a known one */
    bool direct_boot; /* SBI is built in: ecall from S-mode exits with WH_EXIT_SBI, M-mode is never entered */
    /* pa outside RAM; size 1,2,4,8, naturally aligned. Non-zero: access fault. Called without locks held by the hart.
     */
    int (*mmio_read)(void *ctx, wh_hart *h, uint64_t pa, unsigned size, uint64_t *value);
    int (*mmio_write)(void *ctx, wh_hart *h, uint64_t pa, unsigned size, uint64_t value);
    uint64_t (*time_now)(void *ctx); /* mtime, WH_TIMEBASE_HZ; cheap, any thread */
    /* NULL, or: mtime comes from the steps of the hart that runs, and this is how many more of them bring it to `mtime`
     * (0: it is there). Then the hart is exact: it stops at wh_hart_set_limit's count, takes its timer's interrupt
     * before the first instruction at which it is due, and looks again right after each instruction that may have
     * changed what is pending or due, whatever the engine. */
    uint64_t (*steps_until)(void *ctx, uint64_t mtime);
} wh_cpu_env;

enum wh_exit {
    WH_EXIT_ATTENTION = 1, /* someone called wh_hart_attention: look at what is asked, then run again */
    WH_EXIT_WFI = 2,       /* nothing to do until an interrupt; wh_hart_next_timer says when time itself wakes it */
    WH_EXIT_SBI = 3,       /* a0-a7 hold an SBI call; sepc is already past the ecall */
    WH_EXIT_WEDGED = 4,    /* trap taken at the trap vector's own first instruction: no progress is possible */
    WH_EXIT_PAUSE = 5,     /* PAUSE, with several harts: this one waits for what another one does */
    WH_EXIT_LIMIT = 6,     /* an exact hart has taken the steps that it was given */
    WH_EXIT_DEBUG = 7      /* a breakpoint, a watchpoint or a finished step: wh_hart_debug_hit (cpu/debug.h) */
};

#define WH_EXIT_CAUSES 8u /* above every public exit */

int wh_hart_new(const wh_cpu_env *env, unsigned id, wh_hart **out, wh_error *err);
void wh_hart_free(wh_hart *h);
unsigned wh_hart_id(const wh_hart *h);

/* M-mode at pc, everything else as at power-on. */
void wh_hart_reset(wh_hart *h, uint64_t pc);
/* S-mode at pc as the SBI leaves it (satp 0, sie 0, a0 = hart id, a1 = opaque; traps and interrupts delegated). */
void wh_hart_enter_supervisor(wh_hart *h, uint64_t pc, uint64_t opaque);

/* Run until there is a reason not to. Only the hart's own thread. Sees round requests (memory.h), pending interrupts,
 * the timer and attention within a bounded number of instructions. */
enum wh_exit wh_hart_run(wh_hart *h);
/* Steps: instructions retired and exceptions taken, so that a guest in a loop of exceptions gets on too. An exact hart
 * returns WH_EXIT_LIMIT when its count has reached the limit, never later. The limit may be changed by the hart's own
 * thread, also from within mmio_write. */
uint64_t wh_hart_steps(const wh_hart *h); /* the hart's own thread, or while it does not run */
void wh_hart_set_limit(wh_hart *h, uint64_t steps);
/* True when a WFI may end: an enabled interrupt is pending (whatever the global enable says). */
bool wh_hart_runnable(wh_hart *h);
/* mtime of the next timer event that can make it runnable (stimecmp), or UINT64_MAX. */
uint64_t wh_hart_next_timer(wh_hart *h);

/* From any thread. */
void wh_hart_attention(wh_hart *h);
void wh_hart_irq(wh_hart *h, unsigned bit, bool level); /* mip bit: 1 SSIP 3 MSIP 5 STIP 7 MTIP 9 SEIP 11 MEIP */

/* Remote fences: done by the hart itself before its next instruction; the caller waits on its own (board/sbi.c). */
enum wh_fence { WH_FENCE_I = 1, WH_FENCE_VMA = 2, WH_FENCE_RANGES = 4 /* private: those asked for below */ };
void wh_hart_request_fence(wh_hart *h, unsigned kinds); /* any thread; implies attention-free handling inside run */
/* SFENCE.VMA of [start, start + size) in one address space or, with WH_ANY_ASID, in all. start and size 0, or size all
 * ones: every address, as the SBI has it. */
#define WH_ANY_ASID UINT32_MAX
void wh_hart_request_fence_range(wh_hart *h, uint64_t start, uint64_t size, uint32_t asid);
bool wh_hart_fences_done(wh_hart *h);

/* An idle hart gives the host back what it keeps only to be fast, decoded code, the second level of its TLB, the
 * translator's looks. What it needs of them it makes anew. The hart's own thread, outside wh_hart_run. */
void wh_hart_give_back(wh_hart *h);
bool wh_hart_hoards(const wh_hart *h); /* that is more than waiting takes */

uint64_t wh_hart_get_x(const wh_hart *h, unsigned reg);
void wh_hart_set_x(wh_hart *h, unsigned reg, uint64_t value);
uint64_t wh_hart_get_pc(const wh_hart *h);
void wh_hart_set_stimecmp(wh_hart *h, uint64_t value); /* SBI TIME when the guest does not use Sstc itself */
/* Read or write guest memory with the hart's current translation (SBI buffers are physical; this is for debuggers). */
int wh_hart_read_virtual(wh_hart *h, uint64_t va, void *out, size_t len);

typedef struct wh_hart_stats {
    uint64_t instructions, traps, interrupts, mmio, tlb_misses;
} wh_hart_stats;
void wh_hart_get_stats(const wh_hart *h, wh_hart_stats *out); /* any thread, relaxed */

void wh_hart_save(wh_hart *h, wh_writer *w); /* one msgpack map */
void wh_hart_load(wh_hart *h, wh_reader *r);

#endif
