/* A bare hart with random code, page tables, registers and privilege: for the tests that only ask that nothing breaks,
 * or that two harts do the same. The same seed gives the same. */
#ifndef CPU_RANDOM_H
#define CPU_RANDOM_H

#include "cpu_check.h"

#define TABLES (WH_RAM_BASE + 0x100000)

static inline uint32_t random_word(uint64_t *seed)
{
    static const uint8_t opcodes[] = {0x03, 0x07, 0x0f, 0x13, 0x17, 0x1b, 0x23, 0x27, 0x2f, 0x33,
                                      0x37, 0x3b, 0x43, 0x53, 0x63, 0x67, 0x6f, 0x73, 0x53, 0x73};
    static const uint8_t functions[] = {0, 0, 0x20, 1, 4, 5, 0x10, 0x20, 0x30, 0x14, 0x24, 0x34, 7};
    uint64_t r = check_random(seed);
    if ((r >> 60) < 4)
        return (uint32_t)r; /* anything, also 2-byte code */
    uint32_t word = ((uint32_t)r & ~0x7fu) | opcodes[(r >> 32) % sizeof(opcodes)];
    if ((word & 0x77) == 0x33 && (r >> 40 & 7)) /* register operations: of 128 functions few exist */
        word = (word & 0x01ffffffu) | (uint32_t)functions[(r >> 43) % sizeof(functions)] << 25;
    return word;
}

static inline uint64_t random_address(uint64_t *seed)
{
    uint64_t r = check_random(seed);
    switch (r >> 62) {
    case 0:
        return r * 0x9e3779b97f4a7c15ull; /* of either sign */
    case 1:
        return WH_RAM_BASE + BENCH_RAM - (r & 31); /* the end of RAM */
    case 2:
        return (r >> 8) % 0x40000000; /* low, where the tables map something */
    default:
        return WH_RAM_BASE + (r >> 8) % BENCH_RAM;
    }
}

static inline void random_memory(struct bench *b, uint64_t *seed)
{
    for (unsigned at = 0; at < 0x4000; at += 4)
        poke32(b, BENCH_CODE + at, random_word(seed));
    for (unsigned i = 0; i < 512 * 4; i++) {
        uint64_t r = check_random(seed), pte = r;
        if (r & 0x300)
            pte = ((TABLES >> 12) + (r >> 32) % 4) << 10 | 1;
        else if (r & 0xc00)
            pte = ((WH_RAM_BASE >> 12) + (r >> 32) % 0x1100) << 10 | (r >> 16 & 0xff) | 1;
        if ((r & 0x7000) == 0) /* N, PBMT and reserved bits on what would else be valid */
            pte |= (r >> 24 & 0xff) << 56;
        poke64(b, TABLES + i * 8ull, pte);
    }
}

static inline void random_hart(wh_hart *h, uint64_t *seed)
{
    static const enum wh_priv privileges[] = {WH_PRIV_U, WH_PRIV_S, WH_PRIV_M};
    wh_hart_reset(h, BENCH_CODE + (check_random(seed) & 0x3ffe));
    uint64_t r = check_random(seed);
    wh_pmp_set_addr(&h->mmu.pmp, 0, r & 1 ? UINT64_MAX : r >> 4);
    wh_pmp_set_cfg(&h->mmu.pmp, 0, r & 2 ? 0x1f : (uint8_t)(r >> 8 & 0x7f));
    h->priv = privileges[(r >> 16) % 3];
    h->csr.mstatus = (check_random(seed) & WH_MSTATUS_WRITABLE & ~WH_MSTATUS_MPP) | WH_MSTATUS_FS;
    h->csr.mtvec = BENCH_CODE + (r >> 20 & 0xffc);
    h->csr.stvec = BENCH_CODE + (r >> 32 & 0xffc);
    h->csr.medeleg = check_random(seed) & WH_MEDELEG_MASK;
    h->csr.menvcfg = check_random(seed) & wh_menvcfg_mask(h);
    h->csr.senvcfg = check_random(seed) & wh_menvcfg_mask(h) & WH_SENVCFG_BITS;
    h->csr.satp = (r >> 50 & 1) ? 0 : (8 + (r >> 52) % 3) << 60 | TABLES >> 12;
    h->frm = (uint32_t)(r >> 56 & 7);
    for (unsigned i = 1; i < 32; i++) {
        h->x[i] = random_address(seed);
        h->f[i] = check_random(seed);
    }
    wh_fp_update(h);
    wh_hart_update_mode(h);
    wh_hart_request_fence(h, WH_FENCE_I);
}

#endif
