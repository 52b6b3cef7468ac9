/* An instruction across two pages, translated: what it does is decided by both pages as they are mapped now. */
#include "jit/cache.h"
#include "jit_rig.h"

#define VIRTUAL 0x40000000ull /* a page and the one behind it */
#define SPLIT   (VIRTUAL + WH_PAGE_SIZE - 2)
#define FIRST   (WH_RAM_BASE + 0x10000)  /* where the first one leads */
#define SECOND  (WH_RAM_BASE + 0x20000)  /* where the other leads: one of two pages */
#define TABLES  (WH_RAM_BASE + 0x100000) /* an address space has three pages of them */

static uint64_t leaf_of(unsigned space)
{
    return TABLES + space * 0x10000ull + 0x2000;
}

static void map_second(struct bench *b, unsigned space, uint64_t pa)
{
    poke64(b, leaf_of(space) + 8, pa == 0 ? 0 : pa >> 12 << 10 | 0xcb); /* V R X A D */
}

static void enter_space(struct bench *b, unsigned space)
{
    uint64_t root = TABLES + space * 0x10000ull;
    poke64(b, root + 8, (root + 0x1000) >> 12 << 10 | 1);
    poke64(b, root + 0x1000, leaf_of(space) >> 12 << 10 | 1);
    poke64(b, leaf_of(space), FIRST >> 12 << 10 | 0xcb);
    b->hart->csr.satp = 8ull << 60 | (uint64_t)space << 44 | root >> 12;
    wh_hart_update_mode(b->hart);
}

/* addi a0, a0, n, its second half in the page at pa; then a jump back to it. */
static void write_pair(struct bench *b, uint64_t pa, uint32_t n)
{
    uint32_t insn = 0x00050513 | n << 20, jump = 0xffdff06f; /* j -4 */
    memcpy(wh_ram_at(&b->ram, FIRST + WH_PAGE_SIZE - 2, 2), &insn, 2);
    memcpy(wh_ram_at(&b->ram, pa, 2), (const uint8_t *)&insn + 2, 2);
    memcpy(wh_ram_at(&b->ram, pa + 2, 4), &jump, 4);
}

static void open_spaces(struct rig *r)
{
    open_rig(r, &(struct rig_kind){.arena = 1 << 20, .exact = true});
    wh_pmp_set_addr(&r->b.hart->mmu.pmp, 0, UINT64_MAX);
    wh_pmp_set_cfg(&r->b.hart->mmu.pmp, 0, 0x1f);
    r->b.hart->priv = WH_PRIV_S;
    write_pair(&r->b, SECOND, 1);
    write_pair(&r->b, SECOND + WH_PAGE_SIZE, 2);
}

/* Steps in the loop; returns by how much a0 grew in each round of it. */
static uint64_t growth(struct bench *b)
{
    enum { ROUNDS = 50 };
    wh_hart *h = b->hart;
    uint64_t before = h->x[A0];
    h->pc = SPLIT;
    wh_hart_set_limit(h, wh_hart_steps(h) + 2 * (uint64_t)ROUNDS);
    CHECK_EQ(wh_hart_run(h), WH_EXIT_LIMIT);
    CHECK_EQ(h->pc, SPLIT);
    return (h->x[A0] - before) / ROUNDS;
}

static void follows_the_mapping(void)
{
    struct rig r;
    open_spaces(&r);
    enter_space(&r.b, 0);
    for (unsigned i = 0; i < 6; i++) {
        map_second(&r.b, 0, SECOND + i % 2 * WH_PAGE_SIZE);
        wh_mmu_flush_page(&r.b.hart->mmu, VIRTUAL + WH_PAGE_SIZE);
        CHECK_EQ(growth(&r.b), 1 + i % 2);
    }
    CHECK(r.jit->blocks >= 3); /* it was the translator: the instruction, and a jump in each page */
    close_rig(&r);
}

static void follows_the_address_space(void)
{
    struct rig r;
    open_spaces(&r);
    for (unsigned i = 0; i < 8; i++) {
        map_second(&r.b, i % 2, SECOND + i % 2 * WH_PAGE_SIZE);
        enter_space(&r.b, i % 2);
        CHECK_EQ(growth(&r.b), 1 + i % 2);
    }
    close_rig(&r);
}

static void follows_changed_code(void)
{
    struct rig r;
    open_spaces(&r);
    map_second(&r.b, 0, SECOND);
    enter_space(&r.b, 0);
    for (unsigned i = 0; i < 20; i++) {
        write_pair(&r.b, SECOND, 1 + i % 5);
        wh_hart_request_fence(r.b.hart, WH_FENCE_I);
        CHECK_EQ(growth(&r.b), 1 + i % 5);
    }
    CHECK(r.jit->discarded >= 10);
    close_rig(&r);
}

static void traps_where_the_second_half_is_missing(void)
{
    struct rig r;
    open_spaces(&r);
    wh_hart *h = r.b.hart;
    map_second(&r.b, 0, SECOND);
    enter_space(&r.b, 0);
    CHECK_EQ(growth(&r.b), 1);
    map_second(&r.b, 0, 0);
    wh_mmu_flush_page(&h->mmu, VIRTUAL + WH_PAGE_SIZE);
    h->csr.mtvec = BENCH_CODE;
    h->pc = SPLIT;
    wh_hart_set_limit(h, wh_hart_steps(h) + 1);
    CHECK_EQ(wh_hart_run(h), WH_EXIT_LIMIT);
    CHECK_EQ(h->csr.mcause, WH_CAUSE_FETCH_PAGE);
    CHECK_EQ(h->csr.mepc, SPLIT);
    CHECK_EQ(h->csr.mtval, VIRTUAL + WH_PAGE_SIZE);
    CHECK_EQ(h->pc, BENCH_CODE);
    close_rig(&r);
}

int main(void)
{
    follows_the_mapping();
    follows_the_address_space();
    follows_changed_code();
    traps_where_the_second_half_is_missing();
    return check_failures != 0;
}
