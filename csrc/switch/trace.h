/* trace: why frames of one port went where they went. Off, it costs one look at a pointer; on, every Nth frame that
 * comes in at the port is noted with what the table said of its destination and which drop counter rose while it was
 * forwarded. Bounded: the last WH_TRACE_KEPT notes stay until they are read. */
#ifndef WH_SWITCH_TRACE_H
#define WH_SWITCH_TRACE_H

#include "switch/frame.h"
#include "switch/switch.h"

#define WH_TRACE_KEPT 256u

struct wh_port;
struct wh_trace;

struct wh_trace *wh_trace_new(uint32_t every);
void wh_trace_free(struct wh_trace *t);
/* forward(s, p, f), noted. */
void wh_trace_forward(wh_switch *s, struct wh_port *p, struct wh_frame *f,
                      void (*forward)(wh_switch *, struct wh_port *, struct wh_frame *));
/* Move up to cap notes out, the oldest first; *lost: those that newer ones have displaced since the last call. */
uint32_t wh_trace_read(struct wh_trace *t, wh_trace_event *out, uint32_t cap, uint64_t *lost);

#endif
