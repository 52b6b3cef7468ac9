/* CSR instructions: access rules, reads and writes of every CSR that the hart has (privileged spec chapter 2-4; Sstc).
 * What is not named here does not exist and traps as illegal. */
#include "cpu/hart.h"

enum {
    CSR_FFLAGS = 0x001,
    CSR_FRM,
    CSR_FCSR,
    CSR_SSTATUS = 0x100,
    CSR_SIE = 0x104,
    CSR_STVEC,
    CSR_SCOUNTEREN,
    CSR_SENVCFG = 0x10a,
    CSR_SSCRATCH = 0x140,
    CSR_SEPC,
    CSR_SCAUSE,
    CSR_STVAL,
    CSR_SIP,
    CSR_STIMECMP = 0x14d,
    CSR_SATP = 0x180,
    CSR_MSTATUS = 0x300,
    CSR_MISA,
    CSR_MEDELEG,
    CSR_MIDELEG,
    CSR_MIE,
    CSR_MTVEC,
    CSR_MCOUNTEREN,
    CSR_MENVCFG = 0x30a,
    CSR_MCOUNTINHIBIT = 0x320,
    CSR_MHPMEVENT3 = 0x323,
    CSR_MHPMEVENT31 = 0x33f,
    CSR_MSCRATCH = 0x340,
    CSR_MEPC,
    CSR_MCAUSE,
    CSR_MTVAL,
    CSR_MIP,
    CSR_PMPCFG0 = 0x3a0,
    CSR_PMPCFG2 = 0x3a2,
    CSR_PMPADDR0 = 0x3b0,
    CSR_PMPADDR15 = 0x3bf,
    CSR_TSELECT = 0x7a0,
    CSR_TDATA1,
    CSR_TDATA2,
    CSR_TDATA3,
    CSR_TINFO,
    CSR_MCYCLE = 0xb00,
    CSR_MINSTRET = 0xb02,
    CSR_MHPMCOUNTER3 = 0xb03,
    CSR_MHPMCOUNTER31 = 0xb1f,
    CSR_CYCLE = 0xc00,
    CSR_TIME,
    CSR_INSTRET,
    CSR_HPMCOUNTER3,
    CSR_HPMCOUNTER31 = 0xc1f,
    CSR_MVENDORID = 0xf11,
    CSR_MARCHID,
    CSR_MIMPID,
    CSR_MHARTID,
    CSR_MCONFIGPTR
};

static bool counter_allowed(const wh_hart *h, unsigned bit)
{
    if (h->priv != WH_PRIV_M && !(h->csr.mcounteren >> bit & 1))
        return false;
    return h->priv != WH_PRIV_U || (h->csr.scounteren >> bit & 1);
}

static bool stimecmp_allowed(const wh_hart *h)
{
    return h->priv == WH_PRIV_M || ((h->csr.menvcfg & WH_MENVCFG_STCE) && (h->csr.mcounteren & 2));
}

static bool satp_allowed(const wh_hart *h)
{
    return h->priv == WH_PRIV_M || !(h->csr.mstatus & WH_MSTATUS_TVM);
}

static uint64_t status_value(const wh_hart *h)
{
    uint64_t s = h->csr.mstatus | WH_MSTATUS_UXL | WH_MSTATUS_SXL;
    return (s & WH_MSTATUS_FS) == WH_MSTATUS_FS ? s | WH_MSTATUS_SD : s;
}

static uint64_t counter(const wh_hart *h, unsigned bit, uint64_t offset)
{
    return (h->csr.mcountinhibit >> bit & 1) ? offset : wh_hart_retired(h) + offset;
}

static uint64_t pmp_cfg(const wh_hart *h, unsigned first)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < 8; i++)
        v |= (uint64_t)h->mmu.pmp.cfg[first + i] << (8 * i);
    return v;
}

static bool read_user(wh_hart *h, unsigned csr, uint64_t *v)
{
    switch (csr) {
    case CSR_FFLAGS:
    case CSR_FRM:
    case CSR_FCSR:
        if (!h->fs_on)
            return false;
        wh_fp_collect(h);
        *v = csr == CSR_FFLAGS ? h->fflags : csr == CSR_FRM ? h->frm : h->fflags | h->frm << 5;
        return true;
    case CSR_CYCLE:
        *v = counter(h, 0, h->csr.cycle_offset);
        return counter_allowed(h, 0);
    case CSR_TIME:
        *v = h->env.time_now(h->env.ctx);
        return counter_allowed(h, 1);
    case CSR_INSTRET:
        *v = counter(h, 2, h->csr.instret_offset);
        return counter_allowed(h, 2);
    default:
        *v = 0;
        return csr >= CSR_HPMCOUNTER3 && csr <= CSR_HPMCOUNTER31 && counter_allowed(h, csr & 31);
    }
}

static bool read_supervisor(wh_hart *h, unsigned csr, uint64_t *v)
{
    const wh_csrs *c = &h->csr;
    switch (csr) {
    case CSR_SSTATUS:
        *v = status_value(h) & WH_SSTATUS_VISIBLE;
        return true;
    case CSR_SIE:
        *v = c->mie & c->mideleg;
        return true;
    case CSR_STVEC:
        *v = c->stvec;
        return true;
    case CSR_SCOUNTEREN:
        *v = c->scounteren;
        return true;
    case CSR_SENVCFG:
        *v = c->senvcfg;
        return true;
    case CSR_SSCRATCH:
        *v = c->sscratch;
        return true;
    case CSR_SEPC:
        *v = c->sepc;
        return true;
    case CSR_SCAUSE:
        *v = c->scause;
        return true;
    case CSR_STVAL:
        *v = c->stval;
        return true;
    case CSR_SIP:
        wh_timer_check(h);
        *v = wh_mip(h) & c->mideleg;
        return true;
    case CSR_STIMECMP:
        *v = c->stimecmp;
        return stimecmp_allowed(h);
    case CSR_SATP:
        *v = c->satp;
        return satp_allowed(h);
    default:
        return false;
    }
}

static bool read_machine(wh_hart *h, unsigned csr, uint64_t *v)
{
    const wh_csrs *c = &h->csr;
    switch (csr) {
    case CSR_MSTATUS:
        *v = status_value(h);
        return true;
    case CSR_MISA:
        *v = WH_MISA | ((h->isa & WH_ISA_ZB) ? WH_MISA_B : 0);
        return true;
    case CSR_MEDELEG:
        *v = c->medeleg;
        return true;
    case CSR_MIDELEG:
        *v = c->mideleg;
        return true;
    case CSR_MIE:
        *v = c->mie;
        return true;
    case CSR_MTVEC:
        *v = c->mtvec;
        return true;
    case CSR_MCOUNTEREN:
        *v = c->mcounteren;
        return true;
    case CSR_MENVCFG:
        *v = c->menvcfg;
        return true;
    case CSR_MCOUNTINHIBIT:
        *v = c->mcountinhibit;
        return true;
    case CSR_MSCRATCH:
        *v = c->mscratch;
        return true;
    case CSR_MEPC:
        *v = c->mepc;
        return true;
    case CSR_MCAUSE:
        *v = c->mcause;
        return true;
    case CSR_MTVAL:
        *v = c->mtval;
        return true;
    case CSR_MIP:
        wh_timer_check(h);
        *v = wh_mip(h);
        return true;
    case CSR_PMPCFG0:
    case CSR_PMPCFG2:
        *v = pmp_cfg(h, (csr - CSR_PMPCFG0) * 4);
        return true;
    case CSR_MCYCLE:
        *v = counter(h, 0, c->cycle_offset);
        return true;
    case CSR_MINSTRET:
        *v = counter(h, 2, c->instret_offset);
        return true;
    case CSR_MHARTID:
        *v = h->id;
        return true;
    case CSR_TINFO: /* no trigger module: "there is no trigger at this tselect" */
        *v = 1;
        return true;
    case CSR_TSELECT:
    case CSR_TDATA1:
    case CSR_TDATA2:
    case CSR_TDATA3:
    case CSR_MVENDORID:
    case CSR_MARCHID:
    case CSR_MIMPID:
    case CSR_MCONFIGPTR:
        *v = 0;
        return true;
    default:
        break;
    }
    if (csr >= CSR_PMPADDR0 && csr <= CSR_PMPADDR15) {
        *v = h->mmu.pmp.addr[csr - CSR_PMPADDR0];
        return true;
    }
    *v = 0; /* event counters that count nothing */
    return (csr >= CSR_MHPMEVENT3 && csr <= CSR_MHPMEVENT31) || (csr >= CSR_MHPMCOUNTER3 && csr <= CSR_MHPMCOUNTER31);
}

static void write_status(wh_hart *h, uint64_t v, uint64_t mask)
{
    uint64_t mpp = v >> 11 & 3;
    if (mpp == 2)
        mask &= ~WH_MSTATUS_MPP; /* reserved privilege: WARL, keep */
    uint64_t old = h->csr.mstatus, status = (old & ~mask) | (v & mask), changed = old ^ status;
    h->csr.mstatus = status;
    if (changed & WH_MSTATUS_FS)
        wh_fp_update(h);
    if (changed & (WH_MSTATUS_SUM | WH_MSTATUS_MXR | WH_MSTATUS_MPRV | WH_MSTATUS_MPP))
        wh_hart_update_mode(h); /* of data only: what runs goes on */
    if (changed & status & (WH_MSTATUS_SIE | WH_MSTATUS_MIE))
        h->recheck = true;
}

/* The lines are shared with other threads, so that only the guest's own SSIP is changed in them. */
static void write_pending(wh_hart *h, uint64_t v, uint64_t mask)
{
    if (mask & WH_MIP(SSI)) {
        if (v & WH_MIP(SSI))
            atomic_fetch_or(&h->lines, WH_MIP(SSI));
        else
            atomic_fetch_and(&h->lines, ~WH_MIP(SSI));
    }
    mask &= WH_MIP(STI) | WH_MIP(SEI);
    if (h->csr.menvcfg & WH_MENVCFG_STCE)
        mask &= ~WH_MIP(STI);
    h->csr.mip = (h->csr.mip & ~mask) | (v & mask);
    h->recheck = true;
}

static void write_satp(wh_hart *h, uint64_t v)
{
    unsigned mode = v >> 60;
    if (mode != 0 && (mode < 8 || mode > 10))
        return; /* unsupported mode: the whole write has no effect */
    h->csr.satp = v;
    wh_hart_update_mode(h);
    h->recheck = true;
}

static bool write_user(wh_hart *h, unsigned csr, uint64_t v)
{
    wh_fp_collect(h);
    if (csr == CSR_FFLAGS) {
        h->fflags = v & 31;
    } else if (csr == CSR_FRM) {
        h->frm = v & 7;
    } else if (csr == CSR_FCSR) {
        h->fflags = v & 31;
        h->frm = v >> 5 & 7;
    } else {
        return false;
    }
    wh_fp_touch(h);
    return true;
}

/* CBIE 10 is reserved: WARL, keep what was there. */
static uint64_t envcfg(uint64_t v, uint64_t old)
{
    return (v & WH_ENVCFG_CBIE) == 2ull << 4 ? (v & ~WH_ENVCFG_CBIE) | (old & WH_ENVCFG_CBIE) : v;
}

static bool write_supervisor(wh_hart *h, unsigned csr, uint64_t v)
{
    wh_csrs *c = &h->csr;
    switch (csr) {
    case CSR_SSTATUS:
        write_status(h, v, WH_SSTATUS_WRITABLE);
        return true;
    case CSR_SIE:
        c->mie = (c->mie & ~c->mideleg) | (v & c->mideleg);
        h->recheck = true;
        return true;
    case CSR_STVEC:
        c->stvec = v & ~2ull;
        return true;
    case CSR_SCOUNTEREN:
        c->scounteren = v & 0xffffffff;
        return true;
    case CSR_SENVCFG:
        c->senvcfg = envcfg(v, c->senvcfg) & wh_menvcfg_mask(h) & WH_SENVCFG_BITS;
        wh_hart_update_mode(h);
        return true;
    case CSR_SSCRATCH:
        c->sscratch = v;
        return true;
    case CSR_SEPC:
        c->sepc = v & ~1ull;
        return true;
    case CSR_SCAUSE:
        c->scause = v;
        return true;
    case CSR_STVAL:
        c->stval = v;
        return true;
    case CSR_SIP:
        write_pending(h, v, c->mideleg & WH_MIP(SSI));
        return true;
    case CSR_STIMECMP:
        c->stimecmp = v;
        wh_timer_check(h);
        h->recheck = true;
        if (wh_hart_exact(h)) /* it says how long the slice may be */
            wh_hart_end_slice(h);
        return true;
    case CSR_SATP:
        write_satp(h, v);
        return true;
    default:
        return false;
    }
}

static void write_inhibit(wh_hart *h, uint64_t v)
{
    uint64_t changed = (v ^ h->csr.mcountinhibit) & 5, now = wh_hart_retired(h);
    if (changed & 1)
        h->csr.cycle_offset += (v & 1) ? now : 0 - now;
    if (changed & 4)
        h->csr.instret_offset += (v & 4) ? now : 0 - now;
    h->csr.mcountinhibit = v & 5;
}

/* The write takes effect after the writing instruction, which itself is not counted in its own result. */
static uint64_t counter_offset(const wh_hart *h, unsigned bit, uint64_t v)
{
    return (h->csr.mcountinhibit >> bit & 1) ? v : v - wh_hart_retired(h) - 1;
}

static void write_menvcfg(wh_hart *h, uint64_t v)
{
    h->csr.menvcfg = envcfg(v, h->csr.menvcfg) & wh_menvcfg_mask(h);
    if (!(h->csr.menvcfg & WH_MENVCFG_STCE))
        h->csr.mip &= ~WH_MIP(STI);
    wh_hart_update_mode(h);
    wh_mmu_flush_all(&h->mmu);
    h->recheck = true;
    if (wh_hart_exact(h))
        wh_hart_end_slice(h);
}

static void write_pmp(wh_hart *h, unsigned csr, uint64_t v)
{
    if (csr >= CSR_PMPADDR0)
        wh_pmp_set_addr(&h->mmu.pmp, csr - CSR_PMPADDR0, v);
    else
        for (unsigned i = 0; i < 8; i++)
            wh_pmp_set_cfg(&h->mmu.pmp, (csr - CSR_PMPCFG0) * 4 + i, (uint8_t)(v >> (8 * i)));
    wh_mmu_flush_all(&h->mmu);
    h->recheck = true;
}

static bool write_machine(wh_hart *h, unsigned csr, uint64_t v)
{
    wh_csrs *c = &h->csr;
    switch (csr) {
    case CSR_MSTATUS:
        write_status(h, v, WH_MSTATUS_WRITABLE);
        return true;
    case CSR_MEDELEG:
        c->medeleg = v & WH_MEDELEG_MASK;
        return true;
    case CSR_MIDELEG:
        c->mideleg = v & WH_IRQ_S_MASK;
        h->recheck = true;
        return true;
    case CSR_MIE:
        c->mie = v & WH_IRQ_ALL;
        h->recheck = true;
        return true;
    case CSR_MTVEC:
        c->mtvec = v & ~2ull;
        return true;
    case CSR_MCOUNTEREN:
        c->mcounteren = v & 0xffffffff;
        return true;
    case CSR_MENVCFG:
        write_menvcfg(h, v);
        return true;
    case CSR_MCOUNTINHIBIT:
        write_inhibit(h, v);
        return true;
    case CSR_MSCRATCH:
        c->mscratch = v;
        return true;
    case CSR_MEPC:
        c->mepc = v & ~1ull;
        return true;
    case CSR_MCAUSE:
        c->mcause = v;
        return true;
    case CSR_MTVAL:
        c->mtval = v;
        return true;
    case CSR_MIP:
        write_pending(h, v, WH_IRQ_S_MASK);
        return true;
    case CSR_MCYCLE:
        c->cycle_offset = counter_offset(h, 0, v);
        return true;
    case CSR_MINSTRET:
        c->instret_offset = counter_offset(h, 2, v);
        return true;
    case CSR_MISA:
    case CSR_TSELECT:
    case CSR_TDATA1:
    case CSR_TDATA2:
    case CSR_TDATA3:
    case CSR_TINFO:
        return true;
    default:
        break;
    }
    if (csr == CSR_PMPCFG0 || csr == CSR_PMPCFG2 || (csr >= CSR_PMPADDR0 && csr <= CSR_PMPADDR15)) {
        write_pmp(h, csr, v);
        return true;
    }
    return (csr >= CSR_MHPMEVENT3 && csr <= CSR_MHPMEVENT31) || (csr >= CSR_MHPMCOUNTER3 && csr <= CSR_MHPMCOUNTER31);
}

bool wh_csr_instruction(wh_hart *h, int32_t imm, uint64_t operand, uint64_t *old)
{
    unsigned csr = (unsigned)imm & 0xfff, f3 = (unsigned)imm >> 12 & 7, source = (unsigned)imm >> 16 & 31;
    unsigned need = csr >> 8 & 3; /* 2: hypervisor, not there */
    bool writes = (f3 & 3) == 1 || source != 0;
    if (need == 2 || (unsigned)h->priv < need || (writes && (csr >> 10) == 3))
        return false;
    bool ok = need == 0 ? read_user(h, csr, old) : need == 1 ? read_supervisor(h, csr, old) : read_machine(h, csr, old);
    if (!ok)
        return false;
    if (!writes)
        return true;
    uint64_t in = (f3 & 4) ? source : operand, base = *old;
    if (csr == CSR_MIP &&
        (f3 & 3) != 1) /* set and clear act on SEIP's software bit, not on the line beside it (3.1.9) */
        base = (base & ~WH_MIP(SEI)) | (h->csr.mip & WH_MIP(SEI));
    uint64_t value = (f3 & 3) == 1 ? in : (f3 & 3) == 2 ? base | in : base & ~in;
    return need == 0   ? write_user(h, csr, value)
           : need == 1 ? write_supervisor(h, csr, value)
                       : write_machine(h, csr, value);
}
