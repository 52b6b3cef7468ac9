/* returns: guest calls and returns as calls and returns of the host, so that its return stack predicts them.
 *
 * A guest call pushes the guest's return address, then calls; what stands behind the call is the landing, which goes on
 * at the instruction after the guest's call. A guest return whose target is the address on top of the stack returns;
 * any other looks into the jump cache, and leaves the stack alone. An entry is 16 bytes:
 *
 *      [rsp + 8]   guest return address
 *      [rsp]       host return address, the landing
 *
 * Entries are never looked into but at the top, and all are dropped - rsp is set back to h->returns_base - when control
 * leaves translated code, when C has run an instruction that may change what an address leads to, and when there is no
 * room. So an entry that is found was pushed in this address space and mode, with no fence since. Below the first one
 * stands one of ours, that no even address equals; a guest that returns to its odd one comes to THUNK_EMPTY. */
#include "jit/x86/x86.h"

#define GUEST x_at(RSP, 8)

static bool is_link(unsigned reg) /* the calling convention's, as the ISA's hints for return address stacks name them */
{
    return reg == 1 || reg == 5;
}

bool wh_x86_is_call(const wh_jit_op *o)
{
    return (o->op == WH_OP_JALR || o->op == WH_OP_JAL_NEAR || o->op == WH_OP_JAL_FAR) && is_link(o->in.a);
}

bool wh_x86_is_return(const wh_jit_op *o)
{
    return o->op == WH_OP_JALR && o->in.a == WH_SINK && is_link(o->in.b);
}

static void late_no_room(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_bind_late(e, l);
    x_rm(&e->a, X_MOV, true, RSP, H(returns_base));
    x_jmp_to(&e->a, l->back);
}

void wh_x86_push_return(wh_x86 *e, const wh_jit_op *o, int link)
{
    x_rm(&e->a, X_CMP, true, RSP, H(returns_limit));
    wh_x86_late *l = wh_x86_defer(e, x_jcc(&e->a, CC_B), o, late_no_room);
    l->back = e->a.p;
    x_push(&e->a, link);
}

/* Behind a call, in the mapping between blocks: rax is the guest's address, and vpage its page. */
static void land(wh_x86 *e, int32_t next)
{
    x_pop(&e->a, RDX);
    if (next < (int32_t)WH_PAGE_SIZE) {
        wh_x86_go_to(e, next);
        return;
    }
    wh_x86_look(e);
    x_jmp_reg(&e->a, RCX);
}

static void late_land(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_bind_late(e, l);
    land(e, l->op->at + l->op->length);
}

void wh_x86_call_within(wh_x86 *e, const wh_jit_op *o)
{
    enum { JUMP_BYTES = 5 };
    wh_asm *a = &e->a;
    x_call_to(a, a->p + 5 + JUMP_BYTES);
    (void)wh_x86_defer(e, x_jmp(a), o, late_land);
}

static void late_link(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_bind_late(e, l);
    wh_x86_ask_for_link(e, l->from, (int32_t)l->v[0]);
}

void wh_x86_call_to(wh_x86 *e, const wh_jit_op *o, int32_t target)
{
    wh_asm *a = &e->a;
    wh_x86_to_usual(e);
    if (target < 0 || target >= (int32_t)WH_PAGE_SIZE) {
        wh_x86_look_beyond(e, target);
        x_call_reg(a, RCX);
    } else {
        x_align(a, 4, 1);
        wh_x86_late *l = wh_x86_defer(e, x_call(a), o, late_link);
        l->v[0] = target;
    }
    land(e, o->at + o->length);
}

void wh_x86_call_rax(wh_x86 *e, const wh_jit_op *o)
{
    wh_x86_to_usual(e);
    wh_x86_look(e);
    x_call_reg(&e->a, RCX);
    land(e, o->at + o->length);
}

static void late_other(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_bind_late(e, l);
    x_alu_ri(&e->a, X_AND, true, RAX, -2);
    wh_x86_look(e);
    x_jmp_reg(&e->a, RCX);
}

void wh_x86_return_to_rax(wh_x86 *e, const wh_jit_op *o)
{
    wh_asm *a = &e->a;
    wh_x86_to_usual(e);
    x_rm(a, X_CMP, true, RAX, GUEST);
    (void)wh_x86_defer(e, x_jcc(a, CC_NE), o, late_other);
    x_mov_rr(a, RCX, RAX);
    x_alu_ri(a, X_AND, true, RCX, -(int32_t)WH_PAGE_SIZE);
    x_rm(a, X_MOV_STORE, true, RCX, H(vpage));
    x_ret(a);
}

void wh_x86_open_returns(wh_x86 *e)
{
    wh_asm *a = &e->a;
    x_mov_ri(a, RCX, UINT64_MAX);
    x_push(a, RCX);
    x_mov_ri(a, RCX, (uint64_t)(uintptr_t)(e->arena->rx + e->arena->thunk[THUNK_EMPTY]));
    x_push(a, RCX);
    x_rm(a, X_MOV_STORE, true, RSP, H(returns_base));
    x_rm(a, X_LEA, true, RCX, x_at(RSP, -WH_X86_RETURNS * 16));
    x_rm(a, X_MOV_STORE, true, RCX, H(returns_limit));
}

void wh_x86_close_returns(wh_asm *a)
{
    x_rm(a, X_MOV, true, RSP, H(returns_base));
    x_alu_ri(a, X_ADD, true, RSP, 16);
}
