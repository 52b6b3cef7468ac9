#include "switch/trace.h"

#include "switch/fdb.h"
#include "switch/network.h"
#include "switch/port.h"

#include <stdlib.h>
#include <string.h>

struct wh_trace {
    uint32_t every, seen;
    uint64_t first, next; /* notes first..next-1 are kept */
    uint64_t lost;
    wh_trace_event kept[WH_TRACE_KEPT];
};

struct wh_trace *wh_trace_new(uint32_t every)
{
    struct wh_trace *t = calloc(1, sizeof(*t));
    if (t)
        t->every = every;
    return t;
}

void wh_trace_free(struct wh_trace *t)
{
    free(t);
}

static void judge(const struct wh_port *p, const uint8_t *dst, wh_trace_event *e)
{
    struct wh_fdb *fdb = &p->net->fdb;
    const struct wh_fdb_row *row = dst[0] & 1 ? NULL : wh_fdb_resolve(fdb, dst, 0);
    const struct wh_port *at = row ? wh_fdb_port(fdb, row) : NULL;
    e->way = !row ? WH_TRACE_FLOOD : !at ? WH_TRACE_NODE : at == p ? WH_TRACE_BACK : WH_TRACE_PORT;
    e->to = at ? at->id : row ? wh_fdb_node(fdb, row) : 0;
}

/* The first drop counter that is higher than it was: its place in wh_counters, where they stand together. */
static uint32_t risen(const wh_counters *was, const wh_counters *is)
{
    const size_t first = offsetof(wh_counters, drop_full) / 8, last = offsetof(wh_counters, drop_vnet_packet) / 8;
    uint64_t a[sizeof(*was) / 8], b[sizeof(*is) / 8];
    memcpy(a, was, sizeof(a));
    memcpy(b, is, sizeof(b));
    for (size_t i = first; i <= last; i++)
        if (b[i] != a[i])
            return (uint32_t)i;
    return UINT32_MAX;
}

void wh_trace_forward(wh_switch *s, struct wh_port *p, struct wh_frame *f,
                      void (*forward)(wh_switch *, struct wh_port *, struct wh_frame *))
{
    struct wh_trace *t = p->trace;
    if (++t->seen < t->every || f->len < WH_ETH_HEADER) {
        forward(s, p, f);
        return;
    }
    t->seen = 0;
    wh_trace_event e = {.when_ns = s->now_ns, .len = f->len};
    memcpy(e.head, f->data, f->len < sizeof(e.head) ? f->len : sizeof(e.head));
    judge(p, f->data, &e);
    wh_counters was = s->total;
    forward(s, p, f);
    e.reason = risen(&was, &s->total);
    if (t->next - t->first == WH_TRACE_KEPT) {
        t->first++;
        t->lost++;
    }
    t->kept[t->next++ % WH_TRACE_KEPT] = e;
}

uint32_t wh_trace_read(struct wh_trace *t, wh_trace_event *out, uint32_t cap, uint64_t *lost)
{
    uint32_t n = 0;
    while (n < cap && t->first < t->next)
        out[n++] = t->kept[t->first++ % WH_TRACE_KEPT];
    *lost = t->lost;
    t->lost = 0;
    return n;
}
