#include "switch/stream.h"

#include "switch/coalesce.h"
#include "switch/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define OUT_BYTES   (256u << 10)
#define SEND_BYTES  (64u << 10)  /* that much is sent before the turn is over */
#define IN_BYTES    (128u << 10) /* of one turn: bounds the latency that it adds to others */
#define GAP         64u          /* in front: frames that stand close to its start need their headroom */
#define UNSENT      (128 << 10)
#define GIVE_UP_MS  10000u
#define RECORD_ROOM (WH_STREAM_RECORD + WH_DATAGRAM_MAX)

struct wh_stream {
    struct wh_stream *next;
    struct wh_peer *peer;
    int fd;
    bool blocked, dead;
    uint8_t tos;             /* of the slot that was given */
    uint32_t from, to;       /* of out: what waits */
    uint32_t parsed, filled; /* of in: what was read and not yet parsed */
    uint8_t out[OUT_BYTES];
    uint8_t in[GAP + IN_BYTES];
};

void wh_stream_address(uint32_t node, struct wh_addr *out)
{
    *out = (struct wh_addr){.len = sizeof(out->v6)};
    out->v6.sin6_family = WH_STREAM_FAMILY;
    memcpy(&out->v6.sin6_addr, &node, sizeof(node));
}

uint32_t wh_stream_node(const struct wh_addr *a)
{
    uint32_t node;
    memcpy(&node, &a->v6.sin6_addr, sizeof(node));
    return node;
}

/* ---- one end of it ---- */

static int set_options(int fd, wh_error *err)
{
    int type = 0, on = 1, unsent = UNSENT;
    unsigned give_up = GIVE_UP_MS;
    socklen_t len = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0)
        return wh_fail(err, WH_E_IO, "fd", "%s", strerror(errno));
    if (type != SOCK_STREAM)
        return wh_fail(err, WH_E_INVAL, "fd", "not a stream socket");
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return wh_fail(err, WH_E_IO, "fd", "%s", strerror(errno));
    /* A turn's datagrams are sent in one piece, so what Nagle's algorithm would hold back is the end of a turn. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &give_up, sizeof(give_up));
    return WH_OK;
}

int wh_stream_new(wh_switch *s, struct wh_peer *p, int fd, wh_error *err)
{
    int status = set_options(fd, err);
    if (status)
        return status;
    struct wh_stream *t = malloc(sizeof(*t)); /* its buffers' pages cost nothing until they are reached */
    if (!t)
        return wh_fail(err, WH_E_NOMEM, "fd", "out of memory");
    t->peer = p;
    t->fd = fd;
    t->blocked = t->dead = false;
    t->from = t->to = t->parsed = t->filled = 0;
    /* The old one first: two under one node's tag would be taken for one another. */
    wh_stream_free(s, p);
    if (wh_switch_watch(s->all->worker[0], fd, EPOLLIN, WH_TAG(WH_TAG_STREAM, p->node))) {
        free(t);
        return wh_fail(err, WH_E_IO, "fd", "epoll: %s", strerror(errno));
    }
    t->next = s->all->streams;
    s->all->streams = t;
    p->stream = t;
    wh_peer_judge(s, p);
    wh_probe_stream(s, p);
    return WH_OK;
}

/* One more or one less that is full, for the egress of all workers. */
static void count_blocked(wh_switch *s, uint32_t by)
{
    for (uint32_t i = 0; i < s->all->workers; i++)
        s->all->worker[i]->egress.slow += by;
}

void wh_stream_free(wh_switch *s, struct wh_peer *p)
{
    struct wh_stream *t = p->stream;
    if (!t)
        return;
    struct wh_stream **at = &s->all->streams;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    p->stream = NULL;
    for (uint32_t i = 0; i < s->all->workers; i++)
        if (s->all->worker[i]->out_stream == t)
            s->all->worker[i]->out_stream = NULL;
    if (t->blocked)
        count_blocked(s, UINT32_MAX);
    close(t->fd); /* which takes it out of epoll */
    free(t);
    wh_peer_judge(s, p);
    wh_probe_stream(s, p);
}

void wh_stream_kill(struct wh_peer *p)
{
    if (p->stream)
        p->stream->dead = true;
}

void wh_stream_reap(wh_switch *s)
{
    for (struct wh_stream *t = s->all->streams, *next; t; t = next) {
        next = t->next;
        if (!t->dead)
            continue;
        struct wh_peer *p = t->peer;
        wh_stream_free(s, p);
        wh_switch_tell(s, &(wh_switch_event){.kind = WH_SW_STREAM_DOWN, .node = p->node});
    }
}

/* ---- out ---- */

bool wh_stream_blocked(const struct wh_peer *p)
{
    return p->stream && p->stream->blocked;
}

static void set_blocked(wh_switch *s, struct wh_stream *t, bool blocked)
{
    if (t->blocked == blocked)
        return;
    struct epoll_event e = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0),
                            .data.u64 = WH_TAG(WH_TAG_STREAM, t->peer->node)};
    if (epoll_ctl(s->all->worker[0]->epoll_fd, EPOLL_CTL_MOD, t->fd, &e) !=
        0) { /* nothing would ever say that it takes more */
        t->dead = true;
        return;
    }
    t->blocked = blocked;
    count_blocked(s, blocked ? 1 : UINT32_MAX);
    if (!blocked)
        wh_egress_soon(s);
}

static void flush(wh_switch *s, struct wh_stream *t)
{
    while (t->from < t->to && !t->dead) {
        ssize_t n = send(t->fd, t->out + t->from, t->to - t->from, MSG_DONTWAIT | MSG_NOSIGNAL);
        int error = n < 0 ? errno : 0;
        if (n >= 0) {
            t->from += (uint32_t)n;
        } else if (error == EAGAIN || error == ENOBUFS) {
            set_blocked(s, t, true);
            return;
        } else if (error != EINTR) {
            t->dead = true;
        }
    }
    t->from = t->to = 0;
    if (!t->dead)
        set_blocked(s, t, false);
}

void wh_stream_flush(wh_switch *s)
{
    for (struct wh_stream *t = s->all->streams; t; t = t->next)
        if (t->to && !t->blocked)
            flush(s, t);
}

uint8_t *wh_stream_slot(wh_switch *s, struct wh_peer *p, uint8_t tos)
{
    struct wh_stream *t = p->stream;
    if (t && !t->blocked && t->to - t->from >= SEND_BYTES)
        flush(s, t);
    if (!t || t->dead)
        return NULL;
    if (t->to + RECORD_ROOM > OUT_BYTES && t->from) {
        memmove(t->out, t->out + t->from, t->to - t->from);
        t->to -= t->from;
        t->from = 0;
    }
    if (t->to + RECORD_ROOM > OUT_BYTES)
        return NULL;
    t->tos = tos;
    return t->out + t->to + WH_STREAM_RECORD;
}

void wh_stream_commit(struct wh_stream *t, size_t len)
{
    uint16_t length = htobe16((uint16_t)len);
    uint8_t *record = t->out + t->to;
    memcpy(record, &length, sizeof(length));
    record[2] = t->tos;
    record[3] = 0;
    t->to += WH_STREAM_RECORD + (uint32_t)len;
}

/* ---- in ---- */

/* All whole records. False: it is no stream of ours. */
static bool parse(wh_switch *s, struct wh_stream *t)
{
    struct wh_addr from;
    wh_stream_address(t->peer->node, &from);
    while (t->filled - t->parsed >= WH_STREAM_RECORD) {
        uint8_t *record = t->in + GAP + t->parsed;
        uint16_t length;
        memcpy(&length, record, sizeof(length));
        length = be16toh(length);
        if (length < WH_TUNNEL_OVERHEAD || length > WH_DATAGRAM_MAX || record[3] != 0)
            return false;
        if (t->filled - t->parsed < WH_STREAM_RECORD + length)
            break;
        s->outer_tos = record[2];
        t->parsed += WH_STREAM_RECORD + length;
        wh_peer_input(s, record + WH_STREAM_RECORD, length, &from);
    }
    return true;
}

static void receive(wh_switch *s, struct wh_stream *t)
{
    memmove(t->in + GAP, t->in + GAP + t->parsed, t->filled - t->parsed);
    t->filled -= t->parsed;
    t->parsed = 0;
    ssize_t n = recv(t->fd, t->in + GAP + t->filled, IN_BYTES - t->filled, MSG_DONTWAIT);
    int error = n < 0 ? errno : 0;
    if (n > 0) {
        t->filled += (uint32_t)n;
        if (!parse(s, t)) {
            WH_COUNT(s, t->peer, drop_invalid);
            t->dead = true;
        }
        wh_coalesce_flush(s); /* it refers to what stands in the buffer */
    } else if (n == 0 || (error != EAGAIN && error != EINTR)) {
        t->dead = true;
    }
}

void wh_stream_event(wh_switch *s, uint32_t node, uint32_t events)
{
    struct wh_peer *p = wh_idmap_get(&s->all->peers, node);
    struct wh_stream *t = p ? p->stream : NULL;
    if (!t || t->dead)
        return;
    if (events & EPOLLOUT)
        flush(s, t);
    if (events & ~(uint32_t)EPOLLOUT)
        receive(s, t);
}
