/* emit_atomic: the A extension, Zacas (words and doubles) and fences. RAM is shared with the other harts' threads:
 * every atomic is one locked instruction of the host on it (or a loop around one), and thus sequentially consistent
 * whatever aq and rl ask for. Where RAM has plain atomics (memory.h: one hart), it is a load and a store.
 *
 * An address that misses the TLB, or is not aligned, runs in C (mem.c: wh_atomic_address). LR and SC use the hart's
 * reservation as the interpreter does: an SC succeeds when the word still has the value that LR read.
 *
 * Registers: rdx the host address, rax the old value, rcx the new one. */
#include "jit/x86/x86.h"

enum { XADD = X_0F(0xc1), CMPXCHG = X_0F(0xb1) }; /* r/m, reg; the 64-bit and 32-bit forms */

static void test_al(wh_asm *a, unsigned mask)
{
    x_byte(a, 0xa8);
    x_byte(a, mask);
}

/* op, with its r/m operand at [rdx], as one atomic access. */
static void locked(wh_x86 *e, unsigned op, bool wide, int reg)
{
    x_byte(&e->a, 0xf0);
    x_rm(&e->a, op, wide, reg, x_at(RDX, 0));
}

static bool plain(const wh_x86 *e)
{
    return e->ir->plain_atomics;
}

struct word {
    wh_x86_late *odd;
    wh_x86_access access;
    bool wide;
};

/* rdx = host address of the word at x[b]. */
static struct word begin(wh_x86 *e, const wh_jit_op *o, bool wide, bool store)
{
    wh_x86_address(e, o->in.b, 0);
    test_al(&e->a, wide ? 7 : 3);
    wh_x86_late *odd = wh_x86_defer(e, x_jcc(&e->a, CC_NE), o, wh_x86_late_fallback);
    wh_x86_access access = wh_x86_translate_address(e, o, wide ? 8 : 4, store);
    x_rm(&e->a, X_LEA, true, RDX, x_indexed(RAX, RDX, 0, 0));
    return (struct word){.odd = odd, .access = access, .wide = wide};
}

/* x[a] = host (none: -1), and the end of the instruction. */
static void finish(wh_x86 *e, const wh_jit_op *o, struct word w, int host)
{
    if (host >= 0 && o->in.a != WH_SINK) {
        int d = host;
        if (!w.wide) {
            d = wh_x86_def(e, o->in.a, host);
            x_rr(&e->a, X_MOVSXD, true, d, host);
        }
        wh_x86_put(e, o->in.a, d);
    }
    w.odd->back = e->a.p;
    wh_x86_access_done(e, w.access);
}

static void load_reserved(wh_x86 *e, const wh_jit_op *o, bool wide)
{
    struct word w = begin(e, o, wide, false);
    x_rm(&e->a, X_MOV, wide, RAX, x_at(RDX, 0));
    x_rm(&e->a, X_MOV_STORE, true, RDX, H(reservation));
    x_rm(&e->a, X_MOV_STORE, true, RAX, H(reserved_value));
    finish(e, o, w, RAX);
}

/* The word becomes rcx if it is rax. Leaves the flags of the comparison. */
static void plain_compare_and_store(wh_x86 *e, bool wide)
{
    x_rm(&e->a, X_CMP, wide, RAX, x_at(RDX, 0));
    uint8_t *other = x_jcc_short(&e->a, CC_NE);
    x_rm(&e->a, X_MOV_STORE, wide, RCX, x_at(RDX, 0));
    x_bind_short(&e->a, other);
}

/* Not equal at the end, from the comparison or from cmpxchg: it failed. */
static void store_conditional(wh_x86 *e, const wh_jit_op *o, bool wide)
{
    wh_asm *a = &e->a;
    struct word w = begin(e, o, wide, true);
    wh_x86_load(e, RCX, (unsigned)o->in.imm);
    x_rm(a, X_CMP, true, RDX, H(reservation));
    x_rm(a, X_MOV, true, RAX, H(reserved_value));
    uint8_t *failed = x_jcc_short(a, CC_NE);
    if (plain(e))
        plain_compare_and_store(e, wide);
    else
        locked(e, CMPXCHG, wide, RCX);
    x_bind_short(a, failed);
    x_mov_mi(a, true, H(reservation), 0);
    x_setcc(a, CC_NE, RAX);
    x_rr(a, X_MOVZX8, false, RAX, RAX);
    w.wide = true;
    finish(e, o, w, RAX);
}

static void swap(wh_x86 *e, const wh_jit_op *o, bool wide)
{
    struct word w = begin(e, o, wide, true);
    wh_x86_load(e, RCX, (unsigned)o->in.imm);
    if (plain(e)) {
        x_rm(&e->a, X_MOV, wide, RAX, x_at(RDX, 0));
        x_rm(&e->a, X_MOV_STORE, wide, RCX, x_at(RDX, 0));
    } else {
        x_rm(&e->a, X_XCHG, wide, RCX, x_at(RDX, 0)); /* locks by itself */
    }
    finish(e, o, w, plain(e) ? RAX : RCX);
}

/* Replace the word by rcx, which `compute` made of rax, the old value; again if it changed meanwhile. */
static void update(wh_x86 *e, const wh_jit_op *o, bool wide,
                   void (*compute)(wh_x86 *, const wh_jit_op *, bool, unsigned), unsigned how)
{
    wh_asm *a = &e->a;
    struct word w = begin(e, o, wide, true);
    x_rm(a, X_MOV, wide, RAX, x_at(RDX, 0));
    const uint8_t *again = a->p;
    compute(e, o, wide, how);
    if (plain(e)) {
        x_rm(a, X_MOV_STORE, wide, RCX, x_at(RDX, 0));
    } else {
        locked(e, CMPXCHG, wide, RCX);
        x_jcc_to(a, CC_NE, again);
    }
    finish(e, o, w, RAX);
}

static void compute_op(wh_x86 *e, const wh_jit_op *o, bool wide, unsigned op)
{
    x_mov_rr(&e->a, RCX, RAX);
    wh_x86_op(e, op, wide, RCX, (unsigned)o->in.imm);
}

/* The old value stays where it already is the least, or the greatest: cc. */
static void compute_choice(wh_x86 *e, const wh_jit_op *o, bool wide, unsigned cc)
{
    wh_x86_load(e, RCX, (unsigned)o->in.imm);
    x_rr(&e->a, X_CMP, wide, RAX, RCX);
    x_rr(&e->a, X_CMOV + cc, wide, RCX, RAX);
}

/* Arithmetic whose old value nobody wants is one instruction on memory. */
static void arithmetic(wh_x86 *e, const wh_jit_op *o, bool wide, unsigned op)
{
    if (o->in.a != WH_SINK) {
        update(e, o, wide, compute_op, op);
        return;
    }
    struct word w = begin(e, o, wide, true);
    int from = wh_x86_use(e, (unsigned)o->in.imm, RCX);
    op -= 2; /* the form with memory on the left */
    if (plain(e))
        x_rm(&e->a, op, wide, from, x_at(RDX, 0));
    else
        locked(e, op, wide, from);
    finish(e, o, w, -1);
}

static void add(wh_x86 *e, const wh_jit_op *o, bool wide)
{
    if (o->in.a == WH_SINK || plain(e)) {
        arithmetic(e, o, wide, X_ADD);
        return;
    }
    struct word w = begin(e, o, wide, true);
    wh_x86_load(e, RCX, (unsigned)o->in.imm);
    locked(e, XADD, wide, RCX);
    finish(e, o, w, RCX);
}

/* rd is what is expected, and gets what was there. */
static void compare_and_swap(wh_x86 *e, const wh_jit_op *o, bool wide)
{
    struct word w = begin(e, o, wide, true);
    wh_x86_load(e, RAX, o->in.a == WH_SINK ? 0 : o->in.a);
    wh_x86_load(e, RCX, (unsigned)o->in.imm);
    if (plain(e)) {
        plain_compare_and_store(e, wide);
        uint8_t *same = x_jcc_short(&e->a, CC_E);
        x_rm(&e->a, X_MOV, wide, RAX, x_at(RDX, 0));
        x_bind_short(&e->a, same);
    } else {
        locked(e, CMPXCHG, wide, RCX);
    }
    if (!wide)
        x_rr(&e->a, X_MOVSXD, true, RAX, RAX);
    w.wide = true;
    finish(e, o, w, RAX);
}

static bool emit_amo(wh_x86 *e, const wh_jit_op *o)
{
    bool wide = o->op >= WH_OP_AMOSWAP_D;
    switch (o->op) {
    case WH_OP_AMOSWAP_W:
    case WH_OP_AMOSWAP_D:
        swap(e, o, wide);
        return true;
    case WH_OP_AMOADD_W:
    case WH_OP_AMOADD_D:
        add(e, o, wide);
        return true;
    case WH_OP_AMOXOR_W:
    case WH_OP_AMOXOR_D:
        arithmetic(e, o, wide, X_XOR);
        return true;
    case WH_OP_AMOAND_W:
    case WH_OP_AMOAND_D:
        arithmetic(e, o, wide, X_AND);
        return true;
    case WH_OP_AMOOR_W:
    case WH_OP_AMOOR_D:
        arithmetic(e, o, wide, X_OR);
        return true;
    case WH_OP_AMOMIN_W:
    case WH_OP_AMOMIN_D:
        update(e, o, wide, compute_choice, CC_L);
        return true;
    case WH_OP_AMOMAX_W:
    case WH_OP_AMOMAX_D:
        update(e, o, wide, compute_choice, CC_G);
        return true;
    case WH_OP_AMOMINU_W:
    case WH_OP_AMOMINU_D:
        update(e, o, wide, compute_choice, CC_B);
        return true;
    case WH_OP_AMOMAXU_W:
    case WH_OP_AMOMAXU_D:
        update(e, o, wide, compute_choice, CC_A);
        return true;
    default:
        return false;
    }
}

bool wh_x86_emit_atomic(wh_x86 *e, const wh_jit_op *o)
{
    switch (o->op) {
    case WH_OP_LR_W:
    case WH_OP_LR_D:
        load_reserved(e, o, o->op == WH_OP_LR_D);
        return true;
    case WH_OP_SC_W:
    case WH_OP_SC_D:
        store_conditional(e, o, o->op == WH_OP_SC_D);
        return true;
    case WH_OP_AMOCAS_W:
    case WH_OP_AMOCAS_D:
        compare_and_swap(e, o, o->op == WH_OP_AMOCAS_D);
        return true;
    case WH_OP_FENCE: /* an earlier store is seen before a later load; on x86 only this needs an instruction */
        x_byte(&e->a, 0xf0);
        x_alu_mi(&e->a, X_OR, false, x_at(RSP, 0), 0);
        return true;
    case WH_OP_FENCE_LIGHT:
        return true;
    default:
        return emit_amo(e, o);
    }
}
