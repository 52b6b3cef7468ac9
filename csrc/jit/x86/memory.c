/* memory: loads and stores of x registers, and address translation for every other access.
 *
 * Inline: the TLB look-up of mmu.h. Everything else - walk, device, page crossing, trap - is one call of C behind the
 * block, which does the whole access.
 *
 * Groups: accesses with the same base register, with nothing between that changes it or what translation says, and no
 * jump target, share one look-up. The first looks up the span of all of them, in the write TLB if one of them is a
 * store (a write translation allows reading), and keeps the page's addend in KEEP; a second group at the same time
 * keeps its in the hart. If the span is not within one page of the TLB, that is 0 and each of them looks for itself,
 * behind the block. A slow access in between takes nothing from what was looked up: only polling, fences and CSRs do,
 * and these end a group. */
#include "jit/x86/x86.h"

void wh_x86_address(wh_x86 *e, unsigned base, int32_t offset)
{
    if (base == 0) {
        x_mov_ri(&e->a, RAX, (uint64_t)(int64_t)offset);
    } else if (e->host[base] >= 0 && offset != 0) {
        x_rm(&e->a, X_LEA, true, RAX, x_at(e->host[base], offset));
    } else {
        wh_x86_load(e, RAX, base);
        if (offset != 0)
            x_alu_ri(&e->a, X_ADD, true, RAX, offset);
    }
}

static void late_access(wh_x86 *e, const wh_x86_late *l)
{
    const wh_jit_op *o = l->op;
    wh_x86_bind_late(e, l);
    x_mov_ri(&e->a, RCX, WH_PACK(o->at, wh_x86_charge(e, o), o->in.a, l->v[0], o->length));
    wh_x86_call_c(e, THUNK_MEMORY);
    x_jmp_to(&e->a, l->back);
}

/* rax is the address of an access; [rax + low, rax + high) shall lie in one page of the TLB. Returns the jump for when
 * it does not; otherwise rcx is its entry. */
static uint8_t *look_up(wh_x86 *e, int32_t low, int32_t high, bool store)
{
    wh_asm *a = &e->a;
    if (low != 0)
        x_rm(a, X_LEA, false, RCX, x_at(RAX, low));
    else
        x_rr(a, X_MOV, false, RCX, RAX);
    if (high != 1)
        x_rm(a, X_LEA, true, RDX, x_at(RAX, high - 1));
    else
        x_mov_rr(a, RDX, RAX);
    x_shift_ri(a, X_SHR, false, RCX, WH_PAGE_SHIFT - 4);
    x_shift_ri(a, X_SHR, true, RDX, WH_PAGE_SHIFT);
    x_alu_ri(a, X_AND, false, RCX, (WH_TLB_ENTRIES - 1) * 16);
    x_rm(a, X_OR, true, RDX, H(mmu.data_context));
    x_rm(a, X_ADD, true, RCX, store ? H(mmu.store) : H(mmu.load));
    x_rm(a, X_CMP, true, RDX, x_at(RCX, offsetof(wh_tlb_entry, tag)));
    return x_jcc(a, CC_NE);
}

/* rdx = addend of rax's page; a miss does the whole access in C and goes on at `back` of what this returns. */
static wh_x86_late *look_up_alone(wh_x86 *e, const wh_jit_op *o, unsigned size, bool store, enum wh_access_kind kind)
{
    wh_x86_late *l = wh_x86_defer(e, look_up(e, 0, (int32_t)size, store), o, late_access);
    l->v[0] = kind;
    x_rm(&e->a, X_MOV, true, RDX, x_at(RCX, offsetof(wh_tlb_entry, addend)));
    return l;
}

/* The look-up of a group failed, or the group has none: this access looks for itself. back: behind the access; v[1]: in
 * front of it, or 0 when the stub shall do the access itself (late_integer). */
static void late_translate(wh_x86 *e, const wh_x86_late *l)
{
    const wh_jit_op *o = l->op;
    const struct wh_x86_kind *k = &wh_x86_kinds[l->v[0]];
    wh_x86_bind_late(e, l);
    look_up_alone(e, o, k->size, k->store, (enum wh_access_kind)l->v[0])->back = l->back;
    x_jmp_to(&e->a, e->arena->rw + l->v[1]);
}

/* Whether a guest x register is another one behind o. Too often true for FP operations, which is harmless. */
static bool writes(const wh_jit_op *o, unsigned reg)
{
    switch (o->op) {
    case WH_OP_BEQ_NEAR ... WH_OP_BGEU_FAR:
    case WH_OP_SB ... WH_OP_SD:
    case WH_OP_FLW ... WH_OP_FSD:
        return false;
    default:
        return o->in.a == reg;
    }
}

/* Behind these, what the TLB says is the same as before. */
static bool keeps_translation(const wh_jit_op *o)
{
    return (o->op >= WH_OP_LUI && o->op <= WH_OP_REMUW) || (o->op >= WH_OP_ADD_UW && o->op <= WH_OP_FMV_D_X);
}

/* Accesses with the same base register that follow o in a straight line, and lie in a span that is likely to be one
 * page: o looks up the whole span for them. */
static void plan_group(wh_x86 *e, struct wh_x86_group *group, const wh_jit_op *o, const struct wh_x86_kind *k)
{
    enum wh_access_kind kind;
    unsigned base = o->in.b;
    struct wh_x86_group g = {.base = (int16_t)base, .low = o->in.imm, .high = o->in.imm + k->size, .store = k->store};
    const wh_jit_op *end = e->ir->op + e->ir->count;
    g.last = o;
    group->last = NULL;
    if (base == 0)
        return;
    for (const wh_jit_op *m = o; m < end && keeps_translation(m); m++) {
        if (m != o && (m->flags & WH_JIT_TARGET))
            break;
        if (m != o && m->in.b == base && wh_x86_kind_of(m->op, &kind)) {
            int32_t low = m->in.imm < g.low ? m->in.imm : g.low;
            int32_t top = m->in.imm + wh_x86_kinds[kind].size, high = top > g.high ? top : g.high;
            if (high - low <= WH_GROUP_SPAN) {
                g.low = low;
                g.high = high;
                g.store |= wh_x86_kinds[kind].store;
                g.last = m;
            }
        }
        if (writes(m, base))
            break;
    }
    if (g.last != o)
        *group = g;
}

void wh_x86_end_groups(wh_x86 *e)
{
    e->group[0].last = e->group[1].last = NULL;
}

static bool is_member(const struct wh_x86_group *g, const wh_jit_op *o, const struct wh_x86_kind *k)
{
    return g->last != NULL && o <= g->last && g->base == o->in.b && o->in.imm >= g->low &&
           o->in.imm + k->size <= g->high;
}

/* The group that o is in; NULL: none. */
static struct wh_x86_group *group_of(wh_x86 *e, const wh_jit_op *o, const struct wh_x86_kind *k)
{
    for (unsigned i = 0; i < WH_ARRAY_LEN(e->group); i++)
        if (is_member(&e->group[i], o, k))
            return &e->group[i];
    return NULL;
}

/* A group that o leads from now on; NULL: it has nobody to lead, or there is no room. */
static struct wh_x86_group *lead(wh_x86 *e, const wh_jit_op *o, const struct wh_x86_kind *k)
{
    for (unsigned i = 0; i < WH_ARRAY_LEN(e->group); i++) {
        struct wh_x86_group *g = &e->group[i];
        if (g->last != NULL && o <= g->last)
            continue;
        plan_group(e, g, o, k);
        return g->last != NULL ? g : NULL;
    }
    return NULL;
}

/* The group's addend into a register that is returned, and the jump for when it has none. */
static int addend_of(wh_x86 *e, const struct wh_x86_group *g, uint8_t **none)
{
    int reg = g == &e->group[0] ? KEEP : RDX;
    if (reg == RDX)
        x_rm(&e->a, X_MOV, true, RDX, H(keep));
    x_rr(&e->a, X_TEST, true, reg, reg);
    *none = x_jcc(&e->a, CC_E);
    return reg;
}

static void late_lead(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_late own = *l;
    wh_x86_bind_late(e, l);
    x_rr(&e->a, X_XOR, false, KEEP, KEEP);
    own.from = NULL;
    late_translate(e, &own);
}

static void late_lead_second(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_late own = *l;
    wh_x86_bind_late(e, l);
    x_mov_mi(&e->a, true, H(keep), 0);
    own.from = NULL;
    late_translate(e, &own);
}

wh_x86_access wh_x86_translate_address(wh_x86 *e, const wh_jit_op *o, unsigned size, bool store,
                                       enum wh_access_kind kind)
{
    wh_asm *a = &e->a;
    const struct wh_x86_kind *k = &wh_x86_kinds[kind];
    wh_x86_late *l;
    enum wh_access_kind own;
    if (!wh_x86_kind_of(o->op, &own)) /* an atomic */
        return (wh_x86_access){look_up_alone(e, o, size, store, kind)};
    struct wh_x86_group *g = group_of(e, o, k);
    if (g != NULL) {
        uint8_t *none;
        int reg = addend_of(e, g, &none);
        l = wh_x86_defer(e, none, o, late_translate);
        x_mov_rr(a, RDX, reg);
    } else {
        g = lead(e, o, k);
        if (g == NULL)
            return (wh_x86_access){look_up_alone(e, o, size, store, kind)};
        uint8_t *miss = look_up(e, g->low - o->in.imm, g->high - o->in.imm, g->store);
        l = wh_x86_defer(e, miss, o, g == &e->group[0] ? late_lead : late_lead_second);
        x_rm(a, X_MOV, true, RDX, x_at(RCX, offsetof(wh_tlb_entry, addend)));
        if (g == &e->group[0])
            x_mov_rr(a, KEEP, RDX);
        else
            x_rm(a, X_MOV_STORE, true, RDX, H(keep));
    }
    l->v[0] = kind;
    l->v[1] = a->p - e->arena->rw;
    return (wh_x86_access){l};
}

void wh_x86_access_done(wh_x86 *e, wh_x86_access access)
{
    access.late->back = e->a.p;
}

const struct wh_x86_kind wh_x86_kinds[] = {
    [WH_KIND_LB] = {X_MOVSX8, 1, true, false},
    [WH_KIND_LH] = {X_MOVSX16, 2, true, false},
    [WH_KIND_LW] = {X_MOVSXD, 4, true, false},
    [WH_KIND_LD] = {X_MOV, 8, true, false},
    [WH_KIND_LBU] = {X_MOVZX8, 1, false, false},
    [WH_KIND_LHU] = {X_MOVZX16, 2, false, false},
    [WH_KIND_LWU] = {X_MOV, 4, false, false},
    [WH_KIND_SB] = {X_MOV_STORE8, 1, false, true},
    [WH_KIND_SH] = {X_66(X_MOV_STORE), 2, false, true},
    [WH_KIND_SW] = {X_MOV_STORE, 4, false, true},
    [WH_KIND_SD] = {X_MOV_STORE, 8, true, true},
    [WH_KIND_FLH] = {0, 2, false, false},
    [WH_KIND_FLW] = {0, 4, false, false},
    [WH_KIND_FLD] = {0, 8, false, false},
    [WH_KIND_FSW] = {0, 4, false, true},
    [WH_KIND_FSD] = {0, 8, false, true},
};

bool wh_x86_kind_of(unsigned op, enum wh_access_kind *kind)
{
    switch (op) {
    case WH_OP_LB:
        *kind = WH_KIND_LB;
        return true;
    case WH_OP_LH:
        *kind = WH_KIND_LH;
        return true;
    case WH_OP_LW:
        *kind = WH_KIND_LW;
        return true;
    case WH_OP_LD:
        *kind = WH_KIND_LD;
        return true;
    case WH_OP_LBU:
        *kind = WH_KIND_LBU;
        return true;
    case WH_OP_LHU:
        *kind = WH_KIND_LHU;
        return true;
    case WH_OP_LWU:
        *kind = WH_KIND_LWU;
        return true;
    case WH_OP_SB:
        *kind = WH_KIND_SB;
        return true;
    case WH_OP_SH:
        *kind = WH_KIND_SH;
        return true;
    case WH_OP_SW:
        *kind = WH_KIND_SW;
        return true;
    case WH_OP_SD:
        *kind = WH_KIND_SD;
        return true;
    case WH_OP_FLW:
        *kind = WH_KIND_FLW;
        return true;
    case WH_OP_FLD:
        *kind = WH_KIND_FLD;
        return true;
    case WH_OP_FSW:
        *kind = WH_KIND_FSW;
        return true;
    case WH_OP_FSD:
        *kind = WH_KIND_FSD;
        return true;
    default:
        return false;
    }
}

static void access(wh_x86 *e, const wh_jit_op *o, const struct wh_x86_kind *k, wh_mem at)
{
    if (k->store) {
        x_rm(&e->a, k->op, k->wide, wh_x86_use(e, o->in.a, RCX), at);
    } else {
        int d = wh_x86_def(e, o->in.a, RCX);
        x_rm(&e->a, k->op, k->wide, d, at);
        wh_x86_put(e, o->in.a, d);
    }
}

/* A member of a group whose look-up failed: address, look-up and access apart. */
static void late_integer(wh_x86 *e, const wh_x86_late *l)
{
    const wh_jit_op *o = l->op;
    const struct wh_x86_kind *k = &wh_x86_kinds[l->v[0]];
    wh_x86_bind_late(e, l);
    wh_x86_address(e, o->in.b, o->in.imm);
    look_up_alone(e, o, k->size, k->store, (enum wh_access_kind)l->v[0])->back = l->back;
    access(e, o, k, x_indexed(RAX, RDX, 0, 0));
    x_jmp_to(&e->a, l->back);
}

/* cbo.zero: kernels clear pages with it. What is refused or not in the TLB runs in C. */
static bool zero_block(wh_x86 *e, const wh_jit_op *o)
{
    wh_asm *a = &e->a;
    x_cmp8_mi(a, H(block_zero), 0);
    wh_x86_late *refused = wh_x86_defer(e, x_jcc(a, CC_E), o, wh_x86_late_fallback);
    wh_x86_address(e, o->in.b, 0);
    x_alu_ri(a, X_AND, true, RAX, -(int32_t)WH_CACHE_BLOCK);
    wh_x86_late *missed = wh_x86_defer(e, look_up(e, 0, 1, true), o, wh_x86_late_fallback);
    x_rm(a, X_MOV, true, RDX, x_at(RCX, offsetof(wh_tlb_entry, addend)));
    for (unsigned i = 0; i < WH_CACHE_BLOCK / 8; i++)
        x_mov_mi(a, true, x_indexed(RAX, RDX, 0, 8 * i), 0);
    refused->back = missed->back = a->p;
    return true;
}

bool wh_x86_emit_memory(wh_x86 *e, const wh_jit_op *o)
{
    if (o->op == WH_OP_CBO && o->in.imm == WH_CBO_ZERO)
        return zero_block(e, o);
    enum wh_access_kind kind;
    if (!wh_x86_kind_of(o->op, &kind) || wh_x86_kinds[kind].op == 0)
        return false;
    const struct wh_x86_kind *k = &wh_x86_kinds[kind];
    const struct wh_x86_group *g = group_of(e, o, k);
    if (g != NULL) {
        uint8_t *none;
        int reg = addend_of(e, g, &none);
        wh_x86_late *l = wh_x86_defer(e, none, o, late_integer);
        l->v[0] = kind;
        access(e, o, k, x_indexed(wh_x86_use(e, o->in.b, RAX), reg, 0, o->in.imm));
        l->back = e->a.p;
        return true;
    }
    wh_x86_address(e, o->in.b, o->in.imm);
    wh_x86_access at = wh_x86_translate_address(e, o, k->size, k->store, kind);
    access(e, o, k, x_indexed(RAX, RDX, 0, 0));
    wh_x86_access_done(e, at);
    return true;
}
