/* For each input byte n: writes one word into n pages that a generator picks from 64 MiB at 0x84000000, prints "done". The
 * tester knows the same generator. The program's own pages (stack, data) are dirtied too. 'q' ends. */
#include "rt.h"
FINISH_WITH_ZERO
NO_TRAPS

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart, (void)opaque;
    uint64_t state = 1;
    put("ready\n");
    for (;;) {
        int n = get_wait();
        if (n == 'q')
            return 0;
        for (int i = 0; i < n; i++) {
            state = state * 6364136223846793005ul + 1442695040888963407ul;
            uint64_t page = state >> 33 & 0x3fff;
            *(volatile uint64_t *)(0x84000000ul + page * PAGE + (state >> 20 & 0xff8)) = state;
        }
        put("done\n");
    }
}
