/* HSM suspend: the retentive kind goes on after the call, the other one starts again at an address; both end by a timer.
 * The legacy calls and console input by DBCN, too. */
#include "rt.h"
FINISH_WITH_ZERO
NO_TRAPS

extern void enter(void);
static uint64_t before;

static void arm(void)
{
    before = CSR_READ(time);
    sbi(EXT_TIME, 0, before + 20000, 0, 0);
    CSR_SET(sie, 1 << 5); /* sstatus.SIE is off: the timer wakes, and traps nobody */
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    static char typed[8];
    (void)hart;
    if (opaque == 0x77) {
        tell("restarted_late_enough", CSR_READ(time) - before >= 20000);
        tell("satp", (long)CSR_READ(satp));
        sbi(2, 0, 0, 0, 0); /* legacy getchar: nothing there */
        tell("getchar", sbi(2, 0, 0, 0, 0).error);
        sbi(1, 0, '*', 0, 0);
        put("\ntype\n");
        long n = 0;
        while (n < 4)
            n += sbi(EXT_DBCN, 1, 4 - (uint64_t)n, (uint64_t)typed + (uint64_t)n, 0).value;
        tell("typed", typed[0] == 'a' && typed[3] == 'd');
        sbi(8, 0, 0, 0, 0); /* legacy shutdown */
    }
    arm();
    tell("retentive", sbi(EXT_HSM, 3, 0, 0, 0).error);
    tell("late_enough", CSR_READ(time) - before >= 20000);
    arm();
    sbi(EXT_HSM, 3, 0x80000000, (uint64_t)enter, 0x77);
    put("came back\n");
    return 0;
}
