#include "board/machine.h"

#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int wh_events_init(wh_events *e)
{
    memset(e, 0, sizeof *e);
    pthread_mutex_init(&e->lock, NULL);
    e->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return e->fd < 0 ? WH_E_IO : WH_OK;
}

void wh_events_destroy(wh_events *e)
{
    if (e->fd > 0)
        close(e->fd);
    pthread_mutex_destroy(&e->lock);
}

static void ring_bell(wh_events *e)
{
    uint64_t one = 1;
    (void)!write(e->fd, &one, sizeof one); /* full means that it is readable already */
}

void wh_events_output(wh_events *e, unsigned channel)
{
    pthread_mutex_lock(&e->lock);
    uint32_t bit = 1u << channel;
    if (!(e->output & bit)) {
        e->output |= bit;
        ring_bell(e);
    }
    pthread_mutex_unlock(&e->lock);
}

void wh_events_channel(wh_events *e, unsigned channel, bool open)
{
    pthread_mutex_lock(&e->lock);
    uint32_t bit = 1u << channel;
    e->changed |= bit;
    e->open = open ? e->open | bit : e->open & ~bit;
    ring_bell(e);
    pthread_mutex_unlock(&e->lock);
}

void wh_events_end(wh_events *e, uint32_t kind, uint32_t arg, const char *text)
{
    pthread_mutex_lock(&e->lock);
    if (!e->end.kind) {
        e->end.kind = kind;
        e->end.arg = arg;
        snprintf(e->end.text, sizeof e->end.text, "%s", text);
        ring_bell(e);
    }
    pthread_mutex_unlock(&e->lock);
}

int wh_events_exit_code(wh_events *e)
{
    enum { CRASHED = 134 }; /* what a shell shows for abort() */
    pthread_mutex_lock(&e->lock);
    int code = e->end.kind == WH_EV_POWEROFF ? (int)(e->end.arg & 255) : e->end.kind == WH_EV_CRASH ? CRASHED : 0;
    pthread_mutex_unlock(&e->lock);
    return code;
}

/* Output comes before the end, so that a reader has seen a guest's last words when it learns that it is gone. */
int wh_machine_next_event(wh_machine *m, wh_event *out)
{
    wh_events *e = &m->events;
    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&e->lock);
    if (e->changed) {
        unsigned channel = (unsigned)__builtin_ctz(e->changed);
        e->changed &= e->changed - 1;
        out->kind = WH_EV_CHANNEL;
        out->arg = channel << 1 | (e->open >> channel & 1);
    } else if (e->output) {
        out->kind = WH_EV_OUTPUT;
        out->arg = (uint32_t)__builtin_ctz(e->output);
        e->output &= e->output - 1;
    } else if (e->end.kind && !e->end_told) {
        *out = e->end;
        e->end_told = true;
    }
    if (!out->kind) { /* nothing left: only now may the descriptor stop being readable */
        uint64_t count;
        (void)!read(e->fd, &count, sizeof count);
    }
    pthread_mutex_unlock(&e->lock);
    return out->kind ? WH_OK : WH_E_AGAIN;
}

int wh_machine_event_fd(wh_machine *m)
{
    return m->events.fd;
}
