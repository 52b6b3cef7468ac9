/* A debugger's tables and its view of a hart's registers. Contract: debug.h. */
#include "cpu/debug.h"
#include "cpu/hart.h"

static unsigned hash(uint64_t address)
{
    return (unsigned)(address >> 1 ^ address >> 11) & 1023u;
}

static void refresh_filter(wh_debug_points *p)
{
    for (unsigned i = 0; i < WH_ARRAY_LEN(p->filter); i++)
        p->filter[i] = 0;
    for (unsigned i = 0; i < p->breaks; i++) {
        unsigned bit = hash(p->breakpoint[i].address);
        p->filter[bit / 64] |= 1ull << (bit % 64);
    }
}

static uint32_t find_break(const wh_debug_points *p, uint64_t address, uint32_t kind)
{
    uint32_t i = 0;
    while (i < p->breaks && (p->breakpoint[i].address != address || p->breakpoint[i].kind != kind))
        i++;
    return i;
}

int wh_debug_add_break(wh_debug_points *p, uint64_t address, uint32_t kind)
{
    if (find_break(p, address, kind) < p->breaks)
        return WH_OK;
    if (p->breaks == WH_BREAKPOINTS)
        return WH_E_FULL;
    p->breakpoint[p->breaks].address = address;
    p->breakpoint[p->breaks++].kind = kind;
    refresh_filter(p);
    return WH_OK;
}

int wh_debug_del_break(wh_debug_points *p, uint64_t address, uint32_t kind)
{
    uint32_t i = find_break(p, address, kind);
    if (i == p->breaks)
        return WH_E_NOTFOUND;
    p->breakpoint[i] = p->breakpoint[--p->breaks];
    refresh_filter(p);
    return WH_OK;
}

static uint32_t find_watch(const wh_debug_points *p, uint64_t address, uint64_t length, enum wh_watch kind)
{
    uint32_t i = 0;
    while (i < p->watches &&
           (p->watchpoint[i].address != address || p->watchpoint[i].length != length || p->watchpoint[i].kind != kind))
        i++;
    return i;
}

int wh_debug_add_watch(wh_debug_points *p, uint64_t address, uint64_t length, enum wh_watch kind)
{
    if (length == 0 || address + (length - 1) < address)
        return WH_E_INVAL;
    if (find_watch(p, address, length, kind) < p->watches)
        return WH_OK;
    if (p->watches == WH_WATCHPOINTS)
        return WH_E_FULL;
    p->watchpoint[p->watches].address = address;
    p->watchpoint[p->watches].length = length;
    p->watchpoint[p->watches++].kind = kind;
    return WH_OK;
}

int wh_debug_del_watch(wh_debug_points *p, uint64_t address, uint64_t length, enum wh_watch kind)
{
    uint32_t i = find_watch(p, address, length, kind);
    if (i == p->watches)
        return WH_E_NOTFOUND;
    p->watchpoint[i] = p->watchpoint[--p->watches];
    return WH_OK;
}

bool wh_debug_breaks_at(const wh_debug_points *p, uint64_t address)
{
    unsigned bit = hash(address);
    if (WH_LIKELY(!(p->filter[bit / 64] >> (bit % 64) & 1)))
        return false;
    for (uint32_t i = 0; i < p->breaks; i++)
        if (p->breakpoint[i].address == address)
            return true;
    return false;
}

void wh_hart_debug(wh_hart *h, const wh_debug_points *points, const wh_debug_step *step)
{
    bool any = points != NULL && (points->breaks != 0 || points->watches != 0);
    h->debug.points = any ? points : NULL;
    h->debug.step = *step;
    h->debug.stepped = false;
    h->debug.hit = (wh_debug_hit){0};
    h->debug.on = any || step->on;
}

wh_debug_hit wh_hart_debug_hit(const wh_hart *h)
{
    return h->debug.hit;
}

uint64_t wh_hart_get_f(const wh_hart *h, unsigned reg)
{
    return h->f[reg & 31];
}

void wh_hart_set_f(wh_hart *h, unsigned reg, uint64_t value)
{
    h->f[reg & 31] = value;
}

void wh_hart_set_pc(wh_hart *h, uint64_t pc)
{
    h->pc = pc & ~1ull;
}

unsigned wh_hart_privilege(const wh_hart *h)
{
    return (unsigned)h->priv;
}

int wh_hart_set_privilege(wh_hart *h, unsigned priv)
{
    if (priv != WH_PRIV_U && priv != WH_PRIV_S && (priv != WH_PRIV_M || h->env.direct_boot))
        return WH_E_INVAL;
    h->priv = (enum wh_priv)priv;
    wh_hart_update_mode(h);
    return WH_OK;
}

/* A CSR instruction as M-mode with the FPU on would do it; what that changed of the hart's mode is put back. */
static bool csr_as_machine(wh_hart *h, unsigned csr, unsigned funct3, uint64_t operand, uint64_t *old)
{
    enum wh_priv priv = h->priv;
    bool fs_on = h->fs_on;
    h->priv = WH_PRIV_M;
    h->fs_on = true;
    bool ok = wh_csr_instruction(h, (int32_t)(csr | funct3 << 12), operand, old);
    h->priv = priv;
    h->fs_on = fs_on;
    return ok;
}

bool wh_hart_get_csr(wh_hart *h, unsigned csr, uint64_t *value)
{
    return csr_as_machine(h, csr, 2, 0, value); /* csrrs with x0: reads only */
}

bool wh_hart_set_csr(wh_hart *h, unsigned csr, uint64_t value)
{
    uint64_t old;
    bool ok = csr_as_machine(h, csr, 1, value, &old);
    wh_fp_update(h);
    wh_hart_update_mode(h);
    return ok;
}

bool wh_hart_probe(wh_hart *h, uint64_t va, uint64_t *pa)
{
    return wh_mmu_probe(&h->mmu, va, pa);
}

void wh_hart_code_written(wh_hart *h)
{
    h->engine->code_changed(h);
}
