/* Every hart of the machine counts for ever and never waits: something to pause. Prints "busy=HARTS" when all
 * are at it. */
#include "rt.h"
FINISH_WITH_ZERO
NO_TRAPS

static struct {
    volatile uint64_t n;
    uint64_t pad[7];
} count[64];
extern void enter(void);

static void work(uint64_t hart)
{
    for (;;) {
        count[hart].n++;
        __atomic_fetch_add(&count[0].pad[0], 1, __ATOMIC_RELAXED);
    }
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)opaque;
    if (hart != 0)
        work(hart);
    uint64_t harts = 1;
    while (sbi(EXT_HSM, 0, harts, (uint64_t)enter, 0).error == 0)
        harts++;
    for (uint64_t h = 1; h < harts; h++)
        while (count[h].n == 0)
            __asm__ volatile(".word 0x0100000f"); /* pause */
    tell("busy", (long)harts);
    work(0);
    return 0;
}
