#include "switch/eventq.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int wh_eventq_init(struct wh_eventq *e, wh_error *err)
{
    e->head = e->tail = 0;
    pthread_mutex_init(&e->lock, NULL);
    e->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return e->fd < 0 ? wh_fail(err, WH_E_IO, "eventfd", "%s", strerror(errno)) : WH_OK;
}

void wh_eventq_close(struct wh_eventq *e)
{
    if (e->fd < 0)
        return;
    close(e->fd);
    pthread_mutex_destroy(&e->lock);
    e->fd = -1;
}

bool wh_eventq_put(struct wh_eventq *e, const wh_switch_event *event)
{
    pthread_mutex_lock(&e->lock);
    bool room = e->head - e->tail < WH_EVENTQ_CAP;
    if (room) {
        e->ring[e->head++ % WH_EVENTQ_CAP] = *event;
        uint64_t one = 1;
        ssize_t n = write(e->fd, &one, sizeof(one));
        (void)n; /* EAGAIN: the counter is at its top, so the fd is readable anyway */
    }
    pthread_mutex_unlock(&e->lock);
    return room;
}

int wh_eventq_take(struct wh_eventq *e, wh_switch_event *out)
{
    pthread_mutex_lock(&e->lock);
    bool any = e->head != e->tail;
    if (any) {
        *out = e->ring[e->tail++ % WH_EVENTQ_CAP];
    } else {
        uint64_t count;
        ssize_t n = read(e->fd, &count, sizeof(count));
        (void)n; /* EAGAIN: nobody rang */
        *out = (wh_switch_event){.kind = WH_SW_NONE};
    }
    pthread_mutex_unlock(&e->lock);
    return any ? WH_OK : WH_E_AGAIN;
}
