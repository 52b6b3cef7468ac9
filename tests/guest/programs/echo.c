/* UART input by interrupt through the PLIC, echoed in upper case; '.' ends. */
#include "rt.h"
FINISH_WITH_ZERO

static volatile int done;
static volatile long claims;

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    (void)tval;
    if (cause != (1ul << 63 | 9))
        end(2);
    uint32_t source = read32(PLIC + 0x201004);
    if (source != 10)
        end(3);
    claims++;
    for (int c; (c = get()) >= 0;) {
        if (c == '.')
            done = 1;
        UART[0] = (uint8_t)(c >= 'a' && c <= 'z' ? c - 32 : c);
    }
    write32(PLIC + 0x201004, source);
    return epc;
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart, (void)opaque;
    write32(PLIC + 4 * 10, 1);
    write32(PLIC + 0x2080, 1u << 10);
    write32(PLIC + 0x201000, 0);
    UART[2] = 1;
    UART[1] = 1;
    CSR_SET(sie, 1 << 9);
    CSR_SET(sstatus, 2);
    put("ready\n");
    while (!done)
        __asm__ volatile("wfi");
    put("\n");
    tell("claimed", claims > 0);
    return 0;
}
