/* More litmus tests (litmus.c has those that come with its other parts): load buffering, coherence of reads,
 * independent reads of independent writes, a seqlock; with the fences that make the outcome forbidden. Each prints
 * "NAME=forbidden outcomes" and "NAME_met=instances in which the harts were at work at once". "sb_relaxed" is how often
 * store buffering without a fence was seen, which RVWMO allows: it shows that the harts do run at the same time. */
#include "rt.h"

#include <stdbool.h>
FINISH_WITH_ZERO
NO_TRAPS

#define MAX_HARTS   4
#define CELLS       4096ul
#define ENOUGH      2000ul    /* instances with both at work at once */
#define LONGEST     3000000ul /* mtime of a part, where the host has fewer cores */
#define PAUSE()     __asm__ volatile(".word 0x0100000f" ::: "memory")
#define FENCE(p, s) __asm__ volatile("fence " #p ", " #s::: "memory")

static volatile uint64_t harts, arrived, generation, met, forbidden;
static volatile bool more;
static struct {
    volatile uint64_t x;
    uint64_t pad[7];
    volatile uint64_t y;
    uint64_t pad2[7];
} cell[CELLS];
static volatile uint8_t first[MAX_HARTS][CELLS], second[MAX_HARTS][CELLS];
extern void enter(void);

static void barrier(void)
{
    uint64_t now = generation;
    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == harts) {
        arrived = 0;
        __atomic_store_n(&generation, now + 1, __ATOMIC_SEQ_CST);
    } else {
        for (uint64_t spins = 0; __atomic_load_n(&generation, __ATOMIC_SEQ_CST) == now; spins++)
            if (spins > 20000)
                PAUSE();
    }
}

static void count(bool yes, volatile uint64_t *what)
{
    if (yes)
        __atomic_fetch_add(what, 1, __ATOMIC_RELAXED);
}

/* One batch of each part on one hart; harts 2 and 3 take part in iriw only. check: hart 0 afterwards. */
static void lb(uint64_t hart)
{
    for (uint64_t i = 0; i < CELLS && hart < 2; i++) {
        volatile uint64_t *from = hart ? &cell[i].y : &cell[i].x, *to = hart ? &cell[i].x : &cell[i].y;
        first[hart][i] = (uint8_t)*from;
        FENCE(r, w);
        *to = 1;
    }
}

static void lb_check(void)
{
    for (uint64_t i = 0; i < CELLS; i++) {
        count(first[0][i] && first[1][i], &forbidden);
        count(first[0][i] || first[1][i], &met);
    }
}

static void corr(uint64_t hart)
{
    uint64_t last = 0, changes = 0;
    for (uint64_t i = 0; i < CELLS && hart < 2; i++) {
        if (hart == 0) {
            cell[0].x = i + 1;
        } else {
            uint64_t a = cell[0].x, b = cell[0].x;
            count(b < a || a < last, &forbidden);
            changes += b != last && b != CELLS;
            last = b;
        }
    }
    __atomic_fetch_add(&met, changes, __ATOMIC_RELAXED);
}

static void iriw(uint64_t hart)
{
    for (uint64_t i = 0; i < CELLS && harts == 4; i++) {
        if (hart == 0)
            cell[i].x = 1;
        else if (hart == 1)
            cell[i].y = 1;
        else {
            first[hart][i] = (uint8_t)(hart == 2 ? cell[i].x : cell[i].y);
            FENCE(rw, rw);
            second[hart][i] = (uint8_t)(hart == 2 ? cell[i].y : cell[i].x);
        }
    }
}

static void iriw_check(void)
{
    for (uint64_t i = 0; i < CELLS && harts == 4; i++) {
        count(first[2][i] && !second[2][i] && first[3][i] && !second[3][i], &forbidden);
        count(first[2][i] != second[2][i] || first[3][i] != second[3][i] || first[2][i] != first[3][i], &met);
    }
}

static volatile uint64_t sequence, left, right;

static void seqlock(uint64_t hart)
{
    for (uint64_t i = 0; i < CELLS && hart < 2; i++) {
        uint64_t s = sequence;
        if (hart == 0) {
            sequence = s + 1;
            FENCE(w, w);
            left = s;
            right = s;
            FENCE(w, w);
            sequence = s + 2;
        } else {
            FENCE(r, r);
            uint64_t a = left, b = right;
            FENCE(r, r);
            bool whole = s % 2 == 0 && sequence == s;
            count(whole && a != b, &forbidden);
            count(whole && s % (2 * CELLS) != 0, &met);
        }
    }
}

static void sb(uint64_t hart)
{
    for (uint64_t i = 0; i < CELLS && hart < 2; i++) {
        volatile uint64_t *mine = hart ? &cell[i].y : &cell[i].x, *other = hart ? &cell[i].x : &cell[i].y;
        *mine = 1;
        first[hart][i] = (uint8_t)*other;
    }
}

static void sb_check(void)
{
    for (uint64_t i = 0; i < CELLS; i++)
        count(!first[0][i] && !first[1][i], &met);
}

static void run(uint64_t hart, const char *name, void (*part)(uint64_t), void (*check)(void))
{
    uint64_t end = CSR_READ(time) + LONGEST;
    if (hart == 0)
        met = forbidden = 0;
    for (;;) {
        if (hart == 0) {
            for (uint64_t i = 0; i < CELLS; i++)
                cell[i].x = cell[i].y = 0;
            more = met < ENOUGH && CSR_READ(time) < end;
        }
        barrier();
        if (!more)
            break;
        part(hart);
        barrier();
        if (hart == 0 && check)
            check();
    }
    barrier();
    if (hart != 0)
        return;
    put(name);
    tell("", (long)forbidden);
    put(name);
    tell("_met", (long)met);
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)opaque;
    if (hart == 0) {
        uint64_t n = 1;
        while (n < MAX_HARTS && !sbi(EXT_HSM, 2, n, 0, 0).error)
            n++;
        harts = n;
        for (uint64_t h = 1; h < harts; h++)
            if (sbi(EXT_HSM, 0, h, (uint64_t)enter, 0).error)
                end(5);
    }
    run(hart, "lb", lb, lb_check);
    run(hart, "corr", corr, NULL);
    run(hart, "iriw", iriw, iriw_check);
    run(hart, "seqlock", seqlock, NULL);
    run(hart, "sb_relaxed", sb, sb_check);
    if (hart != 0)
        sbi(EXT_HSM, 1, 0, 0, 0);
    return 0;
}
