/* The I/O thread: waits for devices' descriptors, input from outside and the board's timers, and calls devices with the
 * board lock held. */
#include "board/machine.h"

#include <unistd.h>

#define MAX_EVENTS 16

static void drain(int fd)
{
    uint64_t count;
    (void)!read(fd, &count, sizeof count);
}

static void take_input(wh_machine *m)
{
    uint32_t waiting = atomic_exchange(&m->input_waiting, 0);
    wh_device *console = m->virtio[0];
    if (waiting & 1u << WH_CH_UART)
        m->uart->ops->poll(m->uart);
    if (waiting & (1u << WH_CH_CONSOLE | 1u << WH_CH_AGENT) && console->ops->poll)
        console->ops->poll(console);
}

static void serve(wh_machine *m, void *what)
{
    if (what == &m->io_event) {
        drain(m->io_event);
        take_input(m);
    } else if (what == &m->io_timer) {
        drain(m->io_timer);
        wh_aclint_tick(m->aclint);
        wh_rtc_tick(m->rtc);
        wh_io_arm_timer(m);
    } else {
        wh_device *d = what;
        drain(d->poll_fd);
        d->ops->poll(d);
    }
}

int wh_io_wait(wh_machine *m, struct epoll_event *ev, int max, int timeout_ms)
{
    int n = 0;
    atomic_store(&m->io_sleeping, true);
    if (atomic_load(&m->go)) /* else a pause may have looked before we said that we sleep, and waits for us to park */
        n = epoll_wait(m->io_epoll, ev, max, timeout_ms);
    atomic_store(&m->io_sleeping, false);
    return atomic_load(&m->go) ? n : 0; /* what is ready stays ready: epoll is level-triggered */
}

void *wh_io_main(void *ctx)
{
    wh_machine *m = ctx;
    pthread_setname_np(pthread_self(), "guest io");
    while (wh_run_checkpoint(m, &m->io_parked)) {
        struct epoll_event ev[MAX_EVENTS];
        /* Input is looked for here too: its bell may have been drained on the way into the last pause. */
        int n = wh_io_wait(m, ev, MAX_EVENTS, atomic_load(&m->input_waiting) ? 0 : -1);
        if (!atomic_load(&m->go))
            continue;
        pthread_mutex_lock(&m->lock);
        take_input(m);
        for (int i = 0; i < n; i++)
            serve(m, ev[i].data.ptr);
        pthread_mutex_unlock(&m->lock);
    }
    return NULL;
}
