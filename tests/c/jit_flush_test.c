/* What translated code remembers of translations, and whatever has to make it forget: a loop runs until it is
 * translated and has found its pages; then page tables change, the flush that announces it is made, and the next run
 * must see it - in user and supervisor mode, by slot and by page, alone and in groups. */
#include "jit_rig.h"

enum { V = 1, R = 2, W = 4, X = 8, U = 16, A = 64, D = 128 };
enum { ROUNDS = 200, ONE = 0x1111, OTHER = 0x2222 };
#define ROOT(n) (WH_RAM_BASE + 0x100000 + 0x10000 * (n)) /* two address spaces, the same tables below the first */
#define FIRST   (WH_RAM_BASE + 0x400000)
#define SECOND  (WH_RAM_BASE + 0x600000)
#define VA      0x40000000ull

struct machine {
    struct rig r;
    wh_hart *h;
    enum wh_priv priv;
    uint64_t bits; /* of pages of this privilege */
    bool group;
};

static void set_leaf(struct machine *m, unsigned space, uint64_t pa, uint64_t bits)
{
    poke64(&m->r.b, ROOT(space) + 0x2000, pa >> 12 << 10 | bits);
}

/* VA at pa, in a page of 4 KiB or of 2 MiB. */
static void map(struct machine *m, unsigned space, uint64_t pa, bool super)
{
    struct bench *b = &m->r.b;
    poke64(b, ROOT(space) + (VA >> 30) * 8, (ROOT(space) + 0x1000) >> 12 << 10 | V);
    poke64(b, ROOT(space) + 0x1000, super ? pa >> 12 << 10 | m->bits : (ROOT(space) + 0x2000) >> 12 << 10 | V);
    set_leaf(m, space, pa, m->bits);
    poke64(b, ROOT(space) + (WH_RAM_BASE >> 30) * 8, WH_RAM_BASE >> 12 << 10 | m->bits | X); /* the program */
}

static void be_in(struct machine *m, unsigned space)
{
    m->h->priv = m->priv;
    m->h->csr.satp = 8ull << 60 | (uint64_t)(space + 1) << 44 | ROOT(space) >> 12;
    wh_hart_update_mode(m->h);
}

/* a0 = what it loads at VA; a4, which counts, is stored there, too. */
static void write_program(struct machine *m)
{
    struct bench *b = &m->r.b;
    b->at = BENCH_CODE;
    emit(b, i_load(3, A0, A1, 0));
    for (int i = 1; i < (m->group ? 4 : 1); i++)
        emit(b, i_load(3, A2, A1, 16 * i));
    emit(b, i_store(3, A4, A1, 8));
    emit(b, i_addi(A4, A4, 1));
    const uint32_t back = (uint32_t)(BENCH_CODE - b->at);
    emit(b, 0x6f | (back >> 12 & 0xff) << 12 | (back >> 11 & 1) << 20 | (back >> 1 & 0x3ff) << 21 | 1u << 31); /* j */
}

static void open_machine(struct machine *m, enum wh_priv priv, bool slots, bool group)
{
    open_rig(&m->r, &(struct rig_kind){.arena = 1 << 20, .exact = true, .slots = slots});
    m->h = m->r.b.hart;
    m->priv = priv;
    m->bits = V | R | W | A | D | (priv == WH_PRIV_U ? U : 0);
    m->group = group;
    wh_pmp_set_addr(&m->h->mmu.pmp, 0, UINT64_MAX);
    wh_pmp_set_cfg(&m->h->mmu.pmp, 0, 0x1f);
    m->h->csr.mtvec = WH_RAM_BASE + 0x8000;
    poke32(&m->r.b, WH_RAM_BASE + 0x8000, I_SPIN);
    poke64(&m->r.b, FIRST, ONE);
    poke64(&m->r.b, SECOND, OTHER);
    write_program(m);
    map(m, 0, FIRST, false);
    map(m, 1, SECOND, false);
    be_in(m, 0);
}

/* The loop for so many rounds, from its beginning. 0: it was not interrupted; else the cause of its trap. */
static uint64_t run_rounds(struct machine *m, unsigned rounds)
{
    wh_hart *h = m->h;
    h->pc = BENCH_CODE;
    h->csr.mcause = 0;
    h->x[A0] = 0;
    h->x[A1] = VA;
    wh_hart_set_limit(h, wh_hart_steps(h) + rounds * (m->group ? 7 : 4));
    CHECK_EQ(wh_hart_run(h), WH_EXIT_LIMIT);
    return h->csr.mcause;
}

/* Hot, and what it found is remembered: the flush that follows has something to do. */
static void warm_up(struct machine *m)
{
    const wh_sites *s = m->h->mmu.sites;
    bool held = false;
    for (unsigned i = 0; i < 4; i++)
        CHECK_EQ(run_rounds(m, ROUNDS), 0);
    CHECK_EQ(m->h->x[A0], ONE);
    for (unsigned i = 0; i < WH_ARRAY_LEN(s->slot); i++)
        held |= s->slot[i].tag == VA;
    for (unsigned i = 0; i < WH_ARRAY_LEN(s->page_tag); i++)
        held |= s->page_tag[i] == VA;
    CHECK(held && m->r.jit->blocks > 0);
}

static void sees_other(struct machine *m)
{
    CHECK_EQ(run_rounds(m, 1), 0);
    CHECK_EQ(m->h->x[A0], OTHER);
    CHECK_EQ(peek64(&m->r.b, SECOND + 8), m->h->x[A4] - 1);
}

enum flush { PAGE, RANGE, ASID, ALL };
static void flush(struct machine *m, enum flush how)
{
    wh_mmu *mmu = &m->h->mmu;
    switch (how) {
    case PAGE:
        wh_mmu_flush_page(mmu, VA);
        return;
    case RANGE:
        wh_mmu_flush_range(mmu, VA - 0x2000, 5);
        return;
    case ASID:
        wh_mmu_flush_asid(mmu, 1);
        return;
    default:
        wh_mmu_flush_all(mmu);
    }
}

static void test_flushes(struct machine *m)
{
    for (enum flush how = PAGE; how <= ALL; how++)
        for (int away = 0; away < 2; away++) { /* announced where it holds, or in another address space */
            map(m, 0, FIRST, false);
            wh_mmu_flush_all(&m->h->mmu);
            warm_up(m);
            set_leaf(m, 0, SECOND, m->bits);
            if (away)
                be_in(m, 1);
            flush(m, how);
            be_in(m, 0);
            sees_other(m);
            set_leaf(m, 0, SECOND, 0); /* and not there any more */
            flush(m, how);
            CHECK_EQ(run_rounds(m, 1), WH_CAUSE_LOAD_PAGE);
            be_in(m, 0);
            set_leaf(m, 0, FIRST, m->bits & ~(uint64_t)W); /* only to read: the first store traps */
            flush(m, how);
            CHECK_EQ(run_rounds(m, 1), WH_CAUSE_STORE_PAGE);
            be_in(m, 0);
        }
}

static void test_superpage(struct machine *m)
{
    for (int which = 0; which < 2; which++) {
        map(m, 0, FIRST, true);
        wh_mmu_flush_all(&m->h->mmu);
        warm_up(m);
        map(m, 0, SECOND, true);
        wh_mmu_flush_page(&m->h->mmu, VA + (which ? 0x5000 : 0)); /* any page of it names all */
        sees_other(m);
    }
}

static void test_address_spaces(struct machine *m)
{
    map(m, 0, FIRST, false);
    wh_mmu_flush_all(&m->h->mmu);
    for (int turn = 0; turn < 3; turn++) {
        be_in(m, 0);
        warm_up(m);
        be_in(m, 1);
        sees_other(m);
    }
    m->h->csr.satp = 8ull << 60 | 1ull << 44 | ROOT(1) >> 12; /* another root, the same ASID, which was flushed */
    wh_mmu_flush_asid(&m->h->mmu, 1);
    wh_hart_update_mode(m->h);
    sees_other(m);
    be_in(m, 0);
}

/* The same code and address in the other privilege, which must not see these pages. */
static void test_privilege(struct machine *m)
{
    const enum wh_priv own = m->priv;
    map(m, 0, FIRST, false);
    wh_mmu_flush_all(&m->h->mmu);
    warm_up(m);
    poke64(&m->r.b, ROOT(0) + (WH_RAM_BASE >> 30) * 8, WH_RAM_BASE >> 12 << 10 | (m->bits ^ U) | X);
    m->priv = own == WH_PRIV_U ? WH_PRIV_S : WH_PRIV_U;
    be_in(m, 0);
    CHECK_EQ(run_rounds(m, 1), WH_CAUSE_LOAD_PAGE);
    m->priv = own;
    map(m, 0, FIRST, false);
    wh_mmu_flush_all(&m->h->mmu);
    be_in(m, 0);
    warm_up(m);
}

static bool is_dirty(struct machine *m, uint64_t pa)
{
    const uint64_t page = (pa - WH_RAM_BASE) >> WH_PAGE_SHIFT;
    return atomic_load(&m->r.b.ram.share->dirty[page / 64]) >> page % 64 & 1;
}

static void test_dirty_rounds(struct machine *m)
{
    const uint64_t page = (FIRST - WH_RAM_BASE) >> WH_PAGE_SHIFT;
    atomic_store(&m->r.b.ram.share->tracking, 1);
    for (int round = 0; round < 3; round++) {
        wh_mmu_drop_stores(&m->h->mmu);
        atomic_fetch_and(&m->r.b.ram.share->dirty[page / 64], ~(1ull << page % 64));
        CHECK_EQ(run_rounds(m, 1), 0);
        CHECK(is_dirty(m, FIRST));
        warm_up(m);
    }
}

int main(void)
{
    for (int kind = 0; kind < 8 && check_failures == 0; kind++) {
        struct machine m = {0};
        open_machine(&m, kind & 1 ? WH_PRIV_U : WH_PRIV_S, kind & 1 || kind & 2, kind & 4);
        test_flushes(&m);
        test_superpage(&m);
        test_address_spaces(&m);
        test_privilege(&m);
        test_dirty_rounds(&m);
        if (check_failures != 0)
            printf("kind %d\n", kind);
        close_rig(&m.r);
    }
    return check_failures != 0;
}
