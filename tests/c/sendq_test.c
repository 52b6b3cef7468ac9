/* The send queue between real sockets: contents, order per destination, what a refused UDP_SEGMENT and a narrow path
 * do. */
#include "switch/sendq.h"
#include "switch/wire.h"
#include "switch_check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PLACES 40u /* more than the queue has runs */

struct place {
    int fd;
    struct wh_addr at;
    uint32_t sent, got;
    bool classes; /* what comes here has those of class_of */
};

static void open_place(struct place *p, int family)
{
    int bytes = 4 << 20, on = 1;
    memset(p, 0, sizeof(*p));
    p->fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    p->at.sa.sa_family = (sa_family_t)family;
    p->at.len = family == AF_INET ? sizeof(p->at.v4) : sizeof(p->at.v6);
    if (family == AF_INET)
        p->at.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
        p->at.v6.sin6_addr = in6addr_loopback;
    CHECK(bind(p->fd, &p->at.sa, p->at.len) == 0 && getsockname(p->fd, &p->at.sa, &p->at.len) == 0);
    setsockopt(p->fd, IPPROTO_IP, IP_RECVTOS, &on, sizeof(on));
    setsockopt(p->fd, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof(on));
    setsockopt(p->fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
}

/* Datagram number n to a place: its number, then bytes that follow from it. */
static void fill(uint8_t *data, uint32_t n, size_t len)
{
    memcpy(data, &n, 4);
    for (size_t i = 4; i < len; i++)
        data[i] = (uint8_t)(n * 31 + i);
}

/* By its length, so that the receiver knows what to expect; most have none. */
static uint8_t class_of(size_t len)
{
    return len % 5 ? 0 : (uint8_t)(len % 3 ? 0x2a : 1);
}

static void put(struct wh_sendq *q, int fd, struct place *to, size_t len, uint8_t tos)
{
    uint8_t *slot = wh_sendq_slot(q, &to->at, tos);
    if (!slot) {
        wh_sendq_flush(q, fd, 1);
        slot = wh_sendq_slot(q, &to->at, tos);
    }
    CHECK(slot != NULL);
    memset(slot, 0xee, WH_DATAGRAM_MAX); /* all of it is ours */
    fill(slot, to->sent++, len);
    wh_sendq_commit(q, len);
}

static void take_all(struct place *p, const uint16_t *lengths)
{
    uint8_t data[WH_DATAGRAM_MAX + 1], want[WH_DATAGRAM_MAX];
    while (p->got < p->sent) {
        struct pollfd fd = {p->fd, POLLIN, 0};
        if (poll(&fd, 1, 2000) != 1)
            break;
        _Alignas(struct cmsghdr) uint8_t control[64];
        struct iovec iov = {data, sizeof(data)};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
        ssize_t n = recvmsg(p->fd, &m, 0);
        size_t len = lengths[p->got];
        fill(want, p->got++, len);
        CHECK(n == (ssize_t)len && !memcmp(data, want, len));
        const struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        CHECK(c && (*CMSG_DATA(c) == class_of(len) || !p->classes));
    }
    CHECK(p->got == p->sent);
}

/* Lengths as tunnels have them: runs of full ones, a shorter last, small ones in between. */
static size_t some_length(uint64_t *state)
{
    uint64_t r = next_random(state) % 16;
    return r < 9 ? 1468 : r < 12 ? 114 : r == 12 ? WH_DATAGRAM_MAX : 4 + next_random(state) % 1500;
}

static void to_many(int family, unsigned places, bool refuse)
{
    static uint16_t lengths[PLACES][4000];
    struct place p[PLACES], from;
    struct wh_sendq *q;
    uint64_t state = 77 + places;
    int on = 1;
    CHECK(wh_sendq_new(&q) == WH_OK);
    open_place(&from, family);
    if (refuse) /* a socket without checksums may not use UDP_SEGMENT */
        CHECK(setsockopt(from.fd, SOL_SOCKET, SO_NO_CHECK, &on, sizeof(on)) == 0);
    for (unsigned i = 0; i < places; i++)
        open_place(&p[i], family), p[i].classes = true;
    for (unsigned round = 0; round < 30; round++) {
        for (unsigned i = 0; i < 130; i++) {
            unsigned to = next_random(&state) % 4 ? i / 40 % places : (unsigned)(next_random(&state) % places);
            size_t len = some_length(&state);
            lengths[to][p[to].sent] = (uint16_t)len;
            put(q, from.fd, &p[to], len, class_of(len));
        }
        wh_sendq_flush(q, from.fd, 1);
        for (unsigned i = 0; i < places; i++)
            take_all(&p[i], lengths[i]);
    }
    const struct wh_sendq_lost *lost = wh_sendq_lost(q);
    CHECK(lost->full == 0 && lost->too_big == 0 && lost->unreachable == 0);
    for (unsigned i = 0; i < places; i++)
        close(p[i].fd);
    close(from.fd);
    wh_sendq_free(q);
}

/* One destination that cannot be reached does not cost the others anything. */
static void unreachable(void)
{
    struct place good, bad, from;
    struct wh_sendq *q;
    uint16_t lengths[40];
    CHECK(wh_sendq_new(&q) == WH_OK);
    open_place(&from, AF_INET), open_place(&good, AF_INET), open_place(&bad, AF_INET);
    bad.at.v4.sin_addr.s_addr = htonl(INADDR_BROADCAST); /* EACCES without SO_BROADCAST */
    for (unsigned i = 0; i < 40; i++) {
        lengths[i] = 500;
        put(q, from.fd, &bad, 500, 0);
        put(q, from.fd, &good, 500, 0);
    }
    wh_sendq_flush(q, from.fd, 1);
    take_all(&good, lengths);
    CHECK(wh_sendq_lost(q)->unreachable == 40 && wh_sendq_lost(q)->full == 0);
    close(from.fd), close(good.fd), close(bad.fd);
    wh_sendq_free(q);
}

/* A loopback of 1500 bytes in a network namespace of our own: datagrams beyond it are lost alone, and told. */
static int narrow_path(void)
{
    if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
        return 77;
    struct place to, from;
    struct wh_sendq *q;
    struct wh_addr at;
    size_t len = 0;
    uint16_t lengths[30];
    int mode = IP_PMTUDISC_PROBE;
    struct ifreq lo = {.ifr_name = "lo"};
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    lo.ifr_mtu = 1500;
    if (ioctl(s, SIOCSIFMTU, &lo) != 0)
        return 77;
    lo.ifr_flags = IFF_UP;
    CHECK(ioctl(s, SIOCSIFFLAGS, &lo) == 0 && wh_sendq_new(&q) == WH_OK);
    open_place(&to, AF_INET), open_place(&from, AF_INET);
    CHECK(setsockopt(from.fd, IPPROTO_IP, IP_MTU_DISCOVER, &mode, sizeof(mode)) == 0);
    for (unsigned i = 0; i < 20; i++) { /* a run that is too wide */
        uint8_t *slot = wh_sendq_slot(q, &to.at, 0);
        fill(slot, i, 1473);
        wh_sendq_commit(q, 1473);
    }
    for (unsigned i = 0; i < 30; i++) {
        lengths[i] = 1472;
        put(q, from.fd, &to, 1472, 0);
    }
    wh_sendq_flush(q, from.fd, 1);
    take_all(&to, lengths);
    CHECK(wh_sendq_lost(q)->too_big == 20 && wh_sendq_lost(q)->unreachable == 0);
    CHECK(wh_sendq_too_big(q, &at, &len) && len == 1473 && wh_addr_equal(&at, &to.at));
    CHECK(!wh_sendq_too_big(q, &at, &len));
    close(s), close(to.fd), close(from.fd);
    wh_sendq_free(q);
    return failures != 0;
}

static void in_child(int (*test)(void))
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int result = test();
        fflush(stdout);
        _exit(result);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        printf("sendq: no network namespace of our own here: the narrow path is not tested\n");
    else
        CHECK(WEXITSTATUS(status) == 0);
}

static bool has_ipv6(void)
{
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    bool has = fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0;
    close(fd);
    return has;
}

/* Loopback keeps the order of what one processor sends: a thread that is moved between two sends could overtake itself.
 */
static void stay_here(void)
{
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET((size_t)sched_getcpu(), &here);
    CHECK(sched_setaffinity(0, sizeof(here), &here) == 0);
}

int main(void)
{
    stay_here();
    to_many(AF_INET, 1, false);
    to_many(AF_INET, 1, true);
    to_many(AF_INET, 5, false);
    to_many(AF_INET, PLACES, false);
    to_many(AF_INET, PLACES, true);
    if (has_ipv6())
        to_many(AF_INET6, 3, false);
    else
        printf("sendq: no IPv6 on this host\n");
    unreachable();
    in_child(narrow_path);
    return finish("sendq");
}
