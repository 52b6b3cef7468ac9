/* Plain atomics keep the order that other threads may rely on (memory.h): a hart stores its turn, does an AMO with aq
 * and rl on a word of its own, and loads what a thread of ours has stored; the thread stores, settles and loads the
 * hart's turn. At least one of the two sees the other's store, each time. */
#include "cpu_check.h"
#include "jit/jit.h"

#include <pthread.h>

enum { TURNS = 1 << 20, MOST = 1 << 22, S3 = 19 };
#define HERS  (WH_RAM_BASE + 0x10000) /* the hart's turn */
#define OURS  (WH_RAM_BASE + 0x10080)
#define OTHER (WH_RAM_BASE + 0x10100)
#define SEEN  (WH_RAM_BASE + 0x100000) /* what she loaded, by turn */

static void write_program(struct bench *b)
{
    uint64_t again = b->at;
    emit(b, i_addi(T0, T0, 1));
    emit(b, i_store(3, T0, S0, 0));
    emit(b, 0x06a9b52f); /* amoadd.d.aqrl a0, a0, (s3) */
    emit(b, i_load(3, T1, S0, 0x80));
    emit(b, i_store(3, T1, S1, 0));
    emit(b, i_addi(S1, S1, 8));
    uint32_t d = (uint32_t)(again - b->at);
    emit(b, 0x63u | 1u << 12 | (uint32_t)T0 << 15 | (uint32_t)A2 << 20 | (d >> 11 & 1) << 7 | (d >> 1 & 15) << 8 |
                (d >> 5 & 63) << 25 | (d >> 12 & 1) << 31); /* bne t0, a2, again */
    emit(b, i_store(3, ZERO, TP, 0));
    emit(b, I_SPIN);
}

static void *run_hart(void *arg)
{
    wh_hart *h = arg;
    while (h->x[T0] != TURNS)
        (void)wh_hart_run(h);
    return NULL;
}

/* How often neither saw the other. */
static unsigned both_missed(struct bench *b)
{
    static uint64_t found[MOST]; /* by our turn */
    uint64_t turn = 0, missed = 0;
    uint64_t *ours = (uint64_t *)(void *)wh_ram_at(&b->ram, OURS, 8);
    const uint64_t *hers = (const uint64_t *)(const void *)wh_ram_at(&b->ram, HERS, 8);
    pthread_t thread;
    pthread_create(&thread, NULL, run_hart, b->hart);
    while (__atomic_load_n(hers, __ATOMIC_RELAXED) < 100) /* until her loop is translated */
        continue;
    while (turn + 1 < MOST && __atomic_load_n(hers, __ATOMIC_RELAXED) != TURNS) {
        __atomic_store_n(ours, ++turn, __ATOMIC_RELAXED);
        atomic_thread_fence(memory_order_seq_cst);
        wh_ram_settle(&b->ram);
        found[turn] = __atomic_load_n(hers, __ATOMIC_RELAXED);
    }
    pthread_join(thread, NULL);
    for (uint64_t t = 1; t <= turn; t++) /* her first turn that we did not see yet must have seen ours */
        missed += found[t] < TURNS && peek64(b, SEEN + 8 * found[t]) < t;
    printf("%" PRIu64 " of our turns in %u of the hart's\n", turn, TURNS);
    return (unsigned)missed;
}

int main(void)
{
    static struct bench b;
    wh_jit *jit;
    wh_error err;
    if (wh_jit_new(1 << 20, &jit, &err) != WH_OK) {
        printf("skipped: %s\n", err.message);
        return 0;
    }
    if (wh_ram_new(BENCH_RAM, 1, &b.ram, &err) != WH_OK)
        return 1;
    wh_ram_use_plain_atomics(&b.ram);
    wh_cpu_env env = {.ram = &b.ram,
                      .ctx = &b,
                      .engine = wh_jit_engine(),
                      .jit = jit,
                      .hart_count = 1,
                      .mmio_read = bench_read,
                      .mmio_write = bench_write,
                      .time_now = bench_time};
    if (wh_hart_new(&env, 0, &b.hart, &err) != WH_OK)
        return 1;
    bench_restart(&b);
    write_program(&b);
    b.hart->x[S0] = HERS;
    b.hart->x[S1] = SEEN;
    b.hart->x[A2] = TURNS;
    b.hart->x[S3] = OTHER;
    CHECK_EQ(both_missed(&b), 0);
    wh_hart_free(b.hart);
    wh_jit_free(jit);
    wh_ram_free(&b.ram);
    return check_failures != 0;
}
