/* udpload: 64-byte frames of UDP at a given rate, and who counts them.
 *
 *   udpload recv ADDRESS PORT                   serves until its input ends; answers each line "count" with the frames
 * seen since the last one, as "COUNT" udpload send ADDRESS PORT RATE MILLISECONDS  sends at RATE frames a second (0: as
 * fast as it can) from four flows, prints "SENT NANOSECONDS"
 *
 * A frame is 64 bytes on the wire with its checksum: 14 Ethernet, 20 IPv4, 8 UDP and 18 of payload. The sender hands
 * the kernel up to 64 frames a call (sendmmsg) and sleeps 50 us between its bursts, so that it leaves the processor to
 * what is measured; of what it has missed by sleeping longer it makes up for 1 ms at most. A frame that the kernel
 * refuses (a full queue) counts as sent: it is lost on the way. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAYLOAD  18
#define BATCH    64u
#define FLOWS    4u
#define BURST_NS 50000ull
#define LATE_NS  1000000ull

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static int fail(const char *what)
{
    fprintf(stderr, "udpload: %s: %s\n", what, strerror(errno));
    return 1;
}

static int udp_socket(int buffer_option)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), size = 8 << 20;
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, buffer_option, &size, sizeof(size)) < 0)
        fprintf(stderr, "udpload: the socket's queue stays small: %s\n", strerror(errno));
    return fd;
}

/* Everything that waits in the socket. */
static uint64_t drain(int fd)
{
    static uint8_t room[BATCH][64];
    struct iovec iov[BATCH];
    struct mmsghdr messages[BATCH];
    uint64_t seen = 0;
    for (;;) {
        memset(messages, 0, sizeof(messages));
        for (unsigned i = 0; i < BATCH; i++) {
            iov[i] = (struct iovec){room[i], sizeof(room[i])};
            messages[i].msg_hdr.msg_iov = &iov[i];
            messages[i].msg_hdr.msg_iovlen = 1;
        }
        int got = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
        if (got <= 0)
            return seen;
        seen += (uint64_t)got;
        if ((unsigned)got < BATCH)
            return seen;
    }
}

static int receive(const struct sockaddr_in *at)
{
    int fd = udp_socket(SO_RCVBUFFORCE);
    if (fd < 0 || bind(fd, (const struct sockaddr *)at, sizeof(*at)) < 0)
        return fail("bind");
    puts("ready");
    fflush(stdout);
    uint64_t seen = 0;
    struct pollfd wait[2] = {{fd, POLLIN, 0}, {0, POLLIN, 0}};
    while (poll(wait, 2, -1) >= 0) {
        if (wait[0].revents)
            seen += drain(fd);
        if (wait[1].revents) {
            char line[64];
            if (read(0, line, sizeof(line)) <= 0)
                return 0;
            seen += drain(fd);
            printf("%llu\n", (unsigned long long)seen);
            fflush(stdout);
            seen = 0;
        }
    }
    return fail("poll");
}

static void prepare(struct mmsghdr *messages, struct iovec *iov, uint8_t *payload)
{
    memset(messages, 0, BATCH * sizeof(*messages));
    for (unsigned i = 0; i < BATCH; i++) {
        iov[i] = (struct iovec){payload, PAYLOAD};
        messages[i].msg_hdr.msg_iov = &iov[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
}

static int send_at(const struct sockaddr_in *to, uint64_t rate, uint64_t length_ns)
{
    int fds[FLOWS];
    for (unsigned i = 0; i < FLOWS; i++) {
        fds[i] = udp_socket(SO_SNDBUFFORCE);
        if (fds[i] < 0 || connect(fds[i], (const struct sockaddr *)to, sizeof(*to)) < 0)
            return fail("connect");
    }
    uint8_t payload[PAYLOAD] = {0};
    struct iovec iov[BATCH];
    struct mmsghdr messages[BATCH];
    prepare(messages, iov, payload);
    uint64_t sent = 0, began = now_ns(), now = began, before = began;
    double due =
        0; /* frames that may go now; those of a long sleep are not made up for, a burst of them would be lost */
    unsigned flow = 0;
    while (now - began < length_ns) {
        uint64_t slept = now - before;
        before = now;
        due += (double)(slept < LATE_NS ? slept : LATE_NS) * (double)rate / 1e9;
        while (!rate || due >= 1) {
            unsigned n = rate && due < BATCH ? (unsigned)due : BATCH;
            int done = sendmmsg(fds[flow++ % FLOWS], messages, n, 0);
            sent += done > 0 ? (unsigned)done : n; /* ENOBUFS, ECONNREFUSED: lost, as on a full wire */
            due -= done > 0 ? done : (int)n;
            if (!rate)
                break;
        }
        if (rate) {
            struct timespec pause = {0, (long)BURST_NS};
            clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
        }
        now = now_ns();
    }
    printf("%llu %llu\n", (unsigned long long)sent, (unsigned long long)(now - began));
    return 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    if (argc < 4 || inet_pton(AF_INET, argv[2], &at.sin_addr) != 1) {
        fprintf(stderr, "usage: udpload recv ADDRESS PORT | udpload send ADDRESS PORT RATE MILLISECONDS\n");
        return 2;
    }
    at.sin_port = htons((uint16_t)strtoul(argv[3], NULL, 10));
    if (strcmp(argv[1], "recv") == 0)
        return receive(&at);
    if (strcmp(argv[1], "send") == 0 && argc == 6)
        return send_at(&at, strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10) * 1000000ull);
    return 2;
}
