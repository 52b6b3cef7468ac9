#include "switch/spin.h"

#include <sched.h>

void wh_spin_init(struct wh_spin *p, uint64_t now_ns)
{
    cpu_set_t cores;
    *p = (struct wh_spin){.credit_ns = WH_SPIN_CREDIT_NS, .filled_ns = now_ns};
    p->never = sched_getaffinity(0, sizeof(cores), &cores) == 0 && CPU_COUNT(&cores) < 2;
}

static void fill(struct wh_spin *p, uint64_t now_ns)
{
    p->credit_ns += (now_ns - p->filled_ns) / WH_SPIN_SHARE;
    p->filled_ns = now_ns;
    if (p->credit_ns > WH_SPIN_CREDIT_NS)
        p->credit_ns = WH_SPIN_CREDIT_NS;
}

bool wh_spin_after_turn(struct wh_spin *p, uint64_t now_ns, uint64_t frames, uint64_t bytes)
{
    if (bytes > WH_SPIN_BULK || frames > WH_SPIN_FRAMES)
        p->bulk_until = now_ns + WH_SPIN_BULK_NS;
    if (frames == 0) /* a timer or a control call: what was looked for before may still come */
        return p->since_ns && wh_spin_go_on(p, now_ns);
    if (p->since_ns) /* found: that pays for a look in vain */
        p->credit_ns += WH_SPIN_NS;
    p->since_ns = 0;
    fill(p, now_ns);
    if (p->never || now_ns < p->bulk_until || p->credit_ns < WH_SPIN_NS)
        return false;
    p->since_ns = p->last_ns = now_ns;
    return true;
}

bool wh_spin_go_on(struct wh_spin *p, uint64_t now_ns)
{
    uint64_t looked = now_ns - p->since_ns;
    bool pushed_aside = now_ns - p->last_ns > WH_SPIN_STEP_NS;
    p->last_ns = now_ns;
    if (looked < WH_SPIN_NS && !pushed_aside)
        return true;
    p->credit_ns -= looked < p->credit_ns && !pushed_aside ? looked : p->credit_ns;
    p->since_ns = 0;
    return false;
}
