/* loops: which guest registers a block keeps in host registers.
 *
 * Between blocks the mapping is always the same (wh_x86_host). A block that contains a loop may use another one inside:
 * host registers whose usual guest registers it hardly names get those that it names often. Its prologue swaps them,
 * and whatever leaves the block or calls C swaps back, by a subroutine that stands in front of the block. */
#include "jit/x86/x86.h"

enum {
    LOOP_WEIGHT = 8, /* an instruction in a loop counts as so many */
    SWAP_PRICE = 12  /* what a register must gain: two accesses on the way in, two on the way out, and slow paths */
};

/* The x registers that an instruction names, at most 3; 0 and the sink do not count. Incomplete for FP and atomics. */
static unsigned named(const wh_jit_op *o, uint8_t out[3])
{
    unsigned n = 0;
    switch (o->op) {
    case WH_OP_ADD ... WH_OP_AND:
    case WH_OP_ADDW ... WH_OP_SUBW:
    case WH_OP_SLLW ... WH_OP_REMUW:
    case WH_OP_ADD_UW ... WH_OP_SH3ADD_UW:
    case WH_OP_ANDN ... WH_OP_XNOR:
    case WH_OP_MAX ... WH_OP_MINU:
        out[n++] = (uint8_t)o->in.imm;
        out[n++] = o->in.a;
        out[n++] = o->in.b;
        break;
    case WH_OP_LUI ... WH_OP_AUIPC:
        out[n++] = o->in.a;
        break;
    case WH_OP_JALR ... WH_OP_ANDI:
    case WH_OP_SLLI ... WH_OP_SRAI:
    case WH_OP_ADDIW ... WH_OP_SRAIW:
    case WH_OP_SLLI_UW:
    case WH_OP_CLZ ... WH_OP_CPOPW:
    case WH_OP_SEXT_B ... WH_OP_BSETI:
        out[n++] = o->in.a;
        out[n++] = o->in.b;
        break;
    case WH_OP_FLW ... WH_OP_FSD:
        out[n++] = o->in.b;
        break;
    default:
        break;
    }
    return n;
}

/* Weights of all registers; false: the block has no loop. */
static bool weigh(const wh_jit_ir *ir, unsigned weight[33])
{
    uint8_t depth[WH_JIT_MAX_OPS] = {0};
    bool loop = false;
    for (unsigned i = 0; i < ir->count; i++) {
        int jump = ir->op[i].end == WH_JIT_END_JUMP ? ir->op[i].to : ir->op[i].jump;
        if (jump < 0 || (unsigned)jump > i)
            continue;
        loop = true;
        for (unsigned k = (unsigned)jump; k <= i; k++)
            depth[k] = 1;
    }
    for (unsigned i = 0; loop && i < ir->count; i++) {
        uint8_t regs[3];
        unsigned n = named(&ir->op[i], regs);
        while (n-- > 0)
            weight[regs[n]] += depth[i] ? LOOP_WEIGHT : 1;
    }
    weight[0] = weight[WH_SINK] = 0;
    return loop;
}

static void move(wh_x86 *e, bool to_here)
{
    for (unsigned i = 0; i < e->swaps; i++) {
        unsigned from = to_here ? e->swap[i].usual : e->swap[i].here, to = to_here ? e->swap[i].here : e->swap[i].usual;
        x_rm(&e->a, X_MOV_STORE, true, e->swap[i].host, wh_x86_x(from));
        x_rm(&e->a, X_MOV, true, e->swap[i].host, wh_x86_x(to));
    }
}

static void choose(wh_x86 *e, unsigned weight[33])
{
    for (;;) {
        unsigned best = 0, worst = 0;
        for (unsigned r = 1; r < 32; r++) {
            if (e->host[r] < 0 && weight[r] > weight[best])
                best = r;
            if (wh_x86_host[r] >= 0 && e->host[r] >= 0 && (worst == 0 || weight[r] < weight[worst]))
                worst = r;
        }
        if (best == 0 || worst == 0 || weight[best] < weight[worst] + SWAP_PRICE)
            return;
        e->swap[e->swaps].host = (uint8_t)wh_x86_host[worst];
        e->swap[e->swaps].usual = (uint8_t)worst;
        e->swap[e->swaps++].here = (uint8_t)best;
        e->host[best] = wh_x86_host[worst];
        e->host[worst] = X_NO_REG;
        weight[best] = 0; /* it is settled, and it is not a usual one, so that it is not given up again */
        weight[worst] = 0;
    }
}

void wh_x86_choose_mapping(wh_x86 *e)
{
    unsigned weight[33] = {0};
    memcpy(e->host, wh_x86_host, sizeof(e->host));
    e->swaps = 0;
    if (!weigh(e->ir, weight))
        return;
    choose(e, weight);
    if (e->swaps == 0)
        return;
    e->usual = e->a.p;
    move(e, false);
    x_ret(&e->a);
    e->here = e->a.p;
    move(e, true);
    x_ret(&e->a);
}

void wh_x86_to_usual(wh_x86 *e)
{
    if (e->swaps != 0)
        x_call_to(&e->a, e->usual);
}

void wh_x86_to_here(wh_x86 *e)
{
    if (e->swaps != 0)
        x_call_to(&e->a, e->here);
}

void wh_x86_swap_in(wh_x86 *e)
{
    move(e, true);
}

void wh_x86_call_c(wh_x86 *e, enum wh_x86_thunk thunk)
{
    wh_x86_to_usual(e);
    x_call_to(&e->a, wh_x86_thunk_at(e, thunk));
    wh_x86_to_here(e);
}
