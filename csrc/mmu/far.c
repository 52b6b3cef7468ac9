/* The second level of the data TLBs: more entries, looked at when the arrays that engines read inline miss, and before
 * a walk. It has the same tags and the same rules (mmu.h), so that forgetting context numbers flushes it too; it is
 * cleared, and entries are taken out of it, wherever that happens to the arrays. Without it - no memory - every miss
 * walks.
 *
 * Its memory is touched as it is used; clearing gives it back. */
#include "mmu/mmu.h"

#include <string.h>
#include <sys/mman.h>

enum { FAR_MODES = WH_TLB_ODD }; /* the odd mode's entries are not kept at all */

struct wh_far_tlb {
    wh_tlb_entry load[FAR_MODES][WH_FAR_ENTRIES];
    wh_tlb_entry store[FAR_MODES][WH_FAR_ENTRIES];
};

void wh_mmu_open(wh_mmu *m)
{
    void *map =
        mmap(NULL, sizeof(wh_far_tlb), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    m->far = map == MAP_FAILED ? NULL : map;
}

void wh_mmu_close(wh_mmu *m)
{
    if (m->far != NULL)
        munmap(m->far, sizeof(*m->far));
    m->far = NULL;
}

void wh_far_select(wh_mmu *m)
{
    size_t mode = (size_t)(m->load - m->loads[0]) / WH_TLB_ENTRIES;
    bool kept = m->far != NULL && mode < FAR_MODES;
    m->far_load = kept ? m->far->load[mode] : NULL;
    m->far_store = kept ? m->far->store[mode] : NULL;
}

void wh_far_drop_page(wh_mmu *m, uint64_t page, uint64_t mask)
{
    if (m->far == NULL)
        return;
    for (unsigned mode = 0; mode < FAR_MODES; mode++) {
        wh_tlb_entry *l = &m->far->load[mode][page % WH_FAR_ENTRIES], *s = &m->far->store[mode][page % WH_FAR_ENTRIES];
        if ((l->tag & mask) == page && l->tag != 0)
            l->tag = 0;
        if ((s->tag & mask) == page && s->tag != 0)
            s->tag = 0;
    }
}

/* Anonymous memory that is given back reads as zeros: no entry. */
void wh_far_drop_stores(wh_mmu *m)
{
    if (m->far != NULL && madvise(m->far->store, sizeof(m->far->store), MADV_DONTNEED) != 0)
        memset(m->far->store, 0, sizeof(m->far->store));
}

void wh_far_drop_all(wh_mmu *m)
{
    if (m->far != NULL && madvise(m->far, sizeof(*m->far), MADV_DONTNEED) != 0)
        memset(m->far, 0, sizeof(*m->far));
}

void wh_far_recent_pages(const wh_mmu *m, uint64_t *bitmap)
{
    if (m->far == NULL)
        return;
    wh_mmu_add_entries(m, m->far->load[0], (size_t)FAR_MODES * WH_FAR_ENTRIES, bitmap);
    wh_mmu_add_entries(m, m->far->store[0], (size_t)FAR_MODES * WH_FAR_ENTRIES, bitmap);
}
