/* Traffic classes through a whole switch, whose peer is a socket of ours. */
#include "switch_rig.h"

#include "switch/tos.h"

static struct node n;
static struct node peer = {.id = 2};
static struct nic a;
static int fd;
static uint64_t counter;

static void ip_frame(uint8_t frame[64], const uint8_t *dst, const uint8_t *src, uint8_t tos, uint32_t tag)
{
    memset(frame, 0, 64);
    memcpy(frame, dst, 6);
    memcpy(frame + 6, src, 6);
    memcpy(frame + 12, (uint8_t[]){8, 0, 0x45, tos}, 4);
    memcpy(frame + 40, &tag, 4);
}

/* Class of the next datagram that is no probe. */
static int next_class(void)
{
    uint8_t data[2000];
    _Alignas(struct cmsghdr) uint8_t control[64];
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        struct iovec iov = {data, sizeof(data)};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
        if (poll(&p, 1, DEADLINE_MS) != 1 || recvmsg(fd, &m, 0) < 0)
            return -1;
        const struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        if (!c || *CMSG_DATA(c) != WH_TOS_CONTROL)
            return c ? *CMSG_DATA(c) : -1;
    }
}

static void out(uint8_t tos, int want)
{
    uint8_t frame[64], dst[6] = {2, 9};
    bool kick = false;
    uint64_t one = 1;
    ip_frame(frame, dst, a.mac, tos, 1);
    CHECK(wh_ring_put(a.tx, frame, sizeof(frame), &kick) == WH_OK);
    if (kick)
        CHECK(write(a.to_switch, &one, 8) == 8);
    CHECK(next_class() == want);
}

static void in(uint8_t inner, int outer, uint32_t tag)
{
    uint8_t src[6] = {2, 9}, key[32], header[WH_TUNNEL_HEADER], room[16 + 64], sealed[200];
    size_t len = sizeof(sealed);
    ip_frame(room + 16, a.mac, src, inner, tag);
    wh_frame_prefix(room + 16, 64, VNI);
    struct wh_header h = {.version = 1, .type = 1, .hops = 1, .epoch = 1, .sender = 2, .dest = 1, .counter = ++counter};
    wh_header_encode(&h, header);
    direction_key(2, 1, 1, key);
    CHECK(wh_tunnel_seal(0, key, header, sizeof(header), room + 16 - WH_FRAME_PREFIX, 64 + WH_FRAME_PREFIX, sealed,
                         &len) == WH_OK);
    CHECK(setsockopt(fd, IPPROTO_IP, IP_TOS, &outer, sizeof(outer)) == 0);
    CHECK(sendto(fd, sealed, len, 0, (struct sockaddr *)&n.addr, sizeof(n.addr)) == (ssize_t)len);
}

static void take(uint8_t inner, uint32_t tag)
{
    uint8_t frame[100];
    uint32_t len = 0, got = 0;
    (void)nic_take(&a, frame, &len);
    memcpy(&got, frame + 40, 4);
    CHECK(len == 64 && frame[15] == inner && got == tag);
}

int main(void)
{
    int on = 1;
    uint8_t far[6] = {2, 9};
    fd = udp_socket(&peer.addr);
    CHECK(setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &on, sizeof(on)) == 0);
    node_open(&n, 1);
    nic_open(&a, 1);
    CHECK(nic_plug(&a, n.sw, 1, a.mac, 1) == WH_OK);
    CHECK(wh_switch_peer_set(n.sw, 2, 2, &peer.addr, sizeof(peer.addr), NULL) == WH_OK);
    CHECK(wh_switch_mac_set(n.sw, VNI, far, 2, NULL) == WH_OK);
    accept_epoch(&n, &peer, 1, 0);
    use_epoch(&n, &peer, 1, 0);
    out(0, 0);
    out(0xb8 | WH_ECN_ECT0, 0xb8 | WH_ECN_ECT0);
    out(WH_ECN_CE, WH_ECN_CE);
    out(0xe0 | WH_ECN_ECT1, WH_ECN_ECT1); /* a guest is no network control */
    in(0xb8 | WH_ECN_ECT0, 0x20 | WH_ECN_CE, 1);
    in(0, WH_ECN_CE, 2); /* dropped */
    in(WH_ECN_ECT0, WH_ECN_ECT0, 3);
    in(0, 0xb8, 4);
    take(0xb8 | WH_ECN_CE, 1);
    take(WH_ECN_ECT0, 3);
    take(0, 4);
    CHECK(peer_counters(n.sw, 2).drop_ce == 1 && peer_counters(n.sw, 2).rx_frames == 3);
    wh_switch_free(n.sw);
    nic_close(&a);
    close(fd);
    return finish("switch_tos");
}
