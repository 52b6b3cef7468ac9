/* forwarder: the least that carries a TAP's frames over UDP, in clear: the limit of what an overlay in user space can
 * reach.
 *
 *   forwarder TAP LOCAL REMOTE PORT plain|tso
 *
 * plain: a frame is a datagram. tso: the TAP gives and takes TCP frames of up to 64 KiB (IFF_VNET_HDR); such a frame is
 * cut into pieces of equal size that one UDP_SEGMENT send carries and the receiver puts together again, so that a lost
 * piece costs the whole frame: fast on a clean wire, useless on another. One thread, one poll loop; what a turn finds
 * is sent at its end. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#define PIECE 1400u
#define BATCH 64u
#define ROOM  (70u * 1024u)

struct piece { /* before each piece of a frame */
    uint32_t frame;
    uint16_t index, count;
    uint32_t total;
};

struct overlay {
    int tap, udp;
    bool tso;
    uint32_t next_frame;
    struct piece going; /* the frame that is being put together */
    uint32_t have;
    uint8_t frame[ROOM];
};

static int die(const char *what)
{
    fprintf(stderr, "forwarder: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_tap(const char *name, bool tso)
{
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq ifr = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | (tso ? IFF_VNET_HDR : 0))};
    strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0)
        die(name);
    if (tso && ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0)
        die("TUNSETOFFLOAD");
    return fd;
}

static int open_udp(const char *local, const char *remote, uint16_t port, bool tso)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), size = 8 << 20, on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (fd < 0 || inet_pton(AF_INET, local, &at.sin_addr) != 1 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
        die(local);
    if (inet_pton(AF_INET, remote, &at.sin_addr) != 1 || connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
        die(remote);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
        die("socket buffers");
    if (tso && setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof(on)) < 0)
        die("UDP_GRO");
    return fd;
}

/* TAP to UDP, a datagram each. */
static void out_plain(struct overlay *o)
{
    static uint8_t room[BATCH][2048];
    struct iovec iov[BATCH];
    struct mmsghdr messages[BATCH];
    memset(messages, 0, sizeof(messages));
    unsigned n = 0;
    for (; n < BATCH; n++) {
        ssize_t len = read(o->tap, room[n], sizeof(room[n]));
        if (len <= 0)
            break;
        iov[n] = (struct iovec){room[n], (size_t)len};
        messages[n].msg_hdr.msg_iov = &iov[n];
        messages[n].msg_hdr.msg_iovlen = 1;
    }
    for (unsigned sent = 0; sent < n;) {
        int done = sendmmsg(o->udp, messages + sent, n - sent, 0);
        if (done <= 0)
            break; /* the rest is lost */
        sent += (unsigned)done;
    }
}

static void in_plain(struct overlay *o)
{
    static uint8_t room[BATCH][2048];
    struct iovec iov[BATCH];
    struct mmsghdr messages[BATCH];
    memset(messages, 0, sizeof(messages));
    for (unsigned i = 0; i < BATCH; i++) {
        iov[i] = (struct iovec){room[i], sizeof(room[i])};
        messages[i].msg_hdr.msg_iov = &iov[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    int n = recvmmsg(o->udp, messages, BATCH, 0, NULL);
    for (int i = 0; i < n; i++)
        if (write(o->tap, room[i], messages[i].msg_len) < 0 && errno != EAGAIN && errno != EIO)
            die("TAP");
}

/* A frame with its header, in pieces, in one send. */
static void send_pieces(struct overlay *o, const uint8_t *frame, uint32_t len)
{
    static uint8_t room[ROOM];
    uint16_t count = (uint16_t)((len + PIECE - 1) / PIECE), segment = PIECE + sizeof(struct piece);
    size_t used = 0;
    for (uint16_t i = 0; i < count; i++) {
        uint32_t at = i * PIECE, size = len - at < PIECE ? len - at : PIECE;
        struct piece head = {o->next_frame, i, count, len};
        memcpy(room + used, &head, sizeof(head));
        memcpy(room + used + sizeof(head), frame + at, size);
        used += sizeof(head) + size;
    }
    o->next_frame++;
    union {
        char bytes[CMSG_SPACE(sizeof(uint16_t))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec iov = {room, used};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count > 1) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = IPPROTO_UDP;
        c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        memcpy(CMSG_DATA(c), &segment, sizeof(segment));
    }
    (void)!sendmsg(o->udp, &message, 0); /* what the kernel refuses is lost */
}

static void take_piece(struct overlay *o, const uint8_t *data, uint32_t len)
{
    struct piece head;
    if (len < sizeof(head))
        return;
    memcpy(&head, data, sizeof(head));
    uint32_t size = len - (uint32_t)sizeof(head), at = head.index * PIECE;
    if (head.total > sizeof(o->frame) || at + size > head.total)
        return;
    if (head.frame != o->going.frame || head.index == 0)
        o->have = 0;
    o->going = head;
    memcpy(o->frame + at, data + sizeof(head), size);
    if (++o->have == head.count && write(o->tap, o->frame, head.total) < 0 && errno != EAGAIN && errno != EIO &&
        errno != EINVAL)
        die("TAP");
}

static void out_tso(struct overlay *o)
{
    static uint8_t room[ROOM];
    for (unsigned n = 0; n < BATCH; n++) {
        ssize_t len = read(o->tap, room, sizeof(room));
        if (len <= 0)
            return;
        send_pieces(o, room, (uint32_t)len);
    }
}

static void in_tso(struct overlay *o)
{
    static uint8_t room[ROOM];
    for (unsigned n = 0; n < BATCH; n++) {
        char control[CMSG_SPACE(sizeof(int))];
        struct iovec iov = {room, sizeof(room)};
        struct msghdr message = {
            .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
        ssize_t len = recvmsg(o->udp, &message, 0);
        if (len <= 0)
            return;
        uint32_t segment = (uint32_t)len;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
            if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
                memcpy(&segment, CMSG_DATA(c), sizeof(int));
        for (uint32_t at = 0; at < (uint32_t)len; at += segment)
            take_piece(o, room + at, (uint32_t)len - at < segment ? (uint32_t)len - at : segment);
    }
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: forwarder TAP LOCAL REMOTE PORT plain|tso\n");
        return 2;
    }
    static struct overlay o;
    o.tso = strcmp(argv[5], "tso") == 0;
    o.tap = open_tap(argv[1], o.tso);
    o.udp = open_udp(argv[2], argv[3], (uint16_t)strtoul(argv[4], NULL, 10), o.tso);
    puts("ready");
    fflush(stdout);
    struct pollfd wait[2] = {{o.tap, POLLIN, 0}, {o.udp, POLLIN, 0}};
    while (poll(wait, 2, -1) >= 0 || errno == EINTR) {
        if (wait[0].revents)
            (o.tso ? out_tso : out_plain)(&o);
        if (wait[1].revents)
            (o.tso ? in_tso : in_plain)(&o);
    }
    die("poll");
}
