/* M-mode on every hart: software interrupts through MSWI, a machine timer, an external interrupt, the end by the test
 * finisher with code 7. */
#include "rt.h"
FINISH_WITH_ZERO

#define MSIP(hart)     (ACLINT + 4 * (hart))
#define MTIMECMP(hart) (*(volatile uint64_t *)(ACLINT + 0x4000 + 8 * (hart)))
#define MTIME          (*(volatile uint64_t *)(ACLINT + 0xbff8))
static volatile uint64_t soft, timer, external, here;

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    (void)tval;
    uint64_t hart = CSR_READ(mhartid);
    if (cause == (1ul << 63 | 3)) {
        write32(MSIP(hart), 0);
        __atomic_fetch_add(&soft, 1, __ATOMIC_SEQ_CST);
    } else if (cause == (1ul << 63 | 7)) {
        MTIMECMP(hart) = -1ul;
        timer++;
    } else if (cause == (1ul << 63 | 11)) {
        external = read32(PLIC + 0x200004);
        UART[1] = 0;
        write32(PLIC + 0x200004, (uint32_t)external);
    } else {
        tell("cause", (long)cause);
        end(2);
    }
    return epc;
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    CSR_SET(mie, 1 << 3 | 1 << 7 | 1 << 11);
    CSR_SET(mstatus, 8);
    __atomic_fetch_add(&here, 1, __ATOMIC_SEQ_CST);
    if (hart != 0)
        for (;;)
            __asm__ volatile("wfi");
    while (here != 2)
        ;
    tell("fdt", *(volatile uint32_t *)opaque == 0xedfe0dd0);
    write32(MSIP(1), 1);
    write32(MSIP(0), 1);
    while (soft != 2)
        ;
    MTIMECMP(0) = MTIME + 20000;
    while (!timer)
        __asm__ volatile("wfi");
    write32(PLIC + 4 * 10, 1);
    write32(PLIC + 0x2000, 1u << 10);
    UART[1] = 2; /* transmitter empty: pending at once */
    while (!external)
        __asm__ volatile("wfi");
    tell("soft", (long)soft);
    tell("timer", (long)timer);
    tell("external", (long)external);
    end(7);
}
