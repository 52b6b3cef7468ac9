/* What the kernel dropped of a node's datagrams before anybody read them is told. */
#include "switch/udp.h"
#include "switch_check.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SENT = 60000, BYTES = 1400 }; /* more than any buffer that is asked for */

static void a_full_socket(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(to);
    int fd = socket(AF_INET, SOCK_DGRAM, 0), sender = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(fd >= 0 && sender >= 0);
    if (fd < 0 || sender < 0)
        return;
    CHECK(!bind(fd, (void *)&to, sizeof(to)) && !getsockname(fd, (void *)&to, &size));
    struct wh_udp *u;
    wh_error err;
    CHECK(wh_udp_new(fd, &u, &err) == WH_OK);
    CHECK(wh_udp_dropped(u) == 0);
    uint8_t bytes[BYTES] = {0};
    unsigned sent = 0, read = 0;
    for (unsigned i = 0; i < SENT; i++)
        sent += sendto(sender, bytes, sizeof(bytes), 0, (void *)&to, sizeof(to)) == BYTES;
    while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) == BYTES)
        read++;
    CHECK(read > 0 && read < sent);
    CHECK(wh_udp_dropped(u) == sent - read);
    close(sender);
    wh_udp_free(u);
}

int main(void)
{
    a_full_socket();
    CHECK(wh_udp_dropped(NULL) == 0);
    puts("udp: ok");
    return 0;
}
