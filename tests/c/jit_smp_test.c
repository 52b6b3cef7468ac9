/* Four harts with one translator whose arena is so small that it is reset all the time, while one of them changes code
 * that all of them run, and places prove restless. Each hart's result is what its own loop must give. Under
 * ThreadSanitizer this is the proof that records are only used while no reset can happen. */
#include "cpu_check.h"
#include "jit/cache.h"

#include <pthread.h>

enum {
    HARTS = 4,
    PAGES = 48,
    ROUNDS = 400,
    X_DONE = 31,
    X_STEP = 30,
    X_MASK = 29,
    X_BASE = 28,
    X_AT = 27,
    X_WHERE = 26
};
#define FAR_PAGES (WH_RAM_BASE + (8u << 20)) /* 64 of them, zeros */

static uint32_t op(unsigned f3, unsigned rd, unsigned rs1, unsigned rs2)
{
    return 0x33 | rd << 7 | f3 << 12 | rs1 << 15 | rs2 << 20;
}

struct rig {
    struct bench b;
    wh_jit *jit;
    wh_hart *hart[HARTS];
};

static uint32_t addi(unsigned rd, unsigned rs, int32_t imm)
{
    return 0x13 | rd << 7 | rs << 15 | (uint32_t)imm << 20;
}
static uint32_t jal(unsigned rd, int64_t distance)
{
    uint32_t d = (uint32_t)distance;
    return 0x6f | rd << 7 | (d >> 12 & 0xff) << 12 | (d >> 11 & 1) << 20 | (d >> 1 & 0x3ff) << 21 | (d >> 20 & 1) << 31;
}

/* Each page: a load, from another page each round; 60 additions with branches between, then on to the next page; the
 * last one counts rounds in a2. */
static void write_program(struct bench *b)
{
    for (unsigned page = 0; page < PAGES; page++) {
        b->at = BENCH_CODE + page * WH_PAGE_SIZE + 16 * (page % 8);
        emit(b, op(0, X_AT, X_AT, X_STEP));
        emit(b, op(7, X_AT, X_AT, X_MASK));
        emit(b, op(0, X_WHERE, X_AT, X_BASE));
        emit(b, i_load(3, T1, X_WHERE, 0));
        emit(b, op(0, A0, A0, T1)); /* nothing, if it came from there */
        for (unsigned i = 0; i < 60; i++) {
            emit(b, addi(A0, A0, (int32_t)(i % 5 + 1)));
            if (i % 6 == 5)
                emit(b, 0x00000463 | (i % 12 == 5 ? A2 : 0) << 15); /* beq (a2 or x0), x0, +8 */
            if (i % 6 == 5)
                emit(b, addi(A0, A0, 1));
        }
        uint64_t next = BENCH_CODE + (page + 1) % PAGES * WH_PAGE_SIZE + 16 * ((page + 1) % PAGES % 8);
        if (page + 1 == PAGES) {
            emit(b, addi(A2, A2, -1));
            emit(b, 0x00061463); /* bnez a2, +8 */
            emit(b, 0x005fa023); /* sw t0, 0(x31): the device */
        }
        emit(b, jal(0, (int64_t)(next - b->at)));
    }
}

static void *run_hart(void *arg)
{
    wh_hart *h = arg;
    while (h->x[A2] != 0)
        (void)wh_hart_run(h);
    return NULL;
}

int main(void)
{
    static struct rig r;
    pthread_t thread[HARTS];
    wh_error err;
    if (wh_jit_new(24 << 10, &r.jit, &err) != WH_OK) {
        printf("skipped: %s\n", err.message);
        return 0;
    }
    r.jit->slots_everywhere = true;
    if (wh_ram_new(BENCH_RAM, HARTS, &r.b.ram, &err) != WH_OK)
        return 1;
    wh_cpu_env env = {.ram = &r.b.ram,
                      .ctx = &r.b,
                      .engine = wh_jit_engine(),
                      .jit = r.jit,
                      .hart_count = HARTS,
                      .mmio_read = bench_read,
                      .mmio_write = bench_write,
                      .time_now = bench_time};
    write_program(&r.b);
    for (unsigned i = 0; i < HARTS; i++) {
        if (wh_hart_new(&env, i, &r.hart[i], &err) != WH_OK)
            return 1;
        wh_hart_reset(r.hart[i], BENCH_CODE);
        r.hart[i]->x[A2] = ROUNDS;
        r.hart[i]->x[X_DONE] = DEVICE;
        r.hart[i]->x[X_STEP] = WH_PAGE_SIZE;
        r.hart[i]->x[X_MASK] = 64 * WH_PAGE_SIZE - 1;
        r.hart[i]->x[X_BASE] = FAR_PAGES;
    }
    for (unsigned i = 0; i < HARTS; i++)
        pthread_create(&thread[i], NULL, run_hart, r.hart[i]);
    for (unsigned i = 0; i < HARTS; i++)
        pthread_join(thread[i], NULL);
    for (unsigned i = 0; i < HARTS; i++) {
        /* 180 a page, and one more where the branch is not taken (a2 is not zero): five of ten branches */
        CHECK_EQ(r.hart[i]->x[A0], (uint64_t)ROUNDS * PAGES * (180 + 5));
        wh_hart_free(r.hart[i]);
    }
    printf("%" PRIu64 " resets, %" PRIu64 " blocks, %" PRIu64 " made again\n", r.jit->resets, r.jit->blocks,
           r.jit->remade);
    CHECK(r.jit->resets > 3 && r.jit->remade > 3);
    wh_jit_free(r.jit);
    wh_ram_free(&r.b.ram);
    return check_failures != 0;
}
