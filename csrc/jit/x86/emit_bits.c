/* emit_bits: Zba, Zbb, Zbs and Zicond. Zbb's counting instructions need LZCNT, TZCNT and POPCNT, which
 * wh_backend_available asks for. */
#include "jit/x86/x86.h"

enum { LZCNT = X_F3(X_0F(0xbd)), TZCNT = X_F3(X_0F(0xbc)), POPCNT = X_F3(X_0F(0xb8)) };
enum { BT = X_0F(0xa3), BTS = X_0F(0xab), BTR = X_0F(0xb3), BTC = X_0F(0xbb) };     /* r/m, reg; the count modulo 64 */
enum { BT_IMM = 4, BTS_IMM = 5, BTR_IMM = 6, BTC_IMM = 7, BIT_GROUP = X_0F(0xba) }; /* r/m, imm8 */

/* x[a] = (x[b] << n) + x[c]; word: of the low 32 bits of x[b], zero-extended. */
static void shift_add(wh_x86 *e, const wh_jit_op *o, unsigned n, bool word)
{
    unsigned right = (unsigned)o->in.imm;
    int d = wh_x86_def(e, o->in.a, RAX), l = RAX;
    if (word)
        wh_x86_load32(e, RAX, o->in.b);
    else
        l = wh_x86_use(e, o->in.b, RAX);
    int r = wh_x86_use(e, right, RCX);
    x_rm(&e->a, X_LEA, true, d, x_indexed(r, l, n, 0));
    wh_x86_put(e, o->in.a, d);
}

/* x[a] = x[b] op ~x[c] */
static void logic_not(wh_x86 *e, const wh_jit_op *o, unsigned op)
{
    int d = wh_x86_def(e, o->in.a, RAX);
    wh_x86_load(e, RCX, (unsigned)o->in.imm);
    x_group3(&e->a, X_NOT, true, RCX);
    wh_x86_op(e, op, true, RCX, o->in.b);
    x_mov_rr(&e->a, d, RCX);
    wh_x86_put(e, o->in.a, d);
}

static void unary(wh_x86 *e, const wh_jit_op *o, uint32_t op, bool w)
{
    int d = wh_x86_def(e, o->in.a, RAX), s = wh_x86_use(e, o->in.b, RCX);
    x_rr(&e->a, op, w, d, s);
    wh_x86_put(e, o->in.a, d);
}

/* The greatest or the least: cc says when x[c] replaces x[b]. */
static void choose(wh_x86 *e, const wh_jit_op *o, unsigned cc)
{
    wh_x86_load(e, RAX, o->in.b);
    int r = wh_x86_use(e, (unsigned)o->in.imm, RCX);
    x_rr(&e->a, X_CMP, true, r, RAX);
    x_rr(&e->a, X_CMOV + cc, true, RAX, r);
    wh_x86_put(e, o->in.a, RAX);
}

static void rotate(wh_x86 *e, const wh_jit_op *o, unsigned kind, bool word)
{
    int d = wh_x86_def(e, o->in.a, RAX);
    wh_x86_load(e, RCX, (unsigned)o->in.imm);
    wh_x86_load(e, RAX, o->in.b);
    x_shift_cl(&e->a, kind, !word, RAX);
    if (word)
        x_rr(&e->a, X_MOVSXD, true, d, RAX);
    else
        x_mov_rr(&e->a, d, RAX);
    wh_x86_put(e, o->in.a, d);
}

static void rotate_immediate(wh_x86 *e, const wh_jit_op *o, bool word)
{
    int d = wh_x86_def(e, o->in.a, RAX);
    wh_x86_load(e, d, o->in.b);
    x_shift_ri(&e->a, X_ROR, !word, d, (unsigned)o->in.imm & (word ? 31 : 63));
    if (word)
        x_rr(&e->a, X_MOVSXD, true, d, d);
    wh_x86_put(e, o->in.a, d);
}

/* alu.h: wh_orc_b. Bit 7 of each byte of rcx becomes "not zero" and then spreads over its byte. */
static void or_combine(wh_x86 *e, const wh_jit_op *o)
{
    wh_asm *a = &e->a;
    wh_x86_load(e, RAX, o->in.b);
    x_mov_ri(a, RDX, 0x7f7f7f7f7f7f7f7full);
    x_mov_rr(a, RCX, RAX);
    x_rr(a, X_AND, true, RCX, RDX);
    x_rr(a, X_ADD, true, RCX, RDX);
    x_rr(a, X_OR, true, RCX, RAX);
    x_group3(a, X_NOT, true, RDX);
    x_rr(a, X_AND, true, RCX, RDX);
    x_mov_rr(a, RAX, RCX);
    x_shift_ri(a, X_SHR, true, RAX, 7);
    x_mov_rr(a, RDX, RCX);
    x_rr(a, X_SUB, true, RDX, RAX);
    x_rr(a, X_OR, true, RDX, RCX);
    wh_x86_put(e, o->in.a, RDX);
}

static void byte_reverse(wh_x86 *e, const wh_jit_op *o)
{
    int d = wh_x86_def(e, o->in.a, RAX);
    wh_x86_load(e, d, o->in.b);
    x_head(&e->a, 0x1c8 | ((unsigned)d & 7), true, 0, 0, d, false); /* bswap */
    wh_x86_put(e, o->in.a, d);
}

/* Set, clear or invert one bit. */
static void bit(wh_x86 *e, const wh_jit_op *o, uint32_t op, unsigned extension, bool immediate)
{
    int d = wh_x86_def(e, o->in.a, RAX);
    if (!immediate && o->in.a == (unsigned)o->in.imm)
        d = RAX; /* the count must not be overwritten first */
    wh_x86_load(e, d, o->in.b);
    if (immediate) {
        x_rr(&e->a, BIT_GROUP, true, (int)extension, d);
        x_byte(&e->a, (unsigned)o->in.imm & 63);
    } else {
        x_rr(&e->a, op, true, wh_x86_use(e, (unsigned)o->in.imm, RCX), d);
    }
    wh_x86_put(e, o->in.a, d);
}

static void bit_extract(wh_x86 *e, const wh_jit_op *o, bool immediate)
{
    int d = wh_x86_def(e, o->in.a, RAX), s = wh_x86_use(e, o->in.b, RAX);
    if (immediate) {
        x_rr(&e->a, BIT_GROUP, true, BT_IMM, s);
        x_byte(&e->a, (unsigned)o->in.imm & 63);
    } else {
        x_rr(&e->a, BT, true, wh_x86_use(e, (unsigned)o->in.imm, RCX), s);
    }
    x_setcc(&e->a, CC_B, RAX);
    x_rr(&e->a, X_MOVZX8, false, d, RAX);
    wh_x86_put(e, o->in.a, d);
}

/* x[a] = x[b], or 0 when x[c] is zero (cc CC_E) or not (CC_NE). */
static void zero_if(wh_x86 *e, const wh_jit_op *o, unsigned cc)
{
    wh_x86_load(e, RAX, o->in.b);
    int r = wh_x86_use(e, (unsigned)o->in.imm, RCX);
    x_rr(&e->a, X_XOR, false, RDX, RDX);
    x_rr(&e->a, X_TEST, true, r, r);
    x_rr(&e->a, X_CMOV + cc, true, RAX, RDX);
    wh_x86_put(e, o->in.a, RAX);
}

static bool emit_zba(wh_x86 *e, const wh_jit_op *o)
{
    switch (o->op) {
    case WH_OP_ADD_UW:
        shift_add(e, o, 0, true);
        return true;
    case WH_OP_SH1ADD:
    case WH_OP_SH2ADD:
    case WH_OP_SH3ADD:
        shift_add(e, o, o->op - WH_OP_SH1ADD + 1u, false);
        return true;
    case WH_OP_SH1ADD_UW:
    case WH_OP_SH2ADD_UW:
    case WH_OP_SH3ADD_UW:
        shift_add(e, o, o->op - WH_OP_SH1ADD_UW + 1u, true);
        return true;
    case WH_OP_SLLI_UW: {
        int d = wh_x86_def(e, o->in.a, RAX);
        wh_x86_load32(e, d, o->in.b);
        x_shift_ri(&e->a, X_SHL, true, d, (unsigned)o->in.imm & 63);
        wh_x86_put(e, o->in.a, d);
        return true;
    }
    default:
        return false;
    }
}

static bool emit_zbb_logic(wh_x86 *e, const wh_jit_op *o)
{
    switch (o->op) {
    case WH_OP_ANDN:
        logic_not(e, o, X_AND);
        return true;
    case WH_OP_ORN:
        logic_not(e, o, X_OR);
        return true;
    case WH_OP_XNOR:
        logic_not(e, o, X_XOR);
        return true;
    case WH_OP_MAX:
        choose(e, o, CC_G);
        return true;
    case WH_OP_MAXU:
        choose(e, o, CC_A);
        return true;
    case WH_OP_MIN:
        choose(e, o, CC_L);
        return true;
    case WH_OP_MINU:
        choose(e, o, CC_B);
        return true;
    case WH_OP_ROL:
    case WH_OP_ROLW:
        rotate(e, o, X_ROL, o->op == WH_OP_ROLW);
        return true;
    case WH_OP_ROR:
    case WH_OP_RORW:
        rotate(e, o, X_ROR, o->op == WH_OP_RORW);
        return true;
    case WH_OP_RORI:
    case WH_OP_RORIW:
        rotate_immediate(e, o, o->op == WH_OP_RORIW);
        return true;
    default:
        return false;
    }
}

static bool emit_zbb_unary(wh_x86 *e, const wh_jit_op *o)
{
    switch (o->op) {
    case WH_OP_CLZ:
    case WH_OP_CLZW:
        unary(e, o, LZCNT, o->op == WH_OP_CLZ);
        return true;
    case WH_OP_CTZ:
    case WH_OP_CTZW:
        unary(e, o, TZCNT, o->op == WH_OP_CTZ);
        return true;
    case WH_OP_CPOP:
    case WH_OP_CPOPW:
        unary(e, o, POPCNT, o->op == WH_OP_CPOP);
        return true;
    case WH_OP_SEXT_B:
        unary(e, o, X_MOVSX8, true);
        return true;
    case WH_OP_SEXT_H:
        unary(e, o, X_MOVSX16, true);
        return true;
    case WH_OP_ZEXT_H:
        unary(e, o, X_MOVZX16, false);
        return true;
    case WH_OP_ORC_B:
        or_combine(e, o);
        return true;
    case WH_OP_REV8:
        byte_reverse(e, o);
        return true;
    default:
        return false;
    }
}

static bool emit_zbs(wh_x86 *e, const wh_jit_op *o)
{
    switch (o->op) {
    case WH_OP_BSET:
    case WH_OP_BSETI:
        bit(e, o, BTS, BTS_IMM, o->op == WH_OP_BSETI);
        return true;
    case WH_OP_BCLR:
    case WH_OP_BCLRI:
        bit(e, o, BTR, BTR_IMM, o->op == WH_OP_BCLRI);
        return true;
    case WH_OP_BINV:
    case WH_OP_BINVI:
        bit(e, o, BTC, BTC_IMM, o->op == WH_OP_BINVI);
        return true;
    case WH_OP_BEXT:
    case WH_OP_BEXTI:
        bit_extract(e, o, o->op == WH_OP_BEXTI);
        return true;
    default:
        return false;
    }
}

bool wh_x86_emit_bits(wh_x86 *e, const wh_jit_op *o)
{
    bool zicond = o->op == WH_OP_CZERO_EQZ || o->op == WH_OP_CZERO_NEZ;
    if (!zicond && (o->op < WH_OP_ADD_UW || o->op > WH_OP_BSETI))
        return false;
    if (o->in.a == WH_SINK)
        return true; /* a hint */
    if (zicond) {
        zero_if(e, o, o->op == WH_OP_CZERO_EQZ ? CC_E : CC_NE);
        return true;
    }
    return emit_zba(e, o) || emit_zbb_logic(e, o) || emit_zbb_unary(e, o) || emit_zbs(e, o);
}
