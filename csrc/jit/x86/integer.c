/* integer: register arithmetic of I and M. */
#include "jit/x86/x86.h"

static void sign_extend(wh_x86 *e, int d)
{
    x_rr(&e->a, X_MOVSXD, true, d, d);
}

/* x[a] = x[b] op x[c]; word: on 32 bits, sign-extended. */
static void binary(wh_x86 *e, const wh_jit_op *o, unsigned op, bool commutes, bool word)
{
    unsigned left = o->in.b, right = (unsigned)o->in.imm;
    int d = wh_x86_def(e, o->in.a, RAX);
    if (o->in.a == right && o->in.a != left) {
        if (commutes) {
            right = left;
            left = o->in.a;
        } else {
            d = RAX;
        }
    }
    wh_x86_load(e, d, left);
    wh_x86_op(e, op, !word, d, right);
    if (word)
        sign_extend(e, d);
    wh_x86_put(e, o->in.a, d);
}

static void add(wh_x86 *e, const wh_jit_op *o)
{
    unsigned left = o->in.b, right = (unsigned)o->in.imm;
    int d = wh_x86_def(e, o->in.a, RAX), l = e->host[left], r = e->host[right];
    if (left == 0) { /* mv */
        wh_x86_load(e, d, right);
        wh_x86_put(e, o->in.a, d);
    } else if (l >= 0 && r >= 0 && d != l && d != r) {
        x_rm(&e->a, X_LEA, true, d, x_indexed(l, r, 0, 0));
        wh_x86_put(e, o->in.a, d);
    } else {
        binary(e, o, X_ADD, true, false);
    }
}

static void add_immediate(wh_x86 *e, const wh_jit_op *o, bool word)
{
    int d = wh_x86_def(e, o->in.a, RAX), b = e->host[o->in.b];
    if (o->in.b == 0) {
        wh_x86_put_constant(e, o->in.a, (uint64_t)(int64_t)o->in.imm);
        return;
    }
    if (word && o->in.imm == 0) {
        wh_x86_op(e, X_MOVSXD, true, d, o->in.b);
        wh_x86_put(e, o->in.a, d);
        return;
    }
    if (!word && o->in.a == o->in.b && b < 0) {
        x_alu_mi(&e->a, X_ADD, true, wh_x86_x(o->in.a), o->in.imm);
        return;
    }
    if (b >= 0 && d != b && o->in.imm != 0) {
        x_rm(&e->a, X_LEA, !word, d, x_at(b, o->in.imm));
    } else {
        wh_x86_load(e, d, o->in.b);
        if (o->in.imm != 0)
            x_alu_ri(&e->a, X_ADD, !word, d, o->in.imm);
    }
    if (word)
        sign_extend(e, d);
    wh_x86_put(e, o->in.a, d);
}

static void logic_immediate(wh_x86 *e, const wh_jit_op *o, unsigned op)
{
    int d = wh_x86_def(e, o->in.a, RAX);
    if (op == X_AND && o->in.imm == 255) {
        int s = wh_x86_use(e, o->in.b, RAX);
        x_rr(&e->a, X_MOVZX8, false, d, s);
    } else {
        wh_x86_load(e, d, o->in.b);
        if (op == X_XOR && o->in.imm == -1)
            x_group3(&e->a, X_NOT, true, d);
        else
            x_alu_ri(&e->a, op, op != X_AND || o->in.imm < 0, d, o->in.imm);
    }
    wh_x86_put(e, o->in.a, d);
}

static void shift_immediate(wh_x86 *e, const wh_jit_op *o, unsigned kind, bool word)
{
    int d = wh_x86_def(e, o->in.a, RAX);
    unsigned count = (unsigned)o->in.imm & (word ? 31 : 63);
    if (word && kind == X_SAR) { /* a sign-extended word shifts as 64 bits */
        wh_x86_op(e, X_MOVSXD, true, d, o->in.b);
        word = false;
    } else if (word) {
        wh_x86_load32(e, d, o->in.b);
    } else {
        wh_x86_load(e, d, o->in.b);
    }
    if (count != 0)
        x_shift_ri(&e->a, kind, !word, d, count);
    if (word && (kind == X_SHL || count == 0))
        sign_extend(e, d);
    wh_x86_put(e, o->in.a, d);
}

static void shift(wh_x86 *e, const wh_jit_op *o, unsigned kind, bool word)
{
    int d = wh_x86_def(e, o->in.a, RAX);
    int value = wh_x86_use(e, o->in.b, RAX), count = wh_x86_use(e, (unsigned)o->in.imm, RCX);
    x_shiftx(&e->a, kind, !word, d, value, count);
    if (word)
        sign_extend(e, d);
    wh_x86_put(e, o->in.a, d);
}

static void set_if(wh_x86 *e, const wh_jit_op *o, unsigned cc)
{
    int d = wh_x86_def(e, o->in.a, RAX);
    x_setcc(&e->a, cc, RAX);
    x_rr(&e->a, X_MOVZX8, false, d, RAX);
    wh_x86_put(e, o->in.a, d);
}

static void compare(wh_x86 *e, const wh_jit_op *o, unsigned cc)
{
    wh_x86_op(e, X_CMP, true, wh_x86_use(e, o->in.b, RAX), (unsigned)o->in.imm);
    set_if(e, o, cc);
}

static void compare_immediate(wh_x86 *e, const wh_jit_op *o, unsigned cc)
{
    x_alu_ri(&e->a, X_CMP, true, wh_x86_use(e, o->in.b, RAX), o->in.imm);
    set_if(e, o, cc);
}

static void group3_with(wh_x86 *e, unsigned ext, bool w, unsigned reg)
{
    if (e->host[reg] >= 0)
        x_group3(&e->a, ext, w, e->host[reg]);
    else
        x_group3_m(&e->a, ext, w, wh_x86_x(reg));
}

static void multiply_high(wh_x86 *e, const wh_jit_op *o)
{
    unsigned right = (unsigned)o->in.imm;
    wh_x86_load(e, RAX, o->in.b);
    group3_with(e, o->op == WH_OP_MULH ? X_IMUL1 : X_MUL, true, right);
    if (o->op == WH_OP_MULHSU) { /* signed left: as unsigned, less right << 64 where left is negative */
        wh_x86_load(e, RCX, o->in.b);
        x_shift_ri(&e->a, X_SAR, true, RCX, 63);
        wh_x86_op(e, X_AND, true, RCX, right);
        x_rr(&e->a, X_SUB, true, RDX, RCX);
    }
    wh_x86_put(e, o->in.a, RDX);
}

/* A divisor of 0 or -1 is left to C: the host traps where RISC-V defines a result. */
static void divide(wh_x86 *e, const wh_jit_op *o, bool is_signed, bool word, int result)
{
    wh_asm *a = &e->a;
    wh_x86_load(e, RCX, (unsigned)o->in.imm);
    if (is_signed) { /* -1 and 0 are the two values whose successor is at most 1 */
        x_rm(a, X_LEA, !word, RAX, x_at(RCX, 1));
        x_alu_ri(a, X_CMP, !word, RAX, 1);
        wh_x86_defer(e, x_jcc(a, CC_BE), o, wh_x86_late_fallback);
    } else {
        x_rr(a, X_TEST, !word, RCX, RCX);
        wh_x86_defer(e, x_jcc(a, CC_E), o, wh_x86_late_fallback);
    }
    wh_x86_late *l = &e->late[e->lates - 1];
    wh_x86_load(e, RAX, o->in.b);
    if (is_signed) {
        x_head(a, 0x99, !word, 0, 0, 0, false); /* cqo, cdq */
    } else {
        x_rr(a, X_XOR, false, RDX, RDX);
    }
    x_group3(a, is_signed ? X_IDIV : X_DIV, !word, RCX);
    if (word)
        sign_extend(e, result);
    wh_x86_put(e, o->in.a, result);
    l->back = a->p;
}

static void upper(wh_x86 *e, const wh_jit_op *o)
{
    int d = wh_x86_def(e, o->in.a, RAX);
    if (o->op != WH_OP_AUIPC) {
        wh_x86_put_constant(e, o->in.a, (uint64_t)(int64_t)o->in.imm);
        return;
    }
    x_rm(&e->a, X_MOV, true, d, H(vpage));
    x_alu_ri(&e->a, X_ADD, true, d, o->in.imm + (int32_t)o->at);
    wh_x86_put(e, o->in.a, d);
}

static bool emit_immediate(wh_x86 *e, const wh_jit_op *o)
{
    switch (o->op) {
    case WH_OP_LUI:
    case WH_OP_AUIPC:
        upper(e, o);
        return true;
    case WH_OP_ADDI:
        add_immediate(e, o, false);
        return true;
    case WH_OP_ADDIW:
        add_immediate(e, o, true);
        return true;
    case WH_OP_SLTI:
        compare_immediate(e, o, CC_L);
        return true;
    case WH_OP_SLTIU:
        compare_immediate(e, o, CC_B);
        return true;
    case WH_OP_XORI:
        logic_immediate(e, o, X_XOR);
        return true;
    case WH_OP_ORI:
        logic_immediate(e, o, X_OR);
        return true;
    case WH_OP_ANDI:
        logic_immediate(e, o, X_AND);
        return true;
    case WH_OP_SLLI:
        shift_immediate(e, o, X_SHL, false);
        return true;
    case WH_OP_SRLI:
        shift_immediate(e, o, X_SHR, false);
        return true;
    case WH_OP_SRAI:
        shift_immediate(e, o, X_SAR, false);
        return true;
    case WH_OP_SLLIW:
        shift_immediate(e, o, X_SHL, true);
        return true;
    case WH_OP_SRLIW:
        shift_immediate(e, o, X_SHR, true);
        return true;
    case WH_OP_SRAIW:
        shift_immediate(e, o, X_SAR, true);
        return true;
    default:
        return false;
    }
}

static bool emit_register(wh_x86 *e, const wh_jit_op *o)
{
    switch (o->op) {
    case WH_OP_ADD:
        add(e, o);
        return true;
    case WH_OP_ADDW:
        binary(e, o, X_ADD, true, true);
        return true;
    case WH_OP_SUB:
        binary(e, o, X_SUB, false, false);
        return true;
    case WH_OP_SUBW:
        binary(e, o, X_SUB, false, true);
        return true;
    case WH_OP_XOR:
        binary(e, o, X_XOR, true, false);
        return true;
    case WH_OP_OR:
        binary(e, o, X_OR, true, false);
        return true;
    case WH_OP_AND:
        binary(e, o, X_AND, true, false);
        return true;
    case WH_OP_SLL:
        shift(e, o, X_SHL, false);
        return true;
    case WH_OP_SRL:
        shift(e, o, X_SHR, false);
        return true;
    case WH_OP_SRA:
        shift(e, o, X_SAR, false);
        return true;
    case WH_OP_SLLW:
        shift(e, o, X_SHL, true);
        return true;
    case WH_OP_SRLW:
        shift(e, o, X_SHR, true);
        return true;
    case WH_OP_SRAW:
        shift(e, o, X_SAR, true);
        return true;
    case WH_OP_SLT:
        compare(e, o, CC_L);
        return true;
    case WH_OP_SLTU:
        compare(e, o, CC_B);
        return true;
    default:
        return false;
    }
}

static bool emit_multiply(wh_x86 *e, const wh_jit_op *o)
{
    switch (o->op) {
    case WH_OP_MUL:
        binary(e, o, X_IMUL, true, false);
        return true;
    case WH_OP_MULW:
        binary(e, o, X_IMUL, true, true);
        return true;
    case WH_OP_MULH:
    case WH_OP_MULHU:
    case WH_OP_MULHSU:
        multiply_high(e, o);
        return true;
    case WH_OP_DIV:
        divide(e, o, true, false, RAX);
        return true;
    case WH_OP_DIVU:
        divide(e, o, false, false, RAX);
        return true;
    case WH_OP_REM:
        divide(e, o, true, false, RDX);
        return true;
    case WH_OP_REMU:
        divide(e, o, false, false, RDX);
        return true;
    case WH_OP_DIVW:
        divide(e, o, true, true, RAX);
        return true;
    case WH_OP_DIVUW:
        divide(e, o, false, true, RAX);
        return true;
    case WH_OP_REMW:
        divide(e, o, true, true, RDX);
        return true;
    case WH_OP_REMUW:
        divide(e, o, false, true, RDX);
        return true;
    default:
        return false;
    }
}

bool wh_x86_emit_integer(wh_x86 *e, const wh_jit_op *o)
{
    switch (o->op) {
    case WH_OP_LUI ... WH_OP_AUIPC:
    case WH_OP_ADDI ... WH_OP_REMUW:
        if (o->in.a == WH_SINK)
            return true; /* a hint or a nop */
        return emit_immediate(e, o) || emit_register(e, o) || emit_multiply(e, o);
    default:
        return false;
    }
}
