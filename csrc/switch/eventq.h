/* eventq: the bounded queue from the switch to its owner, with an eventfd that is readable while it holds something.
 * Any worker puts, its owner takes: it has a lock of its own. */
#ifndef WH_SWITCH_EVENTQ_H
#define WH_SWITCH_EVENTQ_H

#include "base/base.h"

#include <pthread.h>

#define WH_EVENTQ_CAP 1024u

struct wh_eventq {
    int fd;
    pthread_mutex_t lock;
    uint32_t head, tail; /* free-running */
    wh_switch_event ring[WH_EVENTQ_CAP];
};

int wh_eventq_init(struct wh_eventq *e, wh_error *err);
void wh_eventq_close(struct wh_eventq *e);
bool wh_eventq_put(struct wh_eventq *e, const wh_switch_event *event); /* false: full, the caller counts it */
int wh_eventq_take(struct wh_eventq *e, wh_switch_event *out);         /* WH_E_AGAIN */

#endif
