/* Page walks of every depth, permissions, A/D, PMP, TLB upkeep; and random PTEs, which must never lead outside RAM. */
#include "cpu_check.h"

enum { V = 1, R = 2, W = 4, X = 8, U = 16, G = 32, A = 64, D = 128 };
#define TABLES (WH_RAM_BASE + 0x100000)
#define TARGET (WH_RAM_BASE + 0x400000)

static struct bench b;
static uint64_t next_table;

/* Map va at pa with a leaf at `leaf_level`; returns the address of the leaf PTE. */
static uint64_t map(int levels, uint64_t va, uint64_t pa, int leaf_level, uint64_t bits)
{
    uint64_t table = TABLES;
    for (int level = levels - 1; level > leaf_level; level--) {
        uint64_t at = table + (va >> (12 + 9 * level) & 511) * 8;
        if (!(peek64(&b, at) & V)) {
            next_table += 4096;
            poke64(&b, at, next_table >> 12 << 10 | V);
        }
        table = peek64(&b, at) >> 10 << 12;
    }
    uint64_t leaf = table + (va >> (12 + 9 * leaf_level) & 511) * 8;
    poke64(&b, leaf, pa >> 12 << 10 | bits);
    return leaf;
}

static wh_mmu *fresh(int levels, enum wh_priv priv)
{
    wh_mmu *m = &b.hart->mmu;
    memset(wh_ram_at(&b.ram, TABLES, 0x100000), 0, 0x100000);
    next_table = TABLES;
    wh_mmu_init(m, &b.ram);
    wh_pmp_set_addr(&m->pmp, 0, UINT64_MAX);
    wh_pmp_set_cfg(&m->pmp, 0, 0x1f);
    uint64_t mode = levels == 3 ? 8 : levels == 4 ? 9 : 10;
    wh_mmu_context(m, priv, priv, false, false, mode << 60 | TABLES >> 12);
    return m;
}

static int access_va(wh_mmu *m, uint64_t va, enum wh_access access, uint64_t *pa)
{
    uint8_t *host;
    bool whole;
    return access == WH_FETCH ? wh_mmu_fetch(m, va, 4, pa, &host, &whole) : wh_mmu_data(m, va, 4, access, pa, &host);
}

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

static uint64_t walks_of(wh_mmu *m, uint64_t va, enum wh_access access, int cause)
{
    uint64_t before = m->misses, pa;
    CHECK_EQ(access_va(m, va, access, &pa), cause);
    return m->misses - before;
}

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
    second_level();
    fetches_again();
    jumps();
    sites_are_flushed();
    sites_of_address_spaces();
    sites_of_the_kernel();
    watched_sites();
    global_pages();
    fetches_of_address_spaces();
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
