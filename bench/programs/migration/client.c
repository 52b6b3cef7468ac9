/* The host's part of `make bench-migration`: polls a guest by UDP every millisecond and by TCP every two, and tells the
 * longest time in which no answer came.
 *
 * client ADDRESS    Lines on standard input: "reset" begins anew; "read" prints "gap UDP_MS TCP_MS", where a gap that
 * is still open counts. Ends with its input. Prints "up" when both ways have answered once. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { UDP, TCP, WAYS };
static const uint16_t ports[WAYS] = {7001, 7002};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int connected(int way, const char *address)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(ports[way])};
    int on = 1, fd = socket(AF_INET, way == TCP ? SOCK_STREAM : SOCK_DGRAM, 0);
    if (fd < 0 || inet_pton(AF_INET, address, &to.sin_addr) != 1 || connect(fd, (void *)&to, sizeof to)) {
        perror(address);
        exit(1);
    }
    if (way == TCP)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

struct gaps {
    uint64_t last[WAYS], longest[WAYS];
};

static void note(struct gaps *g, int way, uint64_t now)
{
    if (now - g->last[way] > g->longest[way])
        g->longest[way] = now - g->last[way];
}

/* False at the end of the input. */
static int obey(struct gaps *g)
{
    char line[64];
    if (fgets(line, sizeof line, stdin) == NULL)
        return 0;
    uint64_t now = now_ns();
    for (int way = 0; way < WAYS; way++) {
        note(g, way, now);
        if (strcmp(line, "reset\n") == 0) {
            g->longest[way] = 0;
            g->last[way] = now;
        }
    }
    if (strcmp(line, "read\n") == 0)
        printf("gap %.3f %.3f\n", (double)g->longest[UDP] / 1e6, (double)g->longest[TCP] / 1e6);
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    setvbuf(stdin, NULL, _IONBF, 0);
    struct gaps g = {{now_ns(), now_ns()}, {0, 0}};
    int up = 0, timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec every = {{0, 1000000}, {0, 1000000}};
    timerfd_settime(timer, 0, &every, NULL);
    struct pollfd p[] = {{timer, POLLIN, 0},
                         {connected(UDP, argv[1]), POLLIN, 0},
                         {connected(TCP, argv[1]), POLLIN, 0},
                         {STDIN_FILENO, POLLIN, 0}};
    for (uint64_t turn = 0;;) {
        if (poll(p, 4, -1) < 0 && errno != EINTR)
            return 1;
        char text[4096];
        for (int way = 0; way < WAYS; way++) {
            ssize_t n = read(p[1 + way].fd, text, sizeof text);
            if (n == 0 && way == TCP) {
                fputs("the guest closed the connection\n", stderr);
                return 1;
            }
            if (n <= 0)
                continue;
            note(&g, way, now_ns());
            g.last[way] = now_ns();
            if (up < 3 && (up |= 1 << way) == 3)
                puts("up");
        }
        uint64_t ticks;
        if (read(timer, &ticks, sizeof ticks) == sizeof ticks) {
            (void)!write(p[1].fd, "0123456789abcdef", 16);
            if (turn++ % 2 == 0)
                (void)!write(p[2].fd, "0123456789abcdef", 16);
        }
        if (p[3].revents && !obey(&g))
            return 0;
    }
}
