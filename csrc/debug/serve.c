/* The connection and the thread that serves it. Theory: gdb.h. */
#include "debug/gdb.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define THREAD_STACK    (256u << 10)
#define SEND_PATIENCE_S 5 /* for a debugger that does not read; then its connection ends */

static bool send_all(wh_gdb *g, const uint8_t *at, size_t len)
{
    while (len > 0) {
        ssize_t n = send(g->fd, at, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

static bool reply(wh_gdb *g)
{
    if (g->out.too_long)
        wh_gdb_error(g, E2BIG);
    g->frame_len = wh_rsp_frame(&g->out, g->frame);
    return send_all(g, g->frame, g->frame_len);
}

static bool acknowledge(wh_gdb *g, char sign)
{
    return g->no_ack || send_all(g, (const uint8_t *)&sign, 1);
}

static bool packet(wh_gdb *g)
{
    if (!acknowledge(g, '+'))
        return false;
    if (g->phase == WH_GDB_RUNNING)
        return true; /* nothing may be asked before the machine has stopped */
    wh_gdb_command(g);
    return g->phase == WH_GDB_RUNNING || reply(g);
}

static bool take(wh_gdb *g, uint8_t byte)
{
    switch (wh_rsp_feed(&g->in, byte)) {
    case WH_RSP_PACKET:
        return packet(g);
    case WH_RSP_BAD:
        return acknowledge(g, '-');
    case WH_RSP_NAK:
        return g->frame_len == 0 || send_all(g, g->frame, g->frame_len);
    case WH_RSP_BREAK:
        if (g->phase != WH_GDB_RUNNING)
            return true;
        wh_gdb_interrupted(g);
        return reply(g);
    default:
        return true;
    }
}

/* What has come; false: the connection is over. */
static bool receive(wh_gdb *g)
{
    uint8_t bytes[4096];
    ssize_t n = recv(g->fd, bytes, sizeof bytes, 0);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return true;
    bool on = n > 0;
    for (ssize_t i = 0; on && i < n; i++)
        on = take(g, bytes[i]) && g->phase != WH_GDB_GONE;
    return on;
}

static bool stopped_by_itself(wh_gdb *g)
{
    if (g->phase != WH_GDB_RUNNING || !wh_gdb_report(g))
        return true;
    return reply(g) && g->phase != WH_GDB_GONE;
}

static void serve(wh_gdb *g)
{
    struct pollfd fds[2] = {{.fd = g->fd, .events = POLLIN}, {.events = POLLIN}};
    bool on = wh_debug_stop(g->machine);
    while (on) {
        /* A machine that stands still has nothing to tell, and its last word must not wake us again and again. */
        fds[1].fd = g->phase == WH_GDB_RUNNING ? wh_debug_event_fd(g->machine) : -1;
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            break;
        if (fds[1].revents && fds[1].fd >= 0)
            on = stopped_by_itself(g);
        if (on && fds[0].revents)
            on = receive(g);
    }
    wh_debug_detach(g->machine); /* a lost connection is no reason for a guest to stand still */
}

static void *main_loop(void *arg)
{
    wh_gdb *g = arg;
    pthread_setname_np(pthread_self(), "gdb");
    serve(g);
    atomic_store(&g->ended, true); /* before the other side learns of it, and comes again */
    shutdown(g->fd, SHUT_RDWR);
    return NULL;
}

static int spawn(wh_gdb *g)
{
    pthread_attr_t attr;
    sigset_t all, old;
    sigfillset(&all); /* signals are for the process's main thread */
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, THREAD_STACK);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int e = pthread_create(&g->thread, &attr, main_loop, g);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return e;
}

int wh_gdb_new(wh_machine *m, int fd, wh_gdb **out, wh_error *err)
{
    *out = NULL;
    wh_gdb *g = calloc(1, sizeof *g);
    if (g == NULL)
        return wh_fail(err, WH_E_NOMEM, "debugger", "no memory");
    g->machine = m;
    g->fd = fd;
    wh_rsp_init(&g->in);
    const struct timeval patience = {.tv_sec = SEND_PATIENCE_S};
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    int status = wh_debug_attach(m);
    if (status) {
        free(g);
        return wh_fail(err, status, "debugger",
                       status == WH_E_EXISTS  ? "another debugger is attached"
                       : status == WH_E_STATE ? "the guest has ended"
                                              : "the machine has no thread of its own");
    }
    int e = spawn(g);
    if (e) {
        wh_debug_detach(m);
        free(g);
        return wh_fail(err, WH_E_IO, "debugger", "%s", strerror(e));
    }
    *out = g;
    return WH_OK;
}

int wh_gdb_ended(wh_gdb *g)
{
    return atomic_load(&g->ended);
}

void wh_gdb_free(wh_gdb *g)
{
    if (g == NULL)
        return;
    shutdown(g->fd, SHUT_RD); /* it may still tell how the guest has ended */
    pthread_join(g->thread, NULL);
    close(g->fd);
    free(g->description);
    free(g);
}

int wh_machine_debug_hold(wh_machine *m)
{
    wh_debug_hold(m);
    return WH_OK;
}
