/* Running under a debugger: the exact interpreter, one instruction at a time, with a look at the points around each.
 *
 * A breakpoint stops before its instruction, also when the hart has just gone on from there: who wants past it steps
 * first. A watchpoint stops after the access, when registers and memory show it. What an instruction accesses is read
 * from its encoding, not from the decoded form, so that it is the same whatever the engine makes of it; an access that
 * traps, and a store that did not happen (a failed SC), is none. */
#include "cpu/debug.h"
#include "cpu/hart.h"

enum { LOOK_EVERY = 2048 }; /* instructions, retired or trapped, between two looks at the world */

typedef struct wh_access_plan {
    enum wh_watch kind;
    uint64_t va, size;
    unsigned rd;
    bool conditional; /* SC, AMOCAS: only the result says whether it wrote */
    bool compare;
    uint64_t expected;
} wh_access_plan;

static uint64_t field_i(uint32_t bits)
{
    return (uint64_t)((int64_t)(int32_t)bits >> 20);
}

static uint64_t field_s(uint32_t bits)
{
    return (uint64_t)((int64_t)(int32_t)(bits & 0xfe000000u) >> 20) | (bits >> 7 & 31);
}

static void plan_atomic(const wh_hart *h, uint32_t bits, wh_access_plan *p)
{
    enum { LR = 2, SC = 3, CAS = 5 };
    unsigned kind = bits >> 27;
    p->rd = bits >> 7 & 31;
    p->kind = kind == LR ? WH_WATCH_READ : kind == SC ? WH_WATCH_WRITE : WH_WATCH_ACCESS;
    p->conditional = (kind == SC || kind == CAS) && p->rd != 0;
    p->compare = kind == CAS;
    p->expected = h->x[p->rd];
}

/* What the instruction at pc will access if nothing traps. */
static wh_access_plan plan(wh_hart *h)
{
    wh_access_plan p = {0};
    uint32_t bits;
    if (wh_fetch_bits(h, h->pc, &bits) != 0)
        return p;
    if ((bits & 3) != 3)
        bits = wh_expand((uint16_t)bits);
    uint64_t base = h->x[bits >> 15 & 31]; /* x0 reads as 0: its place is never written */
    unsigned funct3 = bits >> 12 & 7;
    p.size = 1ull << (funct3 & 3);
    p.va = base;
    switch (bits & 0x7f) {
    case 0x03: /* LOAD */
    case 0x07: /* LOAD-FP */
        p.kind = WH_WATCH_READ;
        p.va = base + field_i(bits);
        break;
    case 0x23: /* STORE */
    case 0x27: /* STORE-FP */
        p.kind = WH_WATCH_WRITE;
        p.va = base + field_s(bits);
        break;
    case 0x2f: /* AMO */
        plan_atomic(h, bits, &p);
        p.size = funct3 == 4 ? 16 : p.size;
        break;
    case 0x0f: /* MISC-MEM: of its instructions only CBO.ZERO writes */
        if (funct3 == 2 && bits >> 20 == 4) {
            p.kind = WH_WATCH_WRITE;
            p.va = base & ~63ull;
            p.size = 64;
        }
        break;
    default:
        break;
    }
    return p;
}

/* The accesses that a plan without trap came to. */
static unsigned done(const wh_hart *h, const wh_access_plan *p)
{
    unsigned kind = p->kind;
    if (p->conditional) {
        uint64_t mask = p->size >= 8 ? UINT64_MAX : (1ull << (8 * p->size)) - 1;
        bool wrote = p->compare ? ((h->x[p->rd] ^ p->expected) & mask) == 0 : h->x[p->rd] == 0;
        if (!wrote)
            kind &= ~(unsigned)WH_WATCH_WRITE;
    }
    return kind;
}

static bool watched(wh_hart *h, const wh_access_plan *p)
{
    const wh_debug_points *points = h->debug.points;
    unsigned kind = done(h, p);
    for (uint32_t i = 0; i < points->watches; i++) {
        uint64_t first = points->watchpoint[i].address, last = first + (points->watchpoint[i].length - 1);
        uint64_t end = p->va + (p->size - 1);
        if (!(kind & points->watchpoint[i].kind) || p->va > last || end < first)
            continue;
        h->debug.hit = (wh_debug_hit){WH_DEBUG_WATCH, p->va > first ? p->va : first, points->watchpoint[i].kind};
        return true;
    }
    return false;
}

static uint64_t trap_count(const wh_hart *h)
{
    return atomic_load_explicit(&h->stat_traps, memory_order_relaxed);
}

static bool step_over(wh_hart *h)
{
    const wh_debug_step *s = &h->debug.step;
    if (!s->on || !h->debug.stepped || (h->pc >= s->first && h->pc < s->last))
        return false;
    h->debug.hit = (wh_debug_hit){.why = WH_DEBUG_STEP, .address = h->pc};
    return true;
}

static bool breaks(wh_hart *h)
{
    if (h->debug.points == NULL || (h->debug.step.on && !h->debug.stepped) ||
        !wh_debug_breaks_at(h->debug.points, h->pc))
        return false;
    h->debug.hit = (wh_debug_hit){.why = WH_DEBUG_BREAK, .address = h->pc};
    return true;
}

/* One instruction. 0, or a public exit. */
static int advance(wh_hart *h)
{
    bool watch = h->debug.points != NULL && h->debug.points->watches != 0;
    wh_access_plan p = {0};
    if (watch)
        p = plan(h);
    uint64_t traps = trap_count(h);
    int status = wh_interp_step(h);
    h->debug.stepped = true;
    if (watch && p.kind != 0 && trap_count(h) == traps && watched(h, &p))
        return WH_EXIT_DEBUG;
    if (status == WH_EXIT_WFI && h->debug.step.on)
        return 0; /* who steps wants to get on */
    return status >= WH_EXIT_HOT ? 0 : status;
}

/* An exact hart's limit and timer may be at any instruction. */
static bool must_look(wh_hart *h)
{
    return h->recheck || wh_hart_exact(h) || (!h->debug.step.on && wh_pending(h) != 0);
}

static int run(wh_hart *h)
{
    int status = 0;
    for (unsigned until_look = 0; status == 0; until_look--) {
        if (until_look == 0 || must_look(h)) {
            status = h->debug.step.on ? wh_hart_look(h) : wh_hart_poll(h);
            if (status != 0)
                break;
            until_look = LOOK_EVERY;
        }
        if (step_over(h) || breaks(h))
            return WH_EXIT_DEBUG;
        status = advance(h);
    }
    return status;
}

enum wh_exit wh_debug_run(wh_hart *h)
{
    h->debug.hit = (wh_debug_hit){0};
    wh_fp_enter(h);
    int status = run(h);
    wh_fp_leave(h);
    return (enum wh_exit)status;
}
