/* Points stvec at nothing and traps: the machine can only report that no progress is possible. */
#include "rt.h"
FINISH_WITH_ZERO
NO_TRAPS

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart, (void)opaque;
    put("falling\n");
    CSR_WRITE(stvec, 0x40000000ul);
    __asm__ volatile(".word 0");
    return 0;
}
