/* Traps, interrupts, privilege changes (privileged spec 3.1.6-3.1.9, 3.3.2, 4.1). */
#include "cpu/hart.h"

void wh_hart_update_mode(wh_hart *h)
{
    uint64_t status = h->csr.mstatus;
    enum wh_priv data = h->priv;
    if (h->priv == WH_PRIV_M && (status & WH_MSTATUS_MPRV))
        data = (enum wh_priv)(status >> 11 & 3);
    h->mmu.adue = !(h->isa & WH_ISA_SVADU) || (h->csr.menvcfg & WH_MENVCFG_ADUE);
    h->mmu.pbmte = (h->csr.menvcfg & WH_MENVCFG_PBMTE) != 0;
    h->block_zero = wh_cbo_allowed(h, WH_CBO_ZERO);
    h->mmu.napot = (h->isa & WH_ISA_SVNAPOT) != 0;
    wh_mmu_context(&h->mmu, h->priv, data, (status & WH_MSTATUS_SUM) != 0, (status & WH_MSTATUS_MXR) != 0, h->csr.satp);
}

uint64_t wh_mip(wh_hart *h)
{
    uint64_t lines = atomic_load_explicit(&h->lines, memory_order_acquire);
    return (lines | h->csr.mip) & WH_IRQ_ALL;
}

void wh_timer_check(wh_hart *h)
{
    if (!wh_timer_used(h))
        return;
    bool due = h->csr.stimecmp != UINT64_MAX && h->env.time_now(h->env.ctx) >= h->csr.stimecmp;
    h->csr.mip = due ? h->csr.mip | WH_MIP(STI) : h->csr.mip & ~WH_MIP(STI);
}

uint64_t wh_pending(wh_hart *h)
{
    uint64_t ready = wh_mip(h) & h->csr.mie;
    if (WH_LIKELY(ready == 0))
        return 0;
    uint64_t machine = ready & ~h->csr.mideleg, supervisor = ready & h->csr.mideleg;
    if (machine != 0 && (h->priv != WH_PRIV_M || (h->csr.mstatus & WH_MSTATUS_MIE)) && !h->env.direct_boot)
        return machine;
    if (h->priv == WH_PRIV_U || (h->priv == WH_PRIV_S && (h->csr.mstatus & WH_MSTATUS_SIE)))
        return supervisor;
    return 0;
}

static uint64_t vector(uint64_t tvec, uint64_t cause)
{
    uint64_t base = tvec & ~3ull;
    return (tvec & 1) && (cause & WH_CAUSE_INTERRUPT) ? base + 4 * (cause & 63) : base;
}

static void enter_supervisor(wh_hart *h, uint64_t cause, uint64_t value)
{
    wh_csrs *c = &h->csr;
    uint64_t s = c->mstatus & ~(WH_MSTATUS_SPP | WH_MSTATUS_SPIE | WH_MSTATUS_SIE);
    s |= (c->mstatus & WH_MSTATUS_SIE) ? WH_MSTATUS_SPIE : 0;
    s |= h->priv == WH_PRIV_U ? 0 : WH_MSTATUS_SPP;
    c->mstatus = s;
    c->sepc = h->pc;
    c->scause = cause;
    c->stval = value;
    h->priv = WH_PRIV_S;
    h->pc = vector(c->stvec, cause);
}

static void enter_machine(wh_hart *h, uint64_t cause, uint64_t value)
{
    wh_csrs *c = &h->csr;
    uint64_t s = c->mstatus & ~(WH_MSTATUS_MPP | WH_MSTATUS_MPIE | WH_MSTATUS_MIE);
    s |= (c->mstatus & WH_MSTATUS_MIE) ? WH_MSTATUS_MPIE : 0;
    s |= (uint64_t)h->priv << 11;
    c->mstatus = s;
    c->mepc = h->pc;
    c->mcause = cause;
    c->mtval = value;
    h->priv = WH_PRIV_M;
    h->pc = vector(c->mtvec, cause);
}

bool wh_trap(wh_hart *h, uint64_t cause, uint64_t value)
{
    if (WH_UNLIKELY(cause == WH_CAUSE_LOST))
        return true;
    bool interrupt = (cause & WH_CAUSE_INTERRUPT) != 0;
    uint64_t at = h->pc, delegated = interrupt ? h->csr.mideleg : h->csr.medeleg;
    enum wh_priv from = h->priv;
    h->reservation = 0;
    if (h->env.direct_boot || (from != WH_PRIV_M && (delegated >> (cause & 63) & 1)))
        enter_supervisor(h, cause, value);
    else
        enter_machine(h, cause, value);
    wh_count(interrupt ? &h->stat_interrupts : &h->stat_traps);
    wh_hart_update_mode(h);
    /* The vector itself can't be fetched or decoded: the same trap for ever. */
    return h->pc == at && h->priv == from &&
           (cause == WH_CAUSE_FETCH_ACCESS || cause == WH_CAUSE_FETCH_PAGE || cause == WH_CAUSE_ILLEGAL);
}

/* Highest first (3.1.9): external, software, timer; machine before supervisor. */
static void take_interrupt(wh_hart *h, uint64_t pending)
{
    static const uint8_t order[] = {WH_IRQ_MEI, WH_IRQ_MSI, WH_IRQ_MTI, WH_IRQ_SEI, WH_IRQ_SSI, WH_IRQ_STI};
    for (size_t i = 0; i < WH_ARRAY_LEN(order); i++)
        if (pending >> order[i] & 1) {
            (void)wh_trap(h, WH_CAUSE_INTERRUPT | order[i], 0);
            return;
        }
}

/* What another thread wants of it ends a WFI too, for the hart has to leave it anyway; but not where the guest must not
 * see when that was. */
bool wh_hart_runnable(wh_hart *h)
{
    wh_timer_check(h);
    if ((wh_mip(h) & h->csr.mie) != 0)
        return true;
    return !wh_hart_exact(h) && (atomic_load(&h->attention) != 0 || atomic_load(&h->fences) != 0);
}

uint64_t wh_hart_steps(const wh_hart *h)
{
    return wh_hart_retired(h) + atomic_load_explicit(&h->stat_traps, memory_order_relaxed);
}

/* Up to the limit and to the moment at which the hart's own timer is due, so that neither depends on where an engine
 * looks up in between. */
static int64_t exact_slice(wh_hart *h)
{
    uint64_t steps = wh_hart_steps(h), left = h->limit > steps ? h->limit - steps : 0;
    if ((h->csr.menvcfg & WH_MENVCFG_STCE) && h->csr.stimecmp != UINT64_MAX) {
        uint64_t due = h->env.steps_until(h->env.ctx, h->csr.stimecmp);
        if (due != 0 && due < left)
            left = due;
    }
    return left < (uint64_t)h->slice_length ? (int64_t)left : h->slice_length;
}

int wh_hart_look(wh_hart *h)
{
    wh_hart_end_slice(h);
    h->budget = h->slice = wh_hart_exact(h) ? exact_slice(h) : h->slice_length;
    h->recheck = false;
    atomic_store_explicit(&h->stat_instructions, h->retired, memory_order_relaxed);
    atomic_store_explicit(&h->stat_misses, h->mmu.misses, memory_order_relaxed);

    struct wh_share *share = h->env.ram->share;
    uint64_t round = atomic_load(&share->round);
    if (WH_UNLIKELY(round != h->round)) {
        wh_mmu_drop_stores(&h->mmu);
        h->round = round;
        atomic_store_explicit(&share->hart[h->id].round_seen, round, memory_order_release);
    }
    wh_serve_fences(h);
    if (atomic_load_explicit(&h->attention, memory_order_relaxed) != 0) {
        atomic_store(&h->attention, 0);
        return WH_EXIT_ATTENTION;
    }
    return h->slice == 0 ? WH_EXIT_LIMIT : 0;
}

int wh_hart_poll(wh_hart *h)
{
    int status = wh_hart_look(h);
    if (status != 0)
        return status;
    wh_timer_check(h);
    uint64_t pending = wh_pending(h);
    if (pending != 0)
        take_interrupt(h, pending);
    return 0;
}

bool wh_sret(wh_hart *h)
{
    uint64_t s = h->csr.mstatus;
    if (h->priv == WH_PRIV_U || (h->priv == WH_PRIV_S && (s & WH_MSTATUS_TSR)))
        return false;
    h->priv = (s & WH_MSTATUS_SPP) ? WH_PRIV_S : WH_PRIV_U;
    s &= ~(WH_MSTATUS_SIE | WH_MSTATUS_SPP | WH_MSTATUS_MPRV);
    s |= (s & WH_MSTATUS_SPIE) ? WH_MSTATUS_SIE : 0;
    h->csr.mstatus = s | WH_MSTATUS_SPIE;
    h->pc = h->csr.sepc;
    h->reservation = 0;
    wh_hart_update_mode(h);
    return true;
}

bool wh_mret(wh_hart *h)
{
    uint64_t s = h->csr.mstatus;
    if (h->priv != WH_PRIV_M)
        return false;
    h->priv = (enum wh_priv)(s >> 11 & 3);
    s &= ~(WH_MSTATUS_MIE | WH_MSTATUS_MPP);
    if (h->priv != WH_PRIV_M)
        s &= ~WH_MSTATUS_MPRV;
    s |= (s & WH_MSTATUS_MPIE) ? WH_MSTATUS_MIE : 0;
    h->csr.mstatus = s | WH_MSTATUS_MPIE;
    h->pc = h->csr.mepc;
    h->reservation = 0;
    wh_hart_update_mode(h);
    return true;
}

bool wh_wfi_allowed(const wh_hart *h)
{
    return h->priv == WH_PRIV_M || (h->priv == WH_PRIV_S && !(h->csr.mstatus & WH_MSTATUS_TW));
}

/* WRS.NTO waits without limit as WFI does, WRS.STO does not (Zawrs; privileged spec 3.1.6.5). */
bool wh_wrs_allowed(const wh_hart *h, bool no_timeout)
{
    return !no_timeout || h->priv == WH_PRIV_M || !(h->csr.mstatus & WH_MSTATUS_TW);
}

bool wh_sfence_allowed(const wh_hart *h)
{
    return h->priv == WH_PRIV_M || (h->priv == WH_PRIV_S && !(h->csr.mstatus & WH_MSTATUS_TVM));
}
