/* memory: loads and stores of x registers, and address translation for every other access.
 *
 * Inline: the TLB look-up of mmu.h. Everything else - second level, walk, device, page crossing, trap - is one call of
 * C behind the block, which does the whole access. */
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
    x_call_to(&e->a, wh_x86_thunk_at(e, THUNK_MEMORY));
    x_jmp_to(&e->a, l->back);
}

wh_x86_access wh_x86_translate_address(wh_x86 *e, const wh_jit_op *o, unsigned size, bool store,
                                       enum wh_access_kind kind)
{
    wh_asm *a = &e->a;
    x_rr(a, X_MOV, false, RCX, RAX);
    if (size > 1)
        x_rm(a, X_LEA, true, RDX, x_at(RAX, size - 1));
    else
        x_mov_rr(a, RDX, RAX);
    x_shift_ri(a, X_SHR, false, RCX, WH_PAGE_SHIFT - 4);
    x_shift_ri(a, X_SHR, true, RDX, WH_PAGE_SHIFT);
    x_alu_ri(a, X_AND, false, RCX, (WH_TLB_ENTRIES - 1) * 16);
    x_rm(a, X_OR, true, RDX, H(mmu.data_context));
    x_rm(a, X_ADD, true, RCX, store ? H(mmu.store) : H(mmu.load));
    x_rm(a, X_CMP, true, RDX, x_at(RCX, offsetof(wh_tlb_entry, tag)));
    wh_x86_late *l = wh_x86_defer(e, x_jcc(a, CC_NE), o, late_access);
    l->v[0] = kind;
    x_rm(a, X_MOV, true, RDX, x_at(RCX, offsetof(wh_tlb_entry, addend)));
    return (wh_x86_access){l};
}

void wh_x86_access_done(wh_x86 *e, wh_x86_access access)
{
    access.late->back = e->a.p;
}

struct form {
    uint32_t op;
    uint8_t size;
    bool wide, store;
};
static const struct form forms[] = {
    [WH_KIND_LB] = {X_MOVSX8, 1, true, false},          [WH_KIND_LH] = {X_MOVSX16, 2, true, false},
    [WH_KIND_LW] = {X_MOVSXD, 4, true, false},          [WH_KIND_LD] = {X_MOV, 8, true, false},
    [WH_KIND_LBU] = {X_MOVZX8, 1, false, false},        [WH_KIND_LHU] = {X_MOVZX16, 2, false, false},
    [WH_KIND_LWU] = {X_MOV, 4, false, false},           [WH_KIND_SB] = {X_MOV_STORE8, 1, false, true},
    [WH_KIND_SH] = {X_66(X_MOV_STORE), 2, false, true}, [WH_KIND_SW] = {X_MOV_STORE, 4, false, true},
    [WH_KIND_SD] = {X_MOV_STORE, 8, true, true},
};

static bool kind_of(unsigned op, enum wh_access_kind *kind)
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
    default:
        return false;
    }
}

bool wh_x86_emit_memory(wh_x86 *e, const wh_jit_op *o)
{
    enum wh_access_kind kind;
    if (!kind_of(o->op, &kind))
        return false;
    const struct form *f = &forms[kind];
    wh_x86_address(e, o->in.b, o->in.imm);
    wh_x86_access access = wh_x86_translate_address(e, o, f->size, f->store, kind);
    wh_mem at = x_indexed(RAX, RDX, 0, 0);
    if (f->store) {
        x_rm(&e->a, f->op, f->wide, wh_x86_use(e, o->in.a, RCX), at);
    } else {
        int d = wh_x86_def(e, o->in.a, RCX);
        x_rm(&e->a, f->op, f->wide, d, at);
        wh_x86_put(e, o->in.a, d);
    }
    wh_x86_access_done(e, access);
    return true;
}
