/* emit_fp: F, D and Zfa on the host's scalar SSE unit, in AVX forms (three operands, no false dependencies) and FMA3.
 *
 * wh_x86_need_fp stands before the first of a stretch of these and says that MXCSR has the guest's rounding mode and
 * collects its flags (cpu/fp.c), that FS is dirty, and that the mapped f registers are in their xmm registers. What an
 * instruction of the host does differently is found behind it and done again, or put right, out of line:
 *  - a NaN result becomes the canonical one (ucomis of the result with itself; FMA: in C, for 0 * inf + NaN);
 *  - the integer that stands for "out of range" is the conversion again, in C;
 *  - a rounding mode in the instruction, and what is rare, is C from the start (emit_slow).
 * Single precision is kept NaN-boxed, all ones above: scalar instructions copy what is above their result from the
 * first source, so that a boxed source makes a boxed result. Whether sources are boxed is looked at once in a stretch
 * (e->boxed); if one is not, the instruction runs in C and the block is left, for the rest of it believes otherwise. */
#include "cpu/hostfp.h"
#include "cpu/softfp.h"
#include "jit/x86/x86.h"

enum { PP_NONE, PP_66, PP_F3, PP_F2 };
enum { MAP_0F = 1, MAP_0F38 = 2, MAP_0F3A = 3 };
enum { ADD = 0x58, MUL = 0x59, SUB = 0x5c, MIN = 0x5d, DIV = 0x5e, MAX = 0x5f, SQRT = 0x51, CONVERT = 0x5a };
enum { AND = 0x54, ANDN = 0x55, OR = 0x56, XOR = 0x57 }; /* ...ps: 64 bits and more at once */
enum { FROM_INT = 0x2a, TO_INT_RTZ = 0x2c, TO_INT = 0x2d, UCOMIS = 0x2e, COMIS = 0x2f };
enum { ROUND_SS = 0x0a, ROUND_SD = 0x0b, INSERTPS = 0x21, NO_INEXACT = 8 };
enum { X0, X1, X2 }; /* scratch */

static unsigned pp(bool wide)
{
    return wide ? PP_F2 : PP_F3;
}

/* VEX instruction whose last source is a guest f register, wherever it is. */
static void vex_f(wh_x86 *e, unsigned op, unsigned map, unsigned prefix, bool w, int d, int first, unsigned reg)
{
    if (wh_x86_host_f[reg] >= 0)
        x_vex_rr(&e->a, op, map, prefix, w, d, first, wh_x86_host_f[reg]);
    else
        x_vex_rm(&e->a, op, map, prefix, w, d, first, wh_x86_f(reg));
}

/* The same without VEX, for instructions of two operands; `reg` may be a general register. */
static void sse_f(wh_x86 *e, unsigned op, unsigned prefix, bool w, int reg, unsigned f)
{
    static const uint32_t prefixes[] = {0, 0x660000, 0xf30000, 0xf20000};
    if (wh_x86_host_f[f] >= 0)
        x_rr(&e->a, prefixes[prefix] | X_0F(op), w, reg, wh_x86_host_f[f]);
    else
        x_rm(&e->a, prefixes[prefix] | X_0F(op), w, reg, wh_x86_f(f));
}

static void ones(wh_x86 *e, int xmm)
{
    x_vex_rr(&e->a, 0x76, MAP_0F, PP_66, false, xmm, xmm, xmm); /* vpcmpeqd */
}
static void zero(wh_x86 *e, int xmm)
{
    x_vex_rr(&e->a, XOR, MAP_0F, PP_NONE, false, xmm, xmm, xmm);
}
static void gpr_to_xmm(wh_x86 *e, bool w, int xmm, int gpr)
{
    x_rr(&e->a, X_66(X_0F(0x6e)), w, xmm, gpr);
}
static void xmm_to_gpr(wh_x86 *e, bool w, int gpr, int xmm)
{
    x_rr(&e->a, X_66(X_0F(0x7e)), w, xmm, gpr);
}

/* An operand that was not boxed: this instruction in C, the next one in another block. */
static void late_unboxed(wh_x86 *e, const wh_x86_late *l)
{
    unsigned rest = wh_x86_charge(e, l->op) - 1;
    wh_x86_bind_late(e, l);
    wh_x86_fallback(e, l->op);
    if (rest != 0)
        x_alu_ri(&e->a, X_ADD, true, BUDGET, (int32_t)rest);
    wh_x86_exit_to(e, l->op->at + l->op->length);
}

static void need_boxed(wh_x86 *e, const wh_jit_op *o, unsigned reg)
{
    if (e->boxed >> reg & 1)
        return;
    if (wh_x86_host_f[reg] >= 0) {
        xmm_to_gpr(e, true, RAX, wh_x86_host_f[reg]);
        x_shift_ri(&e->a, X_SHR, true, RAX, 32);
        x_alu_ri(&e->a, X_CMP, false, RAX, -1);
    } else {
        wh_mem high = wh_x86_f(reg);
        high.disp += 4;
        x_alu_mi(&e->a, X_CMP, false, high, -1);
    }
    wh_x86_defer(e, x_jcc(&e->a, CC_NE), o, late_unboxed);
    e->boxed |= 1u << reg;
}

static void put(wh_x86 *e, unsigned reg, int xmm, bool wide)
{
    wh_x86_put_f(e, reg, xmm);
    if (wide)
        e->boxed &= ~(1u << reg);
    else
        e->boxed |= 1u << reg;
}

static void late_canonical(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_bind_late(e, l);
    x_mov_ri(&e->a, RAX, l->v[1] ? WH_NAN64 : WH_BOX | WH_NAN32);
    gpr_to_xmm(e, true, (int)l->v[0], RAX);
    x_jmp_to(&e->a, l->back);
}

static uint8_t *jump_if_nan(wh_x86 *e, int xmm, bool wide)
{
    x_rr(&e->a, (wide ? 0x660000u : 0) | X_0F(UCOMIS), false, xmm, xmm);
    return x_jcc(&e->a, CC_P);
}

/* The result of an operation that rounds, NaN or not. */
static void put_result(wh_x86 *e, const wh_jit_op *o, int xmm, bool wide)
{
    wh_x86_late *l = wh_x86_defer(e, jump_if_nan(e, xmm, wide), o, late_canonical);
    l->back = e->a.p;
    l->v[0] = xmm;
    l->v[1] = wide;
    put(e, o->in.a, xmm, wide);
}

static void binary(wh_x86 *e, const wh_jit_op *o, unsigned op, bool wide)
{
    unsigned right = WH_FP_RS2(o->in.imm);
    wh_x86_need_fp(e, o);
    if (!wide) {
        need_boxed(e, o, o->in.b);
        need_boxed(e, o, right);
    }
    int d = wh_x86_def_f(o->in.a, X0), left = wh_x86_use_f(e, o->in.b, X0);
    vex_f(e, op, MAP_0F, pp(wide), false, d, left, right);
    put_result(e, o, d, wide);
}

static void square_root(wh_x86 *e, const wh_jit_op *o, bool wide)
{
    wh_x86_need_fp(e, o);
    if (!wide)
        need_boxed(e, o, o->in.b);
    int d = wh_x86_def_f(o->in.a, X0), s = wh_x86_use_f(e, o->in.b, X0);
    x_vex_rr(&e->a, SQRT, MAP_0F, pp(wide), false, d, s, s);
    put_result(e, o, d, wide);
}

/* The result goes where no operand is, or where c is: C may have to do it again. If c is a NaN by then, that makes no
 * difference to the result or the flags. */
static void fused(wh_x86 *e, const wh_jit_op *o, unsigned op213, bool wide)
{
    unsigned a = o->in.b, b = WH_FP_RS2(o->in.imm), c = WH_FP_RS3(o->in.imm), rd = o->in.a;
    wh_x86_need_fp(e, o);
    if (!wide) {
        need_boxed(e, o, a);
        need_boxed(e, o, b);
        need_boxed(e, o, c);
    }
    int d = rd == a || rd == b ? X0 : wh_x86_def_f(rd, X0);
    if (rd == c && d != X0) {
        vex_f(e, op213 + 0x10, MAP_0F38, PP_66, wide, d, wh_x86_use_f(e, a, X1), b);
    } else {
        int s = wh_x86_use_f(e, a, d);
        if (s != d)
            x_rr(&e->a, X_0F(0x28), false, d, s); /* movaps */
        vex_f(e, op213, MAP_0F38, PP_66, wide, d, wh_x86_use_f(e, b, X1), c);
    }
    wh_x86_late *l = wh_x86_defer(e, jump_if_nan(e, d, wide), o, wh_x86_late_fallback);
    put(e, rd, d, wide);
    l->back = e->a.p;
}

/* fle and flt signal any NaN (quiet: fleq and fltq do not), feq only signalling ones; a NaN sets CF, ZF and PF. */
static void compare(wh_x86 *e, const wh_jit_op *o, enum wh_fp_op relation, bool quiet, bool wide)
{
    wh_asm *a = &e->a;
    unsigned left = o->in.b, right = WH_FP_RS2(o->in.imm), prefix = wide ? PP_66 : PP_NONE;
    wh_x86_need_fp(e, o);
    if (!wide) {
        need_boxed(e, o, left);
        need_boxed(e, o, right);
    }
    if (relation == WH_FP_EQ) {
        sse_f(e, UCOMIS, prefix, false, wh_x86_use_f(e, left, X0), right);
        x_setcc(a, CC_NP, RCX);
        x_setcc(a, CC_E, RAX);
        x_rr(a, X_AND, false, RAX, RCX);
    } else {
        sse_f(e, quiet ? UCOMIS : COMIS, prefix, false, wh_x86_use_f(e, right, X0), left);
        x_setcc(a, relation == WH_FP_LT ? CC_A : CC_AE, RAX);
    }
    if (o->in.a == WH_SINK)
        return;
    int d = wh_x86_def(e, o->in.a, RAX);
    x_rr(a, X_MOVZX8, false, d, RAX);
    wh_x86_put(e, o->in.a, d);
}

/* Equal operands may be zeros of two signs: the least has the sign bit of either, the greatest of both. */
static void late_equal(wh_x86 *e, const wh_x86_late *l)
{
    const wh_jit_op *o = l->op;
    wh_x86_bind_late(e, l);
    vex_f(e, l->v[1] ? AND : OR, MAP_0F, PP_NONE, false, (int)l->v[0], wh_x86_use_f(e, o->in.b, X1),
          WH_FP_RS2(o->in.imm));
    x_jmp_to(&e->a, l->back);
}

static void minimum(wh_x86 *e, const wh_jit_op *o, bool max, bool wide)
{
    unsigned right = WH_FP_RS2(o->in.imm);
    wh_x86_need_fp(e, o);
    if (!wide) {
        need_boxed(e, o, o->in.b);
        need_boxed(e, o, right);
    }
    int d = wh_x86_def_f(o->in.a, X0), left = wh_x86_use_f(e, o->in.b, X1);
    sse_f(e, UCOMIS, wide ? PP_66 : PP_NONE, false, left, right);
    wh_x86_late *nan = wh_x86_defer(e, x_jcc(&e->a, CC_P), o, wh_x86_late_fallback);
    wh_x86_late *equal = wh_x86_defer(e, x_jcc(&e->a, CC_E), o, late_equal);
    vex_f(e, max ? MAX : MIN, MAP_0F, pp(wide), false, d, left, right);
    equal->back = e->a.p;
    equal->v[0] = d;
    equal->v[1] = max;
    put(e, o->in.a, d, wide);
    nan->back = e->a.p;
}

/* 64 bits of sign bit, at the place that it has in this format. */
static void sign_mask(wh_x86 *e, int xmm, bool wide)
{
    ones(e, xmm);
    x_vex_rr(&e->a, wide ? 0x73 : 0x72, MAP_0F, PP_66, false, 6, xmm, xmm); /* vpsllq, vpslld */
    x_byte(&e->a, wide ? 63 : 31);
    if (!wide) {                                                  /* the low lane's only: what is above is the box */
        x_vex_rr(&e->a, 0x73, MAP_0F, PP_66, false, 2, xmm, xmm); /* vpsrlq */
        x_byte(&e->a, 32);
    }
}

enum sign { SIGN_COPY, SIGN_NOT, SIGN_XOR };

static void sign_inject(wh_x86 *e, const wh_jit_op *o, enum sign how, bool wide)
{
    wh_asm *a = &e->a;
    unsigned right = WH_FP_RS2(o->in.imm);
    bool same = right == o->in.b;
    wh_x86_need_fp(e, o);
    if (!wide) {
        need_boxed(e, o, o->in.b);
        need_boxed(e, o, right);
    }
    int d = wh_x86_def_f(o->in.a, X0), left = wh_x86_use_f(e, o->in.b, X0);
    if (same && how == SIGN_COPY) { /* fmv */
        put(e, o->in.a, left, wide);
        return;
    }
    sign_mask(e, X1, wide);
    if (same) { /* fneg, fabs */
        x_vex_rr(a, how == SIGN_NOT ? XOR : ANDN, MAP_0F, PP_NONE, false, d, how == SIGN_NOT ? left : X1,
                 how == SIGN_NOT ? X1 : left);
    } else {
        int r = wh_x86_use_f(e, right, X2);
        x_vex_rr(a, how == SIGN_NOT ? ANDN : AND, MAP_0F, PP_NONE, false, X2, how == SIGN_NOT ? r : X1,
                 how == SIGN_NOT ? X1 : r); /* the sign to copy, or to add */
        if (how != SIGN_XOR) {
            x_vex_rr(a, ANDN, MAP_0F, PP_NONE, false, X1, X1, left);
            left = X1;
        }
        x_vex_rr(a, XOR, MAP_0F, PP_NONE, false, d, left, X2);
    }
    put(e, o->in.a, d, wide);
}

static void convert_format(wh_x86 *e, const wh_jit_op *o, bool wide)
{
    int d = wh_x86_def_f(o->in.a, X0), box = X1;
    wh_x86_need_fp(e, o);
    if (wide) {
        need_boxed(e, o, o->in.b);
        zero(e, X1);
    } else {
        ones(e, X1);
    }
    vex_f(e, CONVERT, MAP_0F, pp(!wide), false, d, box, o->in.b);
    put_result(e, o, d, wide);
}

enum source { FROM_W, FROM_WU, FROM_L, FROM_LU };

static void from_integer(wh_x86 *e, const wh_jit_op *o, enum source from, bool wide)
{
    wh_asm *a = &e->a;
    wh_x86_late *l = NULL;
    wh_x86_need_fp(e, o);
    int d = wh_x86_def_f(o->in.a, X0), s;
    if (from == FROM_WU) {
        wh_x86_load32(e, RAX, o->in.b);
        s = RAX;
    } else {
        s = wh_x86_use(e, o->in.b, RAX);
    }
    if (from == FROM_LU) { /* the host has signed ones only */
        x_rr(a, X_TEST, true, s, s);
        l = wh_x86_defer(e, x_jcc(a, CC_S), o, wh_x86_late_fallback);
    }
    if (wide)
        zero(e, X1);
    else
        ones(e, X1);
    x_vex_rr(a, FROM_INT, MAP_0F, pp(wide), from != FROM_W, d, X1, s);
    put(e, o->in.a, d, wide);
    if (l != NULL)
        l->back = a->p;
}

/* The host's answer to what has no such integer is the most negative one. `word` results are 32 bits, sign-extended. */
static void put_integer(wh_x86 *e, const wh_jit_op *o, bool word, wh_x86_late *l)
{
    if (word)
        x_rr(&e->a, X_MOVSXD, true, RAX, RAX);
    wh_x86_put(e, o->in.a, RAX);
    l->back = e->a.p;
}
static wh_x86_late *unless_integer(wh_x86 *e, const wh_jit_op *o, bool word)
{
    x_alu_ri(&e->a, X_CMP, !word, RAX, 1); /* overflows for the most negative one */
    return wh_x86_defer(e, x_jcc(&e->a, CC_O), o, wh_x86_late_fallback);
}

static void to_integer(wh_x86 *e, const wh_jit_op *o, unsigned op, bool word, bool wide)
{
    wh_x86_need_fp(e, o);
    if (!wide)
        need_boxed(e, o, o->in.b);
    sse_f(e, op, pp(wide), !word, RAX, o->in.b);
    put_integer(e, o, word, unless_integer(e, o, word));
}

/* In a rounding mode of its own: first to an integer in this format, which raises inexact only when the result is known
 * to be one. */
static void to_integer_static(wh_x86 *e, const wh_jit_op *o, unsigned mode, bool word, bool wide)
{
    unsigned op = wide ? ROUND_SD : ROUND_SS;
    wh_x86_need_fp(e, o);
    if (!wide)
        need_boxed(e, o, o->in.b);
    int s = wh_x86_use_f(e, o->in.b, X1);
    x_vex_rr(&e->a, op, MAP_0F3A, PP_66, false, X0, s, s);
    x_byte(&e->a, mode | NO_INEXACT);
    x_rr(&e->a, (wide ? 0xf20000u : 0xf30000u) | X_0F(TO_INT_RTZ), !word, RAX, X0);
    wh_x86_late *l = unless_integer(e, o, word);
    x_vex_rr(&e->a, op, MAP_0F3A, PP_66, false, X0, s, s);
    x_byte(&e->a, mode);
    put_integer(e, o, word, l);
}

static void round_to_integer(wh_x86 *e, const wh_jit_op *o, unsigned mode, bool wide)
{
    wh_x86_need_fp(e, o);
    if (!wide)
        need_boxed(e, o, o->in.b);
    int d = wh_x86_def_f(o->in.a, X0), s = wh_x86_use_f(e, o->in.b, X0);
    x_vex_rr(&e->a, wide ? ROUND_SD : ROUND_SS, MAP_0F3A, PP_66, false, d, s, s);
    x_byte(&e->a, mode);
    put_result(e, o, d, wide);
}

/* Truncation to unsigned: what is negative, or too large for it, is found by sign and exponent before flags are raised.
 */
static void to_unsigned(wh_x86 *e, const wh_jit_op *o, bool word, bool wide)
{
    wh_asm *a = &e->a;
    wh_x86_need_fp(e, o);
    if (!wide)
        need_boxed(e, o, o->in.b);
    int s = wh_x86_use_f(e, o->in.b, X0);
    xmm_to_gpr(e, wide, RAX, s);
    x_shift_ri(a, X_SHR, wide, RAX, wide ? 52 : 23);
    x_alu_ri(a, X_CMP, false, RAX, (wide ? 1023 : 127) + (word ? 32 : 63));
    wh_x86_late *l = wh_x86_defer(e, x_jcc(a, CC_AE), o, wh_x86_late_fallback);
    x_rr(a, (wide ? 0xf20000u : 0xf30000u) | X_0F(TO_INT_RTZ), true, RAX, s);
    put_integer(e, o, word, l);
}

static void move_to_integer(wh_x86 *e, const wh_jit_op *o, bool wide)
{
    wh_x86_need_fp(e, o);
    if (o->in.a == WH_SINK)
        return;
    int d = wh_x86_def(e, o->in.a, RAX), s = wh_x86_def_f(o->in.b, -1);
    if (s < 0)
        x_rm(&e->a, wide ? X_MOV : X_MOVSXD, true, d, wh_x86_f(o->in.b));
    else
        xmm_to_gpr(e, wide, d, s);
    if (s >= 0 && !wide)
        x_rr(&e->a, X_MOVSXD, true, d, d);
    wh_x86_put(e, o->in.a, d);
}

static void move_from_integer(wh_x86 *e, const wh_jit_op *o, bool wide)
{
    wh_x86_need_fp(e, o);
    int d = wh_x86_def_f(o->in.a, X0);
    if (o->in.b == 0 && wide) {
        zero(e, d);
    } else if (wide) {
        gpr_to_xmm(e, true, d, wh_x86_use(e, o->in.b, RAX));
    } else {
        gpr_to_xmm(e, false, X0, wh_x86_use(e, o->in.b, RAX));
        ones(e, X1);
        x_vex_rr(&e->a, 0x62, MAP_0F, PP_66, false, d, X0, X1); /* vpunpckldq */
    }
    put(e, o->in.a, d, wide);
}

static void constant(wh_x86 *e, const wh_jit_op *o, bool wide)
{
    uint64_t value = wh_fp_constant(wide ? &wh_fp64 : &wh_fp32, o->in.b);
    wh_x86_need_fp(e, o);
    int d = wh_x86_def_f(o->in.a, X0);
    x_mov_ri(&e->a, RAX, wide ? value : value | WH_BOX);
    gpr_to_xmm(e, true, d, RAX);
    put(e, o->in.a, d, wide);
}

static void load(wh_x86 *e, const wh_jit_op *o, bool wide)
{
    wh_x86_need_fp(e, o);
    wh_x86_address(e, o->in.b, o->in.imm);
    wh_x86_access access = wh_x86_translate_address(e, o, wide ? 8 : 4, false);
    wh_mem at = x_indexed(RAX, RDX, 0, 0);
    int d = wh_x86_def_f(o->in.a, X0);
    if (wide) {
        x_rm(&e->a, X_F3(X_0F(0x7e)), false, d, at); /* movq */
    } else {
        ones(e, X1);
        x_vex_rm(&e->a, INSERTPS, MAP_0F3A, PP_66, false, d, X1, at);
        x_byte(&e->a, 0);
    }
    put(e, o->in.a, d, wide);
    wh_x86_access_done(e, access);
}

static void store(wh_x86 *e, const wh_jit_op *o, bool wide)
{
    wh_x86_need_fp(e, o);
    wh_x86_address(e, o->in.b, o->in.imm);
    wh_x86_access access = wh_x86_translate_address(e, o, wide ? 8 : 4, true);
    int s = wh_x86_use_f(e, o->in.a, X0);
    x_rm(&e->a, wide ? X_66(X_0F(0xd6)) : X_66(X_0F(0x7e)), false, s, x_indexed(RAX, RDX, 0, 0)); /* movq, movd */
    wh_x86_access_done(e, access);
}

/* FP_SLOW: what the decoder has no operation for, by what imm says. False: in C. */
static bool emit_slow(wh_x86 *e, const wh_jit_op *o)
{
    static const uint8_t modes[8] = {[WH_RM_RNE] = 0, [WH_RM_RDN] = 1, [WH_RM_RUP] = 2, [WH_RM_RTZ] = 3};
    unsigned op = WH_FP_OP(o->in.imm), rm = WH_FP_RM(o->in.imm);
    bool wide = WH_FP_DOUBLE(o->in.imm);
    switch (op) {
    case WH_FP_MIN:
    case WH_FP_MAX:
        minimum(e, o, op == WH_FP_MAX, wide);
        return true;
    case WH_FP_TO_W:
    case WH_FP_TO_L:
        if (rm == WH_RM_DYN)
            to_integer(e, o, TO_INT, op == WH_FP_TO_W, wide);
        else if (rm != WH_RM_RMM)
            to_integer_static(e, o, modes[rm], op == WH_FP_TO_W, wide);
        return rm != WH_RM_RMM;
    case WH_FP_TO_WU:
    case WH_FP_TO_LU:
        if (rm != WH_RM_RTZ)
            return false;
        to_unsigned(e, o, op == WH_FP_TO_WU, wide);
        return true;
    case WH_FP_FROM_WU:
        if (rm != WH_RM_DYN && !wide)
            return false;
        from_integer(e, o, FROM_WU, wide);
        return true;
    case WH_FP_LEQ:
    case WH_FP_LTQ:
        compare(e, o, op == WH_FP_LEQ ? WH_FP_LE : WH_FP_LT, true, wide);
        return true;
    case WH_FP_ROUND:
    case WH_FP_ROUNDNX:
        if (rm == WH_RM_RMM)
            return false;
        round_to_integer(e, o, (rm == WH_RM_DYN ? 4u : modes[rm]) | (op == WH_FP_ROUND ? NO_INEXACT : 0u), wide);
        return true;
    case WH_FP_LI:
        constant(e, o, wide);
        return true;
    case WH_FP_FROM_LU:
        if (rm != WH_RM_DYN)
            return false;
        from_integer(e, o, FROM_LU, wide);
        return true;
    default:
        return false;
    }
}

static bool emit_arithmetic(wh_x86 *e, const wh_jit_op *o)
{
    static const uint8_t two[4] = {ADD, SUB, MUL, DIV};
    static const uint8_t three[4] = {0xa9, 0xab, 0xad, 0xaf}; /* FNMSUB is the host's fnmadd, FNMADD its fnmsub */
    unsigned op = o->op;
    switch (op) {
    case WH_OP_FADD_S:
    case WH_OP_FSUB_S:
    case WH_OP_FMUL_S:
    case WH_OP_FDIV_S:
        binary(e, o, two[op - WH_OP_FADD_S], false);
        return true;
    case WH_OP_FADD_D:
    case WH_OP_FSUB_D:
    case WH_OP_FMUL_D:
    case WH_OP_FDIV_D:
        binary(e, o, two[op - WH_OP_FADD_D], true);
        return true;
    case WH_OP_FSQRT_S:
    case WH_OP_FSQRT_D:
        square_root(e, o, op == WH_OP_FSQRT_D);
        return true;
    case WH_OP_FMADD_S:
    case WH_OP_FMSUB_S:
    case WH_OP_FNMSUB_S:
    case WH_OP_FNMADD_S:
        fused(e, o, three[op - WH_OP_FMADD_S], false);
        return true;
    case WH_OP_FMADD_D:
    case WH_OP_FMSUB_D:
    case WH_OP_FNMSUB_D:
    case WH_OP_FNMADD_D:
        fused(e, o, three[op - WH_OP_FMADD_D], true);
        return true;
    case WH_OP_FP_SLOW:
        return emit_slow(e, o);
    default:
        return false;
    }
}

static bool emit_exact(wh_x86 *e, const wh_jit_op *o)
{
    unsigned op = o->op;
    switch (op) {
    case WH_OP_FSGNJ_S:
    case WH_OP_FSGNJN_S:
    case WH_OP_FSGNJX_S:
        sign_inject(e, o, (enum sign)(op - WH_OP_FSGNJ_S), false);
        return true;
    case WH_OP_FSGNJ_D:
    case WH_OP_FSGNJN_D:
    case WH_OP_FSGNJX_D:
        sign_inject(e, o, (enum sign)(op - WH_OP_FSGNJ_D), true);
        return true;
    case WH_OP_FLE_S:
    case WH_OP_FLT_S:
    case WH_OP_FEQ_S:
        compare(e, o, (enum wh_fp_op)(WH_FP_LE + (op - WH_OP_FLE_S)), false, false);
        return true;
    case WH_OP_FLE_D:
    case WH_OP_FLT_D:
    case WH_OP_FEQ_D:
        compare(e, o, (enum wh_fp_op)(WH_FP_LE + (op - WH_OP_FLE_D)), false, true);
        return true;
    case WH_OP_FMV_X_W:
    case WH_OP_FMV_X_D:
        move_to_integer(e, o, op == WH_OP_FMV_X_D);
        return true;
    case WH_OP_FMV_W_X:
    case WH_OP_FMV_D_X:
        move_from_integer(e, o, op == WH_OP_FMV_D_X);
        return true;
    default:
        return false;
    }
}

static bool emit_conversion(wh_x86 *e, const wh_jit_op *o)
{
    switch (o->op) {
    case WH_OP_FCVT_S_D:
        convert_format(e, o, false);
        return true;
    case WH_OP_FCVT_D_S:
        convert_format(e, o, true);
        return true;
    case WH_OP_FCVT_D_W:
        from_integer(e, o, FROM_W, true);
        return true;
    case WH_OP_FCVT_D_L:
        from_integer(e, o, FROM_L, true);
        return true;
    case WH_OP_FCVT_S_W:
        from_integer(e, o, FROM_W, false);
        return true;
    case WH_OP_FCVT_S_L:
        from_integer(e, o, FROM_L, false);
        return true;
    case WH_OP_FCVT_W_D_RTZ:
        to_integer(e, o, TO_INT_RTZ, true, true);
        return true;
    case WH_OP_FCVT_L_D_RTZ:
        to_integer(e, o, TO_INT_RTZ, false, true);
        return true;
    case WH_OP_FCVT_W_S_RTZ:
        to_integer(e, o, TO_INT_RTZ, true, false);
        return true;
    case WH_OP_FCVT_L_S_RTZ:
        to_integer(e, o, TO_INT_RTZ, false, false);
        return true;
    default:
        return false;
    }
}

static bool emit_memory(wh_x86 *e, const wh_jit_op *o)
{
    switch (o->op) {
    case WH_OP_FLW:
        load(e, o, false);
        return true;
    case WH_OP_FLD:
        load(e, o, true);
        return true;
    case WH_OP_FSW:
        store(e, o, false);
        return true;
    case WH_OP_FSD:
        store(e, o, true);
        return true;
    default:
        return false;
    }
}

bool wh_x86_emit_fp(wh_x86 *e, const wh_jit_op *o)
{
    if (e->has_fma && (emit_memory(e, o) || emit_arithmetic(e, o) || emit_exact(e, o) || emit_conversion(e, o)))
        return true;
    if (o->in.a < 32)
        e->boxed &= ~(1u << o->in.a); /* it may be an operation in C that writes this f register */
    return false;
}
