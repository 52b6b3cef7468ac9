/* Remote fences: a range drops its own translations and no others, an address space its own, a flood everything. */
#include "cpu_check.h"

enum { PAGES = 128 };
static struct bench b;

/* Bare translation is enough: what is asked is which entries survive. */
static void touch(void)
{
    uint64_t pa;
    uint8_t *host;
    for (uint64_t i = 0; i < PAGES; i++)
        CHECK_EQ(wh_mmu_data(&b.hart->mmu, WH_RAM_BASE + i * WH_PAGE_SIZE, 8, WH_LOAD, &pa, &host), 0);
}

static bool cached(uint64_t page)
{
    const wh_mmu *m = &b.hart->mmu;
    uint64_t va = WH_RAM_BASE + page * WH_PAGE_SIZE;
    return m->load[(va >> WH_PAGE_SHIFT) % WH_TLB_ENTRIES].tag == ((va >> WH_PAGE_SHIFT) | m->data_context);
}

static unsigned survivors(void)
{
    unsigned n = 0;
    for (uint64_t i = 0; i < PAGES; i++)
        n += cached(i);
    return n;
}

static unsigned after(uint64_t page, uint64_t bytes, uint32_t asid)
{
    touch();
    CHECK_EQ(survivors(), PAGES);
    uint64_t start = page == UINT64_MAX ? 0 : WH_RAM_BASE + page * WH_PAGE_SIZE;
    wh_hart_request_fence_range(b.hart, start, bytes, asid);
    wh_serve_fences(b.hart);
    CHECK(wh_hart_fences_done(b.hart));
    return survivors();
}

static void ranges(void)
{
    CHECK_EQ(after(3, WH_PAGE_SIZE, WH_ANY_ASID), PAGES - 1);
    CHECK(!cached(3) && cached(2) && cached(4));
    CHECK_EQ(after(3, 1, WH_ANY_ASID), PAGES - 1);
    CHECK_EQ(after(3, WH_PAGE_SIZE + 1, WH_ANY_ASID), PAGES - 2);
    CHECK_EQ(after(0, 64 * WH_PAGE_SIZE, WH_ANY_ASID), PAGES - 64);
    CHECK_EQ(after(0, 65 * WH_PAGE_SIZE, WH_ANY_ASID), 0);
    CHECK_EQ(after(UINT64_MAX, 0, WH_ANY_ASID), 0);
    CHECK_EQ(after(5, UINT64_MAX, WH_ANY_ASID), 0);
    CHECK_EQ(after(5, 0, WH_ANY_ASID), PAGES); /* no bytes */
}

static void address_spaces(void)
{
    wh_mmu *m = &b.hart->mmu;
    uint64_t root = WH_RAM_BASE + 0x100000, pa;
    uint8_t *host;
    poke64(&b, root + 2 * 8, WH_RAM_BASE >> 12 << 10 | 0xcf); /* a gigabyte of RAM: V R W X A D */
    wh_pmp_set_addr(&m->pmp, 0, UINT64_MAX);
    wh_pmp_set_cfg(&m->pmp, 0, 0x1f);
    for (uint64_t asid = 7; asid < 9; asid++) {
        wh_mmu_context(m, WH_PRIV_S, WH_PRIV_S, false, false, 8ull << 60 | asid << 44 | root >> 12);
        CHECK_EQ(wh_mmu_data(m, WH_RAM_BASE, 8, WH_LOAD, &pa, &host), 0);
    }
    wh_hart_request_fence_range(b.hart, 0, UINT64_MAX, 7);
    wh_serve_fences(b.hart);
    CHECK(cached(0)); /* that of 8 */
    wh_hart_request_fence_range(b.hart, 0, UINT64_MAX, 8);
    wh_serve_fences(b.hart);
    CHECK(!cached(0));
    wh_mmu_context(m, WH_PRIV_M, WH_PRIV_M, false, false, 0);
}

static void more_than_the_list_holds(void)
{
    touch();
    for (uint64_t i = 0; i < 9; i++)
        wh_hart_request_fence_range(b.hart, WH_RAM_BASE + i * WH_PAGE_SIZE, 1, WH_ANY_ASID);
    wh_serve_fences(b.hart);
    CHECK_EQ(survivors(), 0);
    CHECK_EQ(after(1, 1, WH_ANY_ASID), PAGES - 1); /* and it has room again */
}

int main(void)
{
    bench_open(&b, false);
    ranges();
    address_spaces();
    more_than_the_list_holds();
    bench_close(&b);
    return check_failures != 0;
}
