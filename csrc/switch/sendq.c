#include "switch/sendq.h"

#include "switch/wire.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>

#define RUNS            32u
#define SPARE           12u    /* more of them while the socket takes nothing: open packs and what is being cut */
#define RUN_SEGMENTS    64u    /* the kernel's limit before 6.2 */
#define RUN_BYTES       65487u /* one message, IPv6 or IPv4, with their headers inside 65535 */
#define NO_BUFFER_TRIES 20u
#define REFUSED_SLOTS   64u
#define REFUSED_NS      60000000000ull
#define CMSG_ROOM       (CMSG_SPACE(sizeof(uint16_t)) + CMSG_SPACE(sizeof(int)))

struct run {
    struct wh_addr to;
    uint32_t from, len;   /* of its room: bytes from..len are still to be sent */
    uint16_t size, count; /* count datagrams of size bytes each, but for the last, which may be shorter */
    uint8_t tos, room;
    bool open;
};

struct wh_sendq {
    uint32_t runs, current;
    unsigned refusals;            /* in a row, of the run in front */
    int stuck;                    /* what the socket said when it took no more; 0: it did */
    struct run run[RUNS + SPARE]; /* in the order in which they leave; the rooms of those in use and not, each once */
    uint8_t (*room)[RUN_BYTES + WH_DATAGRAM_MAX];
    struct mmsghdr msg[RUN_SEGMENTS]; /* as many as a run sent piece by piece needs */
    struct iovec iov[RUN_SEGMENTS];
    _Alignas(struct cmsghdr) uint8_t control[RUN_SEGMENTS][CMSG_ROOM];
    struct {
        struct wh_addr to;
        uint64_t until_ns;
    } refused[REFUSED_SLOTS]; /* destinations that take no UDP_SEGMENT; a collision forgets one, which costs a try */
    struct wh_sendq_lost lost;
    struct wh_addr too_big_to;
    size_t too_big_len;
};

bool wh_addr_equal(const struct wh_addr *a, const struct wh_addr *b)
{
    if (a->len == 0 || b->len == 0 || a->sa.sa_family != b->sa.sa_family)
        return a->len == 0 && b->len == 0;
    if (a->sa.sa_family == AF_INET)
        return a->v4.sin_port == b->v4.sin_port && a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
    return a->v6.sin6_port == b->v6.sin6_port && a->v6.sin6_scope_id == b->v6.sin6_scope_id &&
           memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, sizeof(a->v6.sin6_addr)) == 0;
}

int wh_sendq_new(struct wh_sendq **out)
{
    struct wh_sendq *q = calloc(1, sizeof(*q));
    if (!q)
        return WH_E_NOMEM;
    q->room = malloc((RUNS + SPARE) * sizeof(*q->room)); /* pages that no run has reached cost nothing */
    if (!q->room) {
        wh_sendq_free(q);
        return WH_E_NOMEM;
    }
    for (uint8_t i = 0; i < RUNS + SPARE; i++)
        q->run[i].room = i;
    *out = q;
    return WH_OK;
}

void wh_sendq_free(struct wh_sendq *q)
{
    if (q)
        free(q->room);
    free(q);
}

const struct wh_sendq_lost *wh_sendq_lost(const struct wh_sendq *q)
{
    return &q->lost;
}

bool wh_sendq_too_big(struct wh_sendq *q, struct wh_addr *to, size_t *len)
{
    if (!q->too_big_len)
        return false;
    *to = q->too_big_to;
    *len = q->too_big_len;
    q->too_big_len = 0;
    return true;
}

/* ---- gathering ---- */

static uint32_t most_runs(const struct wh_sendq *q)
{
    return q->stuck ? RUNS + SPARE : RUNS;
}

static uint8_t *end_of(const struct wh_sendq *q, const struct run *r)
{
    return q->room[r->room] + r->len;
}

static bool begin_run(struct wh_sendq *q, const struct wh_addr *to, uint8_t tos)
{
    if (q->runs >= most_runs(q))
        return false;
    q->current = q->runs++;
    struct run *r = &q->run[q->current];
    r->to = *to;
    r->tos = tos;
    r->from = r->len = r->count = 0;
    r->open = true;
    return true;
}

/* The open run to this destination, of which there is one at most. */
static bool find_open(struct wh_sendq *q, const struct wh_addr *to, uint8_t tos)
{
    uint32_t i = q->current;
    if (!q->runs || !q->run[i].open || !wh_addr_equal(&q->run[i].to, to))
        for (i = q->runs; i-- > 0;)
            if (q->run[i].open && wh_addr_equal(&q->run[i].to, to))
                break;
    if (i >= q->runs)
        return false;
    q->current = i;
    q->run[i].open = q->run[i].tos == tos;
    return q->run[i].open;
}

uint8_t *wh_sendq_slot(struct wh_sendq *q, const struct wh_addr *to, uint8_t tos)
{
    if (!find_open(q, to, tos) && !begin_run(q, to, tos))
        return NULL;
    struct run *r = &q->run[q->current];
    if (r->count && r->len + r->size > RUN_BYTES) {
        r->open = false;
        if (!begin_run(q, to, tos))
            return NULL;
        r = &q->run[q->current];
    }
    /* A datagram that does not fit the run needs another one at commit: keep that possible. */
    if (r->count && q->runs >= most_runs(q))
        return NULL;
    return end_of(q, r);
}

void wh_sendq_commit(struct wh_sendq *q, size_t len)
{
    struct run *r = &q->run[q->current];
    if (r->count && len > r->size) {
        const uint8_t *data = end_of(q, r);
        r->open = false;
        begin_run(q, &r->to, r->tos); /* slot made sure of it */
        r = &q->run[q->current];
        memcpy(end_of(q, r), data, len);
    }
    if (!r->count)
        r->size = (uint16_t)len;
    r->len += (uint32_t)len;
    r->count++;
    if (len < r->size || r->count == RUN_SEGMENTS)
        r->open = false;
}

/* ---- sending ---- */

static uint32_t refused_slot(const struct wh_addr *to)
{
    uint32_t h = 2166136261u; /* FNV-1a; who picks addresses that collide costs himself a failed call each time */
    const uint8_t *bytes =
        to->sa.sa_family == AF_INET ? (const uint8_t *)&to->v4.sin_addr : (const uint8_t *)&to->v6.sin6_addr;
    for (size_t i = 0; i < (to->sa.sa_family == AF_INET ? sizeof(to->v4.sin_addr) : sizeof(to->v6.sin6_addr)); i++)
        h = (h ^ bytes[i]) * 16777619u;
    return h % REFUSED_SLOTS;
}

static bool is_refused(const struct wh_sendq *q, const struct wh_addr *to, uint64_t now_ns)
{
    uint32_t slot = refused_slot(to);
    return q->refused[slot].until_ns > now_ns && wh_addr_equal(&q->refused[slot].to, to);
}

static void refuse(struct wh_sendq *q, const struct wh_addr *to, uint64_t now_ns)
{
    uint32_t slot = refused_slot(to);
    q->refused[slot].to = *to;
    q->refused[slot].until_ns = now_ns + REFUSED_NS;
}

static void lose(struct wh_sendq *q, const struct run *r, int error, uint32_t count, size_t len)
{
    if (error == ENOBUFS) {
        q->lost.full += count;
    } else if (error == EMSGSIZE) {
        q->lost.too_big += count;
        q->too_big_to = r->to;
        q->too_big_len = len;
    } else { /* this destination is unreachable from here; the others are not to blame */
        q->lost.unreachable += count;
    }
}

static void *put_control(struct msghdr *m, int level, int type, size_t len)
{
    struct cmsghdr *c = (struct cmsghdr *)(void *)((uint8_t *)m->msg_control + m->msg_controllen);
    *c = (struct cmsghdr){.cmsg_level = level, .cmsg_type = type, .cmsg_len = CMSG_LEN(len)};
    m->msg_controllen += CMSG_SPACE(len);
    return CMSG_DATA(c);
}

/* A message with what a run needs to be said of it; size: of its segments, 0: it is one datagram. */
static void set_message(struct wh_sendq *q, struct run *r, uint32_t as, struct iovec data, uint16_t size)
{
    struct msghdr *m = &q->msg[as].msg_hdr;
    q->iov[as] = data;
    *m = (struct msghdr){.msg_name = &r->to.sa, .msg_namelen = r->to.len, .msg_iov = &q->iov[as], .msg_iovlen = 1};
    if (!size && !r->tos)
        return;
    m->msg_control = q->control[as];
    if (size)
        memcpy(put_control(m, SOL_UDP, UDP_SEGMENT, sizeof(size)), &size, sizeof(size));
    if (r->tos) {
        int tos = r->tos;
        bool v4 = r->to.sa.sa_family == AF_INET || IN6_IS_ADDR_V4MAPPED(&r->to.v6.sin6_addr);
        memcpy(put_control(m, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS, sizeof(tos)), &tos,
               sizeof(tos));
    }
}

/* Is it the socket that takes no more for now? A host without buffers is asked so often for the run in front. */
static bool is_full(const struct wh_sendq *q, uint32_t index, int error)
{
    return error == EAGAIN || (error == ENOBUFS && (index > 0 || q->refusals < NO_BUFFER_TRIES));
}

/* False: the socket is full, and the run has what is left of it. */
static bool send_one_by_one(struct wh_sendq *q, int fd, uint32_t index)
{
    struct run *r = &q->run[index];
    for (uint32_t i = 0, at = r->from; i < r->count; i++, at += r->size)
        set_message(q, r, i, (struct iovec){q->room[r->room] + at, i + 1u < r->count ? r->size : r->len - at}, 0);
    for (uint32_t sent = 0; sent < r->count;) {
        int n = sendmmsg(fd, &q->msg[sent], r->count - sent, 0);
        if (n > 0) {
            sent += (uint32_t)n;
        } else if (is_full(q, index, errno)) {
            r->from += sent * r->size;
            r->count = (uint16_t)(r->count - sent);
            return false;
        } else if (errno != EINTR) {
            lose(q, r, errno, 1, q->iov[sent].iov_len);
            sent++;
        }
    }
    return true;
}

/* Runs first..end-1, none of which has to be cut here. The index of the first that was not sent. */
static uint32_t send_whole(struct wh_sendq *q, int fd, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++)
        set_message(q, &q->run[i], i - first,
                    (struct iovec){q->room[q->run[i].room] + q->run[i].from, q->run[i].len - q->run[i].from},
                    q->run[i].count > 1 ? q->run[i].size : 0);
    for (uint32_t sent = first; sent < end;) {
        int n = sendmmsg(fd, &q->msg[sent - first], end - sent, 0);
        if (n > 0)
            sent += (uint32_t)n;
        else if (errno != EINTR)
            return sent;
    }
    return end;
}

static bool in_pieces(const struct wh_sendq *q, const struct run *r, uint64_t now_ns)
{
    return r->count > 1 && is_refused(q, &r->to, now_ns);
}

/* Runs first..runs-1 stay, in front; the rooms of those that have left go behind them. */
static int keep(struct wh_sendq *q, uint32_t first, int error)
{
    struct run left[RUNS + SPARE];
    memcpy(left, q->run, first * sizeof(left[0]));
    memmove(q->run, q->run + first, (q->runs - first) * sizeof(left[0]));
    q->runs -= first;
    memcpy(q->run + q->runs, left, first * sizeof(left[0]));
    for (uint32_t i = 0; i < q->runs; i++)
        q->run[i].open = false;
    q->refusals = first ? 1 : q->refusals + 1;
    q->stuck = error;
    return error;
}

int wh_sendq_flush(struct wh_sendq *q, int fd, uint64_t now_ns)
{
    for (uint32_t i = 0; i < q->runs;) {
        uint32_t end = i;
        while (end < q->runs && !in_pieces(q, &q->run[end], now_ns))
            end++;
        i = send_whole(q, fd, i, end);
        if (i == q->runs)
            break;
        struct run *r = &q->run[i];
        if (i == end) {
            if (!send_one_by_one(q, fd, i))
                return keep(q, i, errno);
            i++;
        } else if (is_full(q, i, errno)) {
            return keep(q, i, errno);
        } else if (r->count > 1 && (errno == EIO || errno == EINVAL || errno == EMSGSIZE || errno == EOPNOTSUPP)) {
            refuse(q, &r->to, now_ns); /* and the next round sends it in pieces */
        } else {
            lose(q, r, errno, r->count, r->size);
            i++;
        }
    }
    q->runs = 0;
    q->stuck = 0;
    q->refusals = 0;
    return 0;
}
