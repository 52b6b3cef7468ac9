#include "switch/dgram.h"

#include "switch/forward.h"
#include "switch/port.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

struct wh_dgram {
    bool fixed; /* the remote address was given */
    socklen_t to_len;
    union {
        struct sockaddr any;
        struct sockaddr_un un;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } to;
};

int wh_dgram_new(int fd, const void *remote, uint32_t remote_len, struct wh_dgram **out, wh_error *err)
{
    int type = 0;
    socklen_t len = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_DGRAM)
        return wh_fail(err, WH_E_INVAL, "fd", "descriptor %d is no datagram socket", fd);
    struct wh_dgram *d = calloc(1, sizeof(*d));
    if (!d)
        return wh_fail(err, WH_E_NOMEM, "port", "out of memory");
    if (remote_len > sizeof(d->to)) {
        free(d);
        return wh_fail(err, WH_E_INVAL, "remote", "an address of %u bytes", remote_len);
    }
    d->fixed = remote_len > 0;
    d->to_len = remote_len;
    if (remote_len)
        memcpy(&d->to, remote, remote_len);
    *out = d;
    return WH_OK;
}

void wh_dgram_free(struct wh_dgram *d)
{
    free(d);
}

static bool same_host_and_port(const struct wh_dgram *d, const struct sockaddr_storage *from)
{
    if (from->ss_family != d->to.any.sa_family)
        return false;
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *a = (const void *)from;
        return a->sin_port == d->to.in.sin_port && a->sin_addr.s_addr == d->to.in.sin_addr.s_addr;
    }
    const struct sockaddr_in6 *a = (const void *)from;
    return a->sin6_port == d->to.in6.sin6_port && memcmp(&a->sin6_addr, &d->to.in6.sin6_addr, 16) == 0;
}

/* Where no remote is given who speaks becomes the remote. A nameless unix socket cannot be answered. */
static bool look(struct wh_dgram *d, const struct sockaddr_storage *from, socklen_t len)
{
    if (d->fixed)
        return from->ss_family == AF_UNIX || len == 0 || same_host_and_port(d, from);
    if (len > sizeof(sa_family_t) && len <= sizeof(d->to) && (d->to_len != len || memcmp(&d->to, from, len) != 0)) {
        memcpy(&d->to, from, len);
        d->to_len = len;
    }
    return true;
}

/* May this one speak? The address is also who delivers' to read. */
static bool admit(const wh_switch *s, struct wh_port *p, const struct sockaddr_storage *from, socklen_t len)
{
    if (s->alone)
        return look(p->dgram, from, len);
    pthread_mutex_lock(&p->lock);
    bool may = look(p->dgram, from, len);
    pthread_mutex_unlock(&p->lock);
    return may;
}

void wh_dgram_drain(wh_switch *s, struct wh_port *p, unsigned most)
{
    uint8_t *room = s->frame_room + WH_HEADROOM;
    for (unsigned n = 0; n < most; n++) {
        struct sockaddr_storage from = {0};
        socklen_t from_len = sizeof(from);
        /* MSG_TRUNC: the whole length, so that a frame beyond the room is no shorter frame but none. */
        ssize_t len = recvfrom(p->tap_fd, room, sizeof(s->frame_room) - WH_HEADROOM, MSG_DONTWAIT | MSG_TRUNC,
                               (struct sockaddr *)&from, &from_len);
        if (len < 0 && errno == EAGAIN)
            return;
        if (len < 0)
            continue; /* EINTR; ECONNREFUSED and the like tell of an earlier send */
        if ((size_t)len > sizeof(s->frame_room) - WH_HEADROOM)
            WH_COUNT(s, p, drop_invalid);
        else if (!admit(s, p, &from, from_len))
            WH_COUNT(s, p, drop_spoofed);
        else {
            struct wh_frame f = wh_frame_plain(room, (uint32_t)len);
            wh_forward_from_port(s, p, &f);
        }
    }
}

void wh_dgram_deliver(wh_switch *s, struct wh_port *p, const struct wh_frame *f)
{
    const struct wh_dgram *d = p->dgram;
    if (!d->to_len) {
        WH_COUNT(s, p, drop_no_peer);
        return;
    }
    if (sendto(p->tap_fd, f->data, f->len, MSG_DONTWAIT | MSG_NOSIGNAL, &d->to.any, d->to_len) >= 0) {
        WH_COUNT(s, p, tx_frames);
        WH_COUNT_BYTES(s, p, tx_bytes, f->len);
    } else if (errno == EAGAIN || errno == ENOBUFS)
        WH_COUNT(s, p, drop_full);
    else
        WH_COUNT(s, p, drop_no_peer); /* ENOENT, ECONNREFUSED: it is not there */
}
