/* TLB upkeep: context numbers, fills, flushes. Theory of operation: mmu.h. */
#include "mmu/mmu.h"

#include <string.h>

#define KEY_NONE      0xffffffffu
#define KEY_BARE      0xfffffffeu
#define KEY_GLOBAL    0xfffffffdu
#define CONTEXT_LIMIT 4096u
#define CONTEXT_SHIFT 52
#define JUMP_SHIFT    14 /* of the generation in a jump's context, above number and privilege */
#define CONTEXT_SLOTS WH_ARRAY_LEN(((wh_mmu *)0)->contexts)

static void forget_contexts(wh_mmu *m)
{
    for (size_t i = 0; i < CONTEXT_SLOTS; i++)
        m->contexts[i].key = KEY_NONE;
    for (int half = 0; half < 2; half++) {
        m->super_first[half] = UINT64_MAX;
        m->super_last[half] = 0;
    }
}

static void clear_arrays(wh_mmu *m)
{
    memset(m->loads, 0, sizeof(m->loads));
    memset(m->stores, 0, sizeof(m->stores));
    memset(m->executables, 0, sizeof(m->executables));
    wh_far_drop_all(m);
    wh_sites_drop_all(m);
    wh_mmu_drop_fetches(m);
    m->next_context = 1;
    forget_contexts(m);
}

void wh_mmu_init(wh_mmu *m, wh_ram *ram)
{
    wh_jump *jumps = m->jumps;
    wh_far_tlb *far = m->far;
    wh_sites *sites = m->site_sets;
    memset(m, 0, sizeof(*m));
    m->jumps = jumps;
    m->far = far;
    m->site_sets = sites;
    if (jumps != NULL) /* its generations begin again */
        memset(jumps, 0, WH_JUMPS * sizeof(*jumps));
    m->ram = ram;
    m->adue = true;
    clear_arrays(m);
    wh_mmu_context(m, WH_PRIV_M, WH_PRIV_M, false, false, 0);
}

static size_t slot_of(uint32_t key)
{
    return key >= KEY_GLOBAL ? CONTEXT_SLOTS - 1 - (KEY_BARE - key) : key % (CONTEXT_SLOTS - 2);
}

static uint64_t context_of(wh_mmu *m, uint32_t key)
{
    size_t slot = slot_of(key);
    if (m->contexts[slot].key != key) {
        m->contexts[slot].key = key;
        m->contexts[slot].number = m->next_context++;
    }
    return (uint64_t)m->contexts[slot].number << CONTEXT_SHIFT;
}

/* of_kernel: an access that can only reach pages that are not the user's. */
static uint32_t key_of(const wh_mmu *m, enum wh_priv priv, bool of_kernel)
{
    if (priv == WH_PRIV_M || (m->satp >> 60) == 0)
        return KEY_BARE;
    return of_kernel && !m->local ? KEY_GLOBAL : (uint32_t)(m->satp >> 44) & 0xffff;
}

static void select_code_context(wh_mmu *m)
{
    m->code_context =
        m->jump_generation << JUMP_SHIFT | (uint32_t)(m->fetch_context >> CONTEXT_SHIFT) << 2 | (uint32_t)m->priv;
}

static void select_contexts(wh_mmu *m)
{
    if (m->next_context + 2 > CONTEXT_LIMIT)
        clear_arrays(m);
    m->data_context = context_of(m, key_of(m, m->data_priv, m->data_priv == WH_PRIV_S && !m->sum));
    m->fetch_context = context_of(m, key_of(m, m->priv, m->priv == WH_PRIV_S));
    select_code_context(m);
    wh_sites_select(m);
}

/* Before an entry is made with this context. One that is not global must not have the number that all address spaces
 * share: from here to the next one, the kernel's accesses have those of their address space, too. */
static void settle_context(wh_mmu *m, const uint64_t *context, const wh_translation *t)
{
    size_t slot = slot_of(KEY_GLOBAL);
    if (t->global || m->local || m->contexts[slot].key != KEY_GLOBAL ||
        *context >> CONTEXT_SHIFT != m->contexts[slot].number)
        return;
    m->local = true;
    select_contexts(m);
}

void wh_mmu_context(wh_mmu *m, enum wh_priv priv, enum wh_priv data_priv, bool sum, bool mxr, uint64_t satp)
{
    /* A root that changes under an unchanged ASID needs SFENCE.VMA by the book; guests that forget it are common and
     * other emulators forgive them. */
    if (satp != m->satp && ((satp ^ m->satp) >> 60 != 0 || ((satp ^ m->satp) >> 44) == 0))
        forget_contexts(m);
    if (satp != m->satp)
        m->local = false;
    m->satp = satp;
    m->priv = priv;
    m->data_priv = data_priv;
    m->sum = sum;
    enum wh_tlb_mode mode = WH_TLB_M;
    if (data_priv == WH_PRIV_U)
        mode = WH_TLB_U;
    else if (data_priv == WH_PRIV_S)
        mode = sum ? WH_TLB_SUM : WH_TLB_S;
    if (mxr && data_priv != WH_PRIV_M) {
        /* MXR is set for a few instructions by firmware that emulates accesses: not worth arrays that stay valid. */
        mode = WH_TLB_ODD;
        memset(m->loads[mode], 0, sizeof(m->loads[mode]));
        memset(m->stores[mode], 0, sizeof(m->stores[mode]));
        wh_sites_drop_odd(m);
    }
    m->mxr = mxr;
    m->load = m->loads[mode];
    m->store = m->stores[mode];
    wh_far_select(m);
    m->fetch = m->fetches[priv == WH_PRIV_M ? 2 : priv];
    m->code = m->codes[priv == WH_PRIV_M ? 2 : priv];
    select_contexts(m);
}

void wh_mmu_flush_all(wh_mmu *m)
{
    forget_contexts(m);
    select_contexts(m);
}

void wh_mmu_flush_asid(wh_mmu *m, uint32_t asid)
{
    size_t slot = slot_of(asid & 0xffff);
    if (m->contexts[slot].key == (asid & 0xffff))
        m->contexts[slot].key = KEY_NONE;
    select_contexts(m);
}

void wh_mmu_flush_page(wh_mmu *m, uint64_t va)
{
    unsigned half = va >> 63;
    if (va >= m->super_first[half] && va <= m->super_last[half]) {
        wh_mmu_flush_all(m);
        return;
    }
    uint64_t page = va >> WH_PAGE_SHIFT;
    const uint64_t mask = (1ull << CONTEXT_SHIFT) - 1;
    for (unsigned mode = 0; mode < WH_TLB_MODES; mode++) {
        wh_tlb_entry *l = &m->loads[mode][page % WH_TLB_ENTRIES], *s = &m->stores[mode][page % WH_TLB_ENTRIES];
        if ((l->tag & mask) == page)
            l->tag = 0;
        if ((s->tag & mask) == page)
            s->tag = 0;
    }
    wh_far_drop_page(m, page, mask);
    wh_sites_drop_page(m, va);
    for (unsigned mode = 0; mode < WH_FTLB_MODES; mode++) {
        wh_tlb_entry *f = &m->fetches[mode][page % WH_FTLB_ENTRIES];
        if ((f->tag & mask) == page)
            f->tag = 0;
        wh_tlb_entry *c = &m->codes[mode][page % WH_FTLB_ENTRIES];
        if ((c->tag & mask) == page)
            c->tag = 0;
        wh_tlb_entry *x = &m->executables[mode][page % WH_FTLB_ENTRIES];
        if ((x->tag & mask) == page)
            x->tag = 0;
    }
    if (m->jump_pages[page % WH_JUMPS / 64] >> page % 64 & 1)
        wh_mmu_drop_jumps(m);
}

/* One flush of all, not one a page, where superpages are cached around there. */
void wh_mmu_flush_range(wh_mmu *m, uint64_t va, uint64_t pages)
{
    for (; pages > 0; pages--, va += WH_PAGE_SIZE) {
        if (va >= m->super_first[va >> 63] && va <= m->super_last[va >> 63]) {
            wh_mmu_flush_all(m);
            return;
        }
        wh_mmu_flush_page(m, va);
    }
}

void wh_mmu_drop_stores(wh_mmu *m)
{
    memset(m->stores, 0, sizeof(m->stores));
    wh_far_drop_stores(m);
    wh_sites_drop_stores(m);
}

void wh_mmu_drop_fetches(wh_mmu *m)
{
    memset(m->fetches, 0, sizeof(m->fetches));
    memset(m->codes, 0, sizeof(m->codes));
    wh_mmu_drop_jumps(m);
}

void wh_mmu_drop_decoded(wh_mmu *m)
{
    memset(m->fetches, 0, sizeof(m->fetches));
}

/* Guests that patch their code fence for each place, so this must not cost what clearing does. */
void wh_mmu_drop_jumps(wh_mmu *m)
{
    if (m->jumps == NULL)
        return;
    memset(m->jump_pages, 0, sizeof(m->jump_pages));
    m->jump_generation = (m->jump_generation + 1) % (1u << (32 - JUMP_SHIFT));
    if (m->jump_generation == 0)
        memset(m->jumps, 0, WH_JUMPS * sizeof(*m->jumps));
    select_code_context(m);
}

static void note_superpage(wh_mmu *m, uint64_t va, unsigned shift)
{
    if (shift == WH_PAGE_SHIFT || shift >= 63)
        return;
    unsigned half = va >> 63;
    uint64_t first = va & ~((1ull << shift) - 1), last = first + ((1ull << shift) - 1);
    if (first < m->super_first[half])
        m->super_first[half] = first;
    if (last > m->super_last[half])
        m->super_last[half] = last;
}

static void fill(wh_mmu *m, enum wh_access access, uint64_t va, wh_tlb_entry entry)
{
    wh_tlb_entry *e = access == WH_STORE ? m->store : m->load;
    e[(va >> WH_PAGE_SHIFT) % WH_TLB_ENTRIES] = entry;
}

int wh_mmu_data(wh_mmu *m, uint64_t va, unsigned size, enum wh_access access, uint64_t *pa, uint8_t **host)
{
    wh_translation t;
    wh_tlb_entry *far = wh_far_slot(m, va, access);
    if (far != NULL && far->tag == ((va >> WH_PAGE_SHIFT) | m->data_context)) {
        fill(m, access, va, *far);
        *host = (uint8_t *)(uintptr_t)(va + far->addend);
        *pa = WH_RAM_BASE + (uint64_t)(*host - m->ram->host);
        return 0;
    }
    m->misses++;
    int cause = wh_mmu_walk(m, va, access, m->data_priv, &t);
    if (cause != 0)
        return cause;
    *pa = t.pa;
    if (!wh_pmp_allows(&m->pmp, t.pa, size, access, m->data_priv))
        return wh_access_fault(access);
    *host = wh_ram_at(m->ram, t.pa, size);
    if (*host == NULL)
        return wh_ram_lost(m->ram) ? WH_CAUSE_LOST : 0;
    if (access == WH_STORE)
        wh_ram_mark_dirty(m->ram, t.pa);
    if (wh_pmp_page_uniform(&m->pmp, t.pa)) {
        settle_context(m, &m->data_context, &t);
        wh_tlb_entry entry = {.tag = (va >> WH_PAGE_SHIFT) | m->data_context,
                              .addend = (uint64_t)(uintptr_t)*host - va};
        fill(m, access, va, entry);
        if (far != NULL)
            *far = entry;
        note_superpage(m, va, t.shift);
    }
    return 0;
}

int wh_mmu_fetch(wh_mmu *m, uint64_t va, unsigned size, uint64_t *pa, uint8_t **host, bool *whole)
{
    wh_translation t;
    const size_t mode = (size_t)(m->fetch - m->fetches[0]) / WH_FTLB_ENTRIES;
    wh_tlb_entry *known = &m->executables[mode][(va >> WH_PAGE_SHIFT) % WH_FTLB_ENTRIES];
    if (known->tag == ((va >> WH_PAGE_SHIFT) | m->fetch_context)) {
        *host = (uint8_t *)(uintptr_t)(va + known->addend);
        *pa = WH_RAM_BASE + (uint64_t)(*host - m->ram->host);
        *whole = true;
        return 0;
    }
    m->misses++;
    int cause = wh_mmu_walk(m, va, WH_FETCH, m->priv, &t);
    if (cause != 0)
        return cause;
    *pa = t.pa;
    if (!wh_pmp_allows(&m->pmp, t.pa, size, WH_FETCH, m->priv))
        return WH_CAUSE_FETCH_ACCESS;
    *host = wh_ram_at(m->ram, t.pa, size);
    if (*host == NULL && wh_ram_lost(m->ram))
        return WH_CAUSE_LOST;
    *whole = *host != NULL && wh_pmp_page_uniform(&m->pmp, t.pa);
    if (*whole) {
        settle_context(m, &m->fetch_context, &t);
        note_superpage(m, va, t.shift);
        known->tag = (va >> WH_PAGE_SHIFT) | m->fetch_context;
        known->addend = (uint64_t)(uintptr_t)*host - va;
    }
    return 0;
}
