/* sendq: the datagrams that leave with the end of a turn, gathered so that the kernel is entered once.
 *
 * Datagrams to one destination are laid one behind the other in a run, as long as all have the size of the first; a
 * shorter one ends the run, another traffic class too. A run of several is sent as one message with UDP_SEGMENT: the
 * kernel (or the NIC) cuts it, and the way through the stack is paid once. Where a route refuses that - no checksum
 * offload, IPsec, a path narrower than the datagrams - the run is sent datagram by datagram, and the destination is
 * remembered for a minute. The datagrams of one destination leave in the order in which they were committed. What a
 * full socket does not take stays, in front of what comes later, and the queue has some room beyond its bound then, for
 * those that were on their way into it. Knows nothing of what is in them. */
#ifndef WH_SWITCH_SENDQ_H
#define WH_SWITCH_SENDQ_H

#include "base/base.h"

#include <netinet/in.h>
#include <sys/socket.h>

struct wh_addr {
    union {
        struct sockaddr sa;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
    socklen_t len; /* 0: none */
};
bool wh_addr_equal(const struct wh_addr *a, const struct wh_addr *b);

/* What became of datagrams that did not leave, since the queue was made. */
struct wh_sendq_lost {
    uint64_t full;        /* the host has no buffers */
    uint64_t too_big;     /* longer than the path carries, and fragments are forbidden */
    uint64_t unreachable; /* any other error of this destination */
};

struct wh_sendq;

int wh_sendq_new(struct wh_sendq **out);
void wh_sendq_free(struct wh_sendq *q);
/* Room for one datagram of WH_DATAGRAM_MAX to `to`, of this traffic class; it is part of the batch once commit gives
 * its length. NULL: the queue is full and must be flushed first, or is full of what a full socket did not take. */
uint8_t *wh_sendq_slot(struct wh_sendq *q, const struct wh_addr *to, uint8_t tos);
void wh_sendq_commit(struct wh_sendq *q, size_t len);
/* 0: all that could leave has left. EAGAIN or ENOBUFS: the socket takes no more now, the rest stays. */
int wh_sendq_flush(struct wh_sendq *q, int fd, uint64_t now_ns);
const struct wh_sendq_lost *wh_sendq_lost(const struct wh_sendq *q);
/* Length of the last datagram that was too big and its destination; false: none since the last call. */
bool wh_sendq_too_big(struct wh_sendq *q, struct wh_addr *to, size_t *len);

#endif
