/* The page-table walk (privileged spec 4.3.2) for Sv39, Sv48 and Sv57. Page tables are ordinary RAM that other harts
 * write at any time: each PTE is read once, and A/D are set by compare-and-swap on exactly the value that was checked;
 * a lost race walks again. */
#include "mmu/mmu.h"

enum {
    PTE_V = 1,
    PTE_R = 2,
    PTE_W = 4,
    PTE_X = 8,
    PTE_U = 16,
    PTE_G = 32,
    PTE_A = 64,
    PTE_D = 128,
};
enum { AGAIN = -1 };
#define PTE_N        (1ull << 63)
#define PTE_PBMT     (3ull << 61)
#define PTE_RESERVED 0x1fc0000000000000ull
#define PTE_PPN      0x003ffffffffffc00ull
enum { NAPOT_PAGES = 16 }; /* the one size that Svnapot has: 64 KiB */

static int levels_of(uint64_t satp)
{
    switch (satp >> 60) {
    case 8:
        return 3;
    case 9:
        return 4;
    case 10:
        return 5;
    default:
        return 0;
    }
}

static bool permitted(const wh_mmu *m, uint64_t pte, enum wh_access access, enum wh_priv priv)
{
    if (pte & PTE_U) {
        if (priv == WH_PRIV_S && (access == WH_FETCH || !m->sum))
            return false;
    } else if (priv == WH_PRIV_U) {
        return false;
    }
    switch (access) {
    case WH_FETCH:
        return (pte & PTE_X) != 0;
    case WH_STORE:
        return (pte & PTE_W) != 0;
    default:
        return (pte & PTE_R) != 0 || (m->mxr && (pte & PTE_X) != 0);
    }
}

/* Set A (and D for a store) in the PTE. 0, AGAIN when it changed under us, or a cause. */
static int update_ad(wh_mmu *m, _Atomic uint64_t *slot, uint64_t pte, uint64_t pte_pa, enum wh_access access)
{
    uint64_t want = pte | PTE_A | (access == WH_STORE ? PTE_D : 0);
    if (want == pte)
        return 0;
    if (!m->adue)
        return wh_page_fault(access);
    if (!wh_pmp_allows(&m->pmp, pte_pa, 8, WH_STORE, WH_PRIV_S))
        return wh_access_fault(access);
    if (!atomic_compare_exchange_strong_explicit(slot, &pte, want, memory_order_acq_rel, memory_order_relaxed))
        return AGAIN;
    wh_ram_mark_dirty(m->ram, pte_pa);
    return 0;
}

/* Bits above the PPN that make a PTE invalid (4.3.2 step 3; Svpbmt, Svnapot). The memory types themselves make no
 * difference here: RAM is coherent and devices are strongly ordered whatever a page says. */
static bool upper_bits_valid(const wh_mmu *m, uint64_t pte, bool leaf, int level)
{
    if (pte & PTE_RESERVED)
        return false;
    if ((pte & PTE_PBMT) && (!leaf || !m->pbmte || (pte & PTE_PBMT) == PTE_PBMT))
        return false;
    if (!(pte & PTE_N))
        return true;
    return leaf && m->napot && level == 0 && ((pte & PTE_PPN) >> 10) % NAPOT_PAGES == NAPOT_PAGES / 2;
}

static int walk_once(wh_mmu *m, uint64_t va, enum wh_access access, enum wh_priv priv, int levels, wh_translation *out)
{
    uint64_t table = (m->satp & 0xfffffffffffull) << WH_PAGE_SHIFT;
    out->global = false;
    for (int level = levels - 1; level >= 0; level--) {
        unsigned shift = WH_PAGE_SHIFT + 9 * (unsigned)level;
        uint64_t pte_pa = table + ((va >> shift) & 511) * 8;
        uint8_t *host = wh_ram_at(m->ram, pte_pa, 8);
        if (host == NULL)
            return wh_no_ram(m->ram, access);
        if (!wh_pmp_allows(&m->pmp, pte_pa, 8, WH_LOAD, WH_PRIV_S))
            return wh_access_fault(access);
        _Atomic uint64_t *slot = (_Atomic uint64_t *)(void *)host;
        uint64_t pte = atomic_load_explicit(slot, memory_order_acquire);
        bool leaf = (pte & (PTE_R | PTE_X)) != 0;
        if (!(pte & PTE_V) || (pte & (PTE_R | PTE_W)) == PTE_W || !upper_bits_valid(m, pte, leaf, level))
            return wh_page_fault(access);
        out->global |= (pte & PTE_G) != 0; /* of a pointer: all below it is */
        if (!leaf) {
            if (pte & (PTE_A | PTE_D | PTE_U)) /* reserved in a pointer */
                return wh_page_fault(access);
            table = (pte & PTE_PPN) << 2;
            continue;
        }
        uint64_t mask = (1ull << shift) - 1, base = (pte & PTE_PPN) << 2;
        if (!permitted(m, pte, access, priv) || (base & mask))
            return wh_page_fault(access);
        int status = update_ad(m, slot, pte, pte_pa, access);
        if (status != 0)
            return status;
        if (pte & PTE_N) {
            shift += 4;
            mask = (1ull << shift) - 1;
            base &= ~mask;
        }
        out->pa = base | (va & mask);
        out->shift = shift;
        return 0;
    }
    return wh_page_fault(access);
}

int wh_mmu_walk(wh_mmu *m, uint64_t va, enum wh_access access, enum wh_priv priv, wh_translation *out)
{
    int levels = priv == WH_PRIV_M ? 0 : levels_of(m->satp);
    if (levels == 0) {
        out->pa = va;
        out->shift = 63;
        out->global = true;
        return 0;
    }
    unsigned unused = 64 - (WH_PAGE_SHIFT + 9 * (unsigned)levels);
    if ((uint64_t)((int64_t)(va << unused) >> unused) != va)
        return wh_page_fault(access);
    int status;
    do
        status = walk_once(m, va, access, priv, levels, out);
    while (status == AGAIN);
    return status;
}
