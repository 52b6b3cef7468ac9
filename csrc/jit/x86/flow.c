/* flow: jumps of every kind, and how control leaves a block. */
#include "jit/x86/x86.h"

/* The jump cache (mmu.h): an entry is for one virtual pc in one fetch context. */
void wh_x86_look(wh_x86 *e)
{
    wh_asm *a = &e->a;
    x_rr(a, X_MOV, false, RCX, RAX);
    x_shift_ri(a, X_SHR, false, RCX, WH_JUMP_MIX);
    x_rr(a, X_XOR, false, RCX, RAX);
    x_rm(a, X_MOV, true, RDX, H(mmu.jumps));
    x_alu_ri(a, X_AND, false, RCX, 2 * (WH_JUMPS - 1));
    x_rm(a, X_LEA, true, RDX, x_indexed(RDX, RCX, 3, 0));
    x_rm(a, X_CMP, true, RAX, x_at(RDX, offsetof(wh_jump, va)));
    x_jcc_to(a, CC_NE, wh_x86_thunk_at(e, THUNK_LOOKUP));
    x_rm(a, X_MOV, false, RCX, x_at(RDX, offsetof(wh_jump, context)));
    x_rm(a, X_CMP, false, RCX, H(mmu.code_context));
    x_jcc_to(a, CC_NE, wh_x86_thunk_at(e, THUNK_LOOKUP));
    x_rm(a, X_MOV, false, RCX, x_at(RDX, offsetof(wh_jump, code)));
    x_alu_ri(a, X_AND, true, RAX, -(int32_t)WH_PAGE_SIZE);
    x_rm(a, X_MOV_STORE, true, RAX, H(vpage));
}

void wh_x86_look_beyond(wh_x86 *e, int32_t target)
{
    x_rm(&e->a, X_MOV, true, RAX, H(vpage));
    x_alu_ri(&e->a, X_ADD, true, RAX, target);
    wh_x86_look(e);
}

/* In line each time: a jump of one's own is one that the host predicts. */
void wh_x86_jump_in_rax(wh_x86 *e)
{
    wh_x86_to_usual(e);
    wh_x86_look(e);
    x_jmp_reg(&e->a, RCX);
}

void wh_x86_ask_for_link(wh_x86 *e, const uint8_t *site, int32_t target)
{
    wh_asm *a = &e->a;
    x_mov_ri(a, RAX, (uint64_t)(site - e->arena->rw));
    x_mov_ri(a, RCX, (uint64_t)target);
    x_mov_ri(a, RDX, e->page_ref);
    x_jmp_to(a, wh_x86_thunk_at(e, THUNK_LINK));
}

/* A target in this page: a jump that begins by falling into the stub behind it and is linked when its target has been
 * translated. Its displacement is aligned, so that linking is one atomic store. */
void wh_x86_go_to(wh_x86 *e, int32_t target)
{
    wh_asm *a = &e->a;
    if (target < 0 || target >= (int32_t)WH_PAGE_SIZE) {
        wh_x86_look_beyond(e, target);
        x_jmp_reg(a, RCX);
        return;
    }
    x_align(a, 4, 1);
    wh_x86_ask_for_link(e, x_jmp(a), target);
}

void wh_x86_exit_to(wh_x86 *e, int32_t target)
{
    wh_x86_to_usual(e);
    wh_x86_go_to(e, target);
}

void wh_x86_budget_stub(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_bind_late(e, l);
    if (l->back != NULL) /* not before the block's swaps */
        wh_x86_to_usual(e);
    x_alu_ri(&e->a, X_ADD, true, BUDGET, (int32_t)l->v[0]);
    x_mov_ri(&e->a, RCX, (uint64_t)l->v[1]);
    x_jmp_to(&e->a, wh_x86_thunk_at(e, THUNK_BUDGET));
}

void wh_x86_adjust_budget(wh_x86 *e, unsigned back)
{
    if (back != 0)
        x_alu_ri(&e->a, X_ADD, true, BUDGET, (int32_t)back);
}

/* A jump to an op that had no address yet. */
static void late_label(wh_x86 *e, const wh_x86_late *l)
{
    x_bind(&e->a, l->from, e->label[wh_x86_index(e, l->op)]);
}

void wh_x86_internal_jump(wh_x86 *e, unsigned from, unsigned to)
{
    wh_asm *a = &e->a;
    if (to > from) {
        wh_x86_charge_edge(e, from, to);
        if (e->label[to] != NULL)
            x_jmp_to(a, e->label[to]);
        else
            wh_x86_defer(e, x_jmp(a), &e->ir->op[to], late_label);
        return;
    }
    unsigned enough = wh_x86_charge_back(e, from, to);
    x_jcc_to(a, enough, e->label[to]);
    wh_x86_late *l = wh_x86_defer(e, x_jmp(a), &e->ir->op[from], wh_x86_budget_stub);
    l->v[0] = e->due[to];
    l->v[1] = e->ir->op[to].at;
}

static void late_taken(wh_x86 *e, const wh_x86_late *l)
{
    unsigned i = wh_x86_index(e, l->op);
    wh_x86_bind_late(e, l);
    if (l->op->jump >= 0) {
        wh_x86_internal_jump(e, i, (unsigned)l->op->jump);
    } else {
        wh_x86_adjust_budget(e, wh_x86_charge(e, l->op) - 1);
        wh_x86_exit_to(e, l->op->target);
    }
}

/* Flags are set; the branch is taken on cc. */
static void take_branch(wh_x86 *e, const wh_jit_op *o, unsigned cc)
{
    unsigned i = wh_x86_index(e, o);
    if (wh_x86_is_skip(e, o)) {
        wh_x86_defer(e, x_jcc(&e->a, cc), &e->ir->op[o->jump], late_label);
        wh_x86_charge_edge(e, i, i + 1);
        return;
    }
    if (o->jump >= 0 && (unsigned)o->jump <= i) {
        uint8_t *skip = x_jcc(&e->a, cc ^ 1);
        wh_x86_internal_jump(e, i, (unsigned)o->jump);
        x_bind(&e->a, skip, e->a.p);
        return;
    }
    wh_x86_defer(e, x_jcc(&e->a, cc), o, late_taken);
}

/* What 0 cc x is as a comparison of x with 0. */
static unsigned turned(unsigned cc)
{
    switch (cc) {
    case CC_L:
        return CC_G;
    case CC_GE:
        return CC_LE;
    case CC_B:
        return CC_NE;
    case CC_AE:
        return CC_E;
    default:
        return cc;
    }
}

/* Returns the condition to ask for; cc: as it is for left and right. */
static unsigned compare(wh_x86 *e, unsigned left, unsigned right, unsigned cc)
{
    if (left == 0 && right != 0) {
        left = right;
        right = 0;
        cc = turned(cc);
    }
    int l = e->host[left], r = e->host[right];
    if (right == 0 && l >= 0)
        x_rr(&e->a, X_TEST, true, l, l);
    else if (right == 0 && left != 0)
        x_alu_mi(&e->a, X_CMP, true, wh_x86_x(left), 0);
    else if (l < 0 && r >= 0)
        x_rm(&e->a, X_CMP - 2, true, r, wh_x86_x(left)); /* the form with memory on the left */
    else
        wh_x86_op(e, X_CMP, true, wh_x86_use(e, left, RAX), right);
    return cc;
}

/* The return address, to where o wants it, and if it is a call onto the stack of returns. */
static void put_link(wh_x86 *e, const wh_jit_op *o)
{
    if (o->in.a == WH_SINK)
        return;
    int d = wh_x86_def(e, o->in.a, RCX);
    x_rm(&e->a, X_MOV, true, d, H(vpage));
    x_alu_ri(&e->a, X_ADD, true, d, o->at + o->length);
    wh_x86_put(e, o->in.a, d);
    if (wh_x86_is_call(o))
        wh_x86_push_return(e, o, d);
}

static void give_back(wh_x86 *e, const wh_jit_op *o)
{
    wh_x86_adjust_budget(e, wh_x86_charge(e, o) - 1);
}

static void emit_jalr(wh_x86 *e, const wh_jit_op *o)
{
    wh_x86_address(e, o->in.b, o->in.imm);
    if (wh_x86_is_return(o)) {
        give_back(e, o);
        wh_x86_return_to_rax(e, o);
        return;
    }
    x_alu_ri(&e->a, X_AND, true, RAX, -2);
    put_link(e, o);
    give_back(e, o);
    if (wh_x86_is_call(o))
        wh_x86_call_rax(e, o);
    else
        wh_x86_jump_in_rax(e);
}

static void emit_jal_far(wh_x86 *e, const wh_jit_op *o)
{
    put_link(e, o);
    give_back(e, o);
    if (wh_x86_is_call(o))
        wh_x86_call_to(e, o, o->target);
    else
        wh_x86_exit_to(e, o->target);
}

bool wh_x86_emit_flow(wh_x86 *e, const wh_jit_op *o)
{
    unsigned cc;
    switch (o->op) {
    case WH_OP_BEQ_NEAR:
    case WH_OP_BEQ_FAR:
        cc = CC_E;
        break;
    case WH_OP_BNE_NEAR:
    case WH_OP_BNE_FAR:
        cc = CC_NE;
        break;
    case WH_OP_BLT_NEAR:
    case WH_OP_BLT_FAR:
        cc = CC_L;
        break;
    case WH_OP_BGE_NEAR:
    case WH_OP_BGE_FAR:
        cc = CC_GE;
        break;
    case WH_OP_BLTU_NEAR:
    case WH_OP_BLTU_FAR:
        cc = CC_B;
        break;
    case WH_OP_BGEU_NEAR:
    case WH_OP_BGEU_FAR:
        cc = CC_AE;
        break;
    case WH_OP_JAL_NEAR: /* the target is the next op of the block, or the block's end says how to get there */
        put_link(e, o);
        if (wh_x86_is_call(o) && o->end != WH_JIT_END_FALL)
            wh_x86_call_within(e, o);
        return true;
    case WH_OP_JAL_FAR:
        emit_jal_far(e, o);
        return true;
    case WH_OP_JALR:
        emit_jalr(e, o);
        return true;
    default:
        return false;
    }
    take_branch(e, o, compare(e, o->in.b, o->in.a, cc));
    return true;
}
