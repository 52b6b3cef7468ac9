/* As many harts as there are: each counts, takes a timer interrupt of its own and an IPI from its neighbour in WFI,
 * fences all others, looks at a word that it maps by itself, and stops. Prints "harts", "counted", "timers", "ipis". */
#include "rt.h"
FINISH_WITH_ZERO

#define COUNTS  2000ul
#define PAUSE() __asm__ volatile(".word 0x0100000f" ::: "memory")

static volatile uint64_t harts, arrived, counted, timers, ipis;
static volatile uint8_t rung[64], timed[64];
extern void enter(void);

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    (void)tval;
    uint64_t hart = CSR_READ(sscratch);
    if (cause == (1ul << 63 | 5)) {
        CSR_WRITE(0x14d, -1ul); /* stimecmp */
        timed[hart] = 1;
        __atomic_fetch_add(&timers, 1, __ATOMIC_SEQ_CST);
    } else if (cause == (1ul << 63 | 1)) {
        CSR_CLEAR(sip, 2);
        rung[hart] = 1;
        __atomic_fetch_add(&ipis, 1, __ATOMIC_SEQ_CST);
    } else {
        tell("cause", (long)cause);
        end(2);
    }
    return epc;
}

static void wait_for(volatile uint8_t *flag)
{
    for (;;) { /* with interrupts off between look and WFI, so that none comes unseen */
        CSR_CLEAR(sstatus, 2);
        if (*flag)
            return;
        __asm__ volatile("wfi");
        CSR_SET(sstatus, 2);
    }
}

static void barrier(uint64_t n)
{
    __atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&arrived, __ATOMIC_SEQ_CST) < n * harts)
        PAUSE();
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)opaque;
    CSR_WRITE(sscratch, hart);
    if (hart == 0) {
        uint64_t n = 1;
        while (sbi(EXT_HSM, 2, n, 0, 0).error == 0)
            n++;
        harts = n;
        for (uint64_t h = 1; h < n; h++)
            if (sbi(EXT_HSM, 0, h, (uint64_t)enter, 0).error)
                end(3);
    }
    CSR_SET(sie, 0x22);
    barrier(1);
    for (uint64_t i = 0; i < COUNTS; i++)
        __atomic_fetch_add(&counted, 1, __ATOMIC_RELAXED);
    CSR_WRITE(0x14d, CSR_READ(time) + 1000 * (hart + 1));
    wait_for(&timed[hart]);
    uint64_t next = (hart + 1) % harts;
    if (sbi(EXT_IPI, 0, 1, next, 0).error || sbi4(EXT_RFENCE, 1, 0, -1ul, 0x1000 * hart, 0x3000).error ||
        sbi(EXT_RFENCE, 0, 1ul << next, 0, 0).error)
        end(4);
    wait_for(&rung[hart]);
    barrier(2);
    if (hart != 0)
        sbi(EXT_HSM, 1, 0, 0, 0);
    for (uint64_t h = 1; h < harts; h++)
        while (sbi(EXT_HSM, 2, h, 0, 0).value != 1)
            PAUSE();
    tell("harts", (long)harts);
    tell("counted", (long)counted);
    tell("timers", (long)timers);
    tell("ipis", (long)ipis);
    return 0;
}
