/* Shared by the tests of cpu and mmu: a failure counter, and a bare hart with RAM, one device word and a clock. */
#ifndef CPU_CHECK_H
#define CPU_CHECK_H

#include "cpu/hart.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_failures;
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                     \
            check_failures++;                                                                                          \
        }                                                                                                              \
    } while (0)
#define CHECK_EQ(got, want)                                                                                            \
    do {                                                                                                               \
        uint64_t g_ = (uint64_t)(got), w_ = (uint64_t)(want);                                                          \
        if (g_ != w_) {                                                                                                \
            printf("%s:%d: %s is 0x%" PRIx64 ", not 0x%" PRIx64 "\n", __FILE__, __LINE__, #got, g_, w_);               \
            check_failures++;                                                                                          \
        }                                                                                                              \
    } while (0)

/* splitmix64 (Steele, Lea, Flood 2014): reproducible random data */
static inline uint64_t check_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

#define BENCH_RAM  (16u << 20)
#define BENCH_CODE WH_RAM_BASE
#define DEVICE     0x10000000ull

struct bench {
    wh_ram ram;
    wh_hart *hart;
    uint64_t time;
    _Atomic uint64_t device; /* of all harts */
    uint64_t at;             /* where emit puts the next instruction */
};

static inline int bench_read(void *ctx, wh_hart *h, uint64_t pa, unsigned size, uint64_t *value)
{
    struct bench *b = ctx;
    (void)h;
    (void)size;
    *value = b->device;
    return pa == DEVICE ? 0 : -1;
}
/* A write to the device ends wh_hart_run: how the test programs stop. */
static inline int bench_write(void *ctx, wh_hart *h, uint64_t pa, unsigned size, uint64_t value)
{
    struct bench *b = ctx;
    (void)size;
    b->device = value;
    wh_hart_attention(h);
    return pa == DEVICE ? 0 : -1;
}
static inline uint64_t bench_time(void *ctx)
{
    return ((struct bench *)ctx)->time;
}

static inline void bench_open_model(struct bench *b, bool direct, uint32_t model)
{
    wh_error err;
    memset(b, 0, sizeof(*b));
    if (wh_ram_new(BENCH_RAM, 1, &b->ram, &err) != WH_OK) {
        printf("no RAM: %s\n", err.message);
        exit(1);
    }
    wh_cpu_env env = {.ram = &b->ram,
                      .ctx = b,
                      .hart_count = 1,
                      .model = model,
                      .direct_boot = direct,
                      .mmio_read = bench_read,
                      .mmio_write = bench_write,
                      .time_now = bench_time};
    if (wh_hart_new(&env, 0, &b->hart, &err) != WH_OK)
        exit(1);
    wh_hart_reset(b->hart, BENCH_CODE);
    b->at = BENCH_CODE;
}
static inline void bench_open(struct bench *b, bool direct)
{
    bench_open_model(b, direct, WH_CPU_RVA22);
}
static inline void bench_close(struct bench *b)
{
    wh_hart_free(b->hart);
    wh_ram_free(&b->ram);
}
static inline void poke32(struct bench *b, uint64_t pa, uint32_t v)
{
    memcpy(wh_ram_at(&b->ram, pa, 4), &v, 4);
}
static inline void poke64(struct bench *b, uint64_t pa, uint64_t v)
{
    memcpy(wh_ram_at(&b->ram, pa, 8), &v, 8);
}
static inline uint64_t peek64(struct bench *b, uint64_t pa)
{
    uint64_t v;
    memcpy(&v, wh_ram_at(&b->ram, pa, 8), 8);
    return v;
}
static inline void emit(struct bench *b, uint32_t word)
{
    poke32(b, b->at, word);
    b->at += 4;
}

/* The instructions that the test programs are made of. */
enum { ZERO, RA, SP, GP, TP, T0, T1, T2, S0, S1, A0, A1, A2, A3, A4, A5 };
static inline uint32_t i_addi(int rd, int rs1, int imm)
{
    return 0x13u | (uint32_t)rd << 7 | (uint32_t)rs1 << 15 | (uint32_t)imm << 20;
}
static inline uint32_t i_load(int f3, int rd, int rs1, int imm)
{
    return 0x03u | (uint32_t)rd << 7 | (uint32_t)f3 << 12 | (uint32_t)rs1 << 15 | (uint32_t)imm << 20;
}
static inline uint32_t i_store(int f3, int rs2, int rs1, int imm)
{
    return 0x23u | ((uint32_t)imm & 31) << 7 | (uint32_t)f3 << 12 | (uint32_t)rs1 << 15 | (uint32_t)rs2 << 20 |
           ((uint32_t)imm >> 5 & 127) << 25;
}
static inline uint32_t i_csr(int f3, int rd, int csr, int rs1)
{
    return 0x73u | (uint32_t)rd << 7 | (uint32_t)f3 << 12 | (uint32_t)rs1 << 15 | (uint32_t)csr << 20;
}
#define CSRRW(rd, csr, rs1) i_csr(1, rd, csr, rs1)
#define CSRRS(rd, csr, rs1) i_csr(2, rd, csr, rs1)
#define I_ECALL             0x00000073u
#define I_EBREAK            0x00100073u
#define I_MRET              0x30200073u
#define I_SRET              0x10200073u
#define I_WFI               0x10500073u
#define I_FENCE_I           0x0000100fu
#define I_SFENCE            0x12000073u
#define I_SPIN              0x0000006fu             /* j . */
#define I_STOP              i_store(3, ZERO, TP, 0) /* tp holds DEVICE */

/* Fresh registers, M-mode at BENCH_CODE, every trap stops the run at a handler that does nothing else. */
#define HANDLER (WH_RAM_BASE + 0x8000)
static inline void bench_restart(struct bench *b)
{
    wh_hart_reset(b->hart, BENCH_CODE);
    wh_hart_set_x(b->hart, TP, DEVICE);
    b->hart->csr.mtvec = HANDLER;
    b->hart->csr.mstatus = WH_MSTATUS_FS;
    wh_fp_update(b->hart);
    poke32(b, HANDLER, I_STOP);
    poke32(b, HANDLER + 4, I_SPIN);
    b->at = BENCH_CODE;
}

#endif
