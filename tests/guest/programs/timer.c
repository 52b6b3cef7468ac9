/* Ten timer interrupts by SBI TIME, ten by stimecmp, waiting in wfi; checks that none comes early. */
#include "rt.h"
FINISH_WITH_ZERO

static volatile unsigned ticks;
static volatile uint64_t deadline, early;

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    (void)tval;
    if (cause != (1ul << 63 | 5))
        end(2);
    if (CSR_READ(time) < deadline)
        early++;
    ticks++;
    CSR_CLEAR(sie, 1 << 5);
    return epc;
}

static void wait(int by_sbi)
{
    unsigned before = ticks;
    deadline = CSR_READ(time) + 20000; /* 2 ms */
    if (by_sbi)
        sbi(EXT_TIME, 0, deadline, 0, 0);
    else
        CSR_WRITE(0x14d, deadline);
    CSR_SET(sie, 1 << 5);
    while (ticks == before)
        __asm__ volatile("wfi");
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart, (void)opaque;
    CSR_SET(sstatus, 2);
    for (int i = 0; i < 20; i++)
        wait(i < 10);
    tell("ticks", ticks);
    tell("early", (long)early);
    return 0;
}
