/* Fills one page of an 8 MiB pool with random numbers each 20 microseconds at most, and never catches up on time that
 * it did not have: half of the time that it may run gives half of the pages. Nothing of it can be left out or
 * compressed. A page is checked when its turn comes again, so that a copy that lost or mixed up memory says "bad". Once
 * a pass it says "w". 'q' powers off. */
#include "rt.h"
NO_TRAPS
FINISH_WITH_ZERO

#define PAGES 2048ul
#define STEP  200ul /* of the 10 MHz time */
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
    put("writer\n");
    for (uint64_t n = 0;; n++) {
        volatile uint64_t *page = &pool[n % PAGES * 512];
        if (*page != (n < PAGES ? 0 : n - PAGES))
            put("bad\n");
        *page = n;
        for (uint64_t i = 1, x = n + 1; i < 512; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17; /* xorshift64 */
            page[i] = x;
        }
        if (n % PAGES == 0) {
            put("w\n");
            if (get() == 'q')
                end(0);
        }
        for (uint64_t t = now(); now() < t + STEP;)
            ;
    }
}
