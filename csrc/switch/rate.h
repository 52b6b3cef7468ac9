/* rate: so many a second, and a burst of so many at once: the generic cell rate algorithm (ITU-T I.371, annex A), which
 * needs one time and no credit to be filled. */
#ifndef WH_SWITCH_RATE_H
#define WH_SWITCH_RATE_H

#include "base/base.h"

/* *next_ns: when the next one would be in time; 0 at first. False: one too many, and nothing changed. */
static inline bool wh_rate_take(uint64_t *next_ns, uint64_t now_ns, uint64_t every_ns, unsigned burst)
{
    const uint64_t ahead = every_ns * burst;
    if (*next_ns + ahead < now_ns)
        *next_ns = now_ns - ahead;
    if (*next_ns > now_ns)
        return false;
    *next_ns += every_ns;
    return true;
}

#endif
