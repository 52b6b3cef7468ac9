/* The translator beside the interpreter on random bytes as code, with random page tables, PMP regions, delegation and
 * privilege: after each stretch of a random number of steps both harts and both RAMs are the same. What guests get from
 * compilers is compared elsewhere (jit_test.c, wherry-lockstep); this is about what they should not do.
 * WHERRY_FUZZ_ROUNDS: how many (default 150). WHERRY_FUZZ_SEED: where to begin (default 1); a difference is then also
 * located. */
#include "cpu_random.h"
#include "jit_rig.h"

#define STRETCHES 6

#define CODE_BYTES 0x9000u
static uint8_t code_before[CODE_BYTES];

static bool same_state(struct rig *a, struct rig *t)
{
    wh_writer w[2];
    for (int i = 0; i < 2; i++) {
        wh_writer_init(&w[i]);
        wh_hart_save(i ? t->b.hart : a->b.hart, &w[i]);
    }
    bool same = !w[0].status && w[0].len == w[1].len && !memcmp(w[0].data, w[1].data, w[0].len);
    wh_writer_free(&w[0]);
    wh_writer_free(&w[1]);
    return same;
}

static void tell(struct rig *a, struct rig *t)
{
    for (unsigned i = 0; i < 32; i++) {
        if (a->b.hart->x[i] != t->b.hart->x[i])
            printf("x%u %" PRIx64 " %" PRIx64 "\n", i, a->b.hart->x[i], t->b.hart->x[i]);
        if (a->b.hart->f[i] != t->b.hart->f[i])
            printf("f%u %" PRIx64 " %" PRIx64 "\n", i, a->b.hart->f[i], t->b.hart->f[i]);
    }
    const wh_csrs *c = &a->b.hart->csr, *d = &t->b.hart->csr;
    for (size_t i = 0; i < sizeof *c / 8; i++)
        if (((const uint64_t *)(const void *)c)[i] != ((const uint64_t *)(const void *)d)[i])
            printf("CSR at word %zu of wh_csrs: %" PRIx64 " %" PRIx64 "\n", i, ((const uint64_t *)(const void *)c)[i],
                   ((const uint64_t *)(const void *)d)[i]);
    printf("fflags %x %x, frm %x %x, priv %d %d\n", a->b.hart->fflags, t->b.hart->fflags, a->b.hart->frm,
           t->b.hart->frm, a->b.hart->priv, t->b.hart->priv);
    printf("mepc %" PRIx64 " %" PRIx64 ", mcause %" PRIx64 " %" PRIx64 ", retired %" PRIu64 " %" PRIu64 "\n",
           a->b.hart->csr.mepc, t->b.hart->csr.mepc, a->b.hart->csr.mcause, t->b.hart->csr.mcause,
           wh_hart_retired(a->b.hart), wh_hart_retired(t->b.hart));
    printf("pc %" PRIx64 " %" PRIx64 ", steps %" PRIu64 " %" PRIu64 "\n", a->b.hart->pc, t->b.hart->pc,
           wh_hart_steps(a->b.hart), wh_hart_steps(t->b.hart));
}

/* A device write asks for attention (cpu_check.h), at which engines look at the end of a slice, which may be later
 * after a write that traps; everything else happens at the same step. */
static enum wh_exit run(wh_hart *h)
{
    enum wh_exit why;
    do
        why = wh_hart_run(h);
    while (why == WH_EXIT_ATTENTION);
    return why;
}

/* To the limit, whatever they exit for on the way. False: wedged, or *same is false. */
static bool run_both(struct rig *a, struct rig *t, uint64_t steps, bool *same)
{
    uint64_t until = wh_hart_steps(a->b.hart) + steps;
    wh_hart_set_limit(a->b.hart, until);
    wh_hart_set_limit(t->b.hart, until);
    for (;;) {
        enum wh_exit why = run(a->b.hart), other = run(t->b.hart);
        *same = other == why && wh_hart_steps(t->b.hart) == wh_hart_steps(a->b.hart);
        if (!*same)
            printf("exits %d %d\n", why, other);
        if (!*same || why == WH_EXIT_WEDGED)
            return false;
        if (why == WH_EXIT_LIMIT)
            return true;
    }
}

/* A trap handler that goes on four bytes further, somewhere in the code: without one, random code does little but trap.
 */
static void add_handler(struct rig *r)
{
    static const uint32_t code[] = {
        0xffff8f17, /* auipc x30, -8: the start of the code */
        0x34102ff3, /* csrr x31, mepc */
        0x004f8f93, /* addi x31, x31, 4 */
        0x032f9f93, /* slli x31, x31, 50 */
        0x032fdf93, /* srli x31, x31, 50 */
        0x01efefb3, /* or x31, x31, x30 */
        0x341f9073, /* csrw mepc, x31 */
        0x00800f17, /* auipc x30, 0x800: data from here on, so that stores seldom hit the code */
        0x00900f97, /* auipc x31, 0x900 */
        0x30200073, /* mret */
    };
    for (unsigned i = 0; i < WH_ARRAY_LEN(code); i++)
        poke32(&r->b, BENCH_CODE + 0x8000 + 4 * i, code[i]);
    r->b.hart->csr.mtvec = BENCH_CODE + 0x8000;
    r->b.hart->csr.medeleg = 0;
}

static void set_up(struct rig *a, struct rig *t, uint64_t *seed)
{
    uint64_t copy = *seed;
    if (memcmp(a->b.ram.host, t->b.ram.host, BENCH_RAM) != 0)
        memcpy(t->b.ram.host, a->b.ram.host, BENCH_RAM);
    random_memory(&a->b, seed);
    random_hart(a->b.hart, seed);
    random_memory(&t->b, &copy);
    random_hart(t->b.hart, &copy);
    a->b.device = t->b.device = 0;
    t->b.hart->retired = a->b.hart->retired; /* a round that was passed over may have left other counts */
    atomic_store(&t->b.hart->stat_traps, atomic_load(&a->b.hart->stat_traps));
    if (*seed & 3) {
        add_handler(a);
        add_handler(t);
    }
    memcpy(code_before, a->b.ram.host, CODE_BYTES);
}

/* Code that was changed without FENCE.I may run old or new, and need not be the same on both. */
static bool changed_itself(const struct rig *a)
{
    return memcmp(code_before, a->b.ram.host, CODE_BYTES) != 0;
}

static bool one_round(struct rig *a, struct rig *t, uint64_t *seed)
{
    set_up(a, t, seed);
    bool on = true;
    int failures = check_failures;
    for (unsigned i = 0; i < STRETCHES && on; i++) {
        uint64_t r = check_random(seed);
        bool same;
        on = run_both(a, t, r % (r & 1 << 20 ? 40 : 4000) + 1, &same);
        if (changed_itself(a))
            return true;
        CHECK(same && same_state(a, t));
        if (check_failures != failures) {
            printf("in stretch %u of %" PRIu64 " steps\n", i, r % (r & 1 << 20 ? 40 : 4000) + 1);
            tell(a, t);
            return false;
        }
    }
    CHECK(!memcmp(a->b.ram.host, t->b.ram.host, BENCH_RAM));
    return check_failures == failures;
}

/* What the interpreter runs up to there; code in RAM without translation only. */
static void print_code(uint32_t model, uint64_t start, uint64_t from, uint64_t to)
{
    struct rig a, t;
    uint64_t seed = start;
    open_rig(&a, &(struct rig_kind){.model = model, .exact = true});
    open_rig(&t, &(struct rig_kind){.model = model, .exact = true});
    set_up(&a, &t, &seed);
    for (uint64_t at = 0; at < to; at++) {
        const uint8_t *code = wh_ram_at(&a.b.ram, a.b.hart->pc, 4);
        uint32_t word = 0;
        if (code)
            memcpy(&word, code, 4);
        if (at >= from)
            printf("  step %" PRIu64 " priv %d pc %" PRIx64 " %08" PRIx32 "\n", at, a.b.hart->priv, a.b.hart->pc, word);
        wh_hart_set_limit(a.b.hart, wh_hart_steps(a.b.hart) + 1);
        if (run(a.b.hart) == WH_EXIT_WEDGED)
            break;
    }
    close_rig(&a);
    close_rig(&t);
}

/* The first step after which they differ, each time from the start without a stop; a wrong block shows at its end. */
static void locate(uint32_t model, bool plain, uint64_t start)
{
    uint64_t good = 0, bad = STRETCHES * 4000;
    while (bad - good > 1) {
        struct rig a, t;
        uint64_t seed = start, middle = good + (bad - good) / 2;
        open_rig(&a, &(struct rig_kind){.model = model, .exact = true});
        open_rig(&t, &(struct rig_kind){WH_JIT_BYTES, model, true, plain, plain});
        set_up(&a, &t, &seed);
        bool same;
        (void)run_both(&a, &t, middle, &same);
        same = changed_itself(&a) || (same && same_state(&a, &t));
        *(same ? &good : &bad) = middle;
        if (!same) {
            printf("different after %" PRIu64 " steps\n", middle);
            tell(&a, &t);
        }
        close_rig(&a);
        close_rig(&t);
    }
    print_code(model, start, bad > 24 ? bad - 24 : 0, bad);
}

static void rounds_of(uint32_t model, bool plain, uint64_t rounds, uint64_t seed)
{
    struct rig a, t;
    open_rig(&a, &(struct rig_kind){.model = model, .exact = true});
    open_rig(&t, &(struct rig_kind){WH_JIT_BYTES, model, true, plain, plain});
    for (uint64_t n = 0; n < rounds; n++) {
        uint64_t start = seed + n, state = start;
        if (!one_round(&a, &t, &state)) {
            printf("%s, seed %" PRIu64 " (WHERRY_FUZZ_SEED=%" PRIu64 " WHERRY_FUZZ_ROUNDS=1)\n",
                   wh_cpu_model_name(model), start, start);
            if (getenv("WHERRY_FUZZ_SEED"))
                locate(model, plain, start);
            break;
        }
    }
    wh_hart_stats stats;
    wh_hart_get_stats(t.b.hart, &stats);
    printf("%s: %" PRIu64 " instructions, %" PRIu64 " traps\n", wh_cpu_model_name(model), stats.instructions,
           stats.traps);
    CHECK(stats.instructions > rounds * 20 && stats.traps > rounds);
    close_rig(&a);
    close_rig(&t);
}

int main(void)
{
    const char *text = getenv("WHERRY_FUZZ_ROUNDS"), *first = getenv("WHERRY_FUZZ_SEED");
    uint64_t rounds = text ? strtoull(text, NULL, 0) : 150, seed = first ? strtoull(first, NULL, 0) : 1;
    rounds_of(WH_CPU_RVA22, true, rounds, seed);
    rounds_of(WH_CPU_RV64GC, false, (rounds + 2) / 3, seed);
    rounds_of(WH_CPU_RVA22, false, (rounds + 2) / 3, seed + rounds);
    return check_failures != 0;
}
