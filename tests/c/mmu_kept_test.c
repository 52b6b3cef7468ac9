/* What is kept of translations when mode or address space change, and that whatever should forgets them: global pages,
 * fetches, the translator's jumps and what its code looks into first (mmu/sites.c). */
#include "mmu_rig.h"

/* What is mapped globally is found in every address space, what is not in its own only; whatever flushes takes both. */
static void global_pages(void)
{
    const uint64_t satp = 8ull << 60 | TABLES >> 12, kernel = 0xffffffc000400000, own = 0xffffffc000801000;
    const uint64_t asid[2] = {satp | 1ull << 44, satp | 2ull << 44};
    for (int pointer = 0; pointer < 2; pointer++) { /* G in the leaf, or in the pointer above it */
        wh_mmu *m = fresh(3, WH_PRIV_S);
        map(3, kernel, TARGET, 0, V | R | W | A | D | (pointer ? 0 : G));
        if (pointer) {
            uint64_t at = TABLES + (kernel >> 30 & 511) * 8,
                     next = (peek64(&b, at) >> 10 << 12) + (kernel >> 21 & 511) * 8;
            poke64(&b, next, peek64(&b, next) | G);
        }
        uint64_t leaf = map(3, own, TARGET + 0x1000, 0, V | R | W | A | D);
        wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, asid[0]);
        CHECK_EQ(walks_of(m, kernel, WH_STORE, 0), 1);
        wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, asid[1]);
        CHECK_EQ(walks_of(m, kernel, WH_STORE, 0), 0);
        uint64_t shared = m->data_context;
        CHECK_EQ(walks_of(m, own, WH_STORE, 0), 1);
        CHECK(m->data_context != shared && m->fetch_context != shared);
        CHECK_EQ(walks_of(m, own, WH_STORE, 0), 0);
        CHECK_EQ(walks_of(m, kernel, WH_STORE, 0), 1); /* again, with the number of the address space */
        wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, asid[0]);
        poke64(&b, leaf, 0);
        CHECK_EQ(walks_of(m, own, WH_STORE, WH_CAUSE_STORE_PAGE), 1); /* not that of the other one */
        CHECK_EQ(walks_of(m, kernel, WH_STORE, 0), 1);                /* for all of them once more */
        wh_mmu_flush_asid(m, 1);
        CHECK_EQ(walks_of(m, kernel, WH_STORE, 0), 0); /* not of an address space */
        wh_mmu_context(m, WH_PRIV_U, WH_PRIV_U, false, false, asid[0]);
        CHECK_EQ(walks_of(m, kernel, WH_STORE, WH_CAUSE_STORE_PAGE), 1);
        wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, true, false, asid[0]);
        CHECK_EQ(walks_of(m, kernel, WH_STORE, 0), 1); /* SUM: as before */
        wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, asid[0]);
        wh_mmu_flush_page(m, kernel);
        CHECK_EQ(walks_of(m, kernel, WH_STORE, 0), 1);
        wh_mmu_flush_all(m);
        CHECK_EQ(walks_of(m, kernel, WH_STORE, 0), 1);
        wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, 8ull << 60 | (TABLES + 0x80000) >> 12 | 3ull << 44);
        CHECK_EQ(walks_of(m, kernel, WH_STORE, 0), 0);
        wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, satp); /* another ASID */
        wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, 8ull << 60 | (TABLES + 0x80000) >> 12);
        CHECK_EQ(walks_of(m, kernel, WH_STORE, WH_CAUSE_STORE_PAGE), 1); /* no ASIDs: a new root forgets all */
    }
}

/* A page of code that is not global: not found through the number of those that are. */
static void fetches_of_address_spaces(void)
{
    const uint64_t satp = 8ull << 60 | TABLES >> 12, va = 0xffffffc000801000;
    wh_mmu *m = fresh(3, WH_PRIV_S);
    map(3, va, TARGET, 0, V | R | X | A);
    uint64_t shared = m->fetch_context;
    CHECK_EQ(walks_of(m, va, WH_FETCH, 0), 1);
    uint64_t first = m->fetch_context;
    uint32_t code = m->code_context;
    CHECK(first != shared);
    wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, satp | 5ull << 44);
    CHECK(m->fetch_context != first && m->code_context != code);
    CHECK_EQ(walks_of(m, va, WH_FETCH, 0), 1);
    CHECK(m->fetch_context != first && m->fetch_context != shared && m->code_context != code);
}

/* FENCE.I is about what stands in pages, not about where they are. */
static void fetches_again(void)
{
    const uint64_t satp = 8ull << 60 | TABLES >> 12, va = 0x7000;
    uint64_t pa = 0;
    wh_mmu *m = fresh(3, WH_PRIV_U);
    uint64_t leaf = map(3, va, TARGET, 0, V | R | X | U | A);
    CHECK_EQ(walks_of(m, va, WH_FETCH, 0), 1);
    wh_mmu_drop_fetches(m);
    CHECK_EQ(walks_of(m, va + 4, WH_FETCH, 0), 0);
    CHECK_EQ(access_va(m, va + 4, WH_FETCH, &pa), 0);
    CHECK_EQ(pa, TARGET + 4);
    wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, satp);
    CHECK_EQ(walks_of(m, va, WH_FETCH, WH_CAUSE_FETCH_PAGE), 1);
    wh_mmu_context(m, WH_PRIV_U, WH_PRIV_U, false, false, satp | 1ull << 44);
    CHECK_EQ(walks_of(m, va, WH_FETCH, 0), 1);
    poke64(&b, leaf, 0);
    wh_mmu_flush_page(m, va + 0x1000);
    CHECK_EQ(walks_of(m, va, WH_FETCH, 0), 0);
    wh_mmu_flush_page(m, va);
    CHECK_EQ(walks_of(m, va, WH_FETCH, WH_CAUSE_FETCH_PAGE), 1);
    for (int how = 0; how < 3; how++) {
        poke64(&b, leaf, TARGET >> 12 << 10 | V | R | X | U | A);
        wh_mmu_flush_all(m);
        CHECK_EQ(walks_of(m, va, WH_FETCH, 0), 1);
        poke64(&b, leaf, 0);
        if (how == 0)
            wh_mmu_flush_asid(m, 1);
        else if (how == 1)
            wh_mmu_flush_all(m);
        else
            for (int n = 0; n < 5000; n++) /* numbers run out */
                wh_mmu_flush_asid(m, 1);
        CHECK_EQ(walks_of(m, va, WH_FETCH, WH_CAUSE_FETCH_PAGE), 1);
    }
}

static bool leads(const wh_mmu *m, uint64_t va)
{
    const wh_jump *j = wh_mmu_jump_slot(m, va);
    return j->va == va && j->context == m->code_context && j->context != 0;
}

/* A jump that was dropped never leads anywhere again, however often others are. */
static void jumps(void)
{
    wh_mmu *m = &b.hart->mmu;
    wh_jump *own = calloc(WH_JUMPS, sizeof(*own));
    m->jumps = own;
    fresh(3, WH_PRIV_S);
    wh_mmu_fill_jump(m, 0x7004, 1);
    CHECK(leads(m, 0x7004));
    wh_mmu_context(m, WH_PRIV_U, WH_PRIV_U, false, false, m->satp);
    CHECK(!leads(m, 0x7004));
    wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, m->satp);
    CHECK(leads(m, 0x7004));
    wh_mmu_flush_page(m, 0x8000);
    CHECK(leads(m, 0x7004));
    wh_mmu_flush_page(m, 0x7000);
    CHECK(!leads(m, 0x7004));
    wh_mmu_fill_jump(m, 0x7004, 1);
    for (unsigned i = 0; i < 600000; i++) { /* more often than generations can be told apart */
        wh_mmu_drop_jumps(m);
        CHECK(!leads(m, 0x7004));
        if (i % 65536 == 0)
            wh_mmu_fill_jump(m, 0x9004, 2);
    }
    wh_mmu_fill_jump(m, 0x7004, 1);
    wh_mmu_init(m, &b.ram); /* as for a guest that is reset */
    fresh(3, WH_PRIV_S);
    CHECK(!leads(m, 0x7004));
    m->jumps = NULL;
    free(own);
}

/* As translated code fills a slot. */
static wh_tlb_entry *fill_site(wh_mmu *m, unsigned index, uint64_t page)
{
    m->sites->slot[index].tag = page;
    m->sites->holders[(page >> 12) % WH_SITE_BUCKETS] |= 1ull << index / WH_SITE_CHUNK;
    return &m->sites->slot[index];
}

/* As it fills the entry of a page. */
static uint64_t *fill_page(wh_mmu *m, bool store, uint64_t page)
{
    unsigned index = (unsigned)(page >> 12) % WH_TLB_ENTRIES + (store ? WH_TLB_ENTRIES : 0);
    m->sites->page_tag[index] = page;
    m->sites->pages_used |= 1ull << index / WH_SITE_PAGE_CHUNK;
    return &m->sites->page_tag[index];
}

/* Of every kind that there is: a load's and a store's, by slot and by page. */
struct held {
    wh_tlb_entry *load, *store;
    uint64_t *page_load, *page_store;
};
static struct held hold(wh_mmu *m, unsigned index, uint64_t page)
{
    return (struct held){fill_site(m, index, page), fill_site(m, WH_SITES + index, page), fill_page(m, false, page),
                         fill_page(m, true, page)};
}
static bool has_loads(struct held h, uint64_t page)
{
    CHECK((h.load->tag == page) == (*h.page_load == page));
    CHECK(h.load->tag == page || (h.load->tag == WH_SITE_NONE && *h.page_load == WH_SITE_NONE));
    return h.load->tag == page;
}
static bool has_stores(struct held h, uint64_t page)
{
    CHECK((h.store->tag == page) == (*h.page_store == page));
    CHECK(h.store->tag == page || (h.store->tag == WH_SITE_NONE && *h.page_store == WH_SITE_NONE));
    return h.store->tag == page;
}
static bool has_all(struct held h, uint64_t page)
{
    return has_loads(h, page) && has_stores(h, page);
}
static bool has_none(struct held h, uint64_t page)
{
    return !has_loads(h, page) && !has_stores(h, page);
}

static wh_mmu *sites_rig(void)
{
    wh_mmu *m = &b.hart->mmu;
    CHECK(m->site_sets != NULL || wh_sites_open(m));
    return fresh(3, WH_PRIV_U);
}

static void switch_to(wh_mmu *m, enum wh_priv priv, bool sum, unsigned asid)
{
    wh_mmu_context(m, priv, priv, sum, false, 8ull << 60 | TABLES >> 12 | (uint64_t)asid << 44);
}

/* Nothing stays that the TLB would not answer any more. */
static void sites_are_flushed(void)
{
    wh_mmu *m = sites_rig();
    struct held one = hold(m, 1, 0x7000), other = hold(m, 700, 0x9000), alias = hold(m, 2, 0x47000);
    wh_mmu_drop_stores(m); /* a new dirty round */
    CHECK(has_loads(one, 0x7000) && !has_stores(one, 0x7000) && has_loads(other, 0x9000));
    one = hold(m, 1, 0x7000);
    switch_to(m, WH_PRIV_S, false, 0); /* another mode: a set of its own */
    CHECK(m->sites->slot[1].tag == WH_SITE_NONE && m->sites->page_tag[7] == WH_SITE_NONE);
    wh_mmu_flush_page(m, 0x7abc); /* of every mode; the slots of the same bucket and chunk stay */
    CHECK(has_none(one, 0x7000));
    CHECK(has_loads(other, 0x9000) && has_loads(alias, 0x47000));
    wh_mmu_flush_page(m, 0x47000);
    CHECK(has_none(alias, 0x47000));
    switch_to(m, WH_PRIV_U, false, 0);
    CHECK(has_loads(other, 0x9000));
    wh_mmu_flush_all(m);
    CHECK(m->sites->slot[700].tag == WH_SITE_NONE && m->sites->page_tag[9] == WH_SITE_NONE);
    other = hold(m, 700, 0x9000);
    m->super_first[0] = 0;
    m->super_last[0] = 0x1fffff;
    wh_mmu_flush_page(m, 0x1000); /* of a superpage */
    CHECK(m->sites->slot[700].tag == WH_SITE_NONE && m->sites->page_tag[9] == WH_SITE_NONE);
    other = hold(m, 3, 0x9000);
    wh_mmu_init(m, &b.ram);
    CHECK(has_none(other, 0x9000));
}

/* User mode keeps what it had in a few address spaces; who comes back under another number finds nothing. */
static void sites_of_address_spaces(void)
{
    wh_mmu *m = sites_rig();
    struct held first, held[3 * WH_SITE_USER_SETS];
    switch_to(m, WH_PRIV_U, false, 1);
    first = hold(m, 5, 0x7000);
    switch_to(m, WH_PRIV_S, false, 1);
    switch_to(m, WH_PRIV_U, false, 2);
    CHECK(m->sites->slot[5].tag == WH_SITE_NONE && m->sites->page_tag[WH_TLB_ENTRIES + 7] == WH_SITE_NONE);
    switch_to(m, WH_PRIV_U, false, 1);
    CHECK(&m->sites->slot[5] == first.load && has_all(first, 0x7000));
    switch_to(m, WH_PRIV_S, false, 2);
    wh_mmu_flush_asid(m, 1); /* from another address space */
    switch_to(m, WH_PRIV_U, false, 1);
    CHECK(m->sites->slot[5].tag == WH_SITE_NONE && m->sites->page_tag[7] == WH_SITE_NONE);
    for (unsigned asid = 10; asid < 10 + WH_ARRAY_LEN(held); asid++) { /* more than there are sets */
        switch_to(m, WH_PRIV_U, false, asid);
        CHECK(m->sites->slot[5].tag == WH_SITE_NONE && m->sites->page_tag[7] == WH_SITE_NONE);
        held[asid - 10] = hold(m, 5, 0x7000);
    }
    wh_mmu_flush_page(m, 0x7000); /* of all of them */
    for (unsigned i = 0; i < WH_ARRAY_LEN(held); i++)
        CHECK(has_none(held[i], 0x7000));
    switch_to(m, WH_PRIV_S, true, 1); /* SUM: the user's pages are seen */
    first = hold(m, 5, 0x7000);
    switch_to(m, WH_PRIV_S, true, 2);
    CHECK(m->sites->slot[5].tag == WH_SITE_NONE && has_none(first, 0x7000));
    wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, true, m->satp); /* MXR: kept for this stay only */
    first = hold(m, 3, 0x9000);
    wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, m->satp);
    wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, true, true, m->satp);
    CHECK(&m->sites->slot[3] == first.load && has_none(first, 0x9000));
}

/* The kernel's set stays when the address space changes, until it meets a page that is not global. */
static void sites_of_the_kernel(void)
{
    const uint64_t own = 0xffffffc000801000;
    uint64_t pa;
    wh_mmu *m = sites_rig();
    map(3, own, TARGET, 0, V | R | W | A | D);
    switch_to(m, WH_PRIV_S, false, 1);
    struct held global = hold(m, 5, 0x7000);
    switch_to(m, WH_PRIV_S, false, 2);
    CHECK(m->sites->slot + 5 == global.load && has_all(global, 0x7000));
    CHECK_EQ(access_va(m, own, WH_LOAD, &pa), 0);
    CHECK(has_none(global, 0x7000));
    global = hold(m, 5, own);
    switch_to(m, WH_PRIV_S, false, 1);
    CHECK(has_none(global, own));
    wh_sites_close(m);
}

/* A place is watched when its slot has been filled often: restless, or left alone for longer. */
static void watched_sites(void)
{
    wh_mmu *m = sites_rig();
    wh_sites *s = m->sites;
    for (unsigned every = 1; every < 20; every++) { /* accesses to a page before the next one */
        const unsigned slot = every;
        CHECK_EQ(s->left[slot], WH_SITE_PATIENCE);
        bool restless = false;
        for (unsigned i = 0; i < 32; i++) {
            m->tired = slot + 1;
            fill_site(m, slot, 0x7000);
            CHECK(!restless);
            restless = wh_sites_watch(m, 0x7010 + i / every * 0x1000);
            CHECK_EQ(m->tired, 0);
            CHECK_EQ(s->slot[slot].tag, WH_SITE_NONE);
            CHECK(s->left[slot] == 0 || i == 31);
        }
        CHECK_EQ(restless, every < 3);
        CHECK_EQ(s->left[slot], restless ? INT16_MAX : WH_SITE_PATIENCE);
        CHECK_EQ(s->grade[slot], 1);
    }
    for (unsigned i = 0; i < 320; i++) {
        m->tired = 21;
        CHECK(!wh_sites_watch(m, 0x7010));
    }
    CHECK_EQ(s->left[20], WH_SITE_PATIENCE << 6); /* there is an end to patience */
    wh_sites_close(m);
}

int main(void)
{
    bench_open(&b, false);
    global_pages();
    fetches_of_address_spaces();
    fetches_again();
    jumps();
    sites_are_flushed();
    sites_of_address_spaces();
    sites_of_the_kernel();
    watched_sites();
    bench_close(&b);
    return check_failures != 0;
}
