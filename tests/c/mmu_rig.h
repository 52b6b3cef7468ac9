/* Page tables in the RAM of a bare hart, and accesses by them: for tests of mmu. */
#ifndef MMU_RIG_H
#define MMU_RIG_H

#include "cpu_check.h"

enum { V = 1, R = 2, W = 4, X = 8, U = 16, G = 32, A = 64, D = 128 };
#define TABLES (WH_RAM_BASE + 0x100000)
#define TARGET (WH_RAM_BASE + 0x400000)

static struct bench b;
static uint64_t next_table;

/* Map va at pa with a leaf at `leaf_level`; returns the address of the leaf PTE. */
static inline uint64_t map(int levels, uint64_t va, uint64_t pa, int leaf_level, uint64_t bits)
{
    uint64_t table = TABLES;
    for (int level = levels - 1; level > leaf_level; level--) {
        uint64_t at = table + (va >> (12 + 9 * level) & 511) * 8;
        if (!(peek64(&b, at) & V)) {
            next_table += 4096;
            poke64(&b, at, next_table >> 12 << 10 | V);
        }
        table = peek64(&b, at) >> 10 << 12;
    }
    uint64_t leaf = table + (va >> (12 + 9 * leaf_level) & 511) * 8;
    poke64(&b, leaf, pa >> 12 << 10 | bits);
    return leaf;
}

static inline wh_mmu *fresh(int levels, enum wh_priv priv)
{
    wh_mmu *m = &b.hart->mmu;
    memset(wh_ram_at(&b.ram, TABLES, 0x100000), 0, 0x100000);
    next_table = TABLES;
    wh_mmu_init(m, &b.ram);
    wh_pmp_set_addr(&m->pmp, 0, UINT64_MAX);
    wh_pmp_set_cfg(&m->pmp, 0, 0x1f);
    uint64_t mode = levels == 3 ? 8 : levels == 4 ? 9 : 10;
    wh_mmu_context(m, priv, priv, false, false, mode << 60 | TABLES >> 12);
    return m;
}

static inline int access_va(wh_mmu *m, uint64_t va, enum wh_access access, uint64_t *pa)
{
    uint8_t *host;
    bool whole;
    return access == WH_FETCH ? wh_mmu_fetch(m, va, 4, pa, &host, &whole) : wh_mmu_data(m, va, 4, access, pa, &host);
}

/* How often an access, which ends in this cause, walks. */
static inline uint64_t walks_of(wh_mmu *m, uint64_t va, enum wh_access access, int cause)
{
    uint64_t before = m->misses, pa;
    CHECK_EQ(access_va(m, va, access, &pa), cause);
    return m->misses - before;
}

#endif
