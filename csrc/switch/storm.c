#include "switch/storm.h"

#define SECOND 1000000000ull

void wh_storm_set(struct wh_storm *t, uint32_t rate, uint64_t now_ns)
{
    *t = (struct wh_storm){.rate = rate, .credit_ns = SECOND, .filled_ns = now_ns};
}

uint32_t wh_storm_rate(const struct wh_storm *t)
{
    uint32_t damped = t->rate / WH_STORM_DAMPED;
    return !t->on ? t->rate : damped ? damped : 1;
}

enum wh_storm_verdict wh_storm_ask(struct wh_storm *t, uint64_t now_ns)
{
    if (!t->rate)
        return WH_STORM_GO;
    if (t->on && now_ns - t->dropped_ns >= WH_STORM_CALM_NS)
        t->on = false;
    uint64_t gained = now_ns - t->filled_ns;
    t->credit_ns = gained < SECOND && t->credit_ns + gained < SECOND ? t->credit_ns + gained : SECOND;
    t->filled_ns = now_ns;
    uint64_t price = SECOND / wh_storm_rate(t);
    if (t->credit_ns >= price) {
        t->credit_ns -= price;
        return WH_STORM_GO;
    }
    t->dropped_ns = now_ns;
    if (t->on)
        return WH_STORM_DROP;
    t->on = true;
    return WH_STORM_BEGINS;
}
