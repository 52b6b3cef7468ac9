/* charge: what a block takes from the budget, and where. Exact at every exit (backend.h), and cheap on the way.
 *
 * due[i] is what the block has taken, when op i begins, for it and what comes behind it. An edge between two ops costs
 * an instruction only where their dues differ by other than the one op: so the dues are chosen, from the last op to the
 * first, that falling through is free, and at a branch over a few instructions, which either way may go, that taking it
 * is: what it skips is charged where it begins. An exit gives back the rest of its due.
 *
 * So a way through the block may take more than the head did, at most extra[0]; the head asks for both, and so does a
 * jump back for those of its target. */
#include "jit/x86/x86.h"

static int most(int a, int b)
{
    return a > b ? a : b;
}

/* What the edge from op[from] to op[to] takes. */
static int edge(const wh_x86 *e, unsigned from, unsigned to)
{
    return e->due[to] - (e->due[from] - 1);
}

bool wh_x86_is_skip(const wh_x86 *e, const wh_jit_op *o)
{
    enum { FEW = 12 };
    int i = (int)wh_x86_index(e, o);
    return o->end == WH_JIT_GO_ON && o->jump > i + 1 && o->jump <= i + 1 + FEW;
}

static void charge_op(wh_x86 *e, unsigned i)
{
    const wh_jit_op *o = &e->ir->op[i];
    int next = o->end == WH_JIT_GO_ON ? (int)i + 1 : o->end == WH_JIT_END_JUMP ? o->to : -1;
    bool on = next > (int)i; /* a jump back charges for its target anew */
    e->due[i] = (int16_t)(on ? e->due[next] + 1 : 1);
    e->extra[i] = on ? e->extra[next] : 0;
    if (o->jump <= (int)i)
        return;
    if (wh_x86_is_skip(e, o)) {
        e->due[i] = (int16_t)(e->due[o->jump] + 1);
        e->extra[i] = (int16_t)most(0, edge(e, i, i + 1) + e->extra[i + 1]);
    }
    e->extra[i] = (int16_t)most(e->extra[i], edge(e, i, (unsigned)o->jump) + e->extra[o->jump]);
}

void wh_x86_plan_charges(wh_x86 *e)
{
    for (unsigned i = e->ir->count; i-- > 0;)
        charge_op(e, i);
}

/* Seven bytes, whatever the count: wh_backend_divert writes a jump over them. */
void wh_x86_charge_head(wh_x86 *e)
{
    wh_asm *a = &e->a;
    const int due = e->due[0], extra = e->extra[0];
    x_head(a, 0x81, true, 0, 0, BUDGET, false);
    x_byte(a, 0xc0 | X_SUB >> 3 << 3 | (BUDGET & 7));
    x_imm32(a, due + extra);
    wh_x86_late *l = wh_x86_defer(e, x_jcc(a, CC_S), e->ir->op, wh_x86_budget_stub);
    l->v[0] = due + extra;
    l->v[1] = e->ir->op[0].at;
    l->back = NULL;
    if (extra != 0)
        x_rm(a, X_LEA, true, BUDGET, x_at(BUDGET, extra));
}

void wh_x86_charge_edge(wh_x86 *e, unsigned from, unsigned to)
{
    int taken = edge(e, from, to);
    if (taken != 0)
        x_rm(&e->a, X_LEA, true, BUDGET, x_at(BUDGET, -taken));
}

unsigned wh_x86_charge_back(wh_x86 *e, unsigned from, unsigned to)
{
    wh_asm *a = &e->a;
    int taken = edge(e, from, to), extra = e->extra[to];
    if (taken > 0)
        x_alu_ri(a, X_SUB, true, BUDGET, taken);
    if (taken > 0 && extra == 0)
        return CC_NS;
    if (taken < 0)
        x_rm(a, X_LEA, true, BUDGET, x_at(BUDGET, -taken));
    x_alu_ri(a, X_CMP, true, BUDGET, extra);
    return CC_GE;
}
