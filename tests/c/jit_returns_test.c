/* Calls and returns of translated code (jit/x86/returns.c) against the interpreter: random functions in several pages,
 * some with a call as the last instruction of a page or across its end, that call each other directly, by register and
 * far away, recur deeper than the stack of returns, return past their caller or to an odd address, and fence. */
#include "jit_rig.h"

#define TABLE (WH_RAM_BASE + (1u << 20)) /* addresses of the functions */
#define STACK (WH_RAM_BASE + (2u << 20))
enum { FUNCTIONS = 12, MOST_WORDS = 40, DEPTH = 300, PROGRAMS = 200 };

static uint32_t i_jal(int rd, int64_t distance)
{
    uint32_t d = (uint32_t)distance;
    return 0x6fu | (uint32_t)rd << 7 | (d & 0xff000) | (d >> 11 & 1) << 20 | (d >> 1 & 0x3ff) << 21 |
           (d >> 20 & 1) << 31;
}
static uint32_t i_jalr(int rd, int rs1)
{
    return 0x67u | (uint32_t)rd << 7 | (uint32_t)rs1 << 15;
}

/* A word, or a call of a function whose address is not known yet. */
struct function {
    uint32_t word[MOST_WORDS];
    int callee[MOST_WORDS]; /* -1: none; of a jal */
    unsigned words;
    uint64_t at;
};
struct program {
    struct function f[FUNCTIONS];
};

static void put(struct function *f, uint32_t word)
{
    f->callee[f->words] = -1;
    f->word[f->words++] = word;
}

static void put_call(struct function *f, uint64_t r, int callee)
{
    if (r % 3 == 0) {
        put(f, i_load(3, T1, GP, 8 * callee));
        put(f, i_jalr(RA, T1));
        return;
    }
    put(f, 0);
    f->callee[f->words - 1] = callee;
}

static void fill(struct function *f, int index, uint64_t *seed)
{
    uint64_t r = check_random(seed);
    f->words = 0;
    put(f, i_addi(SP, SP, -16));
    put(f, i_store(3, RA, SP, 0));
    put(f, i_addi(A0, A0, (int)(r & 0x7ff)));
    if ((r >> 11 & 7) == 0) { /* s1 times deeper */
        put(f, 0x00048663);   /* beqz s1, +12 */
        put(f, i_addi(S1, S1, -1));
        put_call(f, 1, index);
    }
    for (unsigned calls = r >> 14 & 3; calls > 0; calls--) {
        int callee = index + 1 + (int)(check_random(seed) % 4);
        if (callee < FUNCTIONS)
            put_call(f, check_random(seed), callee);
        put(f, 0x00351513 | (uint32_t)(calls << 20)); /* slli a0, a0, 3 and more */
        put(f, i_addi(A0, A0, 1));
    }
    if ((r >> 16 & 7) == 0)
        put(f, (r >> 19 & 1) != 0 ? 0x0000100f : 0x12000073); /* fence.i or sfence.vma */
    bool past_caller = index > 0 && (r >> 20 & 7) == 0;
    put(f, i_load(3, RA, SP, past_caller ? 16 : 0));
    put(f, i_addi(SP, SP, past_caller ? 32 : 16));
    if ((r >> 23 & 7) == 0)
        put(f, 0x0010e093); /* ori ra, ra, 1 */
    put(f, i_jalr(ZERO, RA));
}

static bool is_call(const struct function *f, unsigned i)
{
    return f->callee[i] >= 0 || f->word[i] == i_jalr(RA, T1);
}

/* Two to a page; or so that a call ends with a page, or goes on in the next. */
static void place(struct function *f, int index, uint64_t *seed)
{
    uint64_t page = BENCH_CODE + (uint64_t)(1 + index) / 2 * 2 * WH_PAGE_SIZE + WH_PAGE_SIZE, r = check_random(seed);
    f->at = page + 64 + (uint64_t)(index % 2) * 1024 + (r & 0xfe);
    if (index % 2 == 0 || (r >> 8 & 1) == 0)
        return;
    for (unsigned i = 0; i < f->words; i++)
        if (is_call(f, i))
            f->at = page + WH_PAGE_SIZE - 4 * (i + 1) + (r >> 9 & 1) * 2;
}

static void make(struct program *p, uint64_t seed)
{
    for (int i = 0; i < FUNCTIONS; i++) {
        fill(&p->f[i], i, &seed);
        place(&p->f[i], i, &seed);
    }
}

static void load(struct bench *b, const struct program *p)
{
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        const struct function *f = &p->f[i];
        for (unsigned w = 0; w < f->words; w++) {
            uint64_t at = f->at + 4 * w;
            poke32(b, at, f->callee[w] < 0 ? f->word[w] : i_jal(RA, (int64_t)(p->f[f->callee[w]].at - at)));
        }
        poke64(b, TABLE + 8 * i, f->at);
    }
    b->at = BENCH_CODE;
    emit(b, i_addi(S1, ZERO, DEPTH));
    emit(b, i_jal(RA, (int64_t)(p->f[0].at - b->at)));
    emit(b, i_jal(T0, 12)); /* the other link register: a leaf behind the loop */
    emit(b, i_addi(S0, S0, 1));
    emit(b, i_jal(ZERO, -16));
    emit(b, i_addi(A0, A0, 5));
    emit(b, i_jalr(ZERO, T0));
    wh_hart *h = b->hart;
    wh_hart_reset(h, BENCH_CODE);
    h->x[SP] = STACK;
    h->x[GP] = TABLE;
}

static void run_to(wh_hart *h, uint64_t limit)
{
    wh_hart_set_limit(h, limit);
    while (wh_hart_run(h) != WH_EXIT_LIMIT)
        ;
}

static void compare(const wh_hart *want, const wh_hart *got, uint64_t seed)
{
    int before = check_failures;
    CHECK_EQ(got->pc, want->pc);
    for (unsigned i = 1; i < 32; i++)
        CHECK_EQ(got->x[i], want->x[i]);
    CHECK_EQ(wh_hart_steps(got), wh_hart_steps(want));
    if (check_failures != before)
        printf("seed %" PRIu64 " after %" PRIu64 " steps\n", seed, wh_hart_steps(want));
}

static void test_program(uint64_t seed)
{
    static struct program p;
    struct rig plain, jit;
    uint64_t pieces = seed;
    make(&p, seed);
    open_rig(&plain, &(struct rig_kind){.exact = true, .plain = true});
    open_rig(&jit, &(struct rig_kind){.arena = 1 << 20, .exact = true, .plain = true});
    load(&plain.b, &p);
    load(&jit.b, &p);
    for (unsigned i = 0; i < 12 && check_failures == 0; i++) {
        uint64_t limit = wh_hart_steps(plain.b.hart) + 1 + check_random(&pieces) % (i < 4 ? 40 : 20000);
        run_to(plain.b.hart, limit);
        run_to(jit.b.hart, limit);
        compare(plain.b.hart, jit.b.hart, seed);
    }
    CHECK(jit.jit->blocks > 3);
    CHECK(plain.b.hart->x[SP] <= STACK && plain.b.hart->csr.mcause == 0); /* the program did what it should */
    close_rig(&plain);
    close_rig(&jit);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        test_program(strtoull(argv[1], NULL, 0));
    for (uint64_t seed = 1; argc == 1 && seed <= PROGRAMS && check_failures == 0; seed++)
        test_program(seed);
    return check_failures != 0;
}
