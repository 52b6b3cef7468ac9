/* What an idle guest gives back, and that it runs on as if it had not: a hart's decoded code between changes of that
 * code with and without FENCE.I, on both engines; the translator's arena while four harts run in it. The looks of a
 * machine's harts (board/idle.c) are timed by the host and are tested by their parts here and by lockstep runs. */
#include "jit_rig.h"

#include <sched.h>

enum { PAGES = 64, HARTS = 4, ROUNDS = 400, X_DONE = 31 };

static uint32_t jump(uint64_t from, uint64_t to)
{
    uint32_t d = (uint32_t)(to - from);
    return 0x6f | (d >> 12 & 0xff) << 12 | (d >> 11 & 1) << 20 | (d >> 1 & 0x3ff) << 21 | (d >> 20 & 1) << 31;
}

/* One addition of `step` and some of nothing a page, then on to the next; the last counts a2 down, fences, and writes
 * to the device when it is 0. */
static void write_program(struct bench *b, unsigned step)
{
    for (unsigned page = 0; page < PAGES; page++) {
        const uint64_t next = BENCH_CODE + (page + 1) % PAGES * WH_PAGE_SIZE;
        b->at = BENCH_CODE + page * WH_PAGE_SIZE;
        emit(b, i_addi(A0, A0, (int)step));
        for (unsigned i = 0; i < 40; i++)
            emit(b, i_addi(A3, A3, 0));
        if (page + 1 == PAGES) {
            emit(b, i_addi(A2, A2, -1));
            emit(b, 0x00061463); /* bnez a2, +8 */
            emit(b, 0x005fa023); /* sw t0, 0(x31) */
        }
        emit(b, jump(b->at, next));
    }
}

static void run_rounds(wh_hart *h, uint64_t rounds)
{
    h->pc = BENCH_CODE;
    h->x[A0] = 0;
    h->x[A2] = rounds;
    h->x[X_DONE] = DEVICE;
    while (h->x[A2] != 0)
        (void)wh_hart_run(h);
}

static void shrink(struct rig *r, uint32_t keep)
{
    if (r->jit == NULL)
        return;
    wh_jit_shrink(r->jit, 0, keep);
    while (wh_jit_shrink_step(r->jit, r->b.hart))
        continue;
}

/* Given back, the same code and other code behind a FENCE.I run right; a fence that came before it is not lost. */
static void test_use_again(uint32_t arena, uint32_t keep)
{
    struct rig r;
    open_rig(&r, &(struct rig_kind){.arena = arena});
    wh_hart *h = r.b.hart;
    write_program(&r.b, 1);
    run_rounds(h, 100);
    CHECK_EQ(h->x[A0], 100 * PAGES);
    for (unsigned turn = 2; turn < 9; turn++) {
        wh_hart_give_back(h);
        CHECK_EQ(h->code.filled, 0);
        shrink(&r, keep);
        run_rounds(h, 40);
        CHECK_EQ(h->x[A0], 40 * (turn - 1) * PAGES);
        write_program(&r.b, turn);
        if (turn % 2 == 0)
            h->engine->code_changed(h); /* FENCE.I */
        wh_hart_give_back(h);
        shrink(&r, keep);
        if (turn % 2 != 0)
            h->engine->code_changed(h);
        run_rounds(h, 40);
        CHECK_EQ(h->x[A0], 40 * turn * PAGES);
    }
    close_rig(&r);
}

/* More than an idle hart needs is known as that, and gone from the host when it is given back. */
static void test_decoded_pages(void)
{
    struct rig r;
    open_rig(&r, &(struct rig_kind){.arena = 0});
    wh_hart *h = r.b.hart;
    write_program(&r.b, 1);
    CHECK(!wh_hart_hoards(h));
    run_rounds(h, 2);
    CHECK_EQ(h->code.filled, PAGES);
    CHECK(wh_hart_hoards(h)); /* of 300 */
    h->code.filled = wh_code_modest(&h->code);
    CHECK(!wh_hart_hoards(h));
    h->code.filled = PAGES;
    wh_hart_give_back(h);
    CHECK(h->code.pages[0].pfn == 0 && h->code.pages[PAGES - 1].insn[0].op == WH_OP_UNDECODED);
    close_rig(&r);
}

/* What is kept is the newest, no more than asked for; places that proved restless stay known; nothing between code and
 * records is left in the file. */
static void test_arena(void)
{
    struct rig r;
    open_rig(&r, &(struct rig_kind){.arena = 1 << 20});
    write_program(&r.b, 1);
    run_rounds(r.b.hart, 100);
    const uint32_t used = wh_jit_used(r.jit), keep = used - 8192;
    r.jit->restless[5] = 77;
    memset(r.jit->arena.rw + r.jit->arena.code + 100000, 1, 8192); /* as if it had been fuller once */
    wh_jit_shrink(r.jit, used, keep);
    while (wh_jit_shrink_step(r.jit, r.b.hart))
        continue;
    CHECK_EQ(wh_jit_used(r.jit), used); /* within its limit: nothing is dropped */
    CHECK_EQ(r.jit->arena.rw[r.jit->arena.code + 104096], 0);
    uint64_t heads[2 * PAGES];
    CHECK(wh_jit_heads(r.jit, heads, 2 * PAGES) >= PAGES);
    const uint64_t newest = heads[0];
    wh_jit_shrink(r.jit, used - 1, keep);
    CHECK(wh_jit_used(r.jit) < 8192);
    while (wh_jit_shrink_step(r.jit, r.b.hart))
        continue;
    CHECK(wh_jit_used(r.jit) <= keep + 1024 && wh_jit_used(r.jit) > keep / 2);
    const unsigned left = wh_jit_heads(r.jit, heads, 2 * PAGES);
    CHECK(left > 0 && heads[left - 1] == newest); /* it was made first */
    CHECK_EQ(r.jit->restless[5], 77);
    CHECK_EQ(r.jit->resets, 0);
    close_rig(&r);
}

static _Atomic unsigned ended;
static void *run_hart(void *arg)
{
    run_rounds(arg, ROUNDS);
    atomic_fetch_add(&ended, 1);
    return NULL;
}

/* Four harts run and fence while a thread of no hart makes the arena small, over and over. */
static void test_while_harts_run(void)
{
    static struct bench b;
    wh_jit *jit;
    wh_hart *hart[HARTS + 1]; /* the last one runs nothing */
    pthread_t thread[HARTS];
    wh_error err;
    if (wh_jit_new(1 << 20, &jit, &err) != WH_OK || wh_ram_new(BENCH_RAM, HARTS + 1, &b.ram, &err) != WH_OK)
        exit(1);
    wh_cpu_env env = {.ram = &b.ram,
                      .ctx = &b,
                      .engine = wh_jit_engine(),
                      .jit = jit,
                      .hart_count = HARTS + 1,
                      .mmio_read = bench_read,
                      .mmio_write = bench_write,
                      .time_now = bench_time};
    write_program(&b, 1);
    for (unsigned i = 0; i <= HARTS; i++) {
        if (wh_hart_new(&env, i, &hart[i], &err) != WH_OK)
            exit(1);
        wh_hart_reset(hart[i], BENCH_CODE);
    }
    for (unsigned i = 0; i < HARTS; i++)
        pthread_create(&thread[i], NULL, run_hart, hart[i]);
    for (unsigned i = 0; atomic_load(&ended) < HARTS; i++) {
        wh_jit_shrink(jit, 0, i % 3 * 8192);
        while (wh_jit_shrink_step(jit, hart[HARTS]))
            continue;
        sched_yield();
    }
    for (unsigned i = 0; i < HARTS; i++)
        pthread_join(thread[i], NULL);
    for (unsigned i = 0; i < HARTS; i++)
        CHECK_EQ(hart[i]->x[A0], (uint64_t)ROUNDS * PAGES);
    for (unsigned i = 0; i <= HARTS; i++)
        wh_hart_free(hart[i]);
    wh_jit_free(jit);
    wh_ram_free(&b.ram);
}

int main(void)
{
    test_decoded_pages();
    test_use_again(0, 0);
    test_use_again(1 << 20, 0);
    test_use_again(1 << 20, 8192);
    test_use_again(1 << 20, 1 << 20);
    test_arena();
    test_while_harts_run();
    printf("idle: %s\n", check_failures ? "FAILED" : "ok");
    return check_failures != 0;
}
