/* Prints a line a millisecond, for ever: something to pause. */
#include "rt.h"
FINISH_WITH_ZERO
NO_TRAPS

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart, (void)opaque;
    for (long n = 0;; n++) {
        uint64_t until = CSR_READ(time) + 10000;
        tell("n", n);
        while (CSR_READ(time) < until)
            ;
    }
}
