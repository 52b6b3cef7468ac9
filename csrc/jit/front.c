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

struct forming {
    wh_jit_ir *ir;
    uint32_t isa;
    const uint8_t *page;
    bool (*known)(void *ctx, uint32_t offset);
    void *ctx;
    int16_t index_at[WH_PAGE_SIZE / 2];
};

static bool in_page(int32_t target)
{
    return target >= 0 && target < (int32_t)WH_PAGE_SIZE;
}

/* Decode the instruction at `at` as the next op; false: it does not lie in the page as a whole, and is not the head. */
static bool append(struct forming *f, uint32_t at)
{
    uint32_t bits = 0;
    memcpy(&bits, f->page + at, 2);
    if ((bits & 3) == 3) {
        if (at + 4 > WH_PAGE_SIZE && f->ir->count != 0)
            return false;
        memcpy(&bits, f->page + at, 4);
    }
    wh_jit_op *o = &f->ir->op[f->ir->count];
    *o = (wh_jit_op){.at = (uint16_t)at, .jump = -1};
    bool split = wh_jit_is_split(f->page, at);
    o->flags = split ? WH_JIT_SPLIT : 0;
    o->length = (uint8_t)wh_decode_for(f->isa, bits, split ? WH_NO_PAGE : at, &o->in);
    o->op = four_byte_twin(o->in.op);
    enum flow flow = flow_of(o->op);
    if (flow == BRANCH || flow == JUMP || o->op == WH_OP_JAL_FAR)
        o->target = target_of(o);
    f->index_at[at / 2] = (int16_t)f->ir->count++;
    return true;
}

static void end_path(struct forming *f, enum wh_jit_end end, int to)
{
    wh_jit_op *last = &f->ir->op[f->ir->count - 1];
    last->end = (uint8_t)end;
    last->to = (int16_t)to;
}

/* Follow one path until it ends, at most `limit` ops in all. True: it came to an op that was there before. False also
 * when not even its first instruction could be taken. */
static bool follow(struct forming *f, uint32_t at, unsigned limit)
{
    unsigned first = f->ir->count;
    while (at < WH_PAGE_SIZE && f->ir->count < limit) {
        if (f->index_at[at / 2] >= 0) {
            end_path(f, WH_JIT_END_JUMP, f->index_at[at / 2]);
            return f->index_at[at / 2] < (int)first || first == 0;
        }
        if (f->ir->count != 0 && f->known(f->ctx, at))
            break;
        if (!append(f, at))
            break;
        const wh_jit_op *o = &f->ir->op[f->ir->count - 1];
        enum flow flow = flow_of(o->op);
        if (flow == LAST) {
            end_path(f, WH_JIT_END_SELF, 0);
            return false;
        }
        at = flow == JUMP ? (uint32_t)o->target : at + o->length;
    }
    if (f->ir->count > first)
        end_path(f, WH_JIT_END_FALL, (int)at);
    return false;
}

/* Keep the first `count` ops; the last of them goes on at `at`. */
static void cut(struct forming *f, unsigned count, uint32_t at)
{
    for (unsigned i = count; i < f->ir->count; i++)
        f->index_at[f->ir->op[i].at / 2] = -1;
    f->ir->count = count;
    if (at != UINT32_MAX)
        end_path(f, WH_JIT_END_FALL, (int)at);
}

static int back_to(const struct forming *f, unsigned i)
{
    const wh_jit_op *o = &f->ir->op[i];
    if (o->end == WH_JIT_END_JUMP)
        return o->to;
    bool branch = flow_of(o->op) == BRANCH && in_page(o->target);
    return branch ? f->index_at[o->target / 2] : -1;
}

/* A loop gets a block of its own (ir.h). */
static void cut_at_loops(struct forming *f)
{
    unsigned inner = f->ir->count, last = 0;
    bool loop = false;
    for (unsigned i = 0; i < f->ir->count; i++) {
        int to = back_to(f, i);
        if (to > 0 && to <= (int)i && (unsigned)to < inner)
            inner = (unsigned)to;
    }
    for (unsigned i = 0; i < inner; i++)
        if (back_to(f, i) == 0) {
            loop = true;
            last = i;
        }
    if (loop && last + 1 < f->ir->count) {
        const wh_jit_op *o = &f->ir->op[last];
        cut(f, last + 1, (uint32_t)o->at + o->length);
    } else if (!loop && inner < f->ir->count) {
        cut(f, inner, f->ir->op[inner].at);
    }
}

enum { SIDE_OPS = 24 }; /* a side path that takes longer to come back is another block */

static void add_side_paths(struct forming *f)
{
    for (unsigned i = 0; i < f->ir->count; i++) { /* side paths have branches too */
        const wh_jit_op *o = &f->ir->op[i];
        unsigned before = f->ir->count, limit = before + SIDE_OPS;
        if (flow_of(o->op) != BRANCH || !in_page(o->target) || f->index_at[o->target / 2] >= 0 ||
            f->known(f->ctx, (uint32_t)o->target))
            continue;
        if (!follow(f, (uint32_t)o->target, limit < WH_JIT_MAX_OPS ? limit : WH_JIT_MAX_OPS))
            cut(f, before, UINT32_MAX);
    }
}

static void resolve_jumps(struct forming *f)
{
    wh_jit_ir *ir = f->ir;
    for (unsigned i = 0; i < ir->count; i++) {
        wh_jit_op *o = &ir->op[i];
        if (flow_of(o->op) == BRANCH && in_page(o->target))
            o->jump = f->index_at[o->target / 2];
        if (o->jump >= 0)
            ir->op[o->jump].flags |= WH_JIT_TARGET;
        if (o->end == WH_JIT_END_JUMP)
            ir->op[o->to].flags |= WH_JIT_TARGET;
    }
}

void wh_jit_form(wh_jit_ir *ir, uint32_t isa, const uint8_t page[WH_JIT_LOOK], uint32_t offset,
                 bool (*known)(void *ctx, uint32_t offset), void *ctx)
{
    struct forming f = {.ir = ir, .isa = isa, .page = page, .known = known, .ctx = ctx};
    memset(f.index_at, 0xff, sizeof(f.index_at));
    ir->count = 0;
    if (wh_jit_is_split(page, offset)) {
        (void)follow(&f, offset, 1);
        return;
    }
    (void)follow(&f, offset, WH_JIT_MAX_OPS);
    cut_at_loops(&f);
    add_side_paths(&f);
    resolve_jumps(&f);
}
