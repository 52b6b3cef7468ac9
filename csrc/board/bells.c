/* What sleepers wait for: the I/O thread's epoll, bell and timer, the debugger's bell; and when the board's own timers
 * are due, on the host's clock or in steps. Knows no thread and takes no lock. */
#include "board/machine.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

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

void wh_debug_tell(wh_machine *m)
{
    uint64_t one = 1;
    (void)!write(m->debug.event_fd, &one, sizeof one);
}

uint64_t wh_icount_board_due(wh_machine *m)
{
    uint64_t due = UINT64_MAX, mtime = m->cpu_env.direct_boot ? UINT64_MAX : wh_aclint_deadline(m->aclint);
    uint64_t alarm = wh_rtc_deadline(m->rtc), wall = wh_clock_wall_ns(m);
    if (mtime != UINT64_MAX)
        due = wh_icount_steps_until(m, mtime);
    if (alarm != UINT64_MAX) {
        uint64_t wait = alarm > wall ? alarm - wall : 0;
        due = wait < due ? wait : due;
    }
    return due;
}

uint64_t wh_icount_stretch(wh_machine *m)
{
    const wh_icount *c = &m->icount;
    uint64_t now = wh_icount_steps(m), left = c->turn_left - (now - c->steps), stop = c->stop - now,
             due = wh_icount_board_due(m);
    left = stop < left ? stop : left;
    return due < left ? due : left;
}

void wh_icount_deadline_moved(wh_machine *m)
{
    wh_board_hart *h = m->icount.running;
    if (h)
        wh_hart_set_limit(h->cpu, wh_hart_steps(h->cpu) + wh_icount_stretch(m));
}

void wh_io_set_timer(wh_machine *m, uint64_t when)
{
    struct itimerspec at = {0}; /* all zero disarms */
    if (when < INT64_MAX) {
        at.it_value.tv_sec = (time_t)(when / 1000000000ull);
        at.it_value.tv_nsec = (long)(when % 1000000000ull) | 1;
    }
    timerfd_settime(m->io_timer, TFD_TIMER_ABSTIME, &at, NULL);
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
    wh_io_set_timer(m, when);
}
