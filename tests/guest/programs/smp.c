/* Harts started by HSM count together under an AMO, pass an IPI round the ring, fence each other, and stop. */
#include "rt.h"
FINISH_WITH_ZERO

#define HARTS 4
static volatile uint64_t counter, ipis, ready;
static volatile uint64_t turn;

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    (void)tval;
    if (cause != (1ul << 63 | 1))
        end(2);
    CSR_CLEAR(sip, 2);
    __atomic_fetch_add(&ipis, 1, __ATOMIC_SEQ_CST);
    return epc;
}

static void count(void)
{
    for (int i = 0; i < 20000; i++)
        __atomic_fetch_add(&counter, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 50; i++)
        sbi(EXT_RFENCE, i & 1, 0, -1ul, 0);
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    CSR_SET(sie, 2);
    CSR_SET(sstatus, 2);
    if (hart != 0) {
        if (opaque != 0x1000 + hart)
            end(3);
        count();
        __atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
        while (turn != hart) /* woken by an IPI */
            __asm__ volatile("wfi");
        turn = (hart + 1) % HARTS;
        sbi(EXT_IPI, 0, 1, turn, 0);
        sbi(EXT_HSM, 1, 0, 0, 0);
        end(4); /* a stopped hart does not come back */
    }
    extern void enter(void);
    for (uint64_t i = 1; i < HARTS; i++)
        if (sbi(EXT_HSM, 0, i, (uint64_t)enter, 0x1000 + i).error)
            end(5);
    count();
    while (ready != HARTS - 1)
        ;
    turn = 1;
    sbi(EXT_IPI, 0, 1, 1, 0);
    while (turn != 0)
        __asm__ volatile("wfi");
    for (uint64_t i = 1; i < HARTS; i++)
        while (sbi(EXT_HSM, 2, i, 0, 0).value != 1)
            ;
    tell("counter", (long)counter);
    tell("ipis", (long)ipis);
    tell("again", sbi(EXT_HSM, 0, 1, (uint64_t)enter, 0x1001).error);
    return 0;
}
