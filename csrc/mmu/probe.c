/* A look at the page tables that leaves no trace: for debuggers. Rights and reserved bits do not matter to it, a
 * mapping is where its PTE says; A and D stay as they are. */
#include "mmu/mmu.h"

enum { PTE_V = 1, PTE_RWX = 14 };

bool wh_mmu_probe(const wh_mmu *m, uint64_t va, uint64_t *pa)
{
    unsigned mode = m->satp >> 60;
    int levels = m->priv == WH_PRIV_M || mode < 8 || mode > 10 ? 0 : (int)mode - 5;
    *pa = va;
    if (levels == 0)
        return true;
    unsigned unused = 64 - (WH_PAGE_SHIFT + 9 * (unsigned)levels);
    if ((uint64_t)((int64_t)(va << unused) >> unused) != va)
        return false;
    uint64_t table = (m->satp & 0xfffffffffffull) << WH_PAGE_SHIFT;
    for (int level = levels - 1; level >= 0; level--) {
        unsigned shift = WH_PAGE_SHIFT + 9 * (unsigned)level;
        const uint8_t *host = wh_ram_at(m->ram, table + ((va >> shift) & 511) * 8, 8);
        if (host == NULL)
            return false;
        uint64_t pte = __atomic_load_n((const uint64_t *)(const void *)host, __ATOMIC_ACQUIRE);
        if (!(pte & PTE_V))
            return false;
        table = (pte & 0x003ffffffffffc00ull) << 2;
        if (!(pte & PTE_RWX))
            continue;
        uint64_t mask = (1ull << shift) - 1;
        if (pte >> 63 && level == 0) /* Svnapot: 64 KiB, the only size that there is */
            mask = 0xffff;
        *pa = (table & ~mask) | (va & mask);
        return true;
    }
    return false;
}
