/* storm: how many frames a port may have flooded: broadcasts, multicasts and unicasts to nobody known.
 *
 * A bucket that holds a second's worth. A port that empties it is in a storm: it has a sixty-fourth of its rate until
 * ten seconds have gone by in which nothing was dropped. So a loop through two ports ends as a trickle, and a host that
 * only sends a burst now and then notices nothing. Times are the caller's. */
#ifndef WH_SWITCH_STORM_H
#define WH_SWITCH_STORM_H

#include "base/base.h"

#include <string.h>

/* What is flooded, by what it is. A class that has a rate of its own has a bucket of its own; the others share one. */
enum wh_storm_class { WH_STORM_SHARED = 0, WH_STORM_BROADCAST, WH_STORM_MULTICAST, WH_STORM_UNKNOWN, WH_STORM_CLASSES };
#define WH_STORM_NONE UINT32_MAX /* no rate of its own */

#define WH_STORM_RATE    10000u /* frames a second */
#define WH_STORM_DAMPED  64u
#define WH_STORM_CALM_NS 10000000000ull

struct wh_storm {
    uint32_t rate;      /* frames a second; 0: no bound */
    bool on;            /* a storm */
    uint64_t credit_ns; /* a frame costs 1 s / rate */
    uint64_t filled_ns, dropped_ns;
};

enum wh_storm_verdict { WH_STORM_GO, WH_STORM_DROP, WH_STORM_BEGINS /* drop, and say so */ };

static inline enum wh_storm_class wh_storm_class_of(const uint8_t dst[6])
{
    static const uint8_t all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    return memcmp(dst, all, 6) == 0 ? WH_STORM_BROADCAST : dst[0] & 1 ? WH_STORM_MULTICAST : WH_STORM_UNKNOWN;
}

void wh_storm_set(struct wh_storm *t, uint32_t rate, uint64_t now_ns);
enum wh_storm_verdict wh_storm_ask(struct wh_storm *t, uint64_t now_ns);
uint32_t wh_storm_rate(const struct wh_storm *t); /* in force now */

#endif
