/* What the tests of the debugger look at: two harts that loop for ever, instructions of every kind that accesses memory,
 * each between labels. Ends when `quit` is not 0. */
#include "rt.h"
FINISH_WITH_ZERO
NO_TRAPS

volatile uint64_t watched[3] = {0x1111111111111111, 0x2222222222222222, 0x3333333333333333};
volatile uint64_t quit, rounds, second_rounds;

/* watched[1] is the word under watch; what touches only its neighbours must not count. */
__asm__(".text\n"
        ".globl block, at_lb, at_near, at_sh, at_amo, at_lr, at_sc, at_failed, at_fsd, at_fld, at_cross, at_end\n"
        "block:\n"
        "    la t0, watched\n"
        "    addi t0, t0, 8\n"
        "    li t1, 5\n"
        "at_lb:     lb t2, 1(t0)\n"
        "at_near:   ld t2, 8(t0)\n"
        "    sd t1, -8(t0)\n"
        "at_sh:     sh t1, 6(t0)\n"
        "at_amo:    amoadd.d t2, t1, (t0)\n"
        "at_lr:     lr.d t2, (t0)\n"
        "at_sc:     sc.d t3, t1, (t0)\n"
        "at_failed: sc.d t3, t1, (t0)\n"
        "at_fsd:    fsd fa0, 0(t0)\n"
        "at_fld:    fld fa1, 0(t0)\n"
        "at_cross:  lw t2, -2(t0)\n"
        "at_end:    ret\n");

/* For stepping: a branch that is not taken, one that is. (Branches to local labels: those to global ones grow.) */
__asm__(".text\n"
        ".globl steps, step_1, step_2, step_3, step_4, step_5, step_6\n"
        "steps:\n"
        "    li t0, 7\n"
        "step_1:    beqz t0, 6f\n"
        "step_2:    bnez t0, 4f\n"
        "step_3:    nop\n"
        "4:\n"
        "step_4:    csrr t1, sstatus\n"
        "step_5:    addi t0, t0, 1\n"
        "6:\n"
        "step_6:    ret\n");

__attribute__((noinline)) void second(void)
{
    second_rounds++;
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    extern void enter(void), block(void), steps(void);
    (void)opaque;
    if (hart != 0)
        for (;;)
            second();
    sbi(EXT_HSM, 0, 1, (uint64_t)enter, 0);
    put("ready\n");
    while (quit == 0) {
        block();
        steps();
        rounds++;
    }
    tell("quit", (long)quit);
    return 0;
}
