/* Privileged behaviour by small programs: traps with their tval, delegation, interrupts, Sstc, WFI, FENCE.I, snapshots,
 * dirty rounds. Each program ends by a store to the device, which asks the hart for attention. */
#include "cpu_check.h"

static struct bench b;

static void run_to_stop(void)
{
    for (int n = 0; n < 100; n++)
        if (wh_hart_run(b.hart) == WH_EXIT_ATTENTION)
            return;
    CHECK(!"stopped");
}

static void expect_trap(uint32_t word, uint64_t cause, uint64_t value)
{
    emit(&b, word);
    emit(&b, I_STOP);
    emit(&b, I_SPIN);
    run_to_stop();
    CHECK_EQ(b.hart->csr.mcause, cause);
    CHECK_EQ(b.hart->csr.mtval, value);
    CHECK_EQ(b.hart->csr.mepc, BENCH_CODE);
}

static void causes(void)
{
    bench_restart(&b);
    expect_trap(I_ECALL, 11, 0);
    bench_restart(&b);
    expect_trap(I_EBREAK, 3, BENCH_CODE);
    bench_restart(&b);
    expect_trap(0xffffffff, 2, 0xffffffff);
    bench_restart(&b);
    expect_trap(0x0000, 2, 0); /* the 2-byte illegal instruction */
    bench_restart(&b);
    expect_trap(CSRRW(A0, 0xc00, A1), 2, CSRRW(A0, 0xc00, A1)); /* write to a read-only CSR */
    bench_restart(&b);
    expect_trap(CSRRS(A0, 0x7c0, ZERO), 2, CSRRS(A0, 0x7c0, ZERO));
    bench_restart(&b);
    expect_trap(i_load(3, A0, ZERO, 8), 5, 8); /* nothing there */
    bench_restart(&b);
    expect_trap(i_store(2, A0, ZERO, 16), 7, 16);
    bench_restart(&b);
    wh_hart_set_x(b.hart, A1, DEVICE + 4);
    expect_trap(i_load(3, A0, A1, 0), 4, DEVICE + 4); /* a device takes no misaligned access */
    bench_restart(&b);
    wh_hart_set_x(b.hart, A1, WH_RAM_BASE + 0x1002);
    expect_trap(0x1005a52f, 4, WH_RAM_BASE + 0x1002); /* lr.w a0, (a1) */
    bench_restart(&b);
    wh_hart_set_x(b.hart, A1, WH_RAM_BASE + 0x1004);
    expect_trap(0x00c5b52f, 6, WH_RAM_BASE + 0x1004); /* amoadd.d a0, a2, (a1) */
    bench_restart(&b);
    b.hart->csr.mstatus = 0;
    wh_fp_update(b.hart);
    expect_trap(0x02b57553, 2, 0x02b57553); /* fadd.d with FS off */
    bench_restart(&b);
    wh_hart_set_x(b.hart, A1, 0x40);
    emit(&b, 0x00058067); /* jr a1: the trap is the target's */
    emit(&b, I_SPIN);
    run_to_stop();
    CHECK_EQ(b.hart->csr.mcause, 1);
    CHECK_EQ(b.hart->csr.mepc, 0x40);
    CHECK_EQ(b.hart->csr.mtval, 0x40);
}

static void misaligned_across_pages(void)
{
    bench_restart(&b);
    uint64_t at = WH_RAM_BASE + 0x3ffb;
    wh_hart_set_x(b.hart, A1, at);
    wh_hart_set_x(b.hart, A0, 0x1122334455667788);
    emit(&b, i_store(3, A0, A1, 0));
    emit(&b, i_load(3, A2, A1, 0));
    emit(&b, i_load(2, A3, A1, 2)); /* lw, also across */
    emit(&b, I_STOP);
    emit(&b, I_SPIN);
    run_to_stop();
    CHECK_EQ(wh_hart_get_x(b.hart, A2), 0x1122334455667788);
    CHECK_EQ(wh_hart_get_x(b.hart, A3), 0x33445566);
    /* A store whose second page is missing writes nothing. */
    bench_restart(&b);
    at = WH_RAM_BASE + BENCH_RAM - 4;
    poke32(&b, at, 0x5a5a5a5a);
    wh_hart_set_x(b.hart, A1, at);
    expect_trap(i_store(3, A0, A1, 0), 6, at);
    CHECK_EQ(peek64(&b, at - 4) >> 32, 0x5a5a5a5a);
}

/* U-mode code at `user`, M-mode PMP open; mret gets there. */
static void enter(enum wh_priv priv, uint64_t pc)
{
    wh_pmp_set_addr(&b.hart->mmu.pmp, 0, UINT64_MAX);
    wh_pmp_set_cfg(&b.hart->mmu.pmp, 0, 0x1f);
    b.hart->csr.mepc = pc;
    b.hart->csr.mstatus = (b.hart->csr.mstatus & ~WH_MSTATUS_MPP) | (uint64_t)priv << 11;
    emit(&b, I_MRET);
}
#define USER      (WH_RAM_BASE + 0x9000)
#define S_HANDLER (WH_RAM_BASE + 0xa000)

/* The second page of an access is refused: tval is its first byte, and nothing was written. */
static void second_page_refused(void)
{
    bench_restart(&b);
    uint64_t page = WH_RAM_BASE + 0x300000;
    enter(WH_PRIV_U, USER);
    wh_pmp_set_addr(&b.hart->mmu.pmp, 1, UINT64_MAX);
    wh_pmp_set_cfg(&b.hart->mmu.pmp, 1, 0x1f);
    wh_pmp_set_addr(&b.hart->mmu.pmp, 0, page >> 2 | 0x1ff);
    wh_pmp_set_cfg(&b.hart->mmu.pmp, 0, 0x18);
    wh_hart_set_x(b.hart, A1, page - 3);
    wh_hart_set_x(b.hart, A0, UINT64_MAX);
    poke64(&b, page - 8, 0);
    b.at = USER;
    emit(&b, i_store(3, A0, A1, 0));
    run_to_stop();
    CHECK_EQ(b.hart->csr.mcause, 7);
    CHECK_EQ(b.hart->csr.mtval, page);
    CHECK_EQ(peek64(&b, page - 8), 0);
    bench_restart(&b); /* the same for a 4-byte instruction */
    enter(WH_PRIV_U, page - 2);
    wh_pmp_set_addr(&b.hart->mmu.pmp, 1, UINT64_MAX);
    wh_pmp_set_cfg(&b.hart->mmu.pmp, 1, 0x1f);
    wh_pmp_set_addr(&b.hart->mmu.pmp, 0, page >> 2 | 0x1ff);
    wh_pmp_set_cfg(&b.hart->mmu.pmp, 0, 0x18);
    poke32(&b, page - 2, i_addi(A0, A0, 1));
    run_to_stop();
    CHECK_EQ(b.hart->csr.mcause, 1);
    CHECK_EQ(b.hart->csr.mtval, page);
    CHECK_EQ(b.hart->csr.mepc, page - 2);
}

static void delegation(void)
{
    bench_restart(&b);
    b.hart->csr.medeleg = 1u << 8;
    b.hart->csr.stvec = S_HANDLER;
    enter(WH_PRIV_U, USER);
    b.at = USER;
    emit(&b, I_ECALL);
    poke32(&b, S_HANDLER, CSRRS(A0, 0x142, ZERO)); /* scause */
    poke32(&b, S_HANDLER + 4, I_WFI + 0);          /* allowed in S while TW is 0: nothing pending, so the run exits */
    poke32(&b, S_HANDLER + 8, I_ECALL);            /* ecall from S is not delegated */
    CHECK_EQ(wh_hart_run(b.hart), WH_EXIT_WFI);
    run_to_stop();
    CHECK_EQ(wh_hart_get_x(b.hart, A0), 8);
    CHECK_EQ(b.hart->csr.sepc, USER);
    CHECK_EQ(b.hart->csr.mcause, 9);
    CHECK_EQ(b.hart->csr.mstatus >> 11 & 3, WH_PRIV_S);
    CHECK_EQ(b.hart->csr.mstatus & WH_MSTATUS_SPP, 0);
}

static void supervisor_limits(void)
{
    const struct {
        uint32_t word;
        uint64_t status;
        enum wh_priv priv;
        bool traps;
    } table[] = {
        {I_WFI, WH_MSTATUS_TW, WH_PRIV_S, true},
        {I_WFI, 0, WH_PRIV_U, true},
        {I_SRET, WH_MSTATUS_TSR, WH_PRIV_S, true},
        {I_SRET, 0, WH_PRIV_U, true},
        {I_MRET, 0, WH_PRIV_S, true},
        {I_SFENCE, WH_MSTATUS_TVM, WH_PRIV_S, true},
        {I_SFENCE, 0, WH_PRIV_S, false},
        {I_SFENCE, 0, WH_PRIV_U, true},
        {CSRRS(A0, 0x180, ZERO), WH_MSTATUS_TVM, WH_PRIV_S, true},
        {CSRRS(A0, 0x180, ZERO), 0, WH_PRIV_S, false},
        {CSRRS(A0, 0x300, ZERO), 0, WH_PRIV_S, true},
        {CSRRS(A0, 0xc01, ZERO), 0, WH_PRIV_S, true}, /* time: mcounteren is 0 */
        {CSRRS(A0, 0x14d, ZERO), 0, WH_PRIV_S, true}, /* stimecmp: STCE is 0 */
    };
    for (size_t i = 0; i < WH_ARRAY_LEN(table); i++) {
        bench_restart(&b);
        b.hart->csr.mstatus |= table[i].status;
        enter(table[i].priv, USER);
        b.at = USER;
        emit(&b, table[i].word);
        emit(&b, I_STOP);
        emit(&b, I_SPIN);
        run_to_stop();
        bool trapped = b.hart->csr.mcause == 2 && b.hart->csr.mtval == table[i].word;
        if (trapped != table[i].traps) {
            printf("row %zu: trapped %d\n", i, trapped);
            check_failures++;
        }
    }
}

static void interrupts(void)
{
    bench_restart(&b);
    b.hart->csr.mie = WH_IRQ_ALL;
    b.hart->csr.mtvec = HANDLER | 1; /* vectored */
    for (unsigned i = 0; i < 12; i++)
        poke32(&b, HANDLER + 4 * i, I_STOP);
    poke32(&b, HANDLER + 48, I_SPIN);
    emit(&b, i_csr(6, 0, 0x300, 8)); /* csrsi mstatus, MIE */
    emit(&b, I_SPIN);
    wh_hart_irq(b.hart, WH_IRQ_MTI, true);
    wh_hart_irq(b.hart, WH_IRQ_MEI, true);
    wh_hart_irq(b.hart, WH_IRQ_SSI, true);
    run_to_stop();
    CHECK_EQ(b.hart->csr.mcause, WH_CAUSE_INTERRUPT | 11); /* external first */
    CHECK_EQ(b.hart->csr.mepc, BENCH_CODE + 4);
    CHECK((wh_hart_get_pc(b.hart) & ~0xffull) == HANDLER);
    wh_hart_irq(b.hart, WH_IRQ_MEI, false);
    wh_hart_irq(b.hart, WH_IRQ_MTI, false);
    wh_hart_irq(b.hart, WH_IRQ_SSI, false);
}

static void sstc(void)
{
    bench_open(&b, true);
    wh_hart_enter_supervisor(b.hart, BENCH_CODE, 0x1234);
    CHECK_EQ(wh_hart_get_x(b.hart, A1), 0x1234);
    wh_hart_set_x(b.hart, TP, DEVICE);
    wh_hart_set_x(b.hart, A0, 5000);
    wh_hart_set_x(b.hart, A1, 1 << 5);
    wh_hart_set_x(b.hart, A2, S_HANDLER);
    b.time = 4000;
    emit(&b, CSRRW(0, 0x105, A2));
    emit(&b, CSRRW(0, 0x14d, A0));
    emit(&b, CSRRW(0, 0x104, A1));
    emit(&b, I_WFI);
    emit(&b, i_csr(6, 0, 0x100, 2)); /* csrsi sstatus, SIE */
    emit(&b, I_SPIN);
    poke32(&b, S_HANDLER, CSRRS(A5, 0x142, ZERO));
    poke32(&b, S_HANDLER + 4, I_ECALL);
    CHECK_EQ(wh_hart_run(b.hart), WH_EXIT_WFI);
    CHECK(!wh_hart_runnable(b.hart));
    CHECK_EQ(wh_hart_next_timer(b.hart), 5000);
    b.time = 5000;
    CHECK(wh_hart_runnable(b.hart));
    CHECK_EQ(wh_hart_run(b.hart), WH_EXIT_SBI);
    CHECK_EQ(wh_hart_get_x(b.hart, A5), WH_CAUSE_INTERRUPT | 5);
    CHECK_EQ(wh_hart_get_pc(b.hart), S_HANDLER + 8); /* past the ecall */
    /* A vector that can't be fetched. */
    b.hart->csr.stvec = 0x100;
    b.hart->pc = 0x100;
    CHECK_EQ(wh_hart_run(b.hart), WH_EXIT_WEDGED);
    bench_close(&b);
}

/* Code that changes itself sees the change after FENCE.I, also in the next page and by a device's hand. */
static void self_modifying(void)
{
    bench_restart(&b);
    uint64_t other = WH_RAM_BASE + 0x5000;
    wh_hart_set_x(b.hart, A1, other);
    wh_hart_set_x(b.hart, A2, i_addi(A0, A0, 16));
    poke32(&b, other, i_addi(A0, A0, 1));
    poke32(&b, other + 4, 0x00008067); /* ret */
    emit(&b, 0x000580e7);              /* jalr ra, a1 */
    emit(&b, i_store(2, A2, A1, 0));
    emit(&b, I_FENCE_I);
    emit(&b, 0x000580e7);
    emit(&b, I_STOP);
    emit(&b, 0x000580e7);
    emit(&b, I_STOP);
    emit(&b, I_SPIN);
    run_to_stop();
    CHECK_EQ(wh_hart_get_x(b.hart, A0), 17);
    poke32(&b, other, i_addi(A0, A0, 256)); /* as a disk would */
    b.hart->pc = BENCH_CODE + 20;
    wh_hart_request_fence(b.hart, WH_FENCE_I);
    CHECK(!wh_hart_fences_done(b.hart));
    run_to_stop();
    CHECK(wh_hart_fences_done(b.hart));
    CHECK_EQ(wh_hart_get_x(b.hart, A0), 17 + 256);
}

/* The second of a pair changes, at every place that it can have in the words that are compared. */
static void modified_pairs(void)
{
    CHECK(wh_pair(WH_OP_ADDI, WH_OP_ADDI, 4) != 0); /* else this proves nothing */
    for (unsigned at = 0; at < 16; at += 2) {
        bench_restart(&b);
        uint64_t code = WH_RAM_BASE + 0x6020 + at;
        wh_hart_request_fence(b.hart, WH_FENCE_I);
        for (unsigned n = 0; n < 6; n++) /* each is the second of a pair, and all but the last the first of one */
            poke32(&b, code - 24 + 4 * n, i_addi(A0, A0, 1000));
        poke32(&b, code, i_addi(A0, A0, 1));
        poke32(&b, code + 4, i_addi(A0, A0, 2));
        poke32(&b, code + 8, 0x00008067); /* ret */
        wh_hart_set_x(b.hart, A1, code - 24);
        emit(&b, 0x000580e7); /* jalr ra, a1 */
        emit(&b, 0x000580e7);
        emit(&b, I_STOP);
        emit(&b, 0xff5ff06f); /* j .-12 */
        run_to_stop();
        CHECK_EQ(wh_hart_get_x(b.hart, A0), 2 * 6003);
        poke32(&b, code + 4, i_addi(A0, A0, 102)); /* only its upper half differs */
        b.hart->pc = BENCH_CODE;
        wh_hart_request_fence(b.hart, WH_FENCE_I);
        run_to_stop();
        CHECK_EQ(wh_hart_get_x(b.hart, A0), 2 * 6003 + 2 * 6103);
    }
}

static void across_a_page(void)
{
    bench_restart(&b);
    b.at = BENCH_CODE + 0xffe; /* a 4-byte instruction over the border, twice through */
    emit(&b, i_addi(A0, A0, 5));
    emit(&b, i_addi(A1, A1, -1));
    emit(&b, 0xfe059ce3); /* bnez a1, .-8 */
    emit(&b, I_STOP);
    emit(&b, I_SPIN);
    wh_hart_set_x(b.hart, A1, 1000);
    b.hart->pc = BENCH_CODE + 0xffe;
    uint64_t before = wh_hart_retired(b.hart);
    run_to_stop();
    CHECK_EQ(wh_hart_get_x(b.hart, A0), 5000);
    CHECK(wh_hart_retired(b.hart) - before >= 3001);
}

static void dirty_rounds(void)
{
    bench_restart(&b);
    struct wh_share *s = b.ram.share;
    atomic_store(&s->tracking, 1);
    uint64_t at = WH_RAM_BASE + 0x200000, pfn = 0x200;
    wh_hart_set_x(b.hart, A1, at);
    emit(&b, i_store(3, A0, A1, 0));
    emit(&b, I_STOP);
    emit(&b, 0xff9ff06f); /* j .-8 */
    run_to_stop();
    CHECK(atomic_load(&s->dirty[pfn >> 6]) >> (pfn & 63) & 1);
    for (int round = 0; round < 3; round++) {
        atomic_store(&s->dirty[pfn >> 6], 0);
        atomic_fetch_add(&s->round, 1);
        b.hart->pc = BENCH_CODE;
        run_to_stop();
        CHECK_EQ(atomic_load(&s->hart[0].round_seen), atomic_load(&s->round));
        CHECK(atomic_load(&s->dirty[pfn >> 6]) >> (pfn & 63) & 1);
    }
    atomic_store(&s->tracking, 0);
}

/* Every member has its own key: distinct values come back as they were. */
static void every_register_is_saved(void)
{
    bench_restart(&b);
    wh_writer first, second;
    wh_reader r;
    uint64_t *words = (uint64_t *)(void *)&b.hart->csr, seed = 9;
    for (size_t i = 0; i < sizeof(b.hart->csr) / 8; i++)
        words[i] = check_random(&seed);
    b.hart->csr.satp = 9ull << 60 | 0x80123;
    b.hart->csr.mstatus &= WH_MSTATUS_WRITABLE & ~WH_MSTATUS_MPP;
    for (unsigned i = 1; i < 32; i++) {
        b.hart->x[i] = check_random(&seed);
        b.hart->f[i] = check_random(&seed);
    }
    b.hart->fflags = 21;
    b.hart->priv = WH_PRIV_S;
    wh_csrs csr = b.hart->csr;
    wh_writer_init(&first);
    wh_writer_init(&second);
    wh_hart_save(b.hart, &first);
    wh_hart_reset(b.hart, 0);
    wh_reader_init(&r, first.data, first.len);
    wh_hart_load(b.hart, &r);
    CHECK_EQ(r.status, WH_OK);
    /* What has no free bits is compared exactly. */
    CHECK_EQ(b.hart->csr.stimecmp, csr.stimecmp);
    CHECK_EQ(b.hart->csr.sscratch, csr.sscratch);
    CHECK_EQ(b.hart->csr.mscratch, csr.mscratch);
    CHECK_EQ(b.hart->csr.scause, csr.scause);
    CHECK_EQ(b.hart->csr.mcause, csr.mcause);
    CHECK_EQ(b.hart->csr.stval, csr.stval);
    CHECK_EQ(b.hart->csr.mtval, csr.mtval);
    CHECK_EQ(b.hart->csr.cycle_offset, csr.cycle_offset);
    CHECK_EQ(b.hart->csr.instret_offset, csr.instret_offset);
    CHECK_EQ(b.hart->csr.satp, csr.satp);
    CHECK_EQ(b.hart->csr.sepc, csr.sepc & ~1ull);
    CHECK_EQ(b.hart->csr.mepc, csr.mepc & ~1ull);
    CHECK_EQ(b.hart->csr.stvec, csr.stvec & ~2ull);
    CHECK_EQ(b.hart->priv, WH_PRIV_S);
    CHECK_EQ(b.hart->fflags, 21);
    wh_hart_save(b.hart, &second); /* and once masked, nothing changes any more */
    wh_hart_reset(b.hart, 0);
    wh_reader_init(&r, second.data, second.len);
    wh_hart_load(b.hart, &r);
    wh_writer third;
    wh_writer_init(&third);
    wh_hart_save(b.hart, &third);
    CHECK(second.len == third.len && memcmp(second.data, third.data, third.len) == 0);
    wh_writer_free(&first);
    wh_writer_free(&second);
    wh_writer_free(&third);
}

/* Saved in the middle and loaded into another hart, a program ends as if nothing had happened. */
static void snapshot(void)
{
    bench_restart(&b);
    wh_writer w;
    wh_reader r;
    b.hart->f[3] = 0x3ff0000000000000;
    b.hart->frm = 2;
    wh_hart_set_x(b.hart, A1, 10000);
    emit(&b, i_addi(A0, A0, 3));
    emit(&b, i_addi(A1, A1, -1));
    emit(&b, 0xfe059ce3); /* bnez a1, .-8 */
    emit(&b, I_STOP);
    emit(&b, I_SPIN);
    wh_hart_attention(b.hart);
    CHECK_EQ(wh_hart_run(b.hart), WH_EXIT_ATTENTION); /* before the first instruction */
    wh_writer_init(&w);
    wh_hart_save(b.hart, &w);
    CHECK_EQ(w.status, WH_OK);
    uint64_t retired = wh_hart_retired(b.hart);
    wh_hart_reset(b.hart, 0);
    wh_reader_init(&r, w.data, w.len);
    wh_hart_load(b.hart, &r);
    CHECK_EQ(r.status, WH_OK);
    CHECK_EQ(wh_hart_retired(b.hart), retired);
    CHECK_EQ(b.hart->f[3], 0x3ff0000000000000);
    CHECK_EQ(b.hart->frm, 2);
    run_to_stop();
    CHECK_EQ(wh_hart_get_x(b.hart, A0), 30000);
    /* Every cut and every random change is refused or harmless. */
    uint64_t seed = 3;
    for (size_t cut = 0; cut < w.len; cut += 7) {
        wh_reader_init(&r, w.data, cut);
        wh_hart_load(b.hart, &r);
        CHECK(r.status != WH_OK);
    }
    for (int n = 0; n < 3000; n++) {
        uint64_t x = check_random(&seed);
        uint8_t *at = &w.data[x % w.len], old = *at;
        *at ^= (uint8_t)(x >> 32);
        wh_reader_init(&r, w.data, w.len);
        wh_hart_load(b.hart, &r);
        wh_hart_attention(b.hart);
        (void)wh_hart_run(b.hart);
        *at = old;
    }
    wh_writer_free(&w);
}

int main(void)
{
    bench_open(&b, false);
    causes();
    misaligned_across_pages();
    second_page_refused();
    delegation();
    supervisor_limits();
    interrupts();
    self_modifying();
    modified_pairs();
    across_a_page();
    dirty_rounds();
    every_register_is_saved();
    snapshot();
    bench_close(&b);
    sstc();
    return check_failures != 0;
}
