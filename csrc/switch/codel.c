#include "switch/codel.h"

#define RECENT 16u /* intervals for which the rate of the last time is remembered */

static uint64_t root(uint64_t x)
{
    uint64_t r = 0;
    for (uint64_t bit = 1ull << 62; bit; bit >>= 2) {
        if (x >= r + bit) {
            x -= r + bit;
            r = (r >> 1) + bit;
        } else {
            r >>= 1;
        }
    }
    return r;
}

/* interval / sqrt(count), with 16 bits of fraction in the root. */
static uint64_t gap(uint32_t count)
{
    return (WH_CODEL_INTERVAL_NS << 16) / root((uint64_t)count << 32);
}

static bool too_long(struct wh_codel *c, uint64_t waited_ns, size_t left, uint64_t now_ns)
{
    if (waited_ns < WH_CODEL_TARGET_NS || left <= WH_CODEL_LEAST) {
        c->above_ns = 0;
        return false;
    }
    if (!c->above_ns) {
        c->above_ns = now_ns + WH_CODEL_INTERVAL_NS;
        return false;
    }
    return now_ns >= c->above_ns;
}

bool wh_codel_hit(struct wh_codel *c, uint64_t waited_ns, size_t left, uint64_t now_ns)
{
    if (!too_long(c, waited_ns, left, now_ns)) {
        c->hitting = false;
        return false;
    }
    if (c->hitting) {
        if (now_ns < c->next_ns)
            return false;
        c->count++;
        c->next_ns += gap(c->count);
        return true;
    }
    /* Soon after the last time the rate that helped then is taken up again. */
    uint32_t grown = c->count - c->last_count;
    bool recent = now_ns < c->next_ns + RECENT * WH_CODEL_INTERVAL_NS;
    c->count = grown > 1 && recent ? grown : 1;
    c->last_count = c->count;
    c->next_ns = now_ns + gap(c->count);
    c->hitting = true;
    return true;
}

void wh_codel_empty(struct wh_codel *c)
{
    c->above_ns = 0;
    c->hitting = false;
}
