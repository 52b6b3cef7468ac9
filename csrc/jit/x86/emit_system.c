/* emit_system: what a kernel does on each entry and exit - the CSRs of a supervisor's trap, interrupts off and on - and
 * cbo.zero, with which it clears pages. Blocks know no privilege: each looks for supervisor or machine mode first, and
 * is left to C where that is not so, or anything else is out of the ordinary. */
#include "jit/x86/x86.h"

enum { CSR_SSTATUS = 0x100, CSR_SSCRATCH = 0x140, CSR_SEPC, CSR_SCAUSE, CSR_STVAL };
enum { WRITE = 1, SET = 2, CLEAR = 3, IMMEDIATE = 4 }; /* funct3 */

struct lates {
    wh_x86_late *late[3];
    unsigned count;
};

static void else_in_c(wh_x86 *e, const wh_jit_op *o, struct lates *l, unsigned cc)
{
    l->late[l->count++] = wh_x86_defer(e, x_jcc(&e->a, cc), o, wh_x86_late_fallback);
}

static void end(wh_x86 *e, const struct lates *l)
{
    for (unsigned i = 0; i < l->count; i++)
        l->late[i]->back = e->a.p;
}

static void not_user(wh_x86 *e, const wh_jit_op *o, struct lates *l)
{
    x_alu_mi(&e->a, X_CMP, false, H(priv), WH_PRIV_U);
    else_in_c(e, o, l, CC_E);
}

static bool member_of(unsigned csr, wh_mem *at)
{
    switch (csr) {
    case CSR_SSCRATCH:
        *at = H(csr.sscratch);
        return true;
    case CSR_SEPC:
        *at = H(csr.sepc);
        return true;
    case CSR_SCAUSE:
        *at = H(csr.scause);
        return true;
    case CSR_STVAL:
        *at = H(csr.stval);
        return true;
    default:
        return false;
    }
}

/* csrrw and csrr of a register that is only a register. */
static bool plain(wh_x86 *e, const wh_jit_op *o, unsigned csr, unsigned f3, unsigned source)
{
    struct lates l = {.count = 0};
    wh_mem at;
    if (!member_of(csr, &at) || !(f3 == WRITE || (f3 == SET && source == 0)))
        return false;
    not_user(e, o, &l);
    if (o->in.a != WH_SINK)
        x_rm(&e->a, X_MOV, true, RCX, at);
    if (f3 == WRITE) {
        wh_x86_load(e, RAX, source);
        if (csr == CSR_SEPC)
            x_alu_ri(&e->a, X_AND, true, RAX, -2);
        x_rm(&e->a, X_MOV_STORE, true, RAX, at);
    }
    if (o->in.a != WH_SINK)
        wh_x86_put(e, o->in.a, RCX);
    end(e, &l);
    return true;
}

/* rax = sstatus as a read gives it; clobbers rcx and rdx. */
static void read_sstatus(wh_x86 *e)
{
    wh_asm *a = &e->a;
    x_rm(a, X_MOV, true, RCX, H(csr.mstatus));
    x_mov_ri(a, RAX, WH_SSTATUS_WRITABLE);
    x_rr(a, X_AND, true, RAX, RCX);
    x_mov_ri(a, RDX, WH_MSTATUS_UXL);
    x_rr(a, X_OR, true, RAX, RDX);
    x_alu_ri(a, X_AND, false, RCX, (int32_t)WH_MSTATUS_FS);
    x_alu_ri(a, X_CMP, false, RCX, (int32_t)WH_MSTATUS_FS);
    uint8_t *clean = x_jcc_short(a, CC_NE);
    x_mov_ri(a, RDX, WH_MSTATUS_SD);
    x_rr(a, X_OR, true, RAX, RDX);
    x_bind_short(a, clean);
}

/* csrci and csrsi of SIE. Switching on goes on only if no interrupt could be taken. */
static bool interrupts(wh_x86 *e, const wh_jit_op *o, unsigned f3, unsigned source)
{
    struct lates l = {.count = 0};
    bool on = f3 == (SET | IMMEDIATE);
    if (!(on || f3 == (CLEAR | IMMEDIATE)) || source != WH_MSTATUS_SIE)
        return false;
    not_user(e, o, &l);
    if (on) {
        x_rm(&e->a, X_MOV, true, RAX, H(lines));
        x_rm(&e->a, X_OR, true, RAX, H(csr.mip));
        x_rm(&e->a, X_AND, true, RAX, H(csr.mie));
        else_in_c(e, o, &l, CC_NE);
    }
    if (o->in.a != WH_SINK)
        read_sstatus(e);
    x_alu_mi(&e->a, on ? X_OR : X_AND, true, H(csr.mstatus), on ? (int32_t)WH_MSTATUS_SIE : ~(int32_t)WH_MSTATUS_SIE);
    wh_x86_put(e, o->in.a, RAX);
    end(e, &l);
    return true;
}

bool wh_x86_emit_system(wh_x86 *e, const wh_jit_op *o)
{
    if (o->op != WH_OP_CSR)
        return false;
    unsigned imm = (unsigned)o->in.imm, csr = imm & 0xfff, f3 = imm >> 12 & 7, source = imm >> 16 & 31;
    return csr == CSR_SSTATUS ? interrupts(e, o, f3, source) : plain(e, o, csr, f3, source);
}
