#include "switch/udp.h"

#include "switch/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_BYTES (8 << 20)

struct half {
    uint8_t (*data)[WH_DATAGRAM_MAX];
    struct wh_addr addr[WH_UDP_BATCH];
    struct iovec iov[WH_UDP_BATCH];
    struct mmsghdr msg[WH_UDP_BATCH];
};

struct wh_udp {
    int fd;
    sa_family_t family;
    uint32_t pending; /* in tx */
    struct half rx, tx;
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

static bool half_init(struct half *h)
{
    h->data = calloc(WH_UDP_BATCH, sizeof(*h->data));
    if (!h->data)
        return false;
    for (unsigned i = 0; i < WH_UDP_BATCH; i++) {
        h->iov[i] = (struct iovec){h->data[i], WH_DATAGRAM_MAX};
        h->msg[i].msg_hdr = (struct msghdr){
            .msg_name = &h->addr[i].sa, .msg_namelen = sizeof(h->addr[i].v6), .msg_iov = &h->iov[i], .msg_iovlen = 1};
    }
    return true;
}

/* A burst arrives faster than one thread opens it; the default buffer holds some 100 datagrams. */
static void enlarge(int fd)
{
    int bytes = BUFFER_BYTES;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) != 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) != 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
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
    if (!half_init(&u->rx) || !half_init(&u->tx)) {
        wh_udp_free(u);
        return wh_fail(err, WH_E_NOMEM, "udp_fd", "out of memory");
    }
    enlarge(fd);
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
    free(u->rx.data);
    free(u->tx.data);
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

uint8_t *wh_udp_slot(wh_switch *s, const struct wh_addr *to)
{
    struct wh_udp *u = s->udp;
    if (u->pending == WH_UDP_BATCH)
        wh_udp_flush(s);
    u->tx.addr[u->pending] = *to;
    u->tx.msg[u->pending].msg_hdr.msg_namelen = to->len;
    return u->tx.data[u->pending];
}

void wh_udp_commit(wh_switch *s, size_t len)
{
    struct wh_udp *u = s->udp;
    u->tx.iov[u->pending].iov_len = len;
    u->pending++;
}

void wh_udp_flush(wh_switch *s)
{
    struct wh_udp *u = s->udp;
    if (!u)
        return;
    for (uint32_t sent = 0; sent < u->pending;) {
        int n = sendmmsg(u->fd, &u->tx.msg[sent], u->pending - sent, 0);
        if (n > 0) {
            sent += (uint32_t)n;
        } else if (errno == EAGAIN || errno == ENOBUFS) {
            s->total.drop_full += u->pending - sent; /* as a congested Ethernet does */
            break;
        } else if (errno != EINTR) { /* this destination is unreachable from here; the others are not to blame */
            s->total.drop_no_peer++;
            sent++;
        }
    }
    u->pending = 0;
}

void wh_udp_receive(wh_switch *s)
{
    struct wh_udp *u = s->udp;
    for (unsigned i = 0; i < WH_UDP_BATCH; i++)
        u->rx.msg[i].msg_hdr.msg_namelen = sizeof(u->rx.addr[i].v6);
    int n = recvmmsg(u->fd, u->rx.msg, WH_UDP_BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < n; i++) {
        if (u->rx.msg[i].msg_hdr.msg_flags & MSG_TRUNC) {
            s->total.drop_invalid++;
            continue;
        }
        u->rx.addr[i].len = u->rx.msg[i].msg_hdr.msg_namelen;
        wh_peer_input(s, u->rx.data[i], u->rx.msg[i].msg_len, &u->rx.addr[i]);
    }
}
