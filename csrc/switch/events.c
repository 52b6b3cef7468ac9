#include "switch/events.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int wh_events_init(struct wh_events *e, wh_error *err)
{
    e->head = e->tail = 0;
    e->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return e->fd < 0 ? wh_fail(err, WH_E_IO, "eventfd", "%s", strerror(errno)) : WH_OK;
}

void wh_events_close(struct wh_events *e)
{
    if (e->fd >= 0)
        close(e->fd);
    e->fd = -1;
}

bool wh_events_put(struct wh_events *e, const wh_switch_event *event)
{
    if (e->head - e->tail == WH_EVENTS_CAP)
        return false;
    e->ring[e->head % WH_EVENTS_CAP] = *event;
    e->head++;
    uint64_t one = 1;
    ssize_t n = write(e->fd, &one, sizeof(one));
    (void)n; /* EAGAIN: the counter is at its top, so the fd is readable anyway */
    return true;
}

int wh_events_take(struct wh_events *e, wh_switch_event *out)
{
    if (e->head == e->tail) {
        uint64_t count;
        ssize_t n = read(e->fd, &count, sizeof(count));
        (void)n; /* EAGAIN: nobody rang */
        *out = (wh_switch_event){.kind = WH_SW_NONE};
        return WH_E_AGAIN;
    }
    *out = e->ring[e->tail % WH_EVENTS_CAP];
    e->tail++;
    return WH_OK;
}
