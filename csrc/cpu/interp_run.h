/* The interpreter: a direct-threaded loop over decoded instructions (insn.h) in code pages (hart.h). A template: the
 * file that includes it defines INTERP, the function's name, and at most one of
 *  INTERP_TIER   counts heat at taken jumps and page entries, and returns WH_EXIT_HOT when a target is hot;
 *  INTERP_EXACT  ends the slice at exactly budget 0, and leaves polling to its caller (WH_EXIT_SLICE);
 *  INTERP_ONE    executes `one`, a decoded instruction at h->pc, and returns (0: pc is at what comes next).
 * hart.h says what callers of each may rely on. Floating-point control is entered and left by the caller.
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

#if defined(INTERP_TIER) + defined(INTERP_EXACT) + defined(INTERP_ONE) > 1
#error "an interpreter has one variant"
#endif

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
#define DISPATCH() goto *table[ip->op]
#if defined(INTERP_ONE)
#define NEXT(length)                                                                                                   \
    do {                                                                                                               \
        ip += (length) / 2;                                                                                            \
        budget--;                                                                                                      \
        goto done;                                                                                                     \
    } while (0)
#elif defined(INTERP_EXACT)
#define NEXT(length)                                                                                                   \
    do {                                                                                                               \
        ip += (length) / 2;                                                                                            \
        if (WH_UNLIKELY(--budget <= 0))                                                                                \
            goto slice_over;                                                                                           \
        DISPATCH();                                                                                                    \
    } while (0)
#else
#define NEXT(length)                                                                                                   \
    do {                                                                                                               \
        ip += (length) / 2;                                                                                            \
        budget--;                                                                                                      \
        DISPATCH();                                                                                                    \
    } while (0)
#endif
/* From the first of a pair to its second half. */
#if defined(INTERP_ONE) || defined(INTERP_EXACT)
#define GO_ON(second, length) NEXT(length);
#else
#define GO_ON(second, length)                                                                                          \
    ip += (length) / 2;                                                                                                \
    budget--;                                                                                                          \
    goto second;
#endif
/* Once for each arrival at `ip` other than by falling through. */
#if defined(INTERP_TIER)
#define HEAT()                                                                                                         \
    do {                                                                                                               \
        uint8_t *heat = wh_code_heat(&h->code, ip);                                                                    \
        if (WH_UNLIKELY(*heat >= WH_HEAT_HOT))                                                                         \
            goto hot;                                                                                                  \
        ++*heat;                                                                                                       \
    } while (0)
#else
#define HEAT() (void)0
#endif
#if defined(INTERP_ONE)
#define JUMP_NEAR() NEXT(ip->imm / (int)sizeof(wh_insn) * 2)
#else
#define JUMP_NEAR()                                                                                                    \
    do {                                                                                                               \
        ip = (wh_insn *)(void *)((char *)ip + ip->imm);                                                                \
        if (WH_UNLIKELY(--budget <= 0))                                                                                \
            goto slice_over;                                                                                           \
        HEAT();                                                                                                        \
        DISPATCH();                                                                                                    \
    } while (0)
#endif
/* The instruction counts, then go to `target`, in any page. */
#define JUMP_FAR()                                                                                                     \
    do {                                                                                                               \
        if (WH_UNLIKELY(--budget <= 0))                                                                                \
            goto slice_over_far;                                                                                       \
        LOOKUP(target);                                                                                                \
    } while (0)
#if defined(INTERP_ONE)
#define LOOKUP(va)                                                                                                     \
    do {                                                                                                               \
        h->pc = (va);                                                                                                  \
        h->budget = budget;                                                                                            \
        return WH_EXIT_LOOKUP;                                                                                         \
    } while (0)
#else
#define LOOKUP(va)                                                                                                     \
    do {                                                                                                               \
        const wh_tlb_entry *fe = wh_mmu_fetch_slot(&h->mmu, (va));                                                     \
        if (WH_UNLIKELY(fe->tag != (((va) >> WH_PAGE_SHIFT) | h->mmu.fetch_context)))                                  \
            goto miss;                                                                                                 \
        uintptr_t base = (uintptr_t)fe->addend;                                                                        \
        delta = ((va) & ~(uint64_t)(WH_PAGE_SIZE - 1)) - (base >> 2);                                                  \
        ip = (wh_insn *)(base + ((va) & (WH_PAGE_SIZE - 2)) * (sizeof(wh_insn) / 2));                                  \
        HEAT();                                                                                                        \
        DISPATCH();                                                                                                    \
    } while (0)
#endif
/* A device access may have changed what is pending: end the slice at the next jump. */
#if defined(INTERP_ONE)
#define AFTER_SLOW() (void)0
#else
#define AFTER_SLOW()                                                                                                   \
    if (WH_UNLIKELY(h->recheck)) {                                                                                     \
        h->retired += (uint64_t)(h->slice - budget);                                                                   \
        h->slice = budget = 0;                                                                                         \
        h->recheck = false;                                                                                            \
    }
#endif
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

#if defined(INTERP_ONE)
int INTERP(wh_hart *h, const wh_insn *one)
#else
int INTERP(wh_hart *h)
#endif
{
    static const void *const labels[] = {
#define LABEL_ONE(name)           &&L_##name,
#define LABEL_TWO(name)           &&L_##name, &&L_##name##_C,
#define LABEL_PAIR(first, second) &&L_##first##__##second,
        WH_OPS(LABEL_ONE, LABEL_TWO) WH_PAIRS(LABEL_PAIR, LABEL_PAIR)};
    const void *const *table = labels;
    __asm__("" : "+r"(table)); /* else its address is made anew for each dispatch */
    wh_insn *ip = NULL;
    int64_t budget = 0;
    uint64_t delta = 0, target = 0;
    int status;

#if defined(INTERP_ONE)
    wh_insn copy = *one;
    ip = &copy;
    budget = h->budget;
    delta = h->pc - ((uintptr_t)ip >> 2);
    DISPATCH();
#else
    if (h->budget <= 0)
        goto poll;
    budget = h->budget;
    target = h->pc;
    goto enter;
#endif

/* Nothing falls through from one to the next; ops_pairs.h uses macros of ops_memory.h. */
#include "cpu/ops_float.h"
#include "cpu/ops_integer.h"
#include "cpu/ops_memory.h"
#include "cpu/ops_pairs.h"

#include "cpu/ops_extra.h" /* uses macros of ops_float.h and ops_memory.h */

#if defined(INTERP_ONE)
L_UNDECODED:
L_PAGE_END:
L_SPLIT:
#else
L_UNDECODED:
    {
        uint64_t slot = (PC() & (WH_PAGE_SIZE - 1)) / 2;
        wh_code_decode(wh_page_of(ip - slot), (unsigned)slot);
        DISPATCH();
    }
L_PAGE_END:
    target = PC();
    LOOKUP(target);
L_SPLIT:
    h->pc = target = PC();
    if (WH_LIKELY(wh_enter_split(h, ip)))
        goto in_single;
#endif
    SYNC();
    status = wh_enter_single(h);
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
    wh_sfence_vma(h, ip);
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
    return WH_EXIT_WFI;

L_PAUSE: /* with fewer host cores than harts, the one that is waited for may be waiting for ours */
    if (h->env.hart_count < 2)
        NEXT(4);
    SYNC();
    h->pc += 4;
    h->budget--;
    return WH_EXIT_PAUSE;

#if !defined(INTERP_ONE)
slice_over: /* ip is at the next instruction */
    SYNC();
    goto poll;
#endif
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
    if (wh_trap(h, (uint64_t)status, h->trap_value))
        return WH_EXIT_WEDGED;
    /* Through poll, so that a guest in a loop of traps is still interruptible. */
poll:
#if defined(INTERP_ONE) || defined(INTERP_EXACT)
    return WH_EXIT_SLICE;
#else
    status = wh_hart_poll(h);
    if (status != 0)
        return status;
    budget = h->budget;
    target = h->pc;
    LOOKUP(target);
#endif

#if defined(INTERP_TIER)
hot: /* ip is at the hot instruction */
    SYNC();
    return WH_EXIT_HOT;
#endif
#if defined(INTERP_ONE)
done: /* ip is at the next instruction */
    SYNC();
    return h->recheck ? WH_EXIT_SLICE : 0;
#else
enter: /* as LOOKUP, but the caller knows how hot the target is */
    {
        const wh_tlb_entry *fe = wh_mmu_fetch_slot(&h->mmu, target);
        if (fe->tag == ((target >> WH_PAGE_SHIFT) | h->mmu.fetch_context)) {
            uintptr_t base = (uintptr_t)fe->addend;
            delta = (target & ~(uint64_t)(WH_PAGE_SIZE - 1)) - (base >> 2);
            ip = (wh_insn *)(base + (target & (WH_PAGE_SIZE - 2)) * (sizeof(wh_insn) / 2));
            DISPATCH();
        }
    }
miss: /* target is not in the fetch TLB */
    {
        wh_insn *first;
        h->pc = target;
        h->budget = budget;
        status = wh_enter_page(h, &first);
        if (status != 0)
            goto trap_status;
        if (first == NULL)
            goto in_single;
        LOOKUP(target);
    }
#endif
in_single:
    ip = h->single;
    delta = h->pc - ((uintptr_t)ip >> 2);
    DISPATCH();
}
