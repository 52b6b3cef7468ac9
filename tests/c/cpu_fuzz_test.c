/* Random bytes as code, random page tables and registers, in every privilege: whatever a guest does, the hart stays
 * inside its RAM (the sanitizers look) and comes back when asked. WHERRY_FUZZ_ROUNDS: how many (default 400). */
#include "cpu_check.h"

#include <signal.h>
#include <sys/time.h>

#define TABLES (WH_RAM_BASE + 0x100000)

static struct bench b;

static uint32_t plausible(uint64_t *seed)
{
    static const uint8_t opcodes[] = {0x03, 0x07, 0x0f, 0x13, 0x17, 0x1b, 0x23, 0x27, 0x2f, 0x33,
                                      0x37, 0x3b, 0x43, 0x53, 0x63, 0x67, 0x6f, 0x73, 0x53, 0x73};
    uint64_t r = check_random(seed);
    if ((r >> 60) < 4)
        return (uint32_t)r; /* anything, also 2-byte code */
    return ((uint32_t)r & ~0x7fu) | opcodes[(r >> 32) % sizeof(opcodes)];
}

static uint64_t address(uint64_t *seed)
{
    uint64_t r = check_random(seed);
    switch (r >> 62) {
    case 0:
        return r;
    case 1:
        return WH_RAM_BASE + BENCH_RAM - (r & 31); /* the end of RAM */
    case 2:
        return (r >> 8) % 0x40000000; /* low, where the tables map something */
    default:
        return WH_RAM_BASE + (r >> 8) % BENCH_RAM;
    }
}

static void fill(uint64_t *seed)
{
    for (unsigned at = 0; at < 0x4000; at += 4)
        poke32(&b, BENCH_CODE + at, plausible(seed));
    for (unsigned i = 0; i < 512 * 4; i++) {
        uint64_t r = check_random(seed), pte = r;
        if (r & 0x300)
            pte = ((TABLES >> 12) + (r >> 32) % 4) << 10 | 1;
        else if (r & 0xc00)
            pte = ((WH_RAM_BASE >> 12) + (r >> 32) % 0x1100) << 10 | (r >> 16 & 0xff) | 1;
        if ((r & 0x7000) == 0) /* N, PBMT and reserved bits on what would else be valid */
            pte |= (r >> 24 & 0xff) << 56;
        poke64(&b, TABLES + i * 8ull, pte);
    }
}

static void one_round(uint64_t *seed)
{
    static const enum wh_priv privileges[] = {WH_PRIV_U, WH_PRIV_S, WH_PRIV_M};
    wh_hart *h = b.hart;
    fill(seed);
    wh_hart_reset(h, BENCH_CODE + (check_random(seed) & 0x3ffe));
    uint64_t r = check_random(seed);
    wh_pmp_set_addr(&h->mmu.pmp, 0, r & 1 ? UINT64_MAX : r >> 4);
    wh_pmp_set_cfg(&h->mmu.pmp, 0, r & 2 ? 0x1f : (uint8_t)(r >> 8 & 0x7f));
    h->priv = privileges[(r >> 16) % 3];
    h->csr.mstatus = (check_random(seed) & WH_MSTATUS_WRITABLE & ~WH_MSTATUS_MPP) | WH_MSTATUS_FS;
    h->csr.mtvec = BENCH_CODE + (r >> 20 & 0xffc);
    h->csr.stvec = BENCH_CODE + (r >> 32 & 0xffc);
    h->csr.medeleg = check_random(seed) & WH_MEDELEG_MASK;
    h->csr.menvcfg = check_random(seed) & wh_menvcfg_mask(h);
    h->csr.senvcfg = check_random(seed) & wh_menvcfg_mask(h) & WH_SENVCFG_BITS;
    h->csr.satp = (r >> 50 & 1) ? 0 : (8 + (r >> 52) % 3) << 60 | TABLES >> 12;
    h->frm = (uint32_t)(r >> 56 & 7);
    for (unsigned i = 1; i < 32; i++) {
        h->x[i] = address(seed);
        h->f[i] = check_random(seed);
    }
    wh_fp_update(h);
    wh_hart_update_mode(h);
    wh_hart_request_fence(h, WH_FENCE_I);
    for (int slice = 0; slice < 4; slice++) {
        enum wh_exit why = wh_hart_run(h);
        CHECK(why >= WH_EXIT_ATTENTION && why <= WH_EXIT_PAUSE);
        CHECK_EQ(wh_hart_get_x(h, 0), 0);
        CHECK_EQ(h->x[0], 0);
        CHECK_EQ(h->pc & 1, 0);
        if (why == WH_EXIT_WEDGED)
            break;
    }
}

/* An endless guest loop ends because the host's timer asks for attention; an atomic store is all that it does. */
static void on_alarm(int signal)
{
    (void)signal;
    wh_hart_attention(b.hart);
}

static void rounds_of(uint32_t model, int rounds, uint64_t seed)
{
    bench_open_model(&b, false, model);
    struct itimerval every = {{0, 500}, {0, 500}}, off = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &every, NULL);
    for (int n = 0; n < rounds; n++) {
        uint64_t start = seed;
        one_round(&seed);
        if (check_failures != 0) {
            printf("%s round %d, seed %" PRIu64 "\n", wh_cpu_model_name(model), n, start);
            break;
        }
    }
    setitimer(ITIMER_REAL, &off, NULL);
    wh_hart_stats stats;
    wh_hart_get_stats(b.hart, &stats);
    printf("%s: %d rounds, %" PRIu64 " instructions, %" PRIu64 " traps\n", wh_cpu_model_name(model), rounds,
           stats.instructions, stats.traps);
    CHECK(stats.traps > 1000);
    bench_close(&b);
}

int main(void)
{
    const char *text = getenv("WHERRY_FUZZ_ROUNDS");
    int rounds = text != NULL ? atoi(text) : 400;
    signal(SIGALRM, on_alarm);
    rounds_of(WH_CPU_RVA22, rounds * 3 / 4, 2026);
    rounds_of(WH_CPU_RV64GC, rounds - rounds * 3 / 4, 2027);
    return check_failures != 0;
}
