/* The translator against the interpreter, on a bare hart that counts steps (so that both stop at the same instruction):
 * random programs in pieces of random length; code that changes itself; traps in the middle of blocks; an arena that is
 * always full. */
#include "cpu_program.h"
#include "jit/cache.h"
#include "jit_rig.h"

/* Loads and stores of every size by a few base registers, which loads, too, overwrite with other addresses; what shares
 * a look-up, and when it must not, depends on all of it. */
static uint32_t memory_word(uint64_t *seed)
{
    uint64_t r = check_random(seed);
    int base = (int)(r & 3) + ((r >> 2 & 1) ? A0 : 28), other = (int)(r >> 3 & 31), offset = (int)(r >> 8 & 0x3f) * 8;
    if ((r >> 16 & 7) == 0)
        offset = (int)(r >> 19 & 0xfff) - 2048;
    switch (r >> 32 & 15) {
    case 0:
        return i_addi(base, base, (int)(r >> 36 & 0x7f) - 64);
    case 1:
        return i_load(3, base, base, offset); /* the base itself */
    case 2:
        return 0x00b50463 | (uint32_t)(r >> 36 & 1) << 12; /* beq or bne a0, a1, +8 */
    case 3:
        return 0xfeb51ce3; /* bne a0, a1, -8 */
    case 4:
    case 5:
    case 6:
    case 7:
        return i_store((int)(r >> 36 & 3), other, base, offset);
    case 8:
        return i_store(3, other, base, offset) & ~0x7fu; /* fsd, made below */
    default:
        return i_load((int)(r >> 36 & 7) % 7, other == base ? T0 : other, base, offset);
    }
}

static void fill_with_addresses(struct bench *b, uint64_t seed)
{
    for (unsigned at = 0; at < CODE_SIZE; at += 4) {
        uint32_t word = memory_word(&seed);
        poke32(b, BENCH_CODE + at, (word & 0x7f) == 0 ? word | 0x27 : word);
    }
    for (unsigned at = 0; at < DATA_SIZE; at += 8)
        poke64(b, DATA + at, DATA + 2048 + (check_random(&seed) % (DATA_SIZE - 8192) & ~7ull));
    for (int i = 1; i < 32; i++)
        b->hart->x[i] = DATA + 2048 + (check_random(&seed) % (DATA_SIZE - 8192) & ~7ull);
}

/* Every instruction two bytes further, so that one lies across the end of each page, and a start not far before one. */
static void shift(struct bench *b)
{
    uint8_t *code = wh_ram_at(&b->ram, BENCH_CODE, CODE_SIZE);
    memmove(code + 2, code, CODE_SIZE - 2);
    code[0] = 1; /* c.nop */
    code[1] = 0;
    b->hart->pc = (b->hart->pc | (WH_PAGE_SIZE - 1)) - 61;
}

static void set_up(struct bench *b, uint64_t seed)
{
    uint64_t first = seed;
    plausible_program(b, &seed);
    if (first % 2 == 0)
        fill_with_addresses(b, seed);
    if (first % 4 < 2)
        shift(b);
}

static enum wh_exit run_to(wh_hart *h, uint64_t limit)
{
    enum wh_exit why;
    wh_hart_set_limit(h, limit);
    do {
        why = wh_hart_run(h);
    } while (why == WH_EXIT_ATTENTION || why == WH_EXIT_PAUSE || why == WH_EXIT_WFI);
    return why;
}

static void compare(struct bench *a, struct bench *b, uint64_t seed)
{
    const wh_hart *h = a->hart, *g = b->hart;
    int before = check_failures;
    CHECK_EQ(g->pc, h->pc);
    for (unsigned i = 1; i < 32; i++) {
        CHECK_EQ(g->x[i], h->x[i]);
        CHECK_EQ(g->f[i], h->f[i]);
    }
    CHECK(memcmp(&g->csr, &h->csr, sizeof(h->csr)) == 0);
    CHECK_EQ(g->fflags, h->fflags);
    CHECK_EQ(wh_hart_steps(g), wh_hart_steps(h));
    CHECK(memcmp(wh_ram_at(&a->ram, WH_RAM_BASE, COMPARED), wh_ram_at(&b->ram, WH_RAM_BASE, COMPARED), COMPARED) == 0);
    if (check_failures != before)
        printf("seed %" PRIu64 " after %" PRIu64 " steps\n", seed, wh_hart_steps(h));
}

static uint64_t resets, remade;

/* bytes: of the arena; a small one is full all the time. */
static void test_random_programs(uint64_t first, unsigned programs, uint32_t bytes)
{
    struct rig plain, jit;
    /* Both kinds of atomics, and of looks. */
    const struct rig_kind kind = {.arena = bytes, .exact = true, .plain = bytes >= 1 << 20, .slots = first % 40 == 1};
    open_rig(&plain, &(struct rig_kind){.exact = true});
    open_rig(&jit, &kind);
    for (uint64_t seed = first; seed < first + programs && check_failures == 0; seed++) {
        uint64_t piece = seed * 77, limit;
        uint8_t code[CODE_SIZE];
        set_up(&plain.b, seed);
        set_up(&jit.b, seed);
        limit = wh_hart_steps(plain.b.hart);
        memcpy(code, wh_ram_at(&plain.b.ram, BENCH_CODE, CODE_SIZE), CODE_SIZE);
        CHECK_EQ(wh_hart_steps(jit.b.hart), limit);
        for (unsigned i = 0; i < 12 && check_failures == 0; i++) {
            limit += 1 + check_random(&piece) % (i < 8 ? 60 : 3000);
            enum wh_exit one = run_to(plain.b.hart, limit), other = run_to(jit.b.hart, limit);
            /* Code that was changed without FENCE.I may be seen or not. */
            if (memcmp(code, wh_ram_at(&plain.b.ram, BENCH_CODE, CODE_SIZE), CODE_SIZE) != 0)
                break;
            compare(&plain.b, &jit.b, seed);
            CHECK_EQ(other, one);
            if (one != WH_EXIT_LIMIT)
                break;
        }
    }
    CHECK(jit.jit->blocks > programs);
    resets += jit.jit->resets;
    remade += jit.jit->remade;
    close_rig(&plain);
    close_rig(&jit);
}

static uint32_t addi(unsigned rd, unsigned rs, int32_t imm)
{
    return 0x13 | rd << 7 | rs << 15 | (uint32_t)imm << 20;
}

/* A loop that writes the immediate of an instruction, fences and executes it: a0 is the sum of what was written. */
static void test_changed_code(uint64_t patched, bool exact, bool fence)
{
    struct rig r;
    uint64_t sum = 0;
    open_rig(&r, &(struct rig_kind){.arena = 1 << 20, .exact = exact, .plain = true});
    struct bench *b = &r.b;
    for (unsigned round = 1; round <= 300; round++) {
        b->at = patched;
        emit(b, addi(A0, A0, (int32_t)round % 7 + 1)); /* by hand, as another hart or a device would */
        emit(b, addi(A2, A2, -1));
        emit(b, 0xfe061ce3); /* bnez a2, patched */
        emit(b, 0x0055a023); /* sw t0, 0(a1): the device */
        b->at = patched + 0x100;
        emit(b, fence ? 0x0000100f : 0x13);
        emit(b, 0xefdff06f); /* j patched */
        wh_hart *h = b->hart;
        h->pc = patched + 0x100;
        h->x[A0] = 0;
        h->x[A1] = DEVICE;
        h->x[A2] = 200;
        if (!fence) /* another hart's fence */
            wh_hart_request_fence(h, WH_FENCE_I);
        wh_hart_set_limit(h, wh_hart_steps(h) + 100000);
        while (b->device == 0 && wh_hart_run(h) == WH_EXIT_ATTENTION)
            b->device = h->pc == patched + 16;
        b->device = 0;
        sum = 200 * (round % 7 + 1);
        CHECK_EQ(h->x[A0], sum);
    }
    CHECK(r.jit->discarded > 20);
    close_rig(&r);
}

/* Every instruction of a block may trap: pc, registers and counts are those of the instruction. */
static void test_traps_in_blocks(void)
{
    struct rig r;
    open_rig(&r, &(struct rig_kind){.arena = 1 << 20, .exact = true, .plain = true});
    struct bench *b = &r.b;
    wh_hart *h = b->hart;
    for (unsigned i = 0; i < 40; i++) {
        emit(b, addi(A0, A0, 1));
        emit(b, 0x0005b603 | (8 * i) << 20); /* ld a2, 8i(a1) */
    }
    for (unsigned bad = 0; bad < 40; bad++) {
        h->pc = BENCH_CODE;
        h->csr.mtvec = BENCH_CODE + 0x800;
        h->x[A0] = 0;
        h->x[A1] = WH_RAM_BASE + BENCH_RAM - 8 * bad; /* the load of that number is the first outside RAM */
        uint64_t steps = wh_hart_steps(h);
        wh_hart_set_limit(h, steps + 2 * bad + 2);
        CHECK_EQ(wh_hart_run(h), WH_EXIT_LIMIT);
        CHECK_EQ(h->csr.mepc, BENCH_CODE + 8 * bad + 4);
        CHECK_EQ(h->csr.mcause, WH_CAUSE_LOAD_ACCESS);
        CHECK_EQ(h->csr.mtval, WH_RAM_BASE + BENCH_RAM);
        CHECK_EQ(h->x[A0], bad + 1);
        CHECK_EQ(h->pc, BENCH_CODE + 0x800);
    }
    close_rig(&r);
}

int main(int argc, char **argv)
{
    if (argc > 1) /* one program again */
        test_random_programs(strtoull(argv[1], NULL, 0), 1, 4 << 20);
    /* A page whose code changes all the time is left alone: a new machine every 20 programs. */
    for (uint64_t seed = 1; seed < 1000 && check_failures == 0; seed += 20) {
        test_random_programs(seed, 20, 1 << 20);
        test_random_programs(seed, 20, 8 << 10);
    }
    CHECK(argc > 1 || (resets > 50 && remade > 20));
    for (unsigned i = 0; i < 2; i++) { /* the second time it lies in two pages */
        uint64_t patched = BENCH_CODE + (i == 0 ? 0x100 : WH_PAGE_SIZE - 2);
        test_changed_code(patched, false, true);
        test_changed_code(patched, false, false);
        test_changed_code(patched, true, true);
    }
    test_traps_in_blocks();
    return check_failures != 0;
}
