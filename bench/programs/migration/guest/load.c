/* The guest's part of `make bench-migration`: answers what the client asks, and dirties memory at a steady rate.
 *
 * load SET RATE     SET MiB are filled with random bytes and then touched, 8 bytes a page, RATE MiB (of pages) a
 * second; 0 0: no writer. UDP datagrams to port 7001 and TCP bytes to port 7002 come back as they are. Prints "ready"
 * when memory is filled and both ports are open.
 * load speed SECONDS     speed.c */
#include "speed.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, UDP_PORT = 7001, TCP_PORT = 7002, TICK_NS = 1000000 };

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int bound(int type, uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_ANY)}};
    int on = 1, fd = socket(AF_INET, type, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) || bind(fd, (void *)&to, sizeof to))
        fail("port");
    return fd;
}

static void echo_datagrams(int fd)
{
    char text[2048];
    struct sockaddr_in from;
    for (;;) {
        socklen_t size = sizeof from;
        ssize_t n = recvfrom(fd, text, sizeof text, 0, (void *)&from, &size);
        if (n >= 0)
            (void)sendto(fd, text, (size_t)n, 0, (void *)&from, size);
    }
}

static void echo_stream(int listener)
{
    signal(SIGCHLD, SIG_IGN);
    char text[2048];
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        ssize_t n;
        if (fd >= 0 && fork() == 0) { /* a client that is gone need not have said so */
            while ((n = read(fd, text, sizeof text)) > 0 && write(fd, text, (size_t)n) == n)
                ;
            _exit(0);
        }
        close(fd);
    }
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Whatever a pause took is not made up for. */
static void dirty(uint8_t *memory, size_t pages, double rate)
{
    double owed = 0;
    uint64_t value = 0, last = now_ns();
    for (size_t at = 0;;) {
        nanosleep(&(struct timespec){.tv_nsec = TICK_NS}, NULL);
        uint64_t now = now_ns();
        double ticks = (double)(now - last) / TICK_NS;
        owed += (ticks < 20 ? ticks : 20) * rate * (1 << 20) / PAGE * TICK_NS / 1e9;
        for (last = now; owed >= 1; owed--) {
            value += 0x9e3779b97f4a7c15u;
            memcpy(memory + at * PAGE, &value, sizeof value);
            at = at + 1 < pages ? at + 1 : 0;
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    if (strcmp(argv[1], "speed") == 0)
        return speed(strtod(argv[2], NULL));
    int udp = bound(SOCK_DGRAM, UDP_PORT), tcp = bound(SOCK_STREAM, TCP_PORT);
    if (listen(tcp, 4))
        fail("listen");
    if (fork() == 0) /* before there is memory, of which each write would make a copy */
        echo_datagrams(udp);
    if (fork() == 0)
        echo_stream(tcp);
    size_t bytes = (size_t)strtoul(argv[1], NULL, 10) << 20;
    uint8_t *memory = bytes ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : NULL;
    if (memory == MAP_FAILED)
        fail("memory");
    uint64_t x = 88172645463325252u; /* xorshift64: no compression finds anything in it */
    for (size_t i = 0; i < bytes; i += sizeof x) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(memory + i, &x, sizeof x);
    }
    puts("ready");
    fflush(stdout);
    if (bytes)
        dirty(memory, bytes / PAGE, strtod(argv[2], NULL));
    for (;;)
        pause();
}
