/* The I/O thread: waits for devices' descriptors, input from outside and the board's timers, and calls devices with the
 * board lock held. */
#include "board/machine.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define MAX_EVENTS 16

static int watch(wh_machine *m, int fd, void *what, wh_error *err)
{
    struct epoll_event ev = {.events = EPOLLIN, .data = {.ptr = what}};
    if (fd < 0 || epoll_ctl(m->io_epoll, EPOLL_CTL_ADD, fd, &ev))
        return wh_fail(err, WH_E_IO, "machine", "epoll: %s", strerror(errno));
    return WH_OK;
}

int wh_io_init(wh_machine *m, wh_error *err)
{
    m->io_epoll = epoll_create1(EPOLL_CLOEXEC);
    m->io_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    m->io_timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    int status = watch(m, m->io_event, &m->io_event, err);
    return status ? status : watch(m, m->io_timer, &m->io_timer, err);
}

void wh_io_destroy(wh_machine *m)
{
    int fds[] = {m->io_epoll, m->io_event, m->io_timer};
    for (unsigned i = 0; i < WH_ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

int wh_io_watch(wh_machine *m, wh_device *d, wh_error *err)
{
    return watch(m, d->poll_fd, d, err);
}

void wh_run_kick_io(wh_machine *m)
{
    uint64_t one = 1;
    (void)!write(m->io_event, &one, sizeof one);
}

static void drain(int fd)
{
    uint64_t count;
    (void)!read(fd, &count, sizeof count);
}

/* The earlier of the machine timers and the RTC alarm, as one absolute CLOCK_MONOTONIC time. */
void wh_io_arm_timer(void *ctx)
{
    wh_machine *m = ctx;
    if (wh_icount_on(m)) {
        wh_icount_deadline_moved(m);
        return;
    }
    uint64_t when = UINT64_MAX, mtime = m->cpu_env.direct_boot ? UINT64_MAX : wh_aclint_deadline(m->aclint);
    uint64_t alarm = wh_rtc_deadline(m->rtc);
    if (mtime != UINT64_MAX)
        when = wh_clock_host_ns(m, mtime);
    if (alarm != UINT64_MAX) {
        uint64_t wall = wh_clock_wall_ns(m), now = wh_now_ns(), wait = alarm > wall ? alarm - wall : 0;
        if (wait < UINT64_MAX - now && now + wait < when)
            when = now + wait;
    }
    struct itimerspec at = {0}; /* all zero disarms */
    if (when < INT64_MAX) {
        at.it_value.tv_sec = (time_t)(when / 1000000000ull);
        at.it_value.tv_nsec = (long)(when % 1000000000ull) | 1;
    }
    timerfd_settime(m->io_timer, TFD_TIMER_ABSTIME, &at, NULL);
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
