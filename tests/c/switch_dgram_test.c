/* Ports over datagram sockets: both address kinds, who may speak, whoever is not there, lengths, bad calls. */
#include "switch_rig.h"

#include <stdio.h>
#include <sys/un.h>

static const uint8_t outside[6] = {2, 0, 0, 0, 9, 9};

static wh_switch *rig(struct nic *a)
{
    wh_switch *sw;
    wh_switch_config config = {.node_id = 1, .udp_fd = -1};
    CHECK(open_switch(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
    nic_open(a, 1);
    CHECK(nic_plug(a, sw, 1, a->mac, 1) == WH_OK);
    return sw;
}

static void frame_of(uint8_t frame[64], uint32_t tag)
{
    memset(frame, 0, 64);
    memcpy(frame, everybody, 6);
    memcpy(frame + 6, outside, 6);
    frame[12] = 8;
    memcpy(frame + 14, &tag, 4);
}

static uint32_t take(int fd)
{
    uint8_t frame[2048];
    uint32_t tag;
    struct pollfd wait = {fd, POLLIN, 0};
    if (poll(&wait, 1, DEADLINE_MS) != 1 || recv(fd, frame, sizeof(frame), 0) != 64)
        return UINT32_MAX;
    memcpy(&tag, frame + 14, 4);
    return tag;
}

static void udp_with_a_remote(void)
{
    struct nic a;
    wh_switch *sw = rig(&a);
    struct sockaddr_in ours, theirs, stranger_at;
    uint8_t frame[64], long_frame[3000] = {0};
    int fd = udp_socket(&ours), peer = udp_socket(&theirs), stranger = udp_socket(&stranger_at);
    CHECK(wh_switch_port_dgram(sw, 2, VNI, fd, &theirs, sizeof(theirs), NULL) == WH_OK);
    close(fd);
    nic_send(&a, everybody, 1); /* before the peer has spoken */
    CHECK(take(peer) == 1);
    frame_of(frame, 2);
    CHECK(sendto(stranger, frame, 64, 0, (void *)&ours, sizeof(ours)) == 64);
    WAIT_FOR(port_counters(sw, 2).drop_spoofed == 1);
    CHECK(sendto(peer, frame, 3, 0, (void *)&ours, sizeof(ours)) == 3);
    CHECK(sendto(peer, frame, 0, 0, (void *)&ours, sizeof(ours)) == 0);
    memcpy(long_frame, frame, 64);
    CHECK(sendto(peer, long_frame, sizeof(long_frame), 0, (void *)&ours, sizeof(ours)) == sizeof(long_frame));
    WAIT_FOR(port_counters(sw, 2).drop_oversize == 1);
    CHECK(port_counters(sw, 2).drop_invalid == 2); /* a header that is none, nothing */
    frame_of(frame, 3);
    CHECK(sendto(peer, frame, 64, 0, (void *)&ours, sizeof(ours)) == 64);
    CHECK(nic_take(&a, NULL, NULL) == 3);
    nic_send(&a, outside, 4);
    CHECK(take(peer) == 4);
    close(peer); /* what is sent to nobody comes back as an error of the next call: the port lives on */
    for (uint32_t tag = 5; tag < 10; tag++)
        nic_send(&a, outside, tag);
    WAIT_FOR(port_counters(sw, 2).tx_frames + port_counters(sw, 2).drop_no_peer == 7);
    CHECK(wh_switch_port_del(sw, 2) == WH_OK);
    wh_switch_free(sw);
    nic_close(&a);
    close(stranger);
}

static int unix_socket(const char *path, struct sockaddr_un *at)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    *at = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(at->sun_path, sizeof(at->sun_path), "%s", path);
    unlink(path);
    CHECK(bind(fd, (void *)at, sizeof(*at)) == 0);
    return fd;
}

static void unix_answers_whoever_spoke(void)
{
    struct nic a;
    wh_switch *sw = rig(&a);
    struct sockaddr_un ours, first_at, second_at;
    char folder[] = "/tmp/wherry-dgram-XXXXXX", names[3][64];
    uint8_t frame[64];
    CHECK(mkdtemp(folder) != NULL);
    for (int i = 0; i < 3; i++)
        snprintf(names[i], sizeof(names[i]), "%s/%d", folder, i);
    int fd = unix_socket(names[0], &ours), first = unix_socket(names[1], &first_at);
    CHECK(wh_switch_port_dgram(sw, 2, VNI, fd, NULL, 0, NULL) == WH_OK);
    nic_send(&a, everybody, 1);
    WAIT_FOR(port_counters(sw, 2).drop_no_peer == 1);
    frame_of(frame, 2);
    CHECK(sendto(first, frame, 64, 0, (void *)&ours, sizeof(ours)) == 64);
    CHECK(nic_take(&a, NULL, NULL) == 2);
    nic_send(&a, outside, 3);
    CHECK(take(first) == 3);
    close(first); /* the program ends, and another takes its place */
    nic_send(&a, outside, 4);
    WAIT_FOR(port_counters(sw, 2).drop_no_peer == 2);
    int second = unix_socket(names[2], &second_at);
    CHECK(sendto(second, frame, 64, 0, (void *)&ours, sizeof(ours)) == 64);
    CHECK(nic_take(&a, NULL, NULL) == 2);
    nic_send(&a, outside, 5);
    CHECK(take(second) == 5);
    int nameless = socket(AF_UNIX, SOCK_DGRAM, 0); /* may speak, cannot be answered */
    CHECK(sendto(nameless, frame, 64, 0, (void *)&ours, sizeof(ours)) == 64);
    CHECK(nic_take(&a, NULL, NULL) == 2);
    nic_send(&a, outside, 6);
    CHECK(take(second) == 6);
    wh_switch_free(sw);
    nic_close(&a);
    close(fd), close(second), close(nameless);
    for (int i = 0; i < 3; i++)
        unlink(names[i]);
    rmdir(folder);
}

static void bad_calls(void)
{
    struct nic a;
    wh_switch *sw = rig(&a);
    struct sockaddr_in at;
    char huge[200] = {0};
    int fd = udp_socket(&at), stream = socket(AF_INET, SOCK_STREAM, 0);
    wh_error err;
    CHECK(wh_switch_port_dgram(sw, 2, VNI, stream, NULL, 0, &err) == WH_E_INVAL && !strcmp(err.field, "fd"));
    CHECK(wh_switch_port_dgram(sw, 2, VNI, a.file, NULL, 0, &err) == WH_E_INVAL);
    CHECK(wh_switch_port_dgram(sw, 2, VNI, -1, NULL, 0, &err) == WH_E_INVAL);
    CHECK(wh_switch_port_dgram(sw, 2, VNI, fd, huge, sizeof(huge), &err) == WH_E_INVAL && !strcmp(err.field, "remote"));
    CHECK(wh_switch_port_dgram(sw, 1, VNI, fd, NULL, 0, &err) == WH_E_EXISTS);
    CHECK(wh_switch_port_dgram(sw, 2, VNI + 1, fd, NULL, 0, &err) == WH_E_NOTFOUND);
    wh_switch_free(sw);
    nic_close(&a);
    close(fd), close(stream);
}

int main(void)
{
    udp_with_a_remote();
    unix_answers_whoever_spoke();
    bad_calls();
    return finish("switch_dgram");
}
