/* memory: loads and stores of x registers, and address translation for every other access.
 *
 * Inline: a look by the access's slot or by the number of its page (site.c). A slot is for user code that was not found
 * to be restless there (ir.h, WH_JIT_BY_PAGE): the kernel runs for a short time between changes of mode and address
 * space, and goes from structure to structure. Behind the block: a search of the TLB, and if that fails - walk, device,
 * page crossing, trap - one call of C that does the whole access.
 *
 * Groups: accesses with the same base register, with nothing between that changes it or what translation says, and no
 * jump target, share one look. The first looks for the span of all of them, as a store if one of them is one (a write
 * translation allows reading), and keeps the page's addend in the hart. If the span is not within one page of the TLB,
 * that is 0 and each of them searches for itself, behind the block. A slow access in between takes nothing from what
 * was found: only polling, fences and CSRs do, and these end a group. */
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

/* The whole access in C. rax: its address. */
static void access_in_c(wh_x86 *e, const wh_x86_late *l)
{
    const wh_jit_op *o = l->op;
    x_mov_ri(&e->a, RCX, WH_PACK(o->at, wh_x86_charge(e, o), o->in.a, l->kind, o->length));
    wh_x86_call_c(e, THUNK_MEMORY);
    x_jmp_to(&e->a, l->back);
}

static void late_alone(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_bind_late(e, l);
    wh_x86_site_search(e, l->site);
    x_jcc_to(&e->a, CC_E, e->arena->rw + l->v[0]);
    wh_x86_fallback(e, l->op);
    x_jmp_to(&e->a, l->back);
}

/* rdx = addend of the page of rax, which the stub finds there again. What is not in the TLB runs as wh_x86_fallback
 * has it, and goes on at `back` of what this returns. */
static wh_x86_late *look_alone(wh_x86 *e, const wh_jit_op *o, unsigned size, bool store)
{
    const struct wh_x86_site site = {.size = (uint16_t)size, .store = store};
    wh_x86_late *l = wh_x86_defer(e, wh_x86_site_look(e, x_at(RAX, 0), site), o, late_alone);
    l->site = site;
    l->v[0] = e->a.p - e->arena->rw;
    return l;
}

/* Where the code in front of a late stub has the address of o: the register, and what is still to add to it. What is
 * not in a host register goes to rax, `whole` with the offset added. */
static wh_mem address_of(wh_x86 *e, const wh_jit_op *o, bool whole)
{
    int base = e->host[o->in.b];
    if (!whole && base >= 0)
        return x_at(base, o->in.imm);
    if (whole || o->in.b == 0) {
        wh_x86_address(e, o->in.b, o->in.imm);
        return x_at(RAX, 0);
    }
    wh_x86_load(e, RAX, o->in.b);
    return x_at(RAX, o->in.imm);
}

/* Search for the access alone: rdx is its addend, and it goes on in line at v[0]. */
static void search(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_address(e, l->op->in.b, l->op->in.imm);
    wh_x86_site_search(e, l->site);
    uint8_t *miss = x_jcc_short(&e->a, CC_NE);
    if (!l->whole)
        (void)address_of(e, l->op, false);
    x_jmp_to(&e->a, e->arena->rw + l->v[0]);
    x_bind_short(&e->a, miss);
    access_in_c(e, l);
}

static void late_search(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_bind_late(e, l);
    search(e, l);
}

/* Of a group that has no addend, mostly because its span crosses into another page: its slot may well be right, and
 * searches in such a row would use up its patience. */
static void late_member(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_bind_late(e, l);
    if (l->site.slot == 0) {
        search(e, l);
        return;
    }
    uint8_t *other = wh_x86_site_look(e, address_of(e, l->op, l->whole), l->site);
    x_jmp_to(&e->a, e->arena->rw + l->v[0]);
    x_bind(&e->a, other, e->a.p);
    search(e, l);
}

bool wh_x86_writes(const wh_jit_op *o)
{
    switch (o->op) {
    case WH_OP_BEQ_NEAR ... WH_OP_BGEU_FAR:
    case WH_OP_SB ... WH_OP_SD:
    case WH_OP_FLW ... WH_OP_FSD:
        return false;
    default:
        return true;
    }
}

static bool writes(const wh_jit_op *o, unsigned reg)
{
    return wh_x86_writes(o) && o->in.a == reg;
}

/* Behind these, what the TLB says is the same as before. */
static bool keeps_translation(const wh_jit_op *o)
{
    return (o->op >= WH_OP_LUI && o->op <= WH_OP_REMUW) || (o->op >= WH_OP_ADD_UW && o->op <= WH_OP_FMV_D_X);
}

/* Accesses with the same base register that follow o in a straight line, and lie in a span that is likely to be one
 * page: o looks for the whole span for them. */
static void plan_group(wh_x86 *e, struct wh_x86_group *group, const wh_jit_op *o, const struct wh_x86_kind *k)
{
    enum wh_access_kind kind;
    unsigned base = o->in.b, members = 0;
    struct wh_x86_group g = {.base = (int16_t)base, .low = o->in.imm, .high = o->in.imm + k->size, .store = k->store};
    const wh_jit_op *end = e->ir->op + e->ir->count;
    group->last = NULL;
    if (base == 0)
        return;
    for (const wh_jit_op *m = o; m < end && keeps_translation(m); m++) {
        if (m != o && (m->flags & WH_JIT_TARGET))
            break;
        if (m->in.b == base && wh_x86_kind_of(m->op, &kind)) {
            int32_t low = m->in.imm < g.low ? m->in.imm : g.low;
            int32_t top = m->in.imm + wh_x86_kinds[kind].size, high = top > g.high ? top : g.high;
            if (high - low <= WH_GROUP_SPAN) {
                g.low = low;
                g.high = high;
                g.store |= wh_x86_kinds[kind].store;
                g.last = m;
                members++;
            }
        }
        if (writes(m, base))
            break;
    }
    if (members >= WH_GROUP_LEAST)
        *group = g;
}

void wh_x86_end_groups(wh_x86 *e)
{
    for (unsigned i = 0; i < WH_ARRAY_LEN(e->group); i++)
        e->group[i].last = NULL;
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

static wh_mem keep_of(const wh_x86 *e, const struct wh_x86_group *g)
{
    return x_at(HART, (int64_t)offsetof(struct wh_hart, keep) + 8 * (g - e->group) - WH_X86_BIAS);
}

/* Accesses by a register that stays the same find the same page, nearly always. 0: by page number. */
static uint32_t slot_for(wh_x86 *e, const wh_jit_op *o, bool store)
{
    const unsigned base = o->in.b;
    if (o->flags & WH_JIT_BY_PAGE)
        return 0;
    if (e->written >> base & 1)
        return wh_x86_new_site(e, store);
    uint32_t *slot = &e->site_of[base][store];
    if (*slot == 0)
        *slot = wh_x86_new_site(e, store);
    return *slot;
}

/* The group's span: rdx is its addend and kept, or it goes on with the access alone. */
static void late_lead(wh_x86 *e, const wh_x86_late *l)
{
    wh_asm *a = &e->a;
    wh_x86_bind_late(e, l);
    wh_x86_address(e, l->op->in.b, l->low);
    wh_x86_site_search(e, (struct wh_x86_site){.slot = l->group_slot, .size = 1, .store = l->group_store});
    uint8_t *miss = x_jcc_short(a, CC_NE);
    x_rm(a, X_LEA, true, RCX, x_at(RAX, l->high - l->low - 1));
    x_rr(a, X_XOR, true, RCX, RAX);
    x_shift_ri(a, X_SHR, true, RCX, WH_PAGE_SHIFT);
    uint8_t *crosses = x_jcc_short(a, CC_NE);
    (void)address_of(e, l->op, l->whole);
    x_jmp_to(a, e->arena->rw + l->v[1]);
    x_bind_short(a, miss);
    x_bind_short(a, crosses);
    x_mov_mi(a, true, l->keep, 0);
    wh_x86_address(e, l->op->in.b, l->op->in.imm);
    x_alu_mi(a, X_CMP, false, H(mmu.tired), 0);
    uint8_t *tired = x_jcc_short(a, CC_NE);
    wh_x86_site_search(e, l->site);
    uint8_t *missed = x_jcc_short(a, CC_NE);
    if (!l->whole)
        (void)address_of(e, l->op, false);
    x_jmp_to(a, e->arena->rw + l->v[0]);
    x_bind_short(a, tired);
    x_bind_short(a, missed);
    access_in_c(e, l);
}

/* rdx = addend of [base + low, base + high), which shall lie in one page. Returns the jump for when that is not found.
 */
static uint8_t *look_for_span(wh_x86 *e, const struct wh_x86_group *g, wh_mem at, int32_t imm)
{
    wh_asm *a = &e->a;
    if (g->slot == 0)
        return wh_x86_site_look(e, x_at(at.base, at.disp + g->low - imm),
                                (struct wh_x86_site){.size = (uint16_t)(g->high - g->low), .store = g->store});
    x_rm(a, X_LEA, true, RDX, x_at(at.base, at.disp + g->low - imm));
    x_rm(a, X_LEA, true, RCX, x_at(at.base, at.disp + g->high - imm - 1));
    x_rr(a, X_XOR, true, RCX, RDX);
    x_alu_ri(a, X_AND, true, RDX, -(int32_t)WH_PAGE_SIZE);
    x_shift_ri(a, X_SHR, true, RCX, WH_PAGE_SHIFT);
    x_rr(a, X_OR, true, RDX, RCX); /* not 0: of pages that follow each other it is odd, which no tag is */
    x_rm(a, X_CMP, true, RDX, x_at(SITES, g->slot));
    uint8_t *miss = x_jcc(a, CC_NE);
    x_rm(a, X_MOV, true, RDX, x_at(SITES, g->slot + offsetof(wh_tlb_entry, addend)));
    return miss;
}

/* rdx = addend of the access at `at`, which address_of gave (`whole` as there). The late stub is returned: v[0] is set,
 * `back` is not. */
static wh_x86_late *translate(wh_x86 *e, const wh_jit_op *o, enum wh_access_kind kind, wh_mem at, bool whole)
{
    wh_asm *a = &e->a;
    const struct wh_x86_kind *k = &wh_x86_kinds[kind];
    struct wh_x86_group *g = group_of(e, o, k);
    struct wh_x86_site site = {.size = k->size, .store = k->store};
    wh_x86_late *l;
    if (g != NULL) {
        site.slot = g->store == k->store ? g->slot : slot_for(e, o, k->store);
        x_rm(a, X_MOV, true, RDX, keep_of(e, g));
        x_rr(a, X_TEST, true, RDX, RDX);
        l = wh_x86_defer(e, x_jcc(a, CC_E), o, late_member);
    } else if ((g = lead(e, o, k)) != NULL) {
        g->slot = slot_for(e, o, g->store);
        site.slot = g->store == k->store ? g->slot : slot_for(e, o, k->store);
        l = wh_x86_defer(e, look_for_span(e, g, at, o->in.imm), o, late_lead);
        l->low = g->low;
        l->high = g->high;
        l->group_slot = g->slot;
        l->group_store = g->store;
        l->keep = keep_of(e, g);
        l->v[1] = a->p - e->arena->rw;
        x_rm(a, X_MOV_STORE, true, RDX, l->keep);
    } else {
        site.slot = slot_for(e, o, k->store);
        l = wh_x86_defer(e, wh_x86_site_look(e, at, site), o, late_search);
    }
    l->site = site;
    l->kind = kind;
    l->whole = whole;
    l->v[0] = a->p - e->arena->rw;
    return l;
}

wh_x86_access wh_x86_translate_address(wh_x86 *e, const wh_jit_op *o, unsigned size, bool store)
{
    enum wh_access_kind own;
    if (!wh_x86_kind_of(o->op, &own)) /* an atomic */
        return (wh_x86_access){look_alone(e, o, size, store)};
    return (wh_x86_access){translate(e, o, own, x_at(RAX, 0), true)};
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

/* cbo.zero: kernels clear pages with it. What is refused or not in the TLB runs in C. */
static bool zero_block(wh_x86 *e, const wh_jit_op *o)
{
    wh_asm *a = &e->a;
    x_cmp8_mi(a, H(block_zero), 0);
    wh_x86_late *refused = wh_x86_defer(e, x_jcc(a, CC_E), o, wh_x86_late_fallback);
    wh_x86_address(e, o->in.b, 0);
    x_alu_ri(a, X_AND, true, RAX, -(int32_t)WH_CACHE_BLOCK);
    wh_x86_late *missed = look_alone(e, o, 1, true);
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
    wh_mem at = address_of(e, o, false);
    wh_x86_late *l = translate(e, o, kind, at, false);
    access(e, o, k, x_indexed(at.base, RDX, 0, at.disp));
    l->back = e->a.p;
    return true;
}
