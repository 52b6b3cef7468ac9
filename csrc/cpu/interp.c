/* The interpreter: a direct-threaded loop over decoded instructions (insn.h) in code pages (hart.h).
 *
 * What each trick gains, and what it obliges:
 *  - `ip` runs over 8-byte decoded instructions, two guest bytes each; falling through is ip += length/2 and a branch
 * within the page adds a constant. Obliges: PC is computed (ip/4 + delta) only where somebody needs it.
 *  - every handler ends in its own indirect jump, so that the host predicts by guest context. Obliges: no shared NEXT,
 * hence the compiler flags of csrc/Makefile.
 *  - `budget` counts down one an instruction and is compared only at taken jumps; a page holds at most 2048
 * instructions, which bounds what runs between two looks at the world. instret is slice - budget. Obliges: whoever
 * leaves the loop SYNCs.
 *  - rd = x0 was decoded as register 32, so that no handler tests for it.
 *  - guest rounding mode and sticky flags live in the host's MXCSR. Obliges: everything between wh_fp_enter and
 * wh_fp_leave does no floating point of its own (mem.c leaves and enters around devices). */
#include "cpu/alu.h"
#include "cpu/hart.h"
#include "cpu/hostfp.h"
#include "cpu/softfp.h"

#include <string.h>

/* A guest access of any alignment is one host access. */
struct wh_any_8 {
    uint8_t v;
};
struct __attribute__((packed, may_alias)) wh_any_16 {
    uint16_t v;
};
struct __attribute__((packed, may_alias)) wh_any_32 {
    uint32_t v;
};
struct __attribute__((packed, may_alias)) wh_any_64 {
    uint64_t v;
};

/* What harts read and write at the same time is the guest's own affair, so ThreadSanitizer shall not look at it; it
 * looks at all else. */
#if defined(__SANITIZE_THREAD__)
#define GUEST_ACCESS static __attribute__((noinline, no_sanitize("thread")))
#else
#define GUEST_ACCESS static inline
#endif
#define GUEST_ACCESSES(width)                                                                                          \
    GUEST_ACCESS uint##width##_t guest_read_##width(uint64_t at)                                                       \
    {                                                                                                                  \
        return ((const volatile struct wh_any_##width *)(uintptr_t)at)->v;                                             \
    }                                                                                                                  \
    GUEST_ACCESS void guest_write_##width(uint64_t at, uint##width##_t value)                                          \
    {                                                                                                                  \
        ((volatile struct wh_any_##width *)(uintptr_t)at)->v = value;                                                  \
    }
GUEST_ACCESSES(8)
GUEST_ACCESSES(16)
GUEST_ACCESSES(32)
GUEST_ACCESSES(64)

static void code_changed(wh_hart *h)
{
    wh_code_expire(h);
}

static wh_code_page *page_of(wh_insn *first)
{
    return (wh_code_page *)(void *)((char *)first - offsetof(wh_code_page, insn));
}

/* Decode the one instruction at pc into h->single. 0, or a trap cause with trap_value set. */
static int enter_single(wh_hart *h)
{
    uint32_t bits;
    if (wh_fetch_bits(h, h->pc, &bits) != 0)
        return h->trap_cause;
    unsigned length = wh_decode(bits, WH_NO_PAGE, &h->single[0]);
    h->single[length / 2].op = WH_OP_PAGE_END;
    return 0;
}

/* The usual case of an instruction across two pages: both have their code page at hand. */
static bool enter_split(wh_hart *h, wh_insn *ip)
{
    uint64_t after = h->pc + 2;
    const wh_tlb_entry *e = wh_mmu_fetch_slot(&h->mmu, after);
    if (e->tag != ((after >> WH_PAGE_SHIFT) | h->mmu.fetch_context))
        return false;
    uint16_t low, high;
    memcpy(&low, page_of(ip - (WH_PAGE_SLOTS - 1))->bytes + WH_PAGE_SIZE - 2, 2);
    memcpy(&high, page_of((wh_insn *)(uintptr_t)e->addend)->bytes, 2);
    (void)wh_decode(low | (uint32_t)high << 16, WH_NO_PAGE, &h->single[0]);
    h->single[2].op = WH_OP_PAGE_END;
    return true;
}

/* Find pc's code page after a miss of the fetch TLB. 0 with *first (NULL: h->single was filled), or a trap cause. */
static int enter_page(wh_hart *h, wh_insn **first)
{
    uint64_t pa;
    uint8_t *host;
    bool whole;
    int cause = wh_mmu_fetch(&h->mmu, h->pc, 2, &pa, &host, &whole);
    *first = NULL;
    if (cause != 0) {
        h->trap_value = h->pc;
        return cause;
    }
    if (!whole)
        return enter_single(h);
    wh_code_page *page = wh_code_get(h, pa, host - (pa & (WH_PAGE_SIZE - 1)));
    wh_mmu_fill_fetch(&h->mmu, h->pc, (uintptr_t)page->insn);
    *first = page->insn;
    return 0;
}

static void sfence_vma(wh_hart *h, const wh_insn *i)
{
    if (i->b != 0)
        wh_mmu_flush_page(&h->mmu, h->x[i->b]);
    else if (i->a != 0)
        wh_mmu_flush_asid(&h->mmu, (uint32_t)h->x[i->a]);
    else
        wh_mmu_flush_all(&h->mmu);
}

#define RD  h->x[ip->a]
#define RA  h->x[ip->a]
#define RS1 h->x[ip->b]
#define RS2 h->x[ip->imm]
#define IMM ((uint64_t)(int64_t)ip->imm)

#define PC() (((uintptr_t)ip >> 2) + delta)
#define SYNC()                                                                                                         \
    do {                                                                                                               \
        h->pc = PC();                                                                                                  \
        h->budget = budget;                                                                                            \
    } while (0)
#define DISPATCH() goto *labels[ip->op]
#define NEXT(length)                                                                                                   \
    do {                                                                                                               \
        ip += (length) / 2;                                                                                            \
        budget--;                                                                                                      \
        DISPATCH();                                                                                                    \
    } while (0)
#define JUMP_NEAR()                                                                                                    \
    do {                                                                                                               \
        ip = (wh_insn *)(void *)((char *)ip + ip->imm);                                                                \
        if (WH_UNLIKELY(--budget <= 0))                                                                                \
            goto slice_over;                                                                                           \
        DISPATCH();                                                                                                    \
    } while (0)
/* The instruction counts, then go to `target`, in any page. */
#define JUMP_FAR()                                                                                                     \
    do {                                                                                                               \
        if (WH_UNLIKELY(--budget <= 0))                                                                                \
            goto slice_over_far;                                                                                       \
        LOOKUP(target);                                                                                                \
    } while (0)
#define LOOKUP(va)                                                                                                     \
    do {                                                                                                               \
        const wh_tlb_entry *fe = wh_mmu_fetch_slot(&h->mmu, (va));                                                     \
        if (WH_UNLIKELY(fe->tag != (((va) >> WH_PAGE_SHIFT) | h->mmu.fetch_context)))                                  \
            goto miss;                                                                                                 \
        uintptr_t base = (uintptr_t)fe->addend;                                                                        \
        delta = ((va) & ~(uint64_t)(WH_PAGE_SIZE - 1)) - (base >> 2);                                                  \
        ip = (wh_insn *)(base + ((va) & (WH_PAGE_SIZE - 2)) * (sizeof(wh_insn) / 2));                                  \
        DISPATCH();                                                                                                    \
    } while (0)
/* A device access may have changed what is pending: end the slice at the next jump. */
#define AFTER_SLOW()                                                                                                   \
    if (WH_UNLIKELY(h->recheck)) {                                                                                     \
        h->retired += (uint64_t)(h->slice - budget);                                                                   \
        h->slice = budget = 0;                                                                                         \
        h->recheck = false;                                                                                            \
    }
#define ONE(name, ...)                                                                                                 \
    L_##name : __VA_ARGS__;                                                                                            \
    NEXT(4);
#define TWO(name, ...)                                                                                                 \
    L_##name : __VA_ARGS__;                                                                                            \
    NEXT(4);                                                                                                           \
    L_##name##_C : __VA_ARGS__;                                                                                        \
    NEXT(2);

/* A floating-point load makes FS dirty, a store only needs it on. */
#define FP_WRITE_CHECK()                                                                                               \
    if (WH_UNLIKELY(!h->fs_dirty)) {                                                                                   \
        if (!h->fs_on)                                                                                                 \
            goto illegal;                                                                                              \
        wh_fp_touch(h);                                                                                                \
    }
#define FP_READ_CHECK()                                                                                                \
    if (WH_UNLIKELY(!h->fs_on))                                                                                        \
        goto illegal;

static enum wh_exit run(wh_hart *h)
{
    static const void *const labels[] = {
#define LABEL_ONE(name)           &&L_##name,
#define LABEL_TWO(name)           &&L_##name, &&L_##name##_C,
#define LABEL_PAIR(first, second) &&L_##first##__##second,
        WH_OPS(LABEL_ONE, LABEL_TWO) WH_PAIRS(LABEL_PAIR, LABEL_PAIR)};
    wh_insn *ip = NULL;
    int64_t budget = 0;
    uint64_t delta = 0, target = 0;
    int status;

    wh_fp_enter(h);
    goto poll;

/* Nothing falls through from one to the next; ops_pairs.h uses macros of ops_memory.h. */
#include "cpu/ops_float.h"
#include "cpu/ops_integer.h"
#include "cpu/ops_memory.h"
#include "cpu/ops_pairs.h"

L_UNDECODED:
    {
        uint64_t slot = (PC() & (WH_PAGE_SIZE - 1)) / 2;
        wh_code_decode(page_of(ip - slot), (unsigned)slot);
        DISPATCH();
    }
L_PAGE_END:
    target = PC();
    LOOKUP(target);
L_SPLIT:
    h->pc = target = PC();
    if (WH_LIKELY(enter_split(h, ip)))
        goto in_single;
    h->budget = budget;
    status = enter_single(h);
    if (status != 0)
        goto trap_status;
    goto in_single;

L_ILLEGAL:
    SYNC();
    h->trap_cause = WH_CAUSE_ILLEGAL;
    h->trap_value = (uint32_t)ip->imm;
    goto trap;
L_ECALL:
    SYNC();
    if (h->priv == WH_PRIV_S && h->env.direct_boot) {
        h->pc += 4;
        h->budget--;
        wh_fp_leave(h);
        return WH_EXIT_SBI;
    }
    h->trap_cause = WH_CAUSE_ECALL_U + (int)h->priv;
    h->trap_value = 0;
    goto trap;
L_EBREAK:
L_EBREAK_C:
    SYNC();
    h->trap_cause = WH_CAUSE_BREAK;
    h->trap_value = h->pc;
    goto trap;
L_CSR:
    {
        uint64_t old = 0;
        SYNC();
        if (!wh_csr_instruction(h, ip->imm, RS1, &old))
            goto illegal;
        RD = old;
        if (h->recheck)
            goto changed;
        NEXT(4);
    }
L_FENCE_I:
    SYNC();
    h->engine->code_changed(h);
    goto changed;
L_SFENCE_VMA:
    SYNC();
    if (!wh_sfence_allowed(h))
        goto illegal;
    sfence_vma(h, ip);
    goto changed;
L_SFENCE_ORDER:
    if (h->priv == WH_PRIV_U)
        goto illegal;
    NEXT(4);
L_MRET:
    SYNC();
    if (!wh_mret(h))
        goto illegal;
    h->budget--;
    goto redirected;
L_SRET:
    SYNC();
    if (!wh_sret(h))
        goto illegal;
    h->budget--;
    goto redirected;
L_WFI:
    SYNC();
    if (!wh_wfi_allowed(h))
        goto illegal;
    h->pc += 4;
    h->budget--;
    if (wh_hart_runnable(h))
        goto poll;
    wh_fp_leave(h);
    return WH_EXIT_WFI;

L_PAUSE: /* with fewer host cores than harts, the one that is waited for may be waiting for ours */
    if (h->env.hart_count < 2)
        NEXT(4);
    SYNC();
    h->pc += 4;
    h->budget--;
    wh_fp_leave(h);
    return WH_EXIT_PAUSE;

slice_over: /* ip is at the next instruction */
    SYNC();
    goto poll;
slice_over_far:
    h->pc = target;
    h->budget = budget;
    goto poll;

changed: /* the instruction at pc is done; translation or what is pending may be another now */
    h->pc += 4;
    h->budget--;
redirected: /* pc and h->budget are right */
    h->recheck = false;
    if (WH_UNLIKELY(h->budget <= 0 || wh_pending(h) != 0))
        goto poll;
    budget = h->budget;
    target = h->pc;
    LOOKUP(target);

illegal: /* found while executing: the bits are fetched again for tval */
    SYNC();
    {
        uint32_t bits = 0;
        uint64_t at = h->pc;
        if (wh_fetch_bits(h, at, &bits) != 0)
            bits = 0;
        h->trap_value = bits;
    }
    h->trap_cause = WH_CAUSE_ILLEGAL;
trap: /* pc and h->budget are right, trap_cause and trap_value say what */
    status = h->trap_cause;
trap_status:
    if (wh_trap(h, (uint64_t)status, h->trap_value)) {
        wh_fp_leave(h);
        return WH_EXIT_WEDGED;
    }
    /* Through poll, so that a guest in a loop of traps is still interruptible. */
poll:
    status = wh_hart_poll(h);
    if (status != 0) {
        wh_fp_leave(h);
        return (enum wh_exit)status;
    }
    budget = h->budget;
    target = h->pc;
    LOOKUP(target);

miss: /* target is not in the fetch TLB */
    {
        wh_insn *first;
        h->pc = target;
        h->budget = budget;
        status = enter_page(h, &first);
        if (status != 0)
            goto trap_status;
        if (first == NULL)
            goto in_single;
        LOOKUP(target);
    }
in_single:
    ip = h->single;
    delta = h->pc - ((uintptr_t)ip >> 2);
    DISPATCH();
}

const wh_engine wh_engine_interpreter = {.name = "interpreter", .run = run, .code_changed = code_changed};
