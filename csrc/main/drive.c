/* The loop around a running machine: its console, what it waits for, when the run is over. */
#include "main/htif.h"
#include "main/session.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

void wh_show_output(struct wh_session *s)
{
    uint8_t buf[4096];
    size_t got = 0;
    while (wh_machine_channel_read(s->machine, WH_CH_UART, &s->shown, buf, sizeof buf, &got) == WH_OK && got > 0) {
        for (size_t at = 0; at < got;) {
            ssize_t n = write(STDOUT_FILENO, buf + at, got - at);
            if (n < 0 && errno != EINTR)
                return;
            at += n > 0 ? (size_t)n : 0;
        }
        s->marker_seen = s->marker_seen || wh_marker_seen(&s->marker, buf, got);
        s->shown += got;
        got = 0;
    }
}

static void pass_input(struct wh_session *s)
{
    uint8_t buf[256];
    size_t taken;
    ssize_t n = read(STDIN_FILENO, buf, sizeof buf);
    if (n <= 0)
        s->input_open = false;
    else
        (void)wh_machine_channel_write(s->machine, WH_CH_UART, buf, (size_t)n, &taken);
}

/* The next event's meaning as an exit status, or -1. */
static int event_status(struct wh_session *s)
{
    wh_event ev;
    while (wh_machine_next_event(s->machine, &ev) == WH_OK) {
        if (ev.kind == WH_EV_POWEROFF)
            return (int)(ev.arg & 255);
        if (ev.kind == WH_EV_REBOOT)
            return 0;
        if (ev.kind == WH_EV_CRASH) {
            fprintf(stderr, "wherry-core: %s\n", ev.text);
            return EXIT_CRASH;
        }
    }
    return -1;
}

static bool snapshot_due(const struct wh_session *s, uint64_t instructions)
{
    return s->opt->snapshot_to != NULL &&
           (s->marker_seen || (s->opt->snapshot_at != 0 && instructions >= s->opt->snapshot_at));
}

static int take_snapshot(struct wh_session *s)
{
    wh_error err = {0};
    return wh_snapshot_save_as(s->machine, s->opt->snapshot_to, &err) == WH_OK ? 0 : wh_cannot(&err);
}

/* When a restored machine has executed its first instructions; figures are told every few thousand of them. */
static void watch_first(struct wh_session *s)
{
    wh_machine_stats first, now;
    wh_machine_get_stats(s->machine, &first);
    do {
        usleep(20);
        wh_machine_get_stats(s->machine, &now);
        s->ran = wh_now_ns();
    } while (now.instructions == first.instructions && s->ran - s->begun < 1000000000ull);
}

int wh_drive(struct wh_session *s)
{
    if (s->opt->restore != NULL && s->opt->stats)
        watch_first(s);
    for (;;) {
        struct pollfd fds[3] = {{.fd = wh_machine_event_fd(s->machine), .events = POLLIN},
                                {.fd = s->input_open ? STDIN_FILENO : -1, .events = POLLIN},
                                {.fd = s->gdb.fd, .events = POLLIN}};
        /* nobody tells us about these */
        bool watch = s->symbols.tohost != 0 || s->opt->max_insns != 0 || s->opt->snapshot_at != 0;
        if (poll(fds, 3, watch ? 2 : -1) < 0 && errno != EINTR)
            return EXIT_CANNOT;
        if (fds[1].revents)
            pass_input(s);
        if (fds[2].revents)
            wh_gdb_socket_ready(&s->gdb, s->machine);
        int status = event_status(s);
        wh_show_output(s);
        if (status < 0)
            status = wh_htif_look(wh_machine_ram(s->machine), &s->symbols);
        if (status >= 0)
            return status;
        wh_machine_stats stats;
        wh_machine_get_stats(s->machine, &stats);
        if (snapshot_due(s, stats.instructions))
            return take_snapshot(s);
        if (s->opt->max_insns != 0 && stats.instructions > s->opt->max_insns)
            return EXIT_INSNS;
    }
}

static bool print_hash(struct wh_session *s)
{
    uint8_t digest[16];
    wh_error err = {0};
    if (wh_machine_digest(s->machine, digest, &err) != WH_OK) {
        (void)wh_cannot(&err);
        return false;
    }
    fprintf(stderr, "hash %" PRIu64 " ", wh_icount_steps(s->machine));
    for (unsigned i = 0; i < sizeof digest; i++)
        fprintf(stderr, "%02x", digest[i]);
    fputc('\n', stderr);
    return true;
}

enum { LOOK_EVERY = 1000000 }; /* steps between two looks at standard input and at tohost */

/* Where the driver has to come back to, after `at`. */
static uint64_t next_stop(const struct wh_options *o, uint64_t at)
{
    uint64_t stop = at - at % LOOK_EVERY + LOOK_EVERY;
    uint64_t hash = o->hash_every != 0 ? at - at % o->hash_every + o->hash_every : UINT64_MAX;
    stop = hash < stop ? hash : stop;
    stop = o->snapshot_at > at && o->snapshot_at < stop ? o->snapshot_at : stop;
    return o->max_insns != 0 && o->max_insns < stop ? o->max_insns : stop;
}

static void await_input(struct wh_session *s, bool block)
{
    struct pollfd fd = {.fd = s->input_open ? STDIN_FILENO : -1, .events = POLLIN};
    if (poll(&fd, 1, block ? -1 : 0) > 0)
        pass_input(s);
}

/* The machine on this thread, so that looks at it fall on the same steps each time. */
int wh_drive_icount(struct wh_session *s)
{
    const struct wh_options *o = s->opt;
    for (;;) {
        uint64_t at = wh_icount_steps(s->machine);
        enum wh_icount_stop why = wh_icount_run(s->machine, next_stop(o, at));
        at = wh_icount_steps(s->machine);
        wh_show_output(s);
        int status = event_status(s);
        if (status < 0)
            status = wh_htif_look(wh_machine_ram(s->machine), &s->symbols);
        bool over = status >= 0 || (o->max_insns != 0 && at >= o->max_insns);
        if (why == WH_ICOUNT_IDLE && !s->input_open && !over) {
            fprintf(stderr, "wherry-core: the guest waits for ever\n");
            status = EXIT_CRASH;
            over = true;
        }
        if (o->hash_every != 0 && (over || at % o->hash_every == 0) && !print_hash(s))
            return EXIT_CANNOT;
        if (over)
            return status >= 0 ? status : EXIT_INSNS;
        if (snapshot_due(s, at))
            return take_snapshot(s);
        await_input(s, why == WH_ICOUNT_IDLE);
    }
}
