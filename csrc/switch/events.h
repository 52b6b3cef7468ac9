/* events: the bounded queue from the switch to its owner, with an eventfd that is readable while it holds something.
 * Callers hold the switch lock. */
#ifndef WH_SWITCH_EVENTS_H
#define WH_SWITCH_EVENTS_H

#include "base/base.h"

#define WH_EVENTS_CAP 1024u

struct wh_events {
    int fd;
    uint32_t head, tail; /* free-running */
    wh_switch_event ring[WH_EVENTS_CAP];
};

int wh_events_init(struct wh_events *e, wh_error *err);
void wh_events_close(struct wh_events *e);
bool wh_events_put(struct wh_events *e, const wh_switch_event *event); /* false: full, the caller counts it */
int wh_events_take(struct wh_events *e, wh_switch_event *out);         /* WH_E_AGAIN */

#endif
