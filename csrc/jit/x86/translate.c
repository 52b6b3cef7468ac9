/* translate: one superblock to code - head, instructions in order, end, then the late stubs. Theory: x86.h, backend.h.
 */
#include "jit/x86/x86.h"

wh_x86_late *wh_x86_defer(wh_x86 *e, uint8_t *from, const wh_jit_op *o, void (*emit)(wh_x86 *e, const wh_x86_late *l))
{
    wh_x86_late *l = &e->late[e->lates];
    if (e->lates + 1 < WH_X86_MAX_LATE)
        e->lates++;
    else
        e->a.full = true;
    *l = (wh_x86_late){.emit = emit, .from = from, .back = e->a.p, .op = o};
    return l;
}

void wh_x86_bind_late(wh_x86 *e, const wh_x86_late *l)
{
    if (l->from != NULL)
        x_bind(&e->a, l->from, e->a.p);
}

static void call_with_insn(wh_x86 *e, const wh_jit_op *o, enum wh_x86_thunk thunk)
{
    uint64_t insn;
    memcpy(&insn, &o->in, 8);
    x_mov_ri(&e->a, RAX, insn);
    x_mov_ri(&e->a, RCX, WH_PACK(o->at, wh_x86_charge(e, o), 0, 0, o->length));
    wh_x86_call_c(e, thunk);
}

void wh_x86_fallback(wh_x86 *e, const wh_jit_op *o)
{
    call_with_insn(e, o, THUNK_ONE);
}

void wh_x86_late_fallback(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_bind_late(e, l);
    wh_x86_fallback(e, l->op);
    x_jmp_to(&e->a, l->back);
}

static void late_need_fp(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_bind_late(e, l);
    call_with_insn(e, l->op, THUNK_FP);
    x_jmp_to(&e->a, l->back);
}

void wh_x86_need_fp(wh_x86 *e, const wh_jit_op *o)
{
    if (e->fp_ready)
        return;
    x_cmp8_mi(&e->a, H(fp_live), 0);
    wh_x86_late *l = wh_x86_defer(e, x_jcc(&e->a, CC_E), o, late_need_fp);
    l->back = e->a.p;
    e->fp_ready = true;
}

/* o is done, and its block is left. */
static void give_back(wh_x86 *e, const wh_jit_op *o)
{
    wh_x86_adjust_budget(e, wh_x86_charge(e, o) - 1);
}

static void late_split(wh_x86 *e, const wh_x86_late *l)
{
    wh_x86_bind_late(e, l);
    x_mov_ri(&e->a, RCX, WH_PACK(l->op->at, wh_x86_charge(e, l->op), 0, 0, l->op->length));
    wh_x86_call_c(e, THUNK_SPLIT);
}

/* The next page's code slot shall hold what the second half of the instruction came from. */
static void check_next_page(wh_x86 *e, const wh_jit_op *o)
{
    wh_asm *a = &e->a;
    x_rm(a, X_MOV, true, RDX, H(vpage));
    x_alu_ri(a, X_ADD, true, RDX, WH_PAGE_SIZE);
    x_shift_ri(a, X_SHR, true, RDX, WH_PAGE_SHIFT);
    x_rr(a, X_MOV, false, RCX, RDX);
    x_alu_ri(a, X_AND, false, RCX, WH_FTLB_ENTRIES - 1);
    x_shift_ri(a, X_SHL, false, RCX, 4);
    x_rm(a, X_ADD, true, RCX, H(mmu.code));
    x_rm(a, X_OR, true, RDX, H(mmu.fetch_context));
    x_mov_ri(a, RAX, e->ir->next_page);
    x_rm(a, X_CMP, true, RDX, x_at(RCX, offsetof(wh_tlb_entry, tag)));
    (void)wh_x86_defer(e, x_jcc(a, CC_NE), o, late_split);
    x_rm(a, X_CMP, true, RAX, x_at(RCX, offsetof(wh_tlb_entry, addend)));
    (void)wh_x86_defer(e, x_jcc(a, CC_NE), o, late_split);
}
_Static_assert(sizeof(wh_tlb_entry) == 16, "shift");

static void emit_op(wh_x86 *e, const wh_jit_op *o)
{
    if (o->flags & WH_JIT_SPLIT)
        check_next_page(e, o);
    if (wh_x86_emit_integer(e, o) || wh_x86_emit_memory(e, o) || wh_x86_emit_flow(e, o) || wh_x86_emit_bits(e, o) ||
        wh_x86_emit_fp(e, o) || wh_x86_emit_atomic(e, o) || wh_x86_emit_system(e, o))
        return;
    wh_x86_fallback(e, o);
    e->fp_ready = false; /* a CSR may have changed FS or the rounding mode */
    if (o->end == WH_JIT_END_SELF) {
        give_back(e, o);
        wh_x86_exit_to(e, o->at + o->length); /* it may go straight on after all (PAUSE) */
    }
}

static void emit_block(wh_x86 *e)
{
    const wh_jit_ir *ir = e->ir;
    wh_x86_plan_charges(e);
    wh_x86_charge_head(e);
    wh_x86_swap_in(e);
    for (unsigned i = 0; i < ir->count && !e->a.full; i++) {
        const wh_jit_op *o = &ir->op[i];
        if (o->flags & WH_JIT_TARGET) {
            e->fp_ready = false;
            e->boxed = 0;
        }
        e->label[i] = e->a.p;
        emit_op(e, o);
        if (o->end == WH_JIT_END_JUMP) {
            wh_x86_internal_jump(e, i, (unsigned)o->to);
        } else if (o->end == WH_JIT_END_FALL) {
            give_back(e, o);
            if (wh_x86_is_call(o))
                wh_x86_call_to(e, o, o->to);
            else
                wh_x86_exit_to(e, o->to);
        }
    }
    for (unsigned i = 0; i < e->lates && !e->a.full; i++) { /* a stub may defer another one */
        wh_x86_late l = e->late[i];
        l.emit(e, &l);
    }
}

/* Too much where an instruction writes an f register. */
static uint64_t written(const wh_jit_ir *ir)
{
    uint64_t regs = 0;
    for (unsigned i = 0; i < ir->count; i++)
        if (wh_x86_writes(&ir->op[i]))
            regs |= (ir->op[i].op == WH_OP_AMOCAS_Q ? 3ull : 1ull) << ir->op[i].in.a;
    return regs;
}

bool wh_backend_translate(wh_jit_arena *arena, const wh_jit_ir *ir, uint32_t page_ref, wh_jit_code *out)
{
    wh_x86 e;
    memset(&e, 0, offsetof(wh_x86, late));
    e.lates = 0;
    wh_x86_end_groups(&e);
    e.arena = arena;
    e.ir = ir;
    e.page_ref = page_ref;
    e.a = (wh_asm){.p = arena->rw + arena->code, .limit = arena->rw + arena->records};
#if defined(__x86_64__)
    e.has_fma = __builtin_cpu_supports("fma") != 0;
#endif
    memset(e.site_of, 0, sizeof(e.site_of));
    e.written = written(ir);
    wh_x86_choose_mapping(&e);
    x_align(&e.a, 16, 0);
    out->entry = (uint32_t)(e.a.p - arena->rw);
    emit_block(&e);
    out->stale = (uint32_t)(e.a.p - arena->rw);
    x_rm(&e.a, X_MOV, true, RAX, H(vpage));
    x_alu_ri(&e.a, X_ADD, true, RAX, ir->op[0].at);
    x_jmp_to(&e.a, wh_x86_thunk_at(&e, THUNK_LOOKUP));
    if (e.a.full)
        return false;
    arena->code = (uint32_t)(e.a.p - arena->rw);
    return true;
}

void wh_backend_link(wh_jit_arena *arena, uint32_t site, uint32_t entry)
{
    atomic_store_explicit((_Atomic uint32_t *)(void *)(arena->rw + site), entry - (site + 4), memory_order_release);
}

/* The entry is 16-byte aligned and its first instruction 7 bytes long: a hart is before or behind it. */
void wh_backend_divert(wh_jit_arena *arena, uint32_t entry, uint32_t to)
{
    _Atomic uint64_t *head = (_Atomic uint64_t *)(void *)(arena->rw + entry);
    uint64_t code = atomic_load_explicit(head, memory_order_relaxed) & ~0xffffffffffull;
    atomic_store_explicit(head, code | 0xe9 | (uint64_t)(to - (entry + 5)) << 8, memory_order_release);
}
