/* x86: the translator's back end for x86-64 with BMI1, BMI2, LZCNT and POPCNT. Private to jit/x86/.
 *
 * Registers in translated code:
 *   rbp  hart + 128, so that x[] is in reach of an 8-bit displacement        r15  budget of the slice
 *   rax rcx rdx  scratch of one guest instruction                             r14  h->mmu.sites (site.c)
 *   rbx rsi rdi r8-r13  guest registers (wh_x86.host; wh_x86_host between blocks)         xmm0-xmm2  scratch
 *   xmm3-xmm15  guest f registers (wh_x86_host_f) while h->fp_live
 * All other guest registers are operands in memory, [rbp + ...]. rsp is 16-byte aligned between instructions.
 *
 * How an emitter is written: bool emit_x(wh_x86 *e, const wh_jit_op *o) puts the code for one guest instruction at
 * e->a; false means "not mine", and the instruction runs in C (wh_interp_one) in the middle of the block. It may use
 * the scratch registers freely, keeps nothing in them, and says what is rare with wh_x86_late: code that stands behind
 * the block. read an x register    wh_x86_use(e, reg, scratch): the host register that has it (scratch if it is in
 * memory); x0 is 0 or as an operand      wh_x86_op(e, X_ADD, w, host, reg): host op= reg write one             d =
 * wh_x86_def(o->in.a, RAX); ...compute in d...; wh_x86_put(e, o->in.a, d) FP registers          wh_x86_need_fp(e, o)
 * first (once a stretch of code; it also makes FS dirty), then wh_x86_use_f, wh_x86_def_f, wh_x86_put_f in the same way
 *   run in C instead      wh_x86_fallback(e, o), also from a late stub: jump to a late item with wh_x86_late_fallback
 * Emitters of emit_fp.c (F, D, Zfa, Zfhmin), emit_atomic.c (A, fences, Zacas) and emit_bits.c (Zb*) are asked in turn
 * after the integer ones (translate.c). */
#ifndef WH_JIT_X86_H
#define WH_JIT_X86_H

#include "jit/backend.h"
#include "jit/x86/asm.h"

enum { HART = RBP, BUDGET = R15, SITES = R14 };
#define WH_X86_BIAS 128
#define H(member)   x_at(HART, (int64_t)offsetof(struct wh_hart, member) - WH_X86_BIAS)

enum wh_x86_thunk {
    THUNK_LEAVE,
    THUNK_LOOKUP,
    THUNK_EMPTY, /* rax: pc, its lowest bit not cleared; the stack of returns had nothing (returns.c) */
    THUNK_LINK,
    THUNK_BUDGET,
    THUNK_MEMORY,
    THUNK_ONE,
    THUNK_FP,
    THUNK_JUMP,
    THUNK_SPLIT,
    THUNK_PAGE, /* eight of them: wh_x86_site_search */
    THUNK_SITE = THUNK_PAGE + 8,
    THUNK_COUNT = THUNK_SITE + 8
};
_Static_assert(THUNK_COUNT <= WH_ARRAY_LEN(((wh_jit_arena *)0)->thunk), "room");

struct wh_x86;
typedef struct wh_x86_late {
    void (*emit)(struct wh_x86 *e, const struct wh_x86_late *l);
    uint8_t *from;       /* displacement of the jump that comes here */
    const uint8_t *back; /* where to go on */
    const wh_jit_op *op;
    int64_t v[2];
    struct wh_x86_site { /* of the access (memory.c) */
        uint32_t slot;   /* its offset in wh_sites; 0: by page number */
        uint16_t size;   /* to search: a power of two up to 8 */
        bool store;
    } site;
    uint8_t kind; /* enum wh_access_kind */
    bool whole;
    bool group_store; /* of the group that the access leads: as in wh_x86_group */
    uint32_t group_slot;
    int32_t low, high;
    wh_mem keep;
} wh_x86_late;

/* One look-up for several accesses (memory.c). */
struct wh_x86_group {
    const wh_jit_op *last; /* NULL: none */
    int16_t base;
    bool store;
    int32_t low, high; /* offsets from the base, [low, high) */
    uint32_t slot;
};
enum { WH_GROUP_SPAN = 512, WH_GROUP_LEAST = 4 };

#define WH_X86_MAPPED 9

#define WH_X86_MAX_LATE (4 * WH_JIT_MAX_OPS)

typedef struct wh_x86 {
    wh_asm a;
    wh_jit_arena *arena;
    const wh_jit_ir *ir;
    uint32_t page_ref;
    bool fp_ready;  /* every way here has passed wh_x86_need_fp */
    uint32_t boxed; /* f registers known to hold a NaN-boxed single (emit_fp.c) */
    uint8_t *label[WH_JIT_MAX_OPS];
    int16_t due[WH_JIT_MAX_OPS], extra[WH_JIT_MAX_OPS]; /* charge.c */
    wh_x86_late late[WH_X86_MAX_LATE];
    unsigned lates;
    struct wh_x86_group group[4]; /* the addend of each is in h->keep */
    uint32_t site_of[33][2];      /* slots of base registers that do not change in this block; 0: none yet */
    uint64_t written;             /* guest x registers that this block may change */
    bool has_fma;
    int16_t host[33]; /* host register of a guest x register in this block, or -1 */
    struct {
        uint8_t host, usual, here; /* a host register, the guest registers that it has outside and inside */
    } swap[WH_X86_MAPPED];
    unsigned swaps;
    const uint8_t *usual, *here; /* subroutines of a block with swaps: to the mapping between blocks, and back */
} wh_x86;

extern const int16_t wh_x86_host[33];   /* the same between blocks, and in thunks */
extern const int16_t wh_x86_host_f[32]; /* xmm number of a guest f register, or -1 */

static inline wh_mem wh_x86_x(unsigned reg)
{
    return x_at(HART, (int64_t)(offsetof(struct wh_hart, x) + 8 * reg) - WH_X86_BIAS);
}
static inline wh_mem wh_x86_f(unsigned reg)
{
    return x_at(HART, (int64_t)(offsetof(struct wh_hart, f) + 8 * reg) - WH_X86_BIAS);
}
static inline unsigned wh_x86_index(const wh_x86 *e, const wh_jit_op *o)
{
    return (unsigned)(o - e->ir->op);
}
/* What is to give back when o, and everything behind it, is not executed. */
static inline unsigned wh_x86_charge(const wh_x86 *e, const wh_jit_op *o)
{
    return (unsigned)e->due[wh_x86_index(e, o)];
}
static inline const uint8_t *wh_x86_thunk_at(const wh_x86 *e, enum wh_x86_thunk t)
{
    return e->arena->rw + e->arena->thunk[t];
}

/* charge.c */
void wh_x86_plan_charges(wh_x86 *e);
void wh_x86_charge_head(wh_x86 *e);
void wh_x86_charge_edge(wh_x86 *e, unsigned from, unsigned to); /* op[from] is done, op[to] is next; keeps the flags */
/* The same backwards; returns the condition for that the budget suffices. */
unsigned wh_x86_charge_back(wh_x86 *e, unsigned from, unsigned to);
/* A branch over a few instructions: taking it costs nothing, and the edge to the next op what it skips. */
bool wh_x86_is_skip(const wh_x86 *e, const wh_jit_op *o);

/* loops.c: a block with a loop may have its own mapping. Everything that leaves a block, or calls C, must be in the
 * usual one. */
void wh_x86_choose_mapping(wh_x86 *e); /* fills host and swap; emits the subroutines */
void wh_x86_to_usual(wh_x86 *e);       /* neither touches rax, rcx or rdx */
void wh_x86_to_here(wh_x86 *e);
void wh_x86_swap_in(wh_x86 *e); /* the same as to_here, in line */
void wh_x86_call_c(wh_x86 *e, enum wh_x86_thunk thunk);

/* regs.c */
int wh_x86_use(wh_x86 *e, unsigned reg, int scratch);
void wh_x86_load(wh_x86 *e, int to, unsigned reg);   /* to = reg, whatever it is in */
void wh_x86_load32(wh_x86 *e, int to, unsigned reg); /* to = its low half, zero-extended */
void wh_x86_op(wh_x86 *e, unsigned op, bool w, int host, unsigned reg);
static inline int wh_x86_def(const wh_x86 *e, unsigned reg, int scratch)
{
    return e->host[reg] >= 0 ? e->host[reg] : scratch;
}
void wh_x86_put(wh_x86 *e, unsigned reg, int host);
void wh_x86_put_constant(wh_x86 *e, unsigned reg, uint64_t value);
int wh_x86_use_f(wh_x86 *e, unsigned reg, int scratch); /* all 64 bits, in an xmm */
static inline int wh_x86_def_f(unsigned reg, int scratch)
{
    return wh_x86_host_f[reg] >= 0 ? wh_x86_host_f[reg] : scratch;
}
void wh_x86_put_f(wh_x86 *e, unsigned reg, int xmm);

/* translate.c */
wh_x86_late *wh_x86_defer(wh_x86 *e, uint8_t *from, const wh_jit_op *o,
                          void (*emit)(wh_x86 *e, const wh_x86_late *l)); /* back: here, until the caller sets it */
void wh_x86_bind_late(wh_x86 *e, const wh_x86_late *l);                   /* begin a late stub: l->from goes here */
void wh_x86_fallback(wh_x86 *e, const wh_jit_op *o);
void wh_x86_late_fallback(wh_x86 *e, const wh_x86_late *l); /* an emit function for wh_x86_defer */
void wh_x86_need_fp(wh_x86 *e, const wh_jit_op *o);

/* Emitters. */
bool wh_x86_emit_integer(wh_x86 *e, const wh_jit_op *o);
bool wh_x86_emit_memory(wh_x86 *e, const wh_jit_op *o);
bool wh_x86_emit_flow(wh_x86 *e, const wh_jit_op *o);
bool wh_x86_emit_bits(wh_x86 *e, const wh_jit_op *o);
bool wh_x86_emit_fp(wh_x86 *e, const wh_jit_op *o);
bool wh_x86_emit_atomic(wh_x86 *e, const wh_jit_op *o);
bool wh_x86_emit_system(wh_x86 *e, const wh_jit_op *o);
/* site.c */
uint32_t wh_x86_new_site(wh_x86 *e, bool store); /* offset of a slot in wh_sites */
/* rdx = addend of the access at this address (a base and no index). Returns the jump for when that is not found there.
 * Clobbers rcx. */
uint8_t *wh_x86_site_look(wh_x86 *e, wh_mem address, struct wh_x86_site site);
/* rax: the address. Looks in the TLB and fills what the site looks into. Equal: rdx is the addend; otherwise a miss, or
 * the slot is tired (h->mmu.tired), which C has to see. Keeps rax, clobbers rcx and rdx. */
void wh_x86_site_search(wh_x86 *e, struct wh_x86_site site);
void wh_x86_site_thunks(wh_x86 *e);

/* memory.c, for FP loads and stores and atomics: rax = address of the access; leaves the host address in [rax +
 * rdx]. A miss goes to a late stub that does the whole access in C and comes back behind it: call wh_x86_access_done
 * when the access itself has been emitted. */
struct wh_x86_kind {
    uint32_t op; /* the host's instruction; 0: not for x registers */
    uint8_t size;
    bool wide, store;
};
extern const struct wh_x86_kind wh_x86_kinds[];
bool wh_x86_kind_of(unsigned op, enum wh_access_kind *kind); /* plain loads and stores, x and f */
typedef struct wh_x86_access {
    wh_x86_late *late;
} wh_x86_access;
void wh_x86_address(wh_x86 *e, unsigned base, int32_t offset); /* rax = x[base] + offset */
wh_x86_access wh_x86_translate_address(wh_x86 *e, const wh_jit_op *o, unsigned size, bool store);
bool wh_x86_writes(const wh_jit_op *o); /* o may change register o->in.a; too often true for f registers */
void wh_x86_end_groups(wh_x86 *e);      /* nothing is known of translations here */
void wh_x86_access_done(wh_x86 *e, wh_x86_access access);

/* flow.c */
void wh_x86_jump_in_rax(wh_x86 *e);             /* go on at the guest address in rax */
void wh_x86_exit_to(wh_x86 *e, int32_t target); /* go on at this offset of the page, or beyond it */
void wh_x86_go_to(wh_x86 *e, int32_t target);   /* the same, where the mapping is the usual one */
/* In the usual mapping: rcx is the code for the guest address in rax, whose page is h->vpage from now on; if it is not
 * in the jump cache, control leaves. Clobbers rax and rdx. look_beyond: for an offset from the page. */
void wh_x86_look(wh_x86 *e);
void wh_x86_look_beyond(wh_x86 *e, int32_t target);
/* Leave, and have the displacement at `site` of a jump or call linked to this offset of the page. */
void wh_x86_ask_for_link(wh_x86 *e, const uint8_t *site, int32_t target);
void wh_x86_adjust_budget(wh_x86 *e, unsigned back);              /* give back so much */
void wh_x86_internal_jump(wh_x86 *e, unsigned from, unsigned to); /* op[from] is done: op[to] is next */
void wh_x86_budget_stub(wh_x86 *e, const wh_x86_late *l); /* v[0]: give back, v[1]: offset of the next instruction, back
                                                             NULL: at the head, before swaps */

/* returns.c */
enum { WH_X86_RETURNS = 128 }; /* entries there is room for */
bool wh_x86_is_call(const wh_jit_op *o);
bool wh_x86_is_return(const wh_jit_op *o);
void wh_x86_push_return(wh_x86 *e, const wh_jit_op *o, int link); /* link: host register with the return address */
/* The call itself, behind push_return: to the op that stands next in the block; to an offset of the page or beyond it;
 * to the guest address in rax. */
void wh_x86_call_within(wh_x86 *e, const wh_jit_op *o);
void wh_x86_call_to(wh_x86 *e, const wh_jit_op *o, int32_t target);
void wh_x86_call_rax(wh_x86 *e, const wh_jit_op *o);
void wh_x86_return_to_rax(wh_x86 *e, const wh_jit_op *o);
/* Of the thunks: with rsp where C left it, and back there from wherever it is. */
void wh_x86_open_returns(wh_x86 *e);
void wh_x86_close_returns(wh_asm *a);

#endif
