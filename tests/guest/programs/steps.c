/* A long computation in steps over 2 MiB of memory, with the timer running: prints a checksum each step. The same output
 * must come whether or not the machine is saved and restored in between. The first input byte starts it; it asks again in
 * the middle, so that the tester knows where it stands. */
#include "rt.h"
FINISH_WITH_ZERO

#define WORDS (2ul << 20 >> 3)
static uint64_t memory[WORDS];
static volatile unsigned ticks;
static double ratio = 1.0;

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    (void)tval;
    if (cause != (1ul << 63 | 5))
        end(2);
    ticks++;
    CSR_WRITE(0x14d, CSR_READ(time) + 5000);
    return epc;
}

static uint64_t step(uint64_t seed)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < WORDS; i += 8) {
        seed = seed * 6364136223846793005ul + 1442695040888963407ul;
        memory[i] = memory[i] * 3 + seed;
        sum ^= memory[i] + i;
        ratio = ratio * 1.0000001 + (double)(seed >> 60);
    }
    return sum;
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart, (void)opaque;
    CSR_SET(sstatus, 2);
    CSR_WRITE(0x14d, CSR_READ(time) + 5000);
    CSR_SET(sie, 1 << 5);
    uint64_t before = CSR_READ(time);
    for (int i = 0; i < 40; i++) {
        if (i == 0 || i == 20) {
            put("go?\n");
            get_wait();
        }
        tell("step", (long)step((uint64_t)i));
        uint64_t now = CSR_READ(time);
        if (now < before)
            end(3);
        before = now;
    }
    union {
        double d;
        long l;
    } bits = {.d = ratio};
    tell("ratio", bits.l);
    tell("ticked", ticks > 0);
    return 0;
}
