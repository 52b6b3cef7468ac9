/* Rows `copy` and `memset` (bytes written a second, by 64-bit words as the generic C of a libc does it; loops of our
 * own, because the libc that a compiler brings may copy by bytes), `triad` (three streams of doubles: bytes read and
 * written a second), `chase_*` (one load whose address is the result of the one before, over a random cycle of cache
 * lines), `amo` and `cas`. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { BLOCK = 4 << 20, DOUBLES = BLOCK / 8, LINE = 64 };

static char *blocks[3]; /* of BLOCK bytes each, touched; apart as libc places them, so not a power of two */

static void blocks_finish(void)
{
    for (int b = 0; b < 3; b++) {
        free(blocks[b]);
        blocks[b] = NULL;
    }
}

static bool blocks_prepare(void)
{
    for (int b = 0; b < 3; b++) {
        blocks[b] = malloc(BLOCK);
        if (blocks[b] == NULL) {
            blocks_finish();
            return false;
        }
        for (size_t i = 0; i < BLOCK; i++)
            blocks[b][i] = (char)(i * 13 >> 3 & 15);
    }
    return true;
}

/* -fno-builtin keeps the two loops from becoming calls. Eight words a turn. */
__attribute__((noinline)) static void copy_words(uint64_t *restrict to, const uint64_t *restrict from)
{
#pragma clang loop unroll_count(8)
    for (size_t i = 0; i < BLOCK / sizeof *to; i++)
        to[i] = from[i];
}

__attribute__((noinline)) static void set_words(uint64_t *to, uint64_t value)
{
#pragma clang loop unroll_count(8)
    for (size_t i = 0; i < BLOCK / sizeof *to; i++)
        to[i] = value;
}

static uint64_t copy_run(uint64_t n)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        copy_words((uint64_t *)(void *)blocks[i & 1], (uint64_t *)(void *)blocks[~i & 1]);
        sum += (unsigned char)blocks[i & 1][(i * 4099) % BLOCK];
    }
    return sum;
}

static uint64_t memset_run(uint64_t n)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        set_words((uint64_t *)(void *)blocks[0], i & 127);
        sum += (unsigned char)blocks[0][(i * 4096) % BLOCK];
    }
    return sum;
}

static bool triad_prepare(void)
{
    if (!blocks_prepare())
        return false;
    for (int b = 0; b < 3; b++)
        for (int i = 0; i < DOUBLES; i++)
            ((double *)(void *)blocks[b])[i] = 1.0 + (i + b) % 7;
    return true;
}

static uint64_t triad_run(uint64_t n)
{
    double *restrict a = (double *)(void *)blocks[0];
    const double *b = (double *)(void *)blocks[1], *c = (double *)(void *)blocks[2];
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        double factor = 0.25 + (double)(i & 3);
        for (int k = 0; k < DOUBLES; k++)
            a[k] = b[k] + factor * c[k];
        sum += (uint64_t)a[(i * 37) % DOUBLES];
        __asm__ volatile("" ::: "memory");
    }
    return sum;
}

static void **chain;

static char *area;
static size_t area_bytes;

static void chase_finish(void)
{
    if (area != NULL)
        munmap(area, area_bytes);
    area = NULL;
}

/* One cycle through all lines (Sattolo's shuffle), so that no prefetcher knows the next. */
static bool chase_prepare(size_t bytes)
{
    size_t lines = bytes / LINE;
    uint32_t *order = malloc(lines * sizeof *order);
    area_bytes = bytes;
    area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (order == NULL || area == MAP_FAILED) {
        area = NULL;
        free(order);
        return false;
    }
    for (uint32_t i = 0; i < lines; i++)
        order[i] = i;
    uint64_t random = 88172645463325252u;
    for (size_t i = lines - 1; i > 0; i--) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        size_t j = random % i;
        uint32_t t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (size_t i = 0; i < lines; i++)
        *(void **)(void *)(area + (size_t)order[i] * LINE) = area + (size_t)order[(i + 1) % lines] * LINE;
    chain = (void **)(void *)area;
    free(order);
    return true;
}

static bool chase_16k(void)
{
    return chase_prepare(16 << 10);
}

static bool chase_1m(void)
{
    return chase_prepare(1 << 20);
}

static bool chase_64m(void)
{
    return chase_prepare(64 << 20);
}

static uint64_t chase_run(uint64_t n)
{
    void **at = chain;
    for (uint64_t i = 0; i < n; i++)
        at = *at;
    chain = at;
    return (uint64_t)at;
}

static uint64_t word;

static uint64_t amo_run(uint64_t n)
{
    word = 0;
    for (uint64_t i = 0; i < n; i++)
        __atomic_fetch_add(&word, i, __ATOMIC_SEQ_CST);
    return word;
}

static uint64_t cas_run(uint64_t n)
{
    word = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t seen = __atomic_load_n(&word, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(&word, &seen, seen * 3 + i, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
            ;
    }
    return word;
}

const struct row rows_memory[] = {
    {"copy", "MB/s", blocks_prepare, blocks_finish, copy_run, 2, BLOCK / 1e6, true},
    {"triad", "MB/s", triad_prepare, blocks_finish, triad_run, 2, 3 * BLOCK / 1e6, true},
    {"memset", "MB/s", blocks_prepare, blocks_finish, memset_run, 2, BLOCK / 1e6, true},
    {"chase_16k", "ns", chase_16k, chase_finish, chase_run, 0, 1, false},
    {"chase_1m", "ns", chase_1m, chase_finish, chase_run, 0, 1, false},
    {"chase_64m", "ns", chase_64m, chase_finish, chase_run, 0, 1, false},
    {"amo", "ns", NULL, NULL, amo_run, 1000, 1, false},
    {"cas", "ns", NULL, NULL, cas_run, 1000, 1, false},
    {0},
};
