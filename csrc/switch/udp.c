#include "switch/udp.h"

#include "switch/probe.h"
#include "switch/room.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BUFFER_BYTES (8 << 20)
#define SEND_BYTES   (2 << 20) /* enough for the fastest link until the thread comes back; more would only wait */
#define MESSAGES     16u
#define MESSAGE_MAX  65536u        /* what GRO gathers at most */
#define CALM_NS      1000000000ull /* after which it is not tight any more */
#define FULL_NS      20000000ull   /* a full socket is tried again, also without a word of epoll */
#define NO_BUFFER_NS 1000000ull
#define GAP          64u /* in front of a message: frames that stand close to its start need their headroom */

struct wh_udp {
    int fd;
    sa_family_t family;
    struct wh_sendq *out;
    struct wh_sendq_lost counted; /* of out's losses */
    uint64_t full_ns;             /* when it was full last; 0: its buffer is large */
    struct wh_room tight;         /* else this large */
    uint8_t (*room)[GAP + MESSAGE_MAX];
    struct wh_addr from[MESSAGES];
    struct iovec iov[MESSAGES];
    struct mmsghdr msg[MESSAGES];
    _Alignas(
        struct cmsghdr) uint8_t control[MESSAGES][3 * CMSG_SPACE(sizeof(int))]; /* UDP_GRO, class by IPv4 or IPv6 */
};

static void map_v4(const struct sockaddr_in *v4, struct wh_addr *out)
{
    out->v6.sin6_family = AF_INET6;
    out->v6.sin6_port = v4->sin_port;
    out->v6.sin6_addr.s6_addr[10] = out->v6.sin6_addr.s6_addr[11] = 0xff;
    memcpy(&out->v6.sin6_addr.s6_addr[12], &v4->sin_addr, 4);
    out->len = sizeof(out->v6);
}

int wh_udp_address(const struct wh_udp *u, const void *addr, uint32_t addr_len, struct wh_addr *out, wh_error *err)
{
    struct wh_addr in = {0};
    memset(out, 0, sizeof(*out));
    if (addr_len == 0)
        return WH_OK;
    if (!u)
        return wh_fail(err, WH_E_INVAL, "addr", "this switch has no tunnel socket");
    if (addr_len < sizeof(sa_family_t) || addr_len > sizeof(in.v6))
        return wh_fail(err, WH_E_INVAL, "addr", "%u bytes are no IPv4 or IPv6 socket address", addr_len);
    memcpy(&in.v6, addr, addr_len);
    if (in.sa.sa_family == AF_INET && addr_len >= sizeof(in.v4)) {
        if (u->family == AF_INET6) {
            map_v4(&in.v4, out);
        } else {
            out->v4 = in.v4;
            out->len = sizeof(out->v4);
        }
        return WH_OK;
    }
    if (in.sa.sa_family != AF_INET6 || addr_len != sizeof(in.v6))
        return wh_fail(err, WH_E_INVAL, "addr", "family %u with %u bytes", (unsigned)in.sa.sa_family, addr_len);
    if (u->family != AF_INET6)
        return wh_fail(err, WH_E_INVAL, "addr", "an IPv6 address, but the tunnel socket is IPv4");
    out->v6 = in.v6;
    out->len = sizeof(out->v6);
    return WH_OK;
}

/* What the kernel writes of a message is put back when the message was read, and not for all of them before each call:
 * a wake-up for one datagram finds these lines cold. */
static void make_ready(struct wh_udp *u, unsigned i)
{
    u->msg[i].msg_hdr = (struct msghdr){.msg_name = &u->from[i].sa,
                                        .msg_namelen = sizeof(u->from[i].v6),
                                        .msg_iov = &u->iov[i],
                                        .msg_iovlen = 1,
                                        .msg_control = u->control[i],
                                        .msg_controllen = sizeof(u->control[i])};
}

static bool make_rooms(struct wh_udp *u)
{
    u->room = malloc(MESSAGES * sizeof(*u->room));
    if (!u->room || wh_sendq_new(&u->out) != WH_OK)
        return false;
    for (unsigned i = 0; i < MESSAGES; i++) {
        u->iov[i] = (struct iovec){u->room[i] + GAP, MESSAGE_MAX};
        make_ready(u, i);
    }
    return true;
}

/* The kernel takes the double of what it is told. */
static void set_send_buffer(int fd, int bytes)
{
    bytes /= 2;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) != 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

/* A burst arrives faster than one thread opens it; the default buffer holds some 100 datagrams. */
static void set_options(int fd)
{
    int bytes = BUFFER_BYTES, on = 1, probe4 = IP_PMTUDISC_PROBE, probe6 = IPV6_PMTUDISC_PROBE;
    /* Never in fragments, and what ICMP says about the path is not believed: pmtu.h finds out. The first of the two
     * is also for the IPv4 half of an IPv6 socket. */
    (void)setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &probe4, sizeof(probe4));
    (void)setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &probe6, sizeof(probe6));
    (void)setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof(on));
    (void)setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof(on)); /* without it they come one by one */
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) != 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    set_send_buffer(fd, SEND_BYTES);
}

int wh_udp_new(int fd, struct wh_udp **out, wh_error *err)
{
    struct wh_addr own;
    socklen_t len = sizeof(own.v6);
    int type = 0;
    socklen_t type_len = sizeof(type);
    if (getsockname(fd, &own.sa, &len) != 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) != 0)
        return wh_fail(err, WH_E_IO, "udp_fd", "%s", strerror(errno));
    if (type != SOCK_DGRAM || (own.sa.sa_family != AF_INET && own.sa.sa_family != AF_INET6))
        return wh_fail(err, WH_E_INVAL, "udp_fd", "not a UDP socket");
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return wh_fail(err, WH_E_IO, "udp_fd", "%s", strerror(errno));
    struct wh_udp *u = calloc(1, sizeof(*u));
    if (!u)
        return wh_fail(err, WH_E_NOMEM, "udp_fd", "out of memory");
    u->fd = -1;
    u->family = own.sa.sa_family;
    if (!make_rooms(u)) {
        wh_udp_free(u);
        return wh_fail(err, WH_E_NOMEM, "udp_fd", "out of memory");
    }
    set_options(fd);
    u->fd = fd;
    *out = u;
    return WH_OK;
}

void wh_udp_free(struct wh_udp *u)
{
    if (!u)
        return;
    if (u->fd >= 0)
        close(u->fd);
    wh_sendq_free(u->out);
    free(u->room);
    free(u);
}

void wh_udp_give_back(struct wh_udp *u)
{
    if (u)
        u->fd = -1;
}

int wh_udp_fd(const struct wh_udp *u)
{
    return u->fd;
}

uint8_t *wh_udp_slot(wh_switch *s, const struct wh_addr *to, uint8_t tos)
{
    uint8_t *room = wh_sendq_slot(s->udp->out, to, tos);
    if (room)
        return room;
    wh_udp_flush(s);
    return wh_sendq_slot(s->udp->out, to, tos); /* an empty queue has room, and one that has just got stuck some more */
}

void wh_udp_commit(wh_switch *s, size_t len)
{
    wh_sendq_commit(s->udp->out, len);
}

static void set_tight(wh_switch *s, struct wh_udp *u)
{
    set_send_buffer(u->fd, (int)u->tight.limit);
    s->egress.share = u->tight.limit / 8; /* coarse messages would need more room themselves */
}

static void set_blocked(wh_switch *s, struct wh_udp *u, bool blocked)
{
    if (s->egress.blocked == blocked)
        return;
    struct epoll_event e = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0), .data.u64 = WH_TAG(WH_TAG_UDP, 0)};
    s->egress.blocked = blocked;
    s->egress.slow += blocked ? 1 : UINT32_MAX;
    (void)epoll_ctl(s->epoll_fd, EPOLL_CTL_MOD, u->fd, &e); /* if it fails, FULL_NS does it */
    if (blocked && !u->full_ns) {
        wh_room_begin(&u->tight);
        set_tight(s, u);
    }
    u->full_ns = s->now_ns;
}

void wh_udp_tick(wh_switch *s)
{
    struct wh_udp *u = s->udp;
    if (!u || !u->full_ns || s->egress.blocked || s->now_ns < u->full_ns + CALM_NS)
        return;
    set_send_buffer(u->fd, SEND_BYTES);
    s->egress.share = 0;
    u->full_ns = 0;
}

static void flush(wh_switch *s, struct wh_udp *u)
{
    int error = wh_sendq_flush(u->out, u->fd, s->now_ns);
    set_blocked(s, u, error != 0);
    if (error)
        s->egress.at_ns = s->now_ns + (error == EAGAIN ? FULL_NS : NO_BUFFER_NS);
    const struct wh_sendq_lost *lost = wh_sendq_lost(u->out);
    s->total.drop_full += lost->full - u->counted.full;
    s->total.drop_too_big += lost->too_big - u->counted.too_big;
    s->total.drop_no_peer += lost->unreachable - u->counted.unreachable;
    u->counted = *lost;
    struct wh_addr to;
    size_t len;
    if (wh_sendq_too_big(u->out, &to, &len))
        wh_probe_too_big(s, &to, len);
}

void wh_udp_flush(wh_switch *s)
{
    if (s->udp && !s->egress.blocked)
        flush(s, s->udp);
}

bool wh_udp_retry(wh_switch *s)
{
    struct wh_udp *u = s->udp;
    int holds = 0;
    if (ioctl(u->fd, SIOCOUTQ, &holds) == 0 && holds >= 0) {
        /* Half empty is when epoll says that it takes more; before that it is not filled up. */
        if ((uint32_t)holds > u->tight.limit / 2) {
            s->egress.at_ns = s->now_ns + FULL_NS;
            return false;
        }
        if (wh_room_look(&u->tight, (uint32_t)holds))
            set_tight(s, u);
    }
    flush(s, u);
    return !s->egress.blocked;
}

/* Size of the datagrams that one message holds; the last may be shorter. 0: it is one alone. Their traffic class goes
 * to *tos: only those of one class come together. */
static size_t read_control(struct msghdr *m, uint8_t *tos)
{
    int size = 0, class = 0;
    *tos = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO)
            memcpy(&size, CMSG_DATA(c), sizeof(size));
        else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS)
            memcpy(tos, CMSG_DATA(c), 1);
        else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
            memcpy(&class, CMSG_DATA(c), sizeof(class));
            *tos = (uint8_t)class;
        }
    }
    return size > 0 ? (size_t)size : 0;
}

static unsigned cut(wh_switch *s, uint8_t *data, size_t len, size_t size, const struct wh_addr *from)
{
    unsigned count = 0;
    do {
        size_t n = size && size < len ? size : len;
        wh_peer_input(s, data, n, from);
        data += n;
        len -= n;
        count++;
    } while (len);
    return count;
}

bool wh_udp_receive(wh_switch *s)
{
    struct wh_udp *u = s->udp;
    for (unsigned seen = 0; seen < WH_UDP_BATCH;) {
        int n = recvmmsg(u->fd, u->msg, MESSAGES, MSG_DONTWAIT, NULL);
        for (int i = 0; i < n; i++) {
            u->from[i].len = u->msg[i].msg_hdr.msg_namelen;
            size_t size = read_control(&u->msg[i].msg_hdr, &s->outer_tos);
            make_ready(u, (unsigned)i);
            seen += cut(s, u->room[i] + GAP, u->msg[i].msg_len, size, &u->from[i]);
        }
        if (n < (int)MESSAGES)
            return false;
    }
    return true;
}

uint64_t wh_udp_dropped(const struct wh_udp *u)
{
    uint32_t memory[SK_MEMINFO_VARS] = {0};
    socklen_t size = sizeof(memory);
    if (!u || getsockopt(u->fd, SOL_SOCKET, SO_MEMINFO, memory, &size))
        return 0;
    return memory[SK_MEMINFO_DROPS];
}
