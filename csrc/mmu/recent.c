/* Which pages a hart has touched of late, by what its TLBs hold: what a post-copy sends first. Only ever a hint: the
 * hart may run meanwhile, and a tag and an addend that do not belong together name a wrong page. */
#include "memory/live.h"
#include "mmu/mmu.h"

#define PTE_V   1ull
#define PTE_RWX 0xeull
#define PTE_PPN 0x3ffffffffffc00ull

static void add_page(const wh_ram *ram, uint64_t offset, uint64_t *bitmap)
{
    if (offset < ram->bytes)
        bitmap[offset >> WH_PAGE_SHIFT >> 6] |= 1ull << (offset >> WH_PAGE_SHIFT & 63);
}

/* The tables that lead to va in the present address space: whoever begins with cold TLBs reads these before the page.
 */
static void add_tables(const wh_mmu *m, uint64_t va, uint64_t *bitmap)
{
    uint64_t satp, pte;
    wh_live_copy(&satp, &m->satp, sizeof satp);
    unsigned mode = (unsigned)(satp >> 60); /* 8, 9, 10: Sv39, Sv48, Sv57 */
    if (mode < 8 || mode > 10)
        return;
    uint64_t table = (satp & 0xfffffffffffull) << WH_PAGE_SHIFT;
    for (int level = (int)mode - 6; level >= 0; level--) {
        const uint8_t *host = wh_ram_at(m->ram, table, WH_PAGE_SIZE);
        if (!host)
            return;
        add_page(m->ram, table - WH_RAM_BASE, bitmap);
        wh_live_copy(&pte, host + (va >> (WH_PAGE_SHIFT + 9 * level) & 511) * 8, sizeof pte);
        if (!(pte & PTE_V) || pte & PTE_RWX)
            return;
        table = (pte & PTE_PPN) << 2;
    }
}

void wh_mmu_add_entries(const wh_mmu *m, const wh_tlb_entry *entries, size_t count, uint64_t *bitmap)
{
    for (size_t i = 0; i < count; i++) {
        wh_tlb_entry e;
        wh_live_copy(&e, &entries[i], sizeof e);
        if (!e.tag)
            continue;
        uint64_t va = e.tag << WH_PAGE_SHIFT; /* the context's number falls out */
        add_page(m->ram, va + e.addend - (uint64_t)(uintptr_t)m->ram->host, bitmap);
        add_tables(m, va, bitmap);
    }
}

void wh_mmu_recent_pages(const wh_mmu *m, bool far, uint64_t *bitmap)
{
    if (far) {
        wh_far_recent_pages(m, bitmap);
        return;
    }
    wh_mmu_add_entries(m, m->loads[0], WH_ARRAY_LEN(m->loads) * WH_TLB_ENTRIES, bitmap);
    wh_mmu_add_entries(m, m->stores[0], WH_ARRAY_LEN(m->stores) * WH_TLB_ENTRIES, bitmap);
    wh_mmu_add_entries(m, m->executables[0], WH_ARRAY_LEN(m->executables) * WH_FTLB_ENTRIES, bitmap);
}
