/* Counts aloud, twenty milliseconds apart, asleep in between: "t N\n". Each number is also written to one page of a pool,
 * and a page of an earlier number is checked, so that a copy that lost or mixed up memory says "bad". 'q' powers off,
 * 'f' fails with code 7, 'r' reboots. */
#include "rt.h"
NO_TRAPS
FINISH_WITH_ZERO

#define PAGES 256ul
#define STEP  200000ul /* of the 10 MHz time */
static volatile uint64_t pool[PAGES * 512];

static uint64_t now(void)
{
    uint64_t t;
    __asm__ volatile("rdtime %0" : "=r"(t));
    return t;
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart, (void)opaque;
    put("ticker\n");
    CSR_SET(sie, 1 << 5);
    uint64_t next = now();
    for (uint64_t n = 1;; n++) {
        put("t ");
        put_number((long)n);
        put("\n");
        pool[n % PAGES * 512] = n;
        uint64_t old = n > PAGES / 2 ? n - PAGES / 2 : 0;
        if (pool[old % PAGES * 512] != old)
            put("bad\n");
        int c = get();
        if (c == 'q')
            end(0);
        if (c == 'f')
            end(7);
        if (c == 'r')
            sbi(EXT_SRST, 0, 1, 0, 0);
        next += STEP;
        if (next < now()) /* a pause took its time: go on from here */
            next = now() + STEP;
        sbi(EXT_TIME, 0, next, 0, 0);
        while (now() < next)
            __asm__ volatile("wfi");
    }
}
