/* Saving and loading a hart. Everything architectural and nothing else: TLBs, decoded code and reservations are made
 * anew. A model with the vector extension adds keys (v, vcsr, ...): keys that are not known are passed over, and the
 * machine's document names the model before any hart is read. */
#include "cpu/hart.h"

/* One list for both directions, so that they can't differ. */
#define SCALARS(X)                                                                                                     \
    X("mstatus", csr.mstatus)                                                                                          \
    X("medeleg", csr.medeleg)                                                                                          \
    X("mideleg", csr.mideleg)                                                                                          \
    X("mie", csr.mie)                                                                                                  \
    X("mip", csr.mip)                                                                                                  \
    X("mtvec", csr.mtvec)                                                                                              \
    X("mscratch", csr.mscratch)                                                                                        \
    X("mepc", csr.mepc)                                                                                                \
    X("mcause", csr.mcause)                                                                                            \
    X("mtval", csr.mtval)                                                                                              \
    X("mcounteren", csr.mcounteren)                                                                                    \
    X("menvcfg", csr.menvcfg)                                                                                          \
    X("mcountinhibit", csr.mcountinhibit)                                                                              \
    X("stvec", csr.stvec)                                                                                              \
    X("sscratch", csr.sscratch)                                                                                        \
    X("sepc", csr.sepc)                                                                                                \
    X("scause", csr.scause)                                                                                            \
    X("stval", csr.stval)                                                                                              \
    X("scounteren", csr.scounteren)                                                                                    \
    X("senvcfg", csr.senvcfg)                                                                                          \
    X("stimecmp", csr.stimecmp)                                                                                        \
    X("satp", csr.satp)                                                                                                \
    X("cycle_offset", csr.cycle_offset)                                                                                \
    X("instret_offset", csr.instret_offset)                                                                            \
    X("pc", pc)

enum {
    SCALAR_COUNT = 0
#define COUNT(key, member) +1
    SCALARS(COUNT)
};

static void put_registers(wh_writer *w, const char *key, const uint64_t *v, unsigned count)
{
    wh_put_str(w, key);
    wh_put_array(w, count);
    for (unsigned i = 0; i < count; i++)
        wh_put_uint(w, v[i]);
}

static void get_registers(const wh_reader *map, const char *key, uint64_t *v, unsigned count, wh_reader *fail)
{
    wh_reader at = wh_map_find(map, key);
    if (at.status == WH_OK && wh_get_array(&at) != count && at.status == WH_OK)
        at.status = WH_E_FORMAT;
    for (unsigned i = 0; i < count && at.status == WH_OK; i++)
        v[i] = wh_get_uint(&at);
    if (at.status != WH_OK && fail->status == WH_OK)
        *fail = at;
}

void wh_hart_save(wh_hart *h, wh_writer *w)
{
    wh_put_map(w, SCALAR_COUNT + 9);
    put_registers(w, "x", h->x, 32);
    put_registers(w, "f", h->f, 32);
#define PUT(key, member) wh_put_kuint(w, key, h->member);
    SCALARS(PUT)
    wh_put_kuint(w, "priv", h->priv);
    wh_put_kuint(w, "fflags", h->fflags);
    wh_put_kuint(w, "frm", h->frm);
    wh_put_kuint(w, "lines", atomic_load(&h->lines));
    wh_put_kuint(w, "retired", wh_hart_retired(h));
    wh_put_kbin(w, "pmpcfg", h->mmu.pmp.cfg, WH_PMP_ENTRIES);
    put_registers(w, "pmpaddr", h->mmu.pmp.addr, WH_PMP_ENTRIES);
}

/* A damaged document may hold any numbers; those that the engine relies on are brought into range or refused. */
static bool sane(wh_hart *h)
{
    unsigned mode = h->csr.satp >> 60;
    h->csr.mstatus &= WH_MSTATUS_WRITABLE;
    h->csr.medeleg &= WH_MEDELEG_MASK;
    h->csr.mideleg &= WH_IRQ_S_MASK;
    h->csr.mie &= WH_IRQ_ALL;
    h->csr.mip &= WH_MIP(STI) | WH_MIP(SEI);
    h->csr.stvec &= ~2ull;
    h->csr.mtvec &= ~2ull;
    h->csr.sepc &= ~1ull;
    h->csr.mepc &= ~1ull;
    h->csr.menvcfg &= wh_menvcfg_mask(h);
    h->csr.senvcfg &= wh_menvcfg_mask(h) & WH_SENVCFG_BITS;
    h->pc &= ~1ull;
    h->x[0] = 0;
    for (unsigned i = 0; i < WH_PMP_ENTRIES; i++)
        h->mmu.pmp.addr[i] &= 0x3fffffffffffffull;
    return (mode == 0 || (mode >= 8 && mode <= 10)) && (h->csr.mstatus >> 11 & 3) != 2 && h->priv != 2 &&
           !(h->env.direct_boot && h->priv == WH_PRIV_M);
}

void wh_hart_load(wh_hart *h, wh_reader *r)
{
    wh_reader map = *r;
    wh_get_skip(r);
    wh_hart_reset(h, 0);
    get_registers(&map, "x", h->x, 32, r);
    get_registers(&map, "f", h->f, 32, r);
#define GET(key, member) h->member = wh_map_uint(&map, key, r);
    SCALARS(GET)
    h->priv = (enum wh_priv)(wh_map_uint(&map, "priv", r) & 3);
    h->fflags = wh_map_uint(&map, "fflags", r) & 31;
    h->frm = wh_map_uint(&map, "frm", r) & 7;
    atomic_store(&h->lines, wh_map_uint(&map, "lines", r) & WH_IRQ_ALL);
    h->retired = wh_map_uint(&map, "retired", r);
    h->budget = h->slice = 0;
    wh_map_bin(&map, "pmpcfg", h->mmu.pmp.cfg, WH_PMP_ENTRIES, r);
    get_registers(&map, "pmpaddr", h->mmu.pmp.addr, WH_PMP_ENTRIES, r);
    if (!sane(h) && r->status == WH_OK)
        r->status = WH_E_FORMAT;
    if (r->status != WH_OK) {
        wh_hart_reset(h, 0);
        return;
    }
    wh_pmp_rebuild(&h->mmu.pmp);
    wh_fp_update(h);
    wh_hart_update_mode(h);
}
