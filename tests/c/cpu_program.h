/* Where random programs and their data lie, and words that a compiler might have made. */
#ifndef CPU_PROGRAM_H
#define CPU_PROGRAM_H

#include "cpu_check.h"

#define DATA      (WH_RAM_BASE + 0x10000)
#define DATA_SIZE 0x4000u
#define CODE_SIZE 0x3000u
#define COMPARED  0x40000u

/* No system instruction but CSRs that concern the hart alone: an interrupt comes at a poll, which is not the same
 * instruction in every variant. Branches mostly near, so that there are loops. */
static inline uint32_t plausible_word(uint64_t *seed)
{
    static const uint8_t opcodes[] = {0x03, 0x07, 0x0f, 0x13, 0x13, 0x17, 0x1b, 0x23, 0x27, 0x2f, 0x33, 0x33,
                                      0x37, 0x3b, 0x43, 0x53, 0x63, 0x63, 0x67, 0x6f, 0x73, 0x53, 0x13, 0x03};
    static const uint16_t csrs[] = {0x001, 0x002, 0x003, 0x340, 0x341, 0xb02, 0xc02, 0x343};
    uint64_t r = check_random(seed);
    uint32_t word = (uint32_t)r;
    if ((r >> 60) > 3)
        word = (word & ~0x7fu) | opcodes[(r >> 32) % sizeof(opcodes)];
    if ((word & 0x7f) == 0x73)
        word = (word & 0x000fffffu) | (uint32_t)csrs[(r >> 40) % WH_ARRAY_LEN(csrs)] << 20;
    if ((word & 0x7f) == 0x63 && (r >> 48 & 3))
        word = (word & ~0xfe000f80u) | (uint32_t)(r >> 50 & 0xf) << 8 | (r >> 55 & 1 ? 0xfe000080u : 0);
    return word;
}

/* Fills code and data, and sets the hart at a place of it, in M-mode; the same seed gives the same. */
static inline void plausible_program(struct bench *b, uint64_t *seed)
{
    wh_hart *h = b->hart;
    memset(wh_ram_at(&b->ram, WH_RAM_BASE, COMPARED), 0, COMPARED);
    for (unsigned at = 0; at < CODE_SIZE; at += 4)
        poke32(b, BENCH_CODE + at, plausible_word(seed));
    for (unsigned at = 0; at < DATA_SIZE; at += 8)
        poke64(b, DATA + at, check_random(seed));
    wh_hart_reset(h, BENCH_CODE + (check_random(seed) % CODE_SIZE & ~1ull));
    h->retired = 0;
    h->csr.mtvec = BENCH_CODE + (check_random(seed) % CODE_SIZE & ~3ull);
    h->csr.mstatus = WH_MSTATUS_FS;
    for (unsigned i = 1; i < 32; i++) {
        uint64_t r = check_random(seed);
        h->x[i] = r & 1 ? DATA + (r >> 8) % (DATA_SIZE - 4096) : r & 2 ? BENCH_CODE + (r >> 8) % CODE_SIZE : r;
        h->f[i] = check_random(seed);
    }
    wh_fp_update(h);
    wh_hart_update_mode(h);
}

#endif
