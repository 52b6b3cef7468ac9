/* thunks: the code that all blocks share - in, out, and calls of C. Written once into an empty arena. */
#include "jit/x86/x86.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const int saved[] = {RBX, RBP, R12, R13, R14, R15};

bool wh_backend_available(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("lzcnt") &&
           __builtin_cpu_supports("popcnt");
#else
    return false;
#endif
}

static void move_x(wh_asm *a, bool out)
{
    for (unsigned r = 1; r < 32; r++)
        if (wh_x86_host[r] >= 0)
            x_rm(a, out ? X_MOV_STORE : X_MOV, true, wh_x86_host[r], wh_x86_x(r));
}

/* The f registers, if they are in xmm. */
static void move_f(wh_asm *a, bool out)
{
    x_cmp8_mi(a, H(fp_live), 0);
    uint8_t *none = x_jcc(a, CC_E);
    for (unsigned r = 0; r < 32; r++)
        if (wh_x86_host_f[r] >= 0)
            x_rm(a, out ? X_66(X_0F(0xd6)) : X_F3(X_0F(0x7e)), false, wh_x86_host_f[r], wh_x86_f(r));
    x_bind(a, none, a->p);
}

static void epilogue(wh_asm *a)
{
    wh_x86_close_returns(a);
    x_alu_ri(a, X_ADD, true, RSP, 8);
    for (unsigned i = WH_ARRAY_LEN(saved); i-- > 0;)
        x_pop(a, saved[i]);
    x_ret(a);
}

/* C may have changed mode or address space. */
static void load_sites(wh_asm *a)
{
    x_rm(a, X_MOV, true, SITES, H(mmu.sites));
}

/* enum wh_leave enter(wh_hart *h, const void *code) */
static void emit_enter(wh_x86 *e)
{
    wh_asm *a = &e->a;
    for (unsigned i = 0; i < WH_ARRAY_LEN(saved); i++)
        x_push(a, saved[i]);
    x_alu_ri(a, X_SUB, true, RSP, 8);
    x_rm(a, X_LEA, true, HART, x_at(RDI, WH_X86_BIAS));
    x_mov_rr(a, RAX, RSI);
    wh_x86_open_returns(e);
    x_rm(a, X_MOV, true, BUDGET, H(budget));
    move_x(a, false);
    load_sites(a);
    x_jmp_reg(a, RAX);
}

static void emit_leave(wh_asm *a) /* eax: reason */
{
    move_x(a, true);
    x_rm(a, X_MOV_STORE, true, BUDGET, H(budget));
    move_f(a, true);
    x_mov_mi8(a, H(fp_live), 0);
    epilogue(a);
}

/* rax, ecx: the helper's second and third argument; fences: it may change what an address leads to */
static void emit_call(wh_x86 *e, uint64_t helper, bool fences)
{
    wh_asm *a = &e->a;
    x_alu_ri(a, X_SUB, true, RSP, 8);
    move_x(a, true);
    x_rm(a, X_MOV_STORE, true, BUDGET, H(budget));
    move_f(a, true);
    x_rm(a, X_LEA, true, RDI, x_at(HART, -WH_X86_BIAS));
    x_mov_rr(a, RSI, RAX);
    x_rr(a, X_MOV, false, RDX, RCX);
    x_mov_ri(a, RAX, helper);
    x_call_reg(a, RAX);
    x_rr(a, X_TEST, false, RAX, RAX);
    uint8_t *out = x_jcc(a, CC_NE);
    move_x(a, false);
    move_f(a, false);
    load_sites(a);
    x_alu_ri(a, X_ADD, true, RSP, 8);
    if (fences) {
        x_pop(a, RCX);
        x_rm(a, X_MOV, true, RSP, H(returns_base));
        x_jmp_reg(a, RCX);
    } else {
        x_ret(a);
    }
    x_bind(a, out, a->p);
    x_mov_mi8(a, H(fp_live), 0);
    x_alu_ri(a, X_CMP, false, RAX, 2);
    uint8_t *jump = x_jcc(a, CC_E);
    x_mov_ri(a, RAX, WH_LEAVE_HELPER);
    epilogue(a);
    x_bind(a, jump, a->p);
    x_rm(a, X_MOV, true, RSP, H(returns_base));
    move_x(a, false);
    load_sites(a);
    x_rm(a, X_MOV, true, BUDGET, H(budget));
    x_rm(a, X_MOV, true, RAX, H(pc));
    x_jmp_to(a, wh_x86_thunk_at(e, THUNK_JUMP));
}

static void begin(wh_x86 *e, enum wh_x86_thunk t)
{
    x_align(&e->a, 16, 0);
    e->arena->thunk[t] = (uint32_t)(e->a.p - e->arena->rw);
}

static void leave_with(wh_x86 *e, enum wh_leave why)
{
    x_mov_ri(&e->a, RAX, why);
    x_jmp_to(&e->a, wh_x86_thunk_at(e, THUNK_LEAVE));
}

static void emit_leaves(wh_x86 *e)
{
    wh_asm *a = &e->a;
    begin(e, THUNK_LEAVE);
    emit_leave(a);
    begin(e, THUNK_LOOKUP); /* rax: pc */
    x_rm(a, X_MOV_STORE, true, RAX, H(pc));
    leave_with(e, WH_LEAVE_LOOKUP);
    begin(e, THUNK_LINK); /* eax: site, ecx: offset of the target, edx: page */
    x_rm(a, X_MOV_STORE, false, RAX, H(link_site));
    x_rm(a, X_MOV_STORE, false, RDX, H(link_page));
    x_rm(a, X_ADD, true, RCX, H(vpage));
    x_rm(a, X_MOV_STORE, true, RCX, H(pc));
    leave_with(e, WH_LEAVE_LINK);
    begin(e, THUNK_BUDGET); /* ecx: offset of the next instruction */
    x_rm(a, X_ADD, true, RCX, H(vpage));
    x_rm(a, X_MOV_STORE, true, RCX, H(pc));
    leave_with(e, WH_LEAVE_BUDGET);
}

void wh_backend_start(wh_jit_arena *arena)
{
    wh_x86 e = {.arena = arena, .a = {.p = arena->rw, .limit = arena->rw + arena->records}};
    arena->site[0] = arena->site[1] = 0;
    emit_leaves(&e);
    begin(&e, THUNK_EMPTY);
    x_rm(&e.a, X_MOV, true, RSP, H(returns_base));
    x_alu_ri(&e.a, X_AND, true, RAX, -2);
    begin(&e, THUNK_JUMP);
    wh_x86_jump_in_rax(&e);
    begin(&e, THUNK_MEMORY);
    emit_call(&e, (uintptr_t)wh_jit_help_memory, false);
    begin(&e, THUNK_ONE);
    emit_call(&e, (uintptr_t)wh_jit_help_one, true);
    begin(&e, THUNK_FP);
    emit_call(&e, (uintptr_t)wh_jit_help_fp, false);
    begin(&e, THUNK_SPLIT);
    emit_call(&e, (uintptr_t)wh_jit_help_split, false);
    wh_x86_site_thunks(&e);
    x_align(&e.a, 16, 0);
    const uint8_t *enter = arena->rx + (e.a.p - arena->rw);
    emit_enter(&e);
    arena->thunks = arena->code = (uint32_t)(e.a.p - arena->rw);
    __extension__ arena->enter = (enum wh_leave (*)(wh_hart *, const void *))(void *)(uintptr_t)enter;
}
