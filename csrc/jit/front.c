/* front: forms superblocks (theory: ir.h). It knows no host. */
#include "jit/ir.h"

#include <string.h>

static uint16_t four_byte_twin(unsigned op)
{
    static const uint16_t twin[] = {
#define ONE(name) WH_OP_##name,
#define TWO(name) WH_OP_##name, WH_OP_##name,
        WH_OPS(ONE, TWO)};
    return op < WH_ARRAY_LEN(twin) ? twin[op] : (uint16_t)op;
}

enum flow { STRAIGHT, BRANCH, JUMP, LAST };

static enum flow flow_of(unsigned op)
{
    switch (op) {
    case WH_OP_BEQ_NEAR ... WH_OP_BGEU_NEAR:
    case WH_OP_BEQ_FAR ... WH_OP_BGEU_FAR:
        return BRANCH;
    case WH_OP_JAL_NEAR:
        return JUMP;
    case WH_OP_JAL_FAR:
    case WH_OP_JALR:
    case WH_OP_ILLEGAL:
    case WH_OP_EBREAK:
    case WH_OP_ECALL:
    case WH_OP_MRET:
    case WH_OP_SRET:
    case WH_OP_WFI:
    case WH_OP_PAUSE:
    case WH_OP_FENCE_I:
    case WH_OP_SFENCE_VMA:
        return LAST;
    default:
        return STRAIGHT;
    }
}

static bool is_near(unsigned op)
{
    return (op >= WH_OP_BEQ_NEAR && op <= WH_OP_BGEU_NEAR) || op == WH_OP_JAL_NEAR;
}

/* NEAR distances count decoder entries (insn.h), FAR ones bytes. */
static int32_t target_of(const wh_jit_op *o)
{
    int32_t distance = is_near(o->op) ? o->in.imm / (int32_t)sizeof(wh_insn) * 2 : o->in.imm;
    return (int32_t)o->at + distance;
}

static void resolve_jumps(wh_jit_ir *ir, const int16_t *index_at)
{
    for (unsigned i = 0; i < ir->count; i++) {
        wh_jit_op *o = &ir->op[i];
        o->jump = -1;
        if (flow_of(o->op) == BRANCH && o->target >= 0 && o->target < (int32_t)WH_PAGE_SIZE)
            o->jump = index_at[o->target / 2];
        if (o->jump >= 0)
            ir->op[o->jump].flags |= WH_JIT_TARGET;
    }
    if (ir->end == WH_JIT_END_LOOP)
        ir->op[ir->loop].flags |= WH_JIT_TARGET;
}

bool wh_jit_form(wh_jit_ir *ir, uint32_t isa, const uint8_t *page, uint32_t offset,
                 bool (*known)(void *ctx, uint32_t offset), void *ctx)
{
    int16_t index_at[WH_PAGE_SIZE / 2];
    uint32_t at = offset;
    memset(index_at, 0xff, sizeof(index_at));
    ir->count = 0;
    ir->end = WH_JIT_END_FALL;
    while (ir->count < WH_JIT_MAX_OPS && at < WH_PAGE_SIZE) {
        uint32_t bits = 0;
        if (index_at[at / 2] >= 0) {
            ir->end = WH_JIT_END_LOOP;
            ir->loop = index_at[at / 2];
            break;
        }
        if (ir->count != 0 && known(ctx, at))
            break;
        memcpy(&bits, page + at, 2);
        if ((bits & 3) == 3) {
            if (at + 4 > WH_PAGE_SIZE)
                break;
            memcpy(&bits, page + at, 4);
        }
        wh_jit_op *o = &ir->op[ir->count];
        *o = (wh_jit_op){.at = (uint16_t)at, .jump = -1};
        o->length = (uint8_t)wh_decode_for(isa, bits, at, &o->in);
        o->op = four_byte_twin(o->in.op);
        index_at[at / 2] = (int16_t)ir->count++;
        at += o->length;
        enum flow flow = flow_of(o->op);
        if (flow == BRANCH || flow == JUMP || o->op == WH_OP_JAL_FAR)
            o->target = target_of(o);
        if (flow == JUMP)
            at = (uint32_t)o->target;
        if (flow == LAST) {
            ir->end = WH_JIT_END_SELF;
            break;
        }
    }
    ir->next = (uint16_t)at;
    resolve_jumps(ir, index_at);
    return ir->count != 0;
}
