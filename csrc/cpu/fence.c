/* Remote fences: other threads leave them with a hart, which does them before its next instruction.
 *
 * What is to be done stands in h->fences, one bit a kind; SFENCE.VMAs of few pages are kept one by one, so that a guest
 * that unmaps a page on one hart costs the others that page's translation and no more. Where the list is full, or the
 * range so large that a refill is cheaper, all is flushed. */
#include "cpu/hart.h"

#define PAGES_MAX 64u

void wh_hart_request_fence(wh_hart *h, unsigned kinds)
{
    atomic_fetch_or(&h->fences, kinds);
}

/* False: there is no room. */
static bool put(wh_fence_list *l, wh_fence_range range)
{
    pthread_mutex_lock(&l->lock);
    bool room = l->count < WH_ARRAY_LEN(l->range);
    if (room)
        l->range[l->count++] = range;
    pthread_mutex_unlock(&l->lock);
    return room;
}

void wh_hart_request_fence_range(wh_hart *h, uint64_t start, uint64_t size, uint32_t asid)
{
    uint64_t first = start >> WH_PAGE_SHIFT, pages = 0;
    bool whole = (start == 0 && size == 0) || size == UINT64_MAX || size > UINT64_MAX - start;
    if (!whole && size > 0)
        pages = ((start + size - 1) >> WH_PAGE_SHIFT) - first + 1;
    if (!whole && size == 0) /* no address at all */
        return;
    if (pages > PAGES_MAX)
        pages = 0;
    wh_fence_range range = {first << WH_PAGE_SHIFT, pages, asid};
    bool all = pages == 0 && asid == WH_ANY_ASID;
    atomic_fetch_or(&h->fences, !all && put(&h->fence_list, range) ? WH_FENCE_RANGES : WH_FENCE_VMA);
}

bool wh_hart_fences_done(wh_hart *h)
{
    return atomic_load(&h->fences) == 0 && atomic_load(&h->fence_busy) == 0;
}

static void serve_ranges(wh_hart *h, bool all)
{
    wh_fence_list *l = &h->fence_list;
    pthread_mutex_lock(&l->lock);
    for (unsigned i = 0; i < l->count && !all; i++) {
        const wh_fence_range *r = &l->range[i];
        if (r->pages != 0)
            wh_mmu_flush_range(&h->mmu, r->start, r->pages);
        else
            wh_mmu_flush_asid(&h->mmu, r->asid);
    }
    l->count = 0;
    pthread_mutex_unlock(&l->lock);
}

/* busy is raised before the request is taken, so that a requester never sees "none asked, none in work" too early. */
void wh_serve_fences(wh_hart *h)
{
    while (atomic_load_explicit(&h->fences, memory_order_relaxed) != 0) {
        atomic_store(&h->fence_busy, 1);
        uint32_t kinds = atomic_exchange(&h->fences, 0);
        if (kinds & WH_FENCE_I)
            h->engine->code_changed(h);
        if (kinds & WH_FENCE_VMA)
            wh_mmu_flush_all(&h->mmu);
        if (kinds & WH_FENCE_RANGES)
            serve_ranges(h, (kinds & WH_FENCE_VMA) != 0);
        atomic_store(&h->fence_busy, 0);
    }
}
