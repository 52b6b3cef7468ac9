/* Floating point in translated code against C: every operation on a table of edge operands, in every rounding mode,
 * with operands and results in registers of every kind (the same one twice, in host registers, in memory). Values and
 * fflags are those of wh_fp_slow (softfp) or, for moves and sign injection, of the interpreter.
 *
 * A guest loop applies one instruction to the rows of a table, twice: what the interpreter did while the loop was cold
 * is written again by translated code. */
#include "cpu_check.h"
#include "jit/cache.h"

#define TABLE    (WH_RAM_BASE + 0x100000)
#define RESULTS  (WH_RAM_BASE + 0x400000)
#define PROGRAMS (WH_RAM_BASE + 0x500000) /* one after the other: a page whose code changes often is left alone */
#define MAX_ROWS 2000u

enum { X_ROW = 8, X_OUT = 9, X_END = 18, X_PASS = 19, X_TABLE = 20, X_RESULTS = 21, X_FLAGS = 5, X_SOURCE = 11 };

static struct bench b;
static wh_jit *jit;
static wh_hart *reference; /* runs nothing: its registers are what wh_fp_slow works on */
static unsigned rows;
static uint64_t instructions, program;

struct registers {
    uint8_t rd, rs1, rs2, rs3, xd;
};
/* fa0-fa7 and ft0-ft2 are in host registers, ft8-ft11 in memory; so are a0 and t3 of the x registers. */
static const struct registers places[] = {
    {10, 11, 12, 13, 10}, {10, 10, 12, 13, 28}, {12, 11, 12, 13, 10}, {13, 11, 12, 13, 28}, {10, 11, 11, 11, 10},
    {28, 29, 30, 31, 28}, {29, 29, 30, 31, 0},  {30, 29, 30, 31, 10}, {31, 29, 30, 31, 10}, {10, 29, 12, 30, 28},
    {28, 11, 30, 12, 10}, {28, 28, 28, 28, 28}, {11, 11, 11, 11, 0},  {30, 11, 12, 30, 10},
};

static const uint64_t edges[] = {
    0,
    1,
    0x3ff0000000000000,
    0x3ff8000000000000,
    0x4004000000000000,
    0x3fe0000000000000,
    0x3fefffffffffffff,
    0x3fd5555555555555,
    0x000fffffffffffff,
    0x0010000000000000,
    0x0010000000000001,
    0x7fefffffffffffff,
    0x7ff0000000000000,
    0x7ff8000000000000,
    0x7ff0000000000001,
    0x7fffffffffffffff,
    0x41dfffffffc00000, /* 2^31 - 1 */
    0x41dfffffffe00000, /* and a half */
    0x41e0000000000000,
    0x41efffffffe00000, /* 2^32 - 1 */
    0x41efffffffffffff,
    0x41f0000000000000,
    0x43dfffffffffffff, /* just below 2^63 */
    0x43e0000000000000,
    0x43efffffffffffff,
    0x43f0000000000000,
    0x4330000000000001, /* 2^52 + 1 */
    0x4327ffffffffffff, /* an odd number of halves */
    0x380fffffffffffff, /* around the least single */
    0x36a0000000000000,
    0x3690000000000000,
    0x47efffffe0000000, /* the greatest single, and what rounds beyond it */
    0x47effffff0000000,
};
static const uint32_t edges32[] = {
    0,          1,          0x3f800000, 0x3fc00000, 0x40200000, 0x3f000000, 0x3f7fffff, 0x3eaaaaab, 0x007fffff,
    0x00800000, 0x00800001, 0x7f7fffff, 0x7f800000, 0x7fc00000, 0x7f800001, 0x7fffffff, 0x4effffff, 0x4f000000,
    0x4f7fffff, 0x4f800000, 0x5effffff, 0x5f000000, 0x5f7fffff, 0x5f800000, 0x4b000001, 0x4affffff, 0x33800000,
};

/* One operand: an edge of either sign; of the singles a few that are not NaN-boxed. */
static uint64_t operand(unsigned n, bool wide)
{
    unsigned sign = n & 1;
    n /= 2;
    if (wide)
        return edges[n % WH_ARRAY_LEN(edges)] | (uint64_t)sign << 63;
    uint64_t v = edges32[n % WH_ARRAY_LEN(edges32)] | sign << 31;
    return n == 5 ? v | 0xfffffffe00000000 : n == 6 ? v : v | 0xffffffff00000000;
}
static unsigned operands(bool wide)
{
    return 2 * (unsigned)(wide ? WH_ARRAY_LEN(edges) : WH_ARRAY_LEN(edges32));
}

static void put_row(unsigned row, uint64_t a, uint64_t v2, uint64_t c, uint64_t x)
{
    uint64_t at = TABLE + 32ull * row;
    poke64(&b, at, a);
    poke64(&b, at + 8, v2);
    poke64(&b, at + 16, c);
    poke64(&b, at + 24, x);
}

/* sources: how many f registers the operation reads. One: every edge; two: every pair as far as there is room for them;
 * else random ones. */
static void fill_table(unsigned sources, bool wide, unsigned most, uint64_t *seed)
{
    static const uint64_t integers[] = {
        0,           1,           0x7fffffff,         0x80000000,         0xffffffff,
        0x100000000, 0x1000001,   0x7fffffffffffffff, 1ull << 63,         UINT64_MAX,
        1ull << 53,  0x1fffffe80, (1ull << 53) + 1,   0x8000000000000401, 0xfffffffffffffbff};
    unsigned n = operands(wide), all = sources == 1 ? n : sources == 2 ? n * n : MAX_ROWS;
    rows = all < most ? all : most;
    for (unsigned row = 0; row < rows; row++) {
        uint64_t r = check_random(seed);
        unsigned i = all <= most && sources < 3 ? row : (unsigned)(r % ((uint64_t)n * n));
        uint64_t x = row < WH_ARRAY_LEN(integers) ? integers[row] : r & 1 ? check_random(seed) : (r >> 40) - 0x400000;
        put_row(row, operand(i % n, wide), operand(i / n, wide), operand((unsigned)(r >> 32) % n, wide), x);
    }
}

static void write_program(uint32_t word, const struct registers *p, bool to_x)
{
    program = b.at = PROGRAMS + 128 * instructions;
    emit(&b, i_addi(X_ROW, X_TABLE, 0)); /* pass: */
    emit(&b, i_addi(X_OUT, X_RESULTS, 0));
    uint64_t loop = b.at;
    emit(&b, i_load(3, p->rs1, X_ROW, 0) | 4); /* fld: opcode 0x07 */
    emit(&b, i_load(3, p->rs2, X_ROW, 8) | 4);
    emit(&b, i_load(3, p->rs3, X_ROW, 16) | 4);
    emit(&b, i_load(3, X_SOURCE, X_ROW, 24));
    emit(&b, CSRRW(ZERO, 0x001, ZERO));
    emit(&b, word);
    emit(&b, CSRRS(X_FLAGS, 0x001, ZERO));
    if (to_x)
        emit(&b, i_store(3, p->xd, X_OUT, 0));
    else
        emit(&b, i_store(3, p->rd, X_OUT, 0) | 4); /* fsd */
    emit(&b, i_store(3, X_FLAGS, X_OUT, 8));
    emit(&b, i_addi(X_ROW, X_ROW, 32));
    emit(&b, i_addi(X_OUT, X_OUT, 16));
    emit(&b, 0x63u | 1u << 12 | X_ROW << 15 | X_END << 20 | ((uint32_t)(loop - b.at) & 0x1eu) << 7 |
                 ((uint32_t)(loop - b.at) >> 5 & 0x3fu) << 25 | 1u << 7 | 1u << 31); /* bne */
    emit(&b, i_addi(X_PASS, X_PASS, -1));
    emit(&b, 0x63u | 1u << 12 | X_PASS << 15 | ((uint32_t)(program - b.at) & 0x1eu) << 7 |
                 ((uint32_t)(program - b.at) >> 5 & 0x3fu) << 25 | 1u << 7 | 1u << 31);
    emit(&b, I_STOP);
    emit(&b, I_SPIN);
}

static void run_program(unsigned rm)
{
    wh_hart *h = b.hart;
    bench_restart(&b);
    h->pc = program;
    h->x[X_TABLE] = TABLE;
    h->x[X_RESULTS] = RESULTS;
    h->x[X_END] = TABLE + 32ull * rows;
    h->x[X_PASS] = 2;
    h->frm = rm;
    h->csr.mstatus |= WH_MSTATUS_FS;
    wh_fp_update(h);
    memset(wh_ram_at(&b.ram, RESULTS, 16 * MAX_ROWS), 0xcc, 16 * MAX_ROWS);
    CHECK_EQ(wh_hart_run(h), WH_EXIT_ATTENTION);
    CHECK(h->pc != HANDLER);
}

/* What the instruction shall do with this row. */
static uint64_t expected(uint32_t word, unsigned row, const struct registers *p, bool to_x, unsigned rm,
                         uint32_t *flags)
{
    wh_hart *h = reference;
    uint64_t at = TABLE + 32ull * row;
    wh_insn i;
    (void)wh_decode(word, WH_NO_PAGE, &i);
    h->f[p->rs1] = peek64(&b, at);
    h->f[p->rs2] = peek64(&b, at + 8);
    h->f[p->rs3] = peek64(&b, at + 16);
    h->x[X_SOURCE] = peek64(&b, at + 24);
    h->fflags = 0;
    h->frm = rm;
    h->csr.mstatus |= WH_MSTATUS_FS;
    wh_fp_update(h);
    bool soft = i.op == WH_OP_FP_SLOW || (i.op >= WH_OP_FADD_S && i.op <= WH_OP_FNMADD_D) ||
                (i.op >= WH_OP_FLE_S && i.op <= WH_OP_FCVT_L_S_RTZ);
    if (soft) {
        CHECK(wh_fp_slow(h, &i));
    } else {
        h->budget = h->slice = 1;
        wh_fp_enter(h);
        CHECK_EQ(wh_interp_one(h, &i), 0);
        wh_fp_leave(h);
    }
    *flags = h->fflags;
    return to_x ? (p->xd == 0 ? 0 : h->x[p->xd]) : h->f[p->rd];
}

static void check_program(const char *name, uint32_t word, const struct registers *p, bool to_x, unsigned rm)
{
    uint64_t before = jit->blocks;
    write_program(word, p, to_x);
    run_program(rm);
    CHECK(jit->blocks > before);
    instructions++;
    for (unsigned row = 0; row < rows && check_failures < 20; row++) {
        uint32_t flags;
        uint64_t want = expected(word, row, p, to_x, rm, &flags);
        uint64_t got = peek64(&b, RESULTS + 16ull * row), got_flags = peek64(&b, RESULTS + 16ull * row + 8);
        if (got == want && got_flags == flags)
            continue;
        printf("%s %08x frm %u, row %u (%016" PRIx64 " %016" PRIx64 " %016" PRIx64 " %016" PRIx64 "): %016" PRIx64
               " flags %02" PRIx64 ", not %016" PRIx64 " %02x\n",
               name, word, rm, row, peek64(&b, TABLE + 32ull * row), peek64(&b, TABLE + 32ull * row + 8),
               peek64(&b, TABLE + 32ull * row + 16), peek64(&b, TABLE + 32ull * row + 24), got, got_flags, want, flags);
        check_failures++;
    }
}

/* funct7 without the format, funct3 (RM: every rounding mode), rs2 (VARIES: a register). */
enum { RM = 8, VARIES = 32 };
enum { TO_F, TO_X, FROM_X };
static const struct operation {
    const char *name;
    uint8_t funct7, funct3, rs2, direction;
    bool narrow_source; /* of the other format */
} operations[] = {
    {"fadd", 0x00, RM, VARIES, TO_F, false},
    {"fsub", 0x04, RM, VARIES, TO_F, false},
    {"fmul", 0x08, RM, VARIES, TO_F, false},
    {"fdiv", 0x0c, RM, VARIES, TO_F, false},
    {"fsqrt", 0x2c, RM, 0, TO_F, false},
    {"fsgnj", 0x10, 0, VARIES, TO_F, false},
    {"fsgnjn", 0x10, 1, VARIES, TO_F, false},
    {"fsgnjx", 0x10, 2, VARIES, TO_F, false},
    {"fmin", 0x14, 0, VARIES, TO_F, false},
    {"fmax", 0x14, 1, VARIES, TO_F, false},
    {"fminm", 0x14, 2, VARIES, TO_F, false},
    {"fmaxm", 0x14, 3, VARIES, TO_F, false},
    {"fle", 0x50, 0, VARIES, TO_X, false},
    {"flt", 0x50, 1, VARIES, TO_X, false},
    {"feq", 0x50, 2, VARIES, TO_X, false},
    {"fleq", 0x50, 4, VARIES, TO_X, false},
    {"fltq", 0x50, 5, VARIES, TO_X, false},
    {"fcvt.w", 0x60, RM, 0, TO_X, false},
    {"fcvt.wu", 0x60, RM, 1, TO_X, false},
    {"fcvt.l", 0x60, RM, 2, TO_X, false},
    {"fcvt.lu", 0x60, RM, 3, TO_X, false},
    {"fcvt from w", 0x68, RM, 0, FROM_X, false},
    {"fcvt from wu", 0x68, RM, 1, FROM_X, false},
    {"fcvt from l", 0x68, RM, 2, FROM_X, false},
    {"fcvt from lu", 0x68, RM, 3, FROM_X, false},
    {"fclass", 0x70, 1, 0, TO_X, false},
    {"fmv to x", 0x70, 0, 0, TO_X, false},
    {"fmv from x", 0x78, 0, 0, FROM_X, false},
    {"fli", 0x78, 0, 1, TO_F, false},
    {"fround", 0x20, RM, 4, TO_F, false},
    {"froundnx", 0x20, RM, 5, TO_F, false},
    {"fcvt", 0x20, RM, 33, TO_F, true},
};

static uint32_t encode(const struct operation *o, bool wide, unsigned funct3, const struct registers *p)
{
    unsigned rs2 = o->rs2 == VARIES ? p->rs2 : o->narrow_source ? !wide : o->rs2;
    unsigned rd = o->direction == TO_X ? p->xd : p->rd, rs1 = o->direction == FROM_X ? X_SOURCE : p->rs1;
    return 0x53u | rd << 7 | funct3 << 12 | rs1 << 15 | rs2 << 20 | ((uint32_t)o->funct7 | wide) << 25;
}

/* The dynamic mode with each frm, and each static mode with an frm that differs. */
static void each_mode(const struct operation *o, bool wide, const struct registers *p)
{
    if (o->funct3 != RM) {
        check_program(o->name, encode(o, wide, o->funct3, p), p, o->direction == TO_X, 0);
        return;
    }
    for (unsigned rm = 0; rm <= WH_RM_RMM; rm++) {
        check_program(o->name, encode(o, wide, WH_RM_DYN, p), p, o->direction == TO_X, rm);
        check_program(o->name, encode(o, wide, rm, p), p, o->direction == TO_X, (rm + 1) % 4);
    }
}

static void test_operations(uint64_t *seed)
{
    for (unsigned n = 0; n < 2 * WH_ARRAY_LEN(operations); n++) {
        const struct operation *o = &operations[n / 2];
        bool wide = n & 1, wide_source = wide != o->narrow_source;
        unsigned sources = o->rs2 == VARIES ? 2 : 1;
        fill_table(sources, wide_source, MAX_ROWS, seed);
        each_mode(o, wide, &places[0]);
        fill_table(2, wide_source, 100, seed);
        for (unsigned at = 1; at < WH_ARRAY_LEN(places); at++)
            each_mode(o, wide, &places[at]);
    }
}

static void test_fused(uint64_t *seed)
{
    static const char *const names[] = {"fmadd", "fmsub", "fnmsub", "fnmadd"};
    for (unsigned n = 0; n < 8; n++) {
        bool wide = n & 1;
        for (unsigned at = 0; at < WH_ARRAY_LEN(places); at++) {
            const struct registers *p = &places[at];
            fill_table(3, wide, at == 0 ? MAX_ROWS : 200, seed);
            for (unsigned rm = 0; rm <= WH_RM_RMM; rm++) {
                uint32_t word = 0x43u + (n / 2) * 4 + ((uint32_t)p->rd << 7) + ((uint32_t)p->rs1 << 15) +
                                ((uint32_t)p->rs2 << 20) + ((uint32_t)wide << 25) + ((uint32_t)p->rs3 << 27);
                check_program(names[n / 2], word | 7u << 12, p, false, rm);
                check_program(names[n / 2], word | rm << 12, p, false, (rm + 1) % 4);
            }
        }
    }
}

/* One instruction in a loop that is hot, then once more from each state of FS: off it is illegal there, and only what
 * writes makes Initial and Clean dirty. The same for the rounding mode that the host has not, and ones that nobody has.
 */
static void test_state(const char *name, uint32_t word, bool writes, bool rounds)
{
    wh_hart *h = b.hart;
    program = b.at = PROGRAMS + 128 * instructions++;
    emit(&b, i_addi(X_PASS, X_PASS, -1));
    uint64_t at = b.at;
    emit(&b, word);
    emit(&b, i_addi(X_ROW, X_ROW, 1));
    emit(&b, 0x63u | 1u << 12 | X_PASS << 15 | ((uint32_t)(program - b.at) & 0x1eu) << 7 |
                 ((uint32_t)(program - b.at) >> 5 & 0x3fu) << 25 | 1u << 7 | 1u << 31);
    emit(&b, I_STOP);
    emit(&b, I_SPIN);
    for (unsigned state = 0; state < 4 * 8; state++) {
        uint64_t fs = (uint64_t)(state & 3) << 13, passes = state == 0 ? 200 : 2;
        unsigned rm = state >> 2;
        bool illegal = fs == 0 || (rounds && rm > WH_RM_RMM);
        bench_restart(&b);
        h->pc = program;
        h->csr.mstatus = (h->csr.mstatus & ~WH_MSTATUS_FS) | (state == 0 ? WH_MSTATUS_FS : fs);
        h->frm = state == 0 ? 0 : rm;
        wh_fp_update(h);
        h->x[X_PASS] = passes;
        h->x[X_TABLE] = TABLE;
        CHECK_EQ(wh_hart_run(h), WH_EXIT_ATTENTION);
        if (state == 0)
            continue; /* hot now */
        CHECK_EQ(h->x[X_ROW], illegal ? 0 : passes);
        uint64_t want = illegal ? fs : writes ? WH_MSTATUS_FS : fs;
        if (illegal) {
            CHECK_EQ(h->csr.mepc, at);
            CHECK_EQ(h->csr.mcause, 2);
            CHECK_EQ(h->csr.mtval, word);
        }
        CHECK_EQ(h->csr.mstatus & WH_MSTATUS_FS, want);
        if (check_failures != 0) {
            printf("%s, FS %u, frm %u\n", name, state & 3, rm);
            return;
        }
    }
}

static void test_states(void)
{
    test_state("fadd.d", 0x02c5f553, true, true);  /* fa0, fa1, fa2, dyn */
    test_state("fadd.s", 0x00c58553, true, false); /* in mode RNE */
    test_state("fmadd.d", 0x6ac5f543, true, true);
    test_state("fsgnj.d", 0x22c58553, true, false);
    test_state("feq.d", 0xa2c5a553, true, false);
    test_state("fmv.x.d", 0xe2058553, false, false);
    test_state("fmv.d.x", 0xf2058553, true, false);
    test_state("fld", i_load(3, 10, X_TABLE, 0) | 4, true, false);
    test_state("fsd", i_store(3, 10, X_TABLE, 0) | 4, false, false);
    test_state("fcvt.w.d", 0xc2059553, true, false); /* a0, fa1, rtz */
    test_state("fcvt.d.l", 0xd225f553, true, true);
}

static void open_jit(void)
{
    wh_error err;
    bench_open(&b, false);
    if (wh_jit_new(WH_JIT_BYTES, &jit, &err) != WH_OK) {
        printf("no translator here: %s\n", err.message);
        exit(0);
    }
    reference = b.hart;
    wh_cpu_env env = reference->env;
    env.engine = wh_jit_engine();
    env.jit = jit;
    CHECK_EQ(wh_hart_new(&env, 0, &b.hart, &err), WH_OK);
}

int main(void)
{
    uint64_t seed = 53;
    open_jit();
    test_operations(&seed);
    test_fused(&seed);
    test_states();
    printf("%" PRIu64 " programs, %" PRIu64 " blocks\n", instructions, jit->blocks);
    wh_hart_free(reference);
    bench_close(&b);
    wh_jit_free(jit);
    return check_failures != 0;
}
