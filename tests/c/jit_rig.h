/* A bare hart on an engine of one's choice, so that two of them can run the same program side by side. */
#ifndef JIT_RIG_H
#define JIT_RIG_H

#include "cpu_check.h"
#include "jit/cache.h"

struct rig {
    struct bench b;
    wh_jit *jit; /* NULL: the interpreter */
};
struct rig_kind {
    uint32_t arena; /* bytes for the translator; 0: the interpreter */
    uint32_t model;
    bool exact; /* counts steps, so that it stops exactly at its limit */
    bool plain; /* atomics of one hart alone (memory.h) */
    bool slots; /* loads and stores look by slot, as those of user mode do; else by page */
};

static inline uint64_t rig_never(void *ctx, uint64_t mtime)
{
    (void)ctx;
    (void)mtime;
    return UINT64_MAX;
}

/* Ends the test as skipped where the host can't translate. The hart is reset, at BENCH_CODE. */
static inline void open_rig(struct rig *r, const struct rig_kind *kind)
{
    wh_error err;
    memset(r, 0, sizeof *r);
    if (kind->arena != 0 && wh_jit_new(kind->arena, &r->jit, &err) != WH_OK) {
        printf("skipped: %s\n", err.message);
        exit(0);
    }
    if (r->jit != NULL)
        r->jit->slots_everywhere = kind->slots;
    if (wh_ram_new(BENCH_RAM, 1, &r->b.ram, &err) != WH_OK)
        exit(1);
    if (kind->plain)
        wh_ram_use_plain_atomics(&r->b.ram);
    wh_cpu_env env = {.ram = &r->b.ram,
                      .ctx = &r->b,
                      .engine = r->jit != NULL ? wh_jit_engine() : NULL,
                      .jit = r->jit,
                      .hart_count = 1,
                      .model = kind->model,
                      .mmio_read = bench_read,
                      .mmio_write = bench_write,
                      .time_now = bench_time,
                      .steps_until = kind->exact ? rig_never : NULL};
    if (wh_hart_new(&env, 0, &r->b.hart, &err) != WH_OK)
        exit(1);
    wh_hart_reset(r->b.hart, BENCH_CODE);
    r->b.at = BENCH_CODE;
}

static inline void close_rig(struct rig *r)
{
    bench_close(&r->b);
    wh_jit_free(r->jit);
}

#endif
