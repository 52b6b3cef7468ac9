/* The interpreter's variants do the same: random programs, some of them loops, run by the plain one or the tier until
 * a slice ends somewhere, and from the same start by the exact one, by steps and one operation at a time up to the same
 * instruction. Registers, CSRs and RAM must be equal then. Also: where each variant stops. */
#include "cpu_program.h"

enum variant { PLAIN, TIER, EXACT, STEP, ONE, VARIANTS };
static struct bench benches[VARIANTS];
static unsigned hot_exits;

/* The tier stopped before hot code: what it says must be so, and it shall go on counting. */
static void cool(wh_hart *h)
{
    const wh_tlb_entry *e = wh_mmu_fetch_slot(&h->mmu, h->pc);
    const wh_insn *page = (const wh_insn *)(uintptr_t)e->addend;
    uint8_t *heat = wh_code_heat(&h->code, page + (h->pc & (WH_PAGE_SIZE - 1)) / 2);
    CHECK_EQ(e->tag, (h->pc >> WH_PAGE_SHIFT) | h->mmu.fetch_context);
    CHECK_EQ(*heat, WH_HEAT_HOT);
    *heat = 0;
    hot_exits++;
}

/* Up to the end of the slice in which instruction `wanted` lies; how many were executed. */
static uint64_t run_loose(wh_hart *h, enum variant v, uint64_t wanted)
{
    unsigned attempts = 500; /* a guest may trap for ever, and each trap ends a slice */
    int why = 0;
    wh_fp_enter(h);
    while (wh_hart_retired(h) < wanted && why != WH_EXIT_WEDGED && attempts-- > 0) {
        h->retired = wh_hart_retired(h);
        h->budget = h->slice = (int64_t)(wanted - h->retired);
        wh_hart_attention(h);
        why = v == PLAIN ? wh_interp_run(h) : wh_interp_run_tier(h);
        if (why == WH_EXIT_HOT)
            cool(h);
        else
            CHECK(why == WH_EXIT_ATTENTION || why == WH_EXIT_WEDGED);
    }
    wh_fp_leave(h);
    return wh_hart_retired(h);
}

static int one_instruction(wh_hart *h)
{
    wh_insn i = {.op = WH_OP_UNDECODED};
    uint32_t bits;
    if ((h->retired & 3) != 0 && wh_fetch_bits(h, h->pc, &bits) == 0)
        (void)wh_decode(bits, h->pc & (WH_PAGE_SIZE - 1), &i);
    h->retired = wh_hart_retired(h);
    h->budget = h->slice = 1;
    int why = wh_interp_one(h, &i);
    h->recheck = false;
    return why;
}

/* Up to `count` instructions, at most `attempts` of them or traps on the way: a guest may trap for ever. */
static void run_to(wh_hart *h, enum variant v, uint64_t count, uint64_t attempts)
{
    uint64_t done;
    wh_fp_enter(h);
    while ((done = wh_hart_retired(h)) < count && attempts-- > 0) {
        int why;
        if (v == EXACT) {
            h->retired = done;
            h->budget = h->slice = (int64_t)(count - done);
            why = wh_interp_run_exact(h);
            CHECK(wh_hart_retired(h) <= count);
        } else {
            why = v == STEP ? wh_interp_step(h) : one_instruction(h);
            CHECK(wh_hart_retired(h) <= done + 1);
        }
        CHECK(why == WH_EXIT_SLICE || why == WH_EXIT_WEDGED || (v == ONE && (why == 0 || why == WH_EXIT_LOOKUP)));
    }
    wh_fp_leave(h);
}

static void compare(struct bench *a, struct bench *b)
{
    const wh_hart *h = a->hart, *g = b->hart;
    CHECK_EQ(h->pc, g->pc);
    CHECK_EQ(wh_hart_retired(h), wh_hart_retired(g));
    CHECK_EQ(h->fflags, g->fflags);
    CHECK_EQ(h->frm, g->frm);
    CHECK_EQ(h->reservation != 0, g->reservation != 0);
    for (unsigned i = 0; i < 32; i++) {
        CHECK_EQ(h->x[i], g->x[i]);
        CHECK_EQ(h->f[i], g->f[i]);
    }
    CHECK(memcmp(&h->csr, &g->csr, sizeof(h->csr)) == 0);
    CHECK(memcmp(wh_ram_at(&a->ram, WH_RAM_BASE, COMPARED), wh_ram_at(&b->ram, WH_RAM_BASE, COMPARED), COMPARED) == 0);
}

/* `leader` says where it stopped; there may be a trap to take at that place, which does not count: all go on until one
 * more instruction is done. */
static uint64_t one_round(uint64_t seed, enum variant leader)
{
    plausible_program(&benches[leader], &(uint64_t){seed});
    uint64_t count = run_loose(benches[leader].hart, leader, 1 + (seed >> 20 & 0xfff));
    run_to(benches[leader].hart, STEP, count + 1, 32);
    for (enum variant v = EXACT; v <= ONE; v++) {
        plausible_program(&benches[v], &(uint64_t){seed});
        run_to(benches[v].hart, v, count, 20000);
        run_to(benches[v].hart, v, count + 1, 32);
        compare(&benches[leader], &benches[v]);
    }
    return count;
}

int main(void)
{
    uint64_t seed = 1123, total = 0;
    for (unsigned v = 0; v < VARIANTS; v++)
        bench_open(&benches[v], false);
    for (int n = 0; n < 300 && check_failures == 0; n++) {
        uint64_t start = check_random(&seed);
        total += one_round(start, n & 1 ? TIER : PLAIN);
        if (check_failures != 0)
            printf("round %d, seed %" PRIu64 "\n", n, start);
    }
    printf("%" PRIu64 " instructions, %u hot exits\n", total, hot_exits);
    CHECK(total > 20000);
    CHECK(hot_exits > 20);
    for (unsigned v = 0; v < VARIANTS; v++)
        bench_close(&benches[v]);
    return check_failures != 0;
}
