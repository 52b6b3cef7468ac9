/* warm: what of a page is translated, told to others: to the target of a migration or a snapshot as a list of heads, to
 * a hart that decodes the page anew as heat. */
#include "jit/cache.h"

#include <stdlib.h>

/* Records grow downward: the newest block has the lowest reference. */
static int by_age(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Lock held. Live blocks' references, most at most; returns how many. */
static unsigned live_blocks(const wh_jit *j, uint32_t *out, unsigned most)
{
    unsigned n = 0;
    for (unsigned i = 0; i < WH_JIT_PAGE_BUCKETS; i++)
        for (uint32_t page = j->page_bucket[i]; page != 0; page = ((const wh_jit_page *)wh_jit_at(j, page))->next) {
            uint32_t ref = ((const wh_jit_page *)wh_jit_at(j, page))->blocks;
            while (ref != 0 && n < most) {
                const wh_jit_block *b = wh_jit_at(j, ref);
                if (!atomic_load_explicit(&b->dead, memory_order_relaxed))
                    out[n++] = ref;
                ref = b->page_next;
            }
        }
    return n;
}

unsigned wh_jit_heads(wh_jit *j, uint64_t *out, unsigned most)
{
    const unsigned all = WH_JIT_BYTES / sizeof(wh_jit_block); /* more blocks than can be */
    uint32_t *refs = malloc(all * sizeof(*refs));
    if (refs == NULL)
        return 0;
    pthread_mutex_lock(&j->lock);
    unsigned n = live_blocks(j, refs, all);
    qsort(refs, n, sizeof(*refs), by_age);
    n = n < most ? n : most;
    for (unsigned i = 0; i < n; i++) {
        const wh_jit_block *b = wh_jit_at(j, refs[i]);
        out[i] = b->pa | b->user;
    }
    pthread_mutex_unlock(&j->lock);
    free(refs);
    return n;
}

/* Heat before the page was decoded anew counts again: its blocks are found at the first arrival, not the 48th. */
void wh_jit_heat_page(wh_hart *h, wh_code_page *decoded)
{
    wh_jit *j = h->env.jit;
    pthread_mutex_lock(&j->lock);
    uint32_t ref = j->page_bucket[decoded->pfn % WH_JIT_PAGE_BUCKETS];
    while (ref != 0 && ((const wh_jit_page *)wh_jit_at(j, ref))->pfn != decoded->pfn)
        ref = ((const wh_jit_page *)wh_jit_at(j, ref))->next;
    ref = ref != 0 ? ((const wh_jit_page *)wh_jit_at(j, ref))->blocks : 0;
    while (ref != 0) {
        const wh_jit_block *b = wh_jit_at(j, ref);
        if (!atomic_load_explicit(&b->dead, memory_order_relaxed))
            *wh_code_heat(&h->code, &decoded->insn[(b->pa & (WH_PAGE_SIZE - 1)) / 2]) = WH_HEAT_HOT;
        ref = b->page_next;
    }
    pthread_mutex_unlock(&j->lock);
}
