/* What the differential tests cannot ask a peer: rules of privilege and CSRs of the later extensions, registers pairs
 * and x0 in Zacas, and that a model without an extension shows none of it. Expected values are by hand from the
 * specifications named. */
#include "cpu_check.h"

#define DATA (WH_RAM_BASE + 0x10000)

enum { MENVCFG = 0x30a, SENVCFG = 0x10a, STIMECMP = 0x14d, MISA = 0x301, TSELECT = 0x7a0 };

static uint32_t cbo(unsigned kind, int rs1)
{
    return 0x200fu | (uint32_t)rs1 << 15 | kind << 20;
}
static uint32_t amocas(int f3, int rd, int rs1, int rs2)
{
    return 0x2800002fu | (uint32_t)rd << 7 | (uint32_t)f3 << 12 | (uint32_t)rs1 << 15 | (uint32_t)rs2 << 20;
}

/* Run what was emitted until it stops by itself or traps; the cause, or 0. */
static uint64_t outcome(struct bench *b)
{
    wh_hart *h = b->hart;
    emit(b, I_STOP);
    emit(b, I_SPIN);
    h->csr.mcause = 0;
    wh_hart_request_fence(h, WH_FENCE_I);
    enum wh_exit why;
    do
        why = wh_hart_run(h);
    while (why == WH_EXIT_PAUSE);
    CHECK_EQ(why, WH_EXIT_ATTENTION);
    return h->csr.mcause;
}

static void start(struct bench *b, enum wh_priv priv)
{
    wh_hart *h = b->hart;
    bench_restart(b);
    wh_pmp_set_addr(&h->mmu.pmp, 0, UINT64_MAX);
    wh_pmp_set_cfg(&h->mmu.pmp, 0, 0x1f);
    h->priv = priv;
    wh_hart_update_mode(h);
}

/* One instruction at a privilege with the given envcfg registers. */
static uint64_t one(struct bench *b, enum wh_priv priv, uint64_t menvcfg, uint64_t senvcfg, uint32_t word)
{
    start(b, priv);
    b->hart->csr.menvcfg = menvcfg;
    b->hart->csr.senvcfg = senvcfg;
    wh_hart_update_mode(b->hart);
    wh_hart_set_x(b->hart, A0, DATA + 0x48);
    emit(b, word);
    return outcome(b);
}

/* CMO spec 1.0, section 3: menvcfg for S, both for U; CBIE 00 forbids, 01 and 11 allow. */
static void cache_blocks_by_privilege(struct bench *b)
{
    static const struct {
        unsigned kind;
        uint64_t bits;
    } kinds[] = {{WH_CBO_INVAL, 1 << 4},
                 {WH_CBO_INVAL, 3 << 4},
                 {WH_CBO_CLEAN, WH_ENVCFG_CBCFE},
                 {WH_CBO_FLUSH, WH_ENVCFG_CBCFE},
                 {WH_CBO_ZERO, WH_ENVCFG_CBZE}};
    const uint64_t all = WH_ENVCFG_CBIE | WH_ENVCFG_CBCFE | WH_ENVCFG_CBZE;
    for (size_t n = 0; n < WH_ARRAY_LEN(kinds); n++) {
        uint32_t word = cbo(kinds[n].kind, A0);
        uint64_t bits = kinds[n].bits, others = all & ~(bits >> 4 & 3 ? WH_ENVCFG_CBIE : bits);
        CHECK_EQ(one(b, WH_PRIV_M, 0, 0, word), 0);
        CHECK_EQ(one(b, WH_PRIV_S, bits, 0, word), 0);
        CHECK_EQ(one(b, WH_PRIV_S, others, all, word), WH_CAUSE_ILLEGAL);
        CHECK_EQ(b->hart->csr.mtval, word);
        CHECK_EQ(one(b, WH_PRIV_U, bits, bits, word), 0);
        CHECK_EQ(one(b, WH_PRIV_U, all, others, word), WH_CAUSE_ILLEGAL);
        CHECK_EQ(one(b, WH_PRIV_U, others, all, word), WH_CAUSE_ILLEGAL);
    }
}

static void zeroing(struct bench *b)
{
    start(b, WH_PRIV_M);
    for (unsigned i = 0; i < 24; i++)
        poke64(b, DATA + 8ull * i, UINT64_MAX);
    wh_hart_set_x(b->hart, A0, DATA + 0x7b); /* any address in the block */
    emit(b, cbo(WH_CBO_ZERO, A0));
    CHECK_EQ(outcome(b), 0);
    for (unsigned i = 0; i < 24; i++)
        CHECK_EQ(peek64(b, DATA + 8ull * i), i >= 8 && i < 16 ? 0 : UINT64_MAX);

    start(b, WH_PRIV_M);
    wh_hart_set_x(b->hart, A0, DEVICE + 3);
    emit(b, cbo(WH_CBO_ZERO, A0));
    CHECK_EQ(outcome(b), WH_CAUSE_STORE_ACCESS); /* not memory that can be zeroed */
    CHECK_EQ(b->hart->csr.mtval, DEVICE + 3);

    /* PMP: read only. Management needs load or store, zeroing needs store; the fault is a store's either way. */
    static const struct {
        uint8_t pmp;
        unsigned kind;
        uint64_t cause;
    } rows[] = {{0x19, WH_CBO_CLEAN, 0},
                {0x19, WH_CBO_ZERO, WH_CAUSE_STORE_ACCESS},
                {0x18, WH_CBO_CLEAN, WH_CAUSE_STORE_ACCESS},
                {0x1b, WH_CBO_ZERO, 0}};
    for (size_t n = 0; n < WH_ARRAY_LEN(rows); n++) {
        start(b, WH_PRIV_S);
        wh_hart *h = b->hart;
        h->csr.menvcfg = WH_ENVCFG_CBCFE | WH_ENVCFG_CBZE;
        wh_pmp_set_addr(&h->mmu.pmp, 1, UINT64_MAX);
        wh_pmp_set_cfg(&h->mmu.pmp, 1, 0x1f);
        wh_pmp_set_addr(&h->mmu.pmp, 0, (DATA >> 2) | 0x1ff);
        wh_pmp_set_cfg(&h->mmu.pmp, 0, rows[n].pmp);
        wh_mmu_flush_all(&h->mmu);
        wh_hart_set_x(h, A0, DATA + 5);
        emit(b, cbo(rows[n].kind, A0));
        CHECK_EQ(outcome(b), rows[n].cause);
        if (rows[n].cause)
            CHECK_EQ(h->csr.mtval, DATA + 5);
    }
}

/* Zacas 1.0: x0 as rd compares with zero and takes nothing; pairs; natural alignment of 16. */
static void compare_and_swap(struct bench *b)
{
    wh_hart *h = b->hart;
    for (unsigned held = 0; held < 2; held++) {
        start(b, WH_PRIV_M);
        h->x[WH_SINK] = 77; /* whatever earlier instructions left there must not be compared with */
        poke64(b, DATA, held);
        wh_hart_set_x(h, A0, DATA);
        wh_hart_set_x(h, A1, 5);
        emit(b, amocas(3, ZERO, A0, A1));
        CHECK_EQ(outcome(b), 0);
        CHECK_EQ(peek64(b, DATA), held ? 1 : 5);
        CHECK_EQ(wh_hart_get_x(h, 0), 0);
    }
    start(b, WH_PRIV_M); /* .w compares the low halves and sign-extends what it found */
    poke64(b, DATA, 0x11111111fffffff0);
    wh_hart_set_x(h, A0, DATA);
    wh_hart_set_x(h, A2, 0xabcdef01fffffff0);
    wh_hart_set_x(h, A1, 9);
    emit(b, amocas(2, A2, A0, A1));
    CHECK_EQ(outcome(b), 0);
    CHECK_EQ(peek64(b, DATA), 0x1111111100000009);
    CHECK_EQ(wh_hart_get_x(h, A2), 0xfffffffffffffff0);

    static const struct {
        uint64_t low, high;
        bool swaps;
    } pairs[] = {{1, 2, true}, {1, 3, false}, {0, 2, false}};
    for (size_t n = 0; n < WH_ARRAY_LEN(pairs); n++) {
        start(b, WH_PRIV_M);
        poke64(b, DATA + 16, 1);
        poke64(b, DATA + 24, 2);
        wh_hart_set_x(h, S0, DATA + 16);
        wh_hart_set_x(h, A0, pairs[n].low);
        wh_hart_set_x(h, A1, pairs[n].high);
        wh_hart_set_x(h, A2, 30);
        wh_hart_set_x(h, A3, 40);
        emit(b, amocas(4, A0, S0, A2));
        CHECK_EQ(outcome(b), 0);
        CHECK_EQ(peek64(b, DATA + 16), pairs[n].swaps ? 30 : 1);
        CHECK_EQ(peek64(b, DATA + 24), pairs[n].swaps ? 40 : 2);
        CHECK_EQ(wh_hart_get_x(h, A0), 1);
        CHECK_EQ(wh_hart_get_x(h, A1), 2);
    }
    start(b, WH_PRIV_M); /* the pair x0: compares with zero, and as source stores zero in both halves */
    poke64(b, DATA, 0);
    poke64(b, DATA + 8, 0);
    wh_hart_set_x(h, RA, 99);
    wh_hart_set_x(h, S0, DATA);
    wh_hart_set_x(h, A2, 30);
    wh_hart_set_x(h, A3, 40);
    emit(b, amocas(4, ZERO, S0, A2));
    emit(b, amocas(4, A2, S0, ZERO));
    CHECK_EQ(outcome(b), 0);
    CHECK_EQ(wh_hart_get_x(h, RA), 99);
    CHECK_EQ(wh_hart_get_x(h, A2), 30);
    CHECK(peek64(b, DATA) == 0 && peek64(b, DATA + 8) == 0);

    start(b, WH_PRIV_M);
    wh_hart_set_x(h, S0, DATA + 8);
    emit(b, amocas(4, A0, S0, A2));
    CHECK_EQ(outcome(b), WH_CAUSE_STORE_MISALIGNED);
    CHECK_EQ(h->csr.mtval, DATA + 8);
}

static uint64_t csr_after(struct bench *b, int csr, uint64_t value, uint64_t *cause)
{
    start(b, WH_PRIV_M);
    wh_hart_set_x(b->hart, A0, value);
    emit(b, CSRRW(ZERO, csr, A0));
    emit(b, CSRRS(A1, csr, ZERO));
    *cause = outcome(b);
    return wh_hart_get_x(b->hart, A1);
}

static void registers(struct bench *b, bool full)
{
    uint64_t cause, menvcfg = full ? 0xe0000000000000f1ull : 1;
    CHECK_EQ(csr_after(b, MENVCFG, UINT64_MAX, &cause), menvcfg);
    CHECK_EQ(csr_after(b, SENVCFG, UINT64_MAX, &cause), full ? 0xf1 : 1);
    CHECK_EQ(csr_after(b, SENVCFG, 2 << 4, &cause), 0); /* CBIE 10 is reserved */
    CHECK_EQ(csr_after(b, MISA, 0, &cause), (2ull << 62) | 0x14112d | (full ? 2 : 0));
    CHECK_EQ(cause, 0);
    CHECK_EQ(csr_after(b, TSELECT, 5, &cause), 0);
    CHECK_EQ(cause, 0);
    start(b, WH_PRIV_S); /* without Sstc there is no STCE, and so no stimecmp below M */
    b->hart->csr.menvcfg = UINT64_MAX & wh_menvcfg_mask(b->hart);
    b->hart->csr.mcounteren = 2;
    emit(b, CSRRW(ZERO, STIMECMP, ZERO));
    CHECK_EQ(outcome(b), full ? 0 : WH_CAUSE_ILLEGAL);
}

/* WRS.NTO waits as WFI does, so that TW stops it; neither waits here, and that is allowed. */
static void waiting(struct bench *b)
{
    static const struct {
        enum wh_priv priv;
        uint64_t tw;
        uint32_t word;
        uint64_t cause;
    } rows[] = {{WH_PRIV_M, WH_MSTATUS_TW, 0x00d00073, 0},
                {WH_PRIV_S, 0, 0x00d00073, 0},
                {WH_PRIV_U, 0, 0x00d00073, 0},
                {WH_PRIV_S, WH_MSTATUS_TW, 0x00d00073, WH_CAUSE_ILLEGAL},
                {WH_PRIV_U, WH_MSTATUS_TW, 0x01d00073, 0}};
    for (size_t n = 0; n < WH_ARRAY_LEN(rows); n++) {
        start(b, rows[n].priv);
        b->hart->csr.mstatus |= rows[n].tw;
        emit(b, rows[n].word);
        CHECK_EQ(outcome(b), rows[n].cause);
    }
}

/* A hart of the lesser model executes none of it. */
static void baseline(void)
{
    static const uint32_t words[] = {0x0005200f, 0x0045200f, 0x0e7350b3, 0x00d00073, 0x28c5b52f, 0x81c5c573,
                                     0x00251507, 0xe4058553, 0x4045f553, 0x20b52533, 0x16b50073, 0x18000073};
    struct bench b;
    bench_open_model(&b, false, WH_CPU_RV64GC);
    for (size_t n = 0; n < WH_ARRAY_LEN(words); n++) {
        start(&b, WH_PRIV_M);
        emit(&b, words[n]);
        CHECK_EQ(outcome(&b), WH_CAUSE_ILLEGAL);
        CHECK_EQ(b.hart->csr.mtval, words[n]);
    }
    start(&b, WH_PRIV_M);
    emit(&b, 0x80488048); /* c.lbu twice */
    CHECK_EQ(outcome(&b), WH_CAUSE_ILLEGAL);
    CHECK_EQ(b.hart->csr.mtval, 0x8048);
    registers(&b, false);
    bench_close(&b);
}

int main(void)
{
    struct bench b;
    bench_open(&b, false);
    cache_blocks_by_privilege(&b);
    zeroing(&b);
    compare_and_swap(&b);
    registers(&b, true);
    waiting(&b);
    bench_close(&b);
    baseline();
    return check_failures != 0;
}
