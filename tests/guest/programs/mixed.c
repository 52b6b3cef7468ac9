/* A little of everything for about two million instructions, and no input: integers, doubles, memory over 1 MiB, atomics,
 * a timer that interrupts all the time, code that writes code. Prints a checksum of it all. Under icount two runs are
 * the same to the last bit, wherever they were stopped. */
#include "rt.h"
FINISH_WITH_ZERO

#define WORDS (1ul << 20 >> 3)
static uint64_t memory[WORDS];
static volatile uint64_t ticks;
static uint64_t shared;
static uint32_t code[2] __attribute__((aligned(8)));

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    (void)tval;
    if (cause != (1ul << 63 | 5))
        end(2);
    ticks = ticks * 31 + epc;
    CSR_WRITE(0x14d, CSR_READ(time) + 7);
    return epc;
}

static uint64_t written_code(uint64_t turn)
{
    code[0] = 0x00050513 | (uint32_t)(turn & 0x7ff) << 20; /* addi a0, a0, turn */
    code[1] = 0x00008067;                                  /* ret */
    __asm__ volatile("fence.i" ::: "memory");
    return ((uint64_t(*)(uint64_t))(uintptr_t)code)(turn);
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart, (void)opaque;
    CSR_SET(sstatus, 2);
    CSR_WRITE(0x14d, CSR_READ(time) + 7);
    CSR_SET(sie, 1 << 5);
    uint64_t seed = 1, sum = 0;
    double ratio = 1.0, small = 1e-300;
    for (uint64_t turn = 0; turn < 40000; turn++) {
        seed = seed * 6364136223846793005ul + 1442695040888963407ul;
        uint64_t at = (seed >> 33) % WORDS;
        memory[at] = memory[at] * 3 + seed;
        sum ^= memory[(at * 7) % WORDS] + turn / ((seed >> 60) + 1);
        ratio = ratio * 1.0000001 + (double)(seed >> 60) / 7.0;
        small = small * 0.99 + 1e-310;
        __atomic_fetch_add(&shared, seed, __ATOMIC_SEQ_CST);
        if (turn % 500 == 0)
            sum += written_code(turn);
    }
    union {
        double d;
        long l;
    } bits = {.d = ratio + small};
    tell("sum", (long)(sum ^ shared));
    tell("ratio", bits.l);
    tell("ticks", (long)ticks);
    return 0;
}
