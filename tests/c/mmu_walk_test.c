/* Page walks of every depth, permissions, A/D, PMP, TLB upkeep; and random PTEs, which must never lead outside RAM. */
#include "mmu_rig.h"

static void depths_and_superpages(void)
{
    static const uint64_t high[3] = {0xffffffc012345000, 0xffff8fff12345000, 0xff00123412345000};
    for (int levels = 3; levels <= 5; levels++)
        for (int leaf = 0; leaf < 2; leaf++) {
            wh_mmu *m = fresh(levels, WH_PRIV_S);
            uint64_t va = high[levels - 3], pa = 0, base = leaf ? TARGET & ~0x1fffffull : TARGET;
            map(levels, va, base, leaf, V | R | W | X | A | D);
            CHECK_EQ(access_va(m, va + 0x678, WH_LOAD, &pa), 0);
            CHECK_EQ(pa, leaf ? base + (va & 0x1fffff) + 0x678 : base + 0x678);
            CHECK_EQ(access_va(m, va + (leaf ? 0x200000 : 0x1000), WH_LOAD, &pa), WH_CAUSE_LOAD_PAGE);
            CHECK_EQ(access_va(m, va ^ 1ull << 62, WH_LOAD, &pa), WH_CAUSE_LOAD_PAGE); /* not canonical */
            CHECK_EQ(access_va(m, va ^ 1ull << 62, WH_STORE, &pa), WH_CAUSE_STORE_PAGE);
            CHECK_EQ(access_va(m, va ^ 1ull << 62, WH_FETCH, &pa), WH_CAUSE_FETCH_PAGE);
        }
    wh_mmu *m = fresh(3, WH_PRIV_S);
    uint64_t pa;
    map(3, 0x40000000, TARGET + 0x1000, 1, V | R | A | D);
    CHECK_EQ(access_va(m, 0x40000000, WH_LOAD, &pa), WH_CAUSE_LOAD_PAGE); /* misaligned superpage */
}

static void permissions(void)
{
    const uint64_t va = 0x1000;
    uint64_t pa;
    static const struct {
        uint64_t bits;
        enum wh_priv priv;
        bool sum, mxr;
        enum wh_access access;
        int cause;
    } table[] = {
        {V | R | U, WH_PRIV_U, false, false, WH_LOAD, 0},
        {V | R | U, WH_PRIV_U, false, false, WH_STORE, WH_CAUSE_STORE_PAGE},
        {V | R | U, WH_PRIV_U, false, false, WH_FETCH, WH_CAUSE_FETCH_PAGE},
        {V | R, WH_PRIV_U, false, false, WH_LOAD, WH_CAUSE_LOAD_PAGE},
        {V | R | U, WH_PRIV_S, false, false, WH_LOAD, WH_CAUSE_LOAD_PAGE},
        {V | R | U, WH_PRIV_S, true, false, WH_LOAD, 0},
        {V | R | W | X | U, WH_PRIV_S, true, false, WH_FETCH, WH_CAUSE_FETCH_PAGE},
        {V | X, WH_PRIV_S, false, false, WH_LOAD, WH_CAUSE_LOAD_PAGE},
        {V | X, WH_PRIV_S, false, true, WH_LOAD, 0},
        {V | X, WH_PRIV_S, false, false, WH_FETCH, 0},
        {V | W, WH_PRIV_S, false, false, WH_STORE, WH_CAUSE_STORE_PAGE},
        {R | W, WH_PRIV_S, false, false, WH_STORE, WH_CAUSE_STORE_PAGE},
        {V | R | 1ull << 54, WH_PRIV_S, false, false, WH_LOAD, WH_CAUSE_LOAD_PAGE},
        {V | R | 1ull << 63, WH_PRIV_S, false, false, WH_LOAD, WH_CAUSE_LOAD_PAGE},
    };
    for (size_t i = 0; i < WH_ARRAY_LEN(table); i++) {
        wh_mmu *m = fresh(3, table[i].priv);
        wh_mmu_context(m, table[i].priv, table[i].priv, table[i].sum, table[i].mxr, m->satp);
        map(3, va, TARGET, 0, table[i].bits | A | D);
        int cause = access_va(m, va, table[i].access, &pa);
        if (cause != table[i].cause) {
            printf("row %zu: cause %d, not %d\n", i, cause, table[i].cause);
            check_failures++;
        }
    }
}

static void accessed_and_dirty(void)
{
    wh_mmu *m = fresh(4, WH_PRIV_S);
    uint64_t pa, leaf = map(4, 0x5000, TARGET, 0, V | R | W);
    CHECK_EQ(access_va(m, 0x5000, WH_LOAD, &pa), 0);
    CHECK_EQ(peek64(&b, leaf) & (A | D), A);
    CHECK_EQ(access_va(m, 0x5000, WH_STORE, &pa), 0);
    CHECK_EQ(peek64(&b, leaf) & (A | D), A | D);
    poke64(&b, leaf, TARGET >> 12 << 10 | V | R | W);
    m->adue = false;
    wh_mmu_flush_all(m);
    CHECK_EQ(access_va(m, 0x5000, WH_LOAD, &pa), WH_CAUSE_LOAD_PAGE);
    poke64(&b, leaf, TARGET >> 12 << 10 | V | R | W | A);
    CHECK_EQ(access_va(m, 0x5000, WH_LOAD, &pa), 0);
    CHECK_EQ(access_va(m, 0x5000, WH_STORE, &pa), WH_CAUSE_STORE_PAGE);
}

/* Svpbmt: types 1 and 2 translate as 0 does once PBMTE allows them, 3 is reserved, and pointers have none. */
static void memory_types(void)
{
    uint64_t pa;
    for (uint64_t type = 0; type < 4; type++)
        for (int on = 0; on < 2; on++) {
            wh_mmu *m = fresh(3, WH_PRIV_S);
            m->pbmte = on;
            map(3, 0x9000, TARGET, 0, V | R | A | type << 61);
            bool good = type == 0 || (on && type != 3);
            CHECK_EQ(access_va(m, 0x9123, WH_LOAD, &pa), good ? 0 : WH_CAUSE_LOAD_PAGE);
            if (good)
                CHECK_EQ(pa, TARGET + 0x123);
            m = fresh(3, WH_PRIV_S);
            m->pbmte = on;
            map(3, 0x9000, TARGET, 0, V | R | A);
            poke64(&b, TABLES, peek64(&b, TABLES) | type << 61); /* the pointer at the root */
            CHECK_EQ(access_va(m, 0x9123, WH_LOAD, &pa), type == 0 ? 0 : WH_CAUSE_LOAD_PAGE);
        }
}

/* Svnapot: 64 KiB by ppn[3:0] = 1000 in a lowest-level leaf; every other use of N is reserved. */
static void napot(void)
{
    const uint64_t va = 0x50000, n = 1ull << 63, base = TARGET, coded = base + 0x8000;
    uint64_t pa;
    wh_mmu *m = fresh(3, WH_PRIV_S);
    m->napot = true;
    for (uint64_t page = 0; page < 16; page++)
        map(3, va + page * 0x1000, coded, 0, V | R | W | n);
    uint64_t leaf = map(3, va + 0x3000, coded, 0, V | R | W | n);
    for (uint64_t page = 0; page < 16; page++) {
        CHECK_EQ(access_va(m, va + page * 0x1000 + 0x10, WH_STORE, &pa), 0);
        CHECK_EQ(pa, base + page * 0x1000 + 0x10);
    }
    CHECK_EQ(peek64(&b, leaf), coded >> 12 << 10 | V | R | W | A | D | n); /* the PPN's code stays */
    CHECK_EQ(access_va(m, va + 0x7000, WH_LOAD, &pa), 0);
    CHECK(m->load[(va + 0x7000) >> 12].tag == ((va + 0x7000) >> 12 | m->data_context));
    wh_mmu_flush_page(m, va); /* any address of the region */
    CHECK(m->load[(va + 0x7000) >> 12].tag != ((va + 0x7000) >> 12 | m->data_context));
    m->napot = false;
    CHECK_EQ(access_va(m, va, WH_LOAD, &pa), WH_CAUSE_LOAD_PAGE);
    for (uint64_t low = 0; low < 16; low++) {
        m = fresh(3, WH_PRIV_S);
        m->napot = true;
        map(3, va, base + low * 0x1000, 0, V | R | A | n);
        CHECK_EQ(access_va(m, va, WH_LOAD, &pa), low == 8 ? 0 : WH_CAUSE_LOAD_PAGE);
    }
    m = fresh(3, WH_PRIV_S);
    m->napot = true;
    map(3, 0x40000000, coded, 1, V | R | A | n); /* a superpage */
    CHECK_EQ(access_va(m, 0x40000000, WH_LOAD, &pa), WH_CAUSE_LOAD_PAGE);
    map(3, va, base, 0, V | R | A);
    poke64(&b, TABLES, peek64(&b, TABLES) | n); /* a pointer */
    CHECK_EQ(access_va(m, va, WH_LOAD, &pa), WH_CAUSE_LOAD_PAGE);
}

static void pmp(void)
{
    wh_pmp p;
    memset(&p, 0, sizeof(p));
    CHECK(wh_pmp_allows(&p, 0x1000, 8, WH_STORE, WH_PRIV_M));
    CHECK(!wh_pmp_allows(&p, 0x1000, 8, WH_LOAD, WH_PRIV_S)); /* no entry matches */
    wh_pmp_set_addr(&p, 0, 0x2000 >> 2 | 0x1ff);              /* NAPOT 4 KiB at 0x2000 */
    wh_pmp_set_cfg(&p, 0, 0x19);
    CHECK(wh_pmp_allows(&p, 0x2ff8, 8, WH_LOAD, WH_PRIV_U));
    CHECK(!wh_pmp_allows(&p, 0x2ff8, 8, WH_STORE, WH_PRIV_U));
    CHECK(!wh_pmp_allows(&p, 0x2ffc, 8, WH_LOAD, WH_PRIV_U)); /* half in */
    CHECK(!wh_pmp_allows(&p, 0x2ffc, 8, WH_LOAD, WH_PRIV_M)); /* a partial match fails for M too */
    CHECK(!wh_pmp_allows(&p, 0x1ffc, 8, WH_LOAD, WH_PRIV_M));
    wh_pmp_set_addr(&p, 1, 0x4004 >> 2);
    wh_pmp_set_cfg(&p, 1, 0x17); /* NA4 RWX */
    CHECK(wh_pmp_allows(&p, 0x4004, 4, WH_FETCH, WH_PRIV_S));
    CHECK(!wh_pmp_page_uniform(&p, 0x4000));
    CHECK(wh_pmp_page_uniform(&p, 0x2000));
    wh_pmp_set_addr(&p, 2, 0x8000 >> 2);
    wh_pmp_set_addr(&p, 3, 0x9000 >> 2);
    wh_pmp_set_cfg(&p, 3, 0x89); /* TOR R, locked: also binds M, and locks address 2 */
    CHECK(wh_pmp_allows(&p, 0x8800, 4, WH_LOAD, WH_PRIV_S));
    CHECK(!wh_pmp_allows(&p, 0x8800, 4, WH_STORE, WH_PRIV_M));
    wh_pmp_set_cfg(&p, 3, 0x0f);
    wh_pmp_set_addr(&p, 2, 0);
    wh_pmp_set_addr(&p, 3, 0);
    CHECK_EQ(p.cfg[3], 0x89);
    CHECK_EQ(p.addr[2], 0x8000 >> 2);
    CHECK_EQ(p.addr[3], 0x9000 >> 2);
    memset(&p, 0, sizeof(p));
    wh_pmp_set_addr(&p, 0, UINT64_MAX);
    wh_pmp_set_cfg(&p, 0, 0x1f);
    CHECK(wh_pmp_allows(&p, 0, 8, WH_LOAD, WH_PRIV_U) && wh_pmp_allows(&p, WH_RAM_BASE, 8, WH_FETCH, WH_PRIV_U));
}

static bool cached(const wh_mmu *m, uint64_t va)
{
    return m->load[(va >> 12) % WH_TLB_ENTRIES].tag == (va >> 12 | m->data_context);
}

static void tlb(void)
{
    wh_mmu *m = fresh(3, WH_PRIV_S);
    uint64_t pa, satp = m->satp, other = satp | 7ull << 44;
    map(3, 0x7000, TARGET, 0, V | R | W | A | D);
    map(3, 0x40000000, TARGET & ~0x1fffffull, 1, V | R | W | A | D);
    map(3, 0x9000, TARGET, 0, V | R | W | A | D);
    CHECK_EQ(access_va(m, 0x7000, WH_LOAD, &pa), 0);
    CHECK(cached(m, 0x7000));
    wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, other);
    CHECK(!cached(m, 0x7000)); /* another ASID does not see it ... */
    wh_mmu_context(m, WH_PRIV_U, WH_PRIV_U, false, false, satp);
    CHECK(!cached(m, 0x7000)); /* nor another privilege ... */
    wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, satp);
    CHECK_EQ(access_va(m, 0x9000, WH_LOAD, &pa), 0); /* not a global page */
    CHECK(cached(m, 0x7000));                        /* and it is still there on return */
    wh_mmu_flush_asid(m, 7);
    CHECK(cached(m, 0x7000));
    wh_mmu_flush_page(m, 0x8000);
    CHECK(cached(m, 0x7000));
    wh_mmu_flush_page(m, 0x7000);
    CHECK(!cached(m, 0x7000));
    CHECK_EQ(access_va(m, 0x7000, WH_LOAD, &pa), 0);
    wh_mmu_flush_asid(m, 0);
    CHECK(!cached(m, 0x7000));
    CHECK_EQ(access_va(m, 0x40003000, WH_LOAD, &pa), 0);
    wh_mmu_flush_page(m, 0x40000000); /* one page named, the whole superpage goes */
    CHECK(!cached(m, 0x40003000));
    CHECK_EQ(access_va(m, 0x7000, WH_STORE, &pa), 0);
    CHECK(m->store[7].tag == (7 | m->data_context));
    wh_mmu_drop_stores(m);
    CHECK(m->store[7].tag != (7 | m->data_context));
    CHECK_EQ(access_va(m, 0x7000, WH_LOAD, &pa), 0);
    for (int n = 0; n < 20000; n++) { /* a number must not come back while its entries are there */
        wh_mmu_flush_all(m);
        CHECK(!cached(m, 0x7000));
    }
    for (int n = 0; n < 20000; n++) { /* context numbers run out several times */
        wh_mmu_flush_all(m);
        CHECK(!cached(m, 0x7000));
        if (n % 100 == 0) {
            CHECK_EQ(access_va(m, 0x7000, WH_LOAD, &pa), 0);
            CHECK(cached(m, 0x7000));
        }
    }
}

static void random_tables(void)
{
    uint64_t seed = 7, pa, hits = 0;
    for (int round = 0; round < 200; round++) {
        wh_mmu *m = fresh(3 + round % 3, round & 1 ? WH_PRIV_S : WH_PRIV_U);
        m->pbmte = round & 2;
        m->napot = round & 4;
        m->adue = (round & 24) != 0;
        for (int i = 0; i < 512 * 8; i++) {
            uint64_t r = check_random(&seed), pte = r;
            if (r & 0x300) /* a pointer to one of these tables ... */
                pte = ((TABLES >> 12) + (r >> 32) % 8) << 10 | V;
            else if (r & 0xc00) /* ... or a leaf in RAM or just beyond it */
                pte = ((WH_RAM_BASE >> 12) + (r >> 32) % 0x1400) << 10 | (r >> 16 & 0xff) | V;
            if ((r & 0xf000) == 0) /* the attributes of Svnapot and Svpbmt, and what is reserved */
                pte |= (r >> 24 & 0xff) << 56;
            poke64(&b, TABLES + (uint64_t)i * 8, pte);
        }
        for (int i = 0; i < 2000; i++) {
            uint64_t r = check_random(&seed);
            enum wh_access access = (enum wh_access)(r % 3);
            uint64_t va = i & 1 ? r : (uint64_t)((int64_t)(r << 25) >> 25);
            int cause = access_va(m, va, access, &pa);
            CHECK(cause == 0 || cause == wh_access_fault(access) || cause == wh_page_fault(access));
            if (cause == 0 && access != WH_FETCH) {
                const wh_tlb_entry *e = &(access == WH_STORE ? m->store : m->load)[(va >> 12) % WH_TLB_ENTRIES];
                uint64_t host = va + e->addend, low = (uintptr_t)b.ram.host;
                bool in_ram = wh_ram_at(&b.ram, pa, 4) != NULL;
                bool hit = e->tag == ((va >> 12) | m->data_context);
                CHECK(!hit || !in_ram || host - low == pa - WH_RAM_BASE);
                hits += hit;
            }
        }
    }
    CHECK(hits > 800); /* the test reaches what it is about */
}

/* Two pages that displace each other in the first level stay in the second: what is remembered is seen by a change of
 * their PTEs, and goes where the first level's entries go. */
static void second_level(void)
{
    const uint64_t one = 0x40000000, other = one + ((uint64_t)WH_TLB_ENTRIES << WH_PAGE_SHIFT);
    wh_mmu *m = fresh(3, WH_PRIV_S);
    uint64_t pa, leaf = map(3, one, TARGET, 0, V | R | W | A | D);
    map(3, other, TARGET + 0x1000, 0, V | R | W | A | D);
    for (enum wh_access access = WH_LOAD; access <= WH_STORE; access++) {
        CHECK_EQ(access_va(m, one, access, &pa), 0);
        CHECK_EQ(access_va(m, other, access, &pa), 0);
        poke64(&b, leaf, 0);
        uint64_t walks = m->misses;
        CHECK_EQ(access_va(m, one + 8, access, &pa), 0);
        CHECK_EQ(pa, TARGET + 8);
        CHECK_EQ(access_va(m, other + 8, access, &pa), 0);
        CHECK_EQ(pa, TARGET + 0x1008);
        CHECK_EQ(m->misses, walks);
        wh_mmu_flush_page(m, one);
        CHECK_EQ(access_va(m, one, access, &pa), wh_page_fault(access));
        CHECK_EQ(access_va(m, other, access, &pa), 0);
        CHECK_EQ(m->misses, walks + 1);
        poke64(&b, leaf, TARGET >> 12 << 10 | V | R | W | A | D);
        CHECK_EQ(access_va(m, one, access, &pa), 0);
        wh_mmu_context(m, WH_PRIV_S, WH_PRIV_U, false, false, m->satp); /* another mode sees none of it */
        CHECK_EQ(access_va(m, one, access, &pa), wh_page_fault(access));
        wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, m->satp);
        poke64(&b, leaf, 0);
        wh_mmu_flush_all(m);
        CHECK_EQ(access_va(m, one, access, &pa), wh_page_fault(access));
        poke64(&b, leaf, TARGET >> 12 << 10 | V | R | W | A | D);
    }
    /* A new dirty round: both pages are marked again by the first store. */
    CHECK_EQ(access_va(m, one, WH_STORE, &pa), 0);
    CHECK_EQ(access_va(m, other, WH_STORE, &pa), 0);
    uint64_t walks = m->misses;
    wh_mmu_drop_stores(m);
    CHECK_EQ(access_va(m, one, WH_STORE, &pa), 0);
    CHECK_EQ(access_va(m, other, WH_STORE, &pa), 0);
    CHECK_EQ(m->misses, walks + 2);
}

int main(void)
{
    bench_open(&b, false);
    second_level();
    depths_and_superpages();
    permissions();
    accessed_and_dirty();
    memory_types();
    napot();
    pmp();
    tlb();
    random_tables();
    bench_close(&b);
    return check_failures != 0;
}
