/* Sites: translated code does not hash an address to find its translation, it looks into a slot of its own first, whose
 * place is a constant (jit/x86/site.c fills it, from the TLB). Slots have no context number in their tags, so that a
 * look is short. Instead a set of slots is emptied when its mode gets another address space, and with every entry that
 * is taken out of the TLB. */
#include "mmu/mmu.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNKS = 2 * WH_SITES / WH_SITE_CHUNK };
_Static_assert(CHUNKS == 64, "a bit of wh_sites.used each");

static void empty(wh_sites *s, unsigned chunk)
{
    for (unsigned i = chunk * WH_SITE_CHUNK; i < (chunk + 1) * WH_SITE_CHUNK; i++)
        s->slot[i].tag = WH_SITE_NONE;
    memset(s->fills + chunk * WH_SITE_CHUNK, 0, WH_SITE_CHUNK * sizeof(s->fills[0]));
}

/* From chunk `first` on. */
static void empty_used(wh_sites *s, unsigned first)
{
    const uint64_t these = UINT64_MAX << first;
    for (uint64_t left = s->used & these; left != 0; left &= left - 1)
        empty(s, (unsigned)__builtin_ctzll(left));
    s->used &= ~these;
}

bool wh_sites_open(wh_mmu *m)
{
    m->site_sets = calloc(WH_TLB_MODES, sizeof(*m->site_sets));
    if (m->site_sets == NULL)
        return false;
    for (unsigned mode = 0; mode < WH_TLB_MODES; mode++)
        for (unsigned chunk = 0; chunk < CHUNKS; chunk++)
            empty(&m->site_sets[mode], chunk);
    if (m->load != NULL)
        wh_sites_select(m);
    return true;
}

void wh_sites_close(wh_mmu *m)
{
    free(m->site_sets);
    m->site_sets = m->sites = NULL;
}

void wh_sites_select(wh_mmu *m)
{
    if (m->site_sets == NULL)
        return;
    m->sites = &m->site_sets[(size_t)(m->load - m->loads[0]) / WH_TLB_ENTRIES];
    if (m->sites->context == m->data_context)
        return;
    empty_used(m->sites, 0);
    m->sites->context = m->data_context;
}

void wh_sites_drop_page(wh_mmu *m, uint64_t va)
{
    const uint64_t page = va & ~(uint64_t)(WH_PAGE_SIZE - 1);
    for (unsigned mode = 0; m->site_sets != NULL && mode < WH_TLB_MODES; mode++) {
        wh_sites *s = &m->site_sets[mode];
        for (uint64_t left = s->used; left != 0; left &= left - 1) {
            wh_tlb_entry *slot = &s->slot[(unsigned)__builtin_ctzll(left) * WH_SITE_CHUNK];
            for (unsigned i = 0; i < WH_SITE_CHUNK; i++)
                if (slot[i].tag == page)
                    slot[i].tag = WH_SITE_NONE;
        }
    }
}

void wh_sites_drop_stores(wh_mmu *m)
{
    for (unsigned mode = 0; m->site_sets != NULL && mode < WH_TLB_MODES; mode++)
        empty_used(&m->site_sets[mode], CHUNKS / 2);
}

void wh_sites_drop_odd(wh_mmu *m)
{
    if (m->site_sets != NULL)
        empty_used(&m->site_sets[WH_TLB_ODD], 0);
}

void wh_sites_drop_all(wh_mmu *m)
{
    for (unsigned mode = 0; m->site_sets != NULL && mode < WH_TLB_MODES; mode++)
        empty_used(&m->site_sets[mode], 0);
}
