#include "switch/steer.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SENDER_AT = 8, LANE_AT = 16 }; /* wire.h */

int wh_steer_share(int fd, int *out, wh_error *err)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof(at), only_len = sizeof(int);
    int on = 1, only6 = 0;
    if (getsockname(fd, (struct sockaddr *)&at, &len) != 0)
        return wh_fail(err, WH_E_IO, "udp_fd", "%s", strerror(errno));
    if (at.ss_family != AF_INET && at.ss_family != AF_INET6)
        return wh_fail(err, WH_E_INVAL, "udp_fd", "not a UDP socket");
    int next = socket(at.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (next < 0)
        return wh_fail(err, WH_E_IO, "udp_fd", "%s", strerror(errno));
    if (at.ss_family == AF_INET6) {
        (void)getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only6, &only_len);
        (void)setsockopt(next, IPPROTO_IPV6, IPV6_V6ONLY, &only6, sizeof(only6));
    }
    /* The first is bound, so from here on another program of this user could bind there too. It could read the keys
     * out of this one's memory as well. */
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) != 0 ||
        setsockopt(next, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) != 0 ||
        bind(next, (struct sockaddr *)&at, len) != 0) {
        int status = wh_fail(err, WH_E_IO, "workers", "a second socket on the tunnel's address: %s", strerror(errno));
        close(next);
        return status;
    }
    *out = next;
    return WH_OK;
}

int wh_steer(int fd, uint32_t workers, wh_error *err)
{
    /* What is too short to be read is given to the first, who drops it. */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, LANE_AT),   BPF_STMT(BPF_MISC | BPF_TAX, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SENDER_AT), BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
        BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, workers),  BPF_STMT(BPF_RET | BPF_A, 0),
    };
    struct sock_fprog program = {WH_ARRAY_LEN(code), code};
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program)) != 0)
        return wh_fail(err, WH_E_IO, "workers", "the kernel cannot steer datagrams: %s", strerror(errno));
    return WH_OK;
}
