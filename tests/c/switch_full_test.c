/* Every queue full at once: a guest's rings both ways, a TAP's, the way to another node, the events nobody reads. All
 * of them stay within their bounds, control calls are served, each frame is delivered or named by one counter, and when
 * the queues are emptied everything goes on. */
#include "switch_rig.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>

enum { FRAMES = 7000, LENGTH = 1400, STATIONS = 3000, SENDER = 1, NEAR = 2, FAR = 3, WALL = 4 };

static const uint8_t wall_mac[6] = {2, 0, 0, 0, 9, 9};
static _Atomic int full_port; /* the socket bound there takes nothing */

/* In place of the C library's. */
int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    struct sockaddr_in at;
    socklen_t len = sizeof(at);
    if (full_port && getsockname(fd, (struct sockaddr *)&at, &len) == 0 && at.sin_port == full_port) {
        errno = EAGAIN;
        return -1;
    }
    return (int)syscall(SYS_sendmmsg, fd, messages, count, flags);
}

struct scene {
    struct node here, there;
    struct nic sender, near, far;
    int wall; /* the far end of the TAP's socket pair */
    uint32_t sent;
};

static void make_frame(uint8_t frame[LENGTH], const uint8_t *dst, const uint8_t *src, uint32_t tag)
{
    memset(frame, 0, LENGTH);
    memcpy(frame, dst, 6);
    memcpy(frame + 6, src, 6);
    frame[12] = 0x88, frame[13] = 0xb5; /* an experiment's, IEEE 802 */
    memcpy(frame + 14, &tag, 4);
}

static uint32_t tag_of(const uint8_t *frame)
{
    uint32_t tag;
    memcpy(&tag, frame + 14, 4);
    return tag;
}

/* As a virtio device does: where the ring is full it waits for the switch. */
static void send_frame(struct scene *t, const uint8_t *dst, uint32_t tag)
{
    uint8_t frame[LENGTH];
    uint64_t count = 1;
    bool kick = false;
    make_frame(frame, dst, t->sender.mac, tag);
    while (wh_ring_put(t->sender.tx, frame, LENGTH, &kick) == WH_E_FULL)
        if (wh_ring_await_room(t->sender.tx, LENGTH)) {
            struct pollfd fd = {t->sender.to_guest, POLLIN, 0};
            CHECK(poll(&fd, 1, DEADLINE_MS) == 1 && read(t->sender.to_guest, &count, 8) == 8);
        }
    count = 1;
    if (kick)
        CHECK(write(t->sender.to_switch, &count, 8) == 8);
    t->sent++;
}

static void station_mac(uint32_t i, uint8_t mac[6])
{
    uint8_t m[6] = {2, 0, 0, 1, (uint8_t)(i >> 8), (uint8_t)i};
    memcpy(mac, m, 6);
}

/* Stations behind the wall, the wall's own first, speak to the near NIC. */
static void stations_speak(struct scene *t)
{
    uint8_t frame[LENGTH], mac[6];
    make_frame(frame, t->near.mac, wall_mac, 0);
    CHECK(write(t->wall, frame, 64) == 64);
    for (uint32_t i = 0; i < STATIONS; i++) {
        station_mac(i, mac);
        make_frame(frame, t->near.mac, mac, 0);
        while (write(t->wall, frame, 64) != 64)
            poll(NULL, 0, 1);
    }
}

static void scene_open(struct scene *t)
{
    int ends[2], bytes = 1 << 16;
    *t = (struct scene){.here.id = 1};
    wh_switch_config config = {.node_id = 1, .fdb_max = 5000, .udp_fd = udp_socket(&t->here.addr)};
    CHECK(open_switch(&config, &t->here.sw, NULL) == WH_OK);
    CHECK(wh_switch_network_add(t->here.sw, VNI, LENGTH, NULL) == WH_OK);
    node_open(&t->there, 2);
    join(&t->here, &t->there, 0);
    nic_open(&t->sender, SENDER), nic_open(&t->near, NEAR), nic_open(&t->far, FAR);
    CHECK(nic_plug(&t->sender, t->here.sw, SENDER, t->sender.mac, 1) == WH_OK);
    CHECK(nic_plug(&t->near, t->here.sw, NEAR, t->near.mac, 1) == WH_OK);
    CHECK(nic_plug(&t->far, t->there.sw, FAR, t->far.mac, 1) == WH_OK);
    CHECK(wh_switch_mac_set(t->here.sw, VNI, t->far.mac, 2, NULL) == WH_OK);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends) == 0);
    CHECK(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)) == 0);
    CHECK(wh_switch_port_tap(t->here.sw, WALL, VNI, ends[0], NULL) == WH_OK);
    close(ends[0]);
    t->wall = ends[1];
    send_frame(t, t->far.mac, 0); /* both ways are known to work */
    CHECK(nic_take(&t->far, NULL, NULL) != UINT32_MAX);
}

static void scene_close(struct scene *t)
{
    wh_switch_free(t->here.sw), wh_switch_free(t->there.sw);
    nic_close(&t->sender), nic_close(&t->near), nic_close(&t->far);
    close(t->wall);
}

static size_t egress_bytes(struct scene *t)
{
    wh_switch_lock(t->here.sw);
    size_t bytes = t->here.sw->egress.bytes;
    wh_switch_unlock(t->here.sw);
    return bytes;
}

static void fill_all(struct scene *t)
{
    wh_switch *sw = t->here.sw;
    stations_speak(t);
    WAIT_FOR(port_counters(sw, WALL).rx_frames == STATIONS + 1);
    full_port = t->here.addr.sin_port;
    for (uint32_t i = 1; i <= FRAMES; i++) {
        send_frame(t, t->near.mac, i);
        send_frame(t, wall_mac, i);
        send_frame(t, t->far.mac, i);
    }
    WAIT_FOR(port_counters(sw, SENDER).rx_frames == t->sent);
    wh_counters sender = port_counters(sw, SENDER), near = port_counters(sw, NEAR), wall = port_counters(sw, WALL),
                far = peer_counters(sw, 2);
    CHECK(near.drop_full > 0 && near.tx_frames + near.drop_full == FRAMES + STATIONS + 1);
    CHECK(wall.drop_full > 0 && wall.tx_frames + wall.drop_full == FRAMES);
    CHECK(far.drop_queue > 0 && far.tx_frames < FRAMES);
    CHECK(egress_bytes(t) > 0 && egress_bytes(t) <= WH_EGRESS_WAY_BYTES);
    CHECK(sender.drop_full == 0 && sender.drop_invalid == 0);
    CHECK(wh_switch_network_add(sw, VNI + 1, 1400, NULL) == WH_OK && wh_switch_network_del(sw, VNI + 1) == WH_OK);
}

/* Tags rise; the number of frames. */
static uint32_t take_rising(struct nic *n, uint64_t frames)
{
    uint8_t frame[2000];
    uint32_t len, last = 0, count = 0;
    for (; count < frames; count++) {
        if (nic_take(n, frame, &len) == UINT32_MAX)
            break;
        uint32_t tag = tag_of(frame);
        CHECK(tag == 0 || tag > last);
        last = tag ? tag : last;
    }
    return count;
}

static void empty_all(struct scene *t)
{
    wh_switch *sw = t->here.sw;
    uint8_t frame[2000];
    uint64_t near = port_counters(sw, NEAR).tx_frames, wall = port_counters(sw, WALL).tx_frames, got = 0;
    CHECK(take_rising(&t->near, near) == near);
    while (recv(t->wall, frame, sizeof(frame), 0) == LENGTH)
        got++;
    CHECK(got == wall);
    full_port = 0;
    wh_switch_wake(sw);
    WAIT_FOR(egress_bytes(t) == 0);
    wh_counters far = peer_counters(sw, 2);
    CHECK(far.tx_frames + far.drop_queue + far.drop_aqm == FRAMES + 1);
    WAIT_FOR(peer_counters(t->there.sw, 1).rx_frames == far.tx_frames);
    wh_counters end = port_counters(t->there.sw, FAR);
    CHECK(end.tx_frames + end.drop_full == far.tx_frames);
    CHECK(take_rising(&t->far, end.tx_frames - 1) == end.tx_frames - 1);
}

/* What the events had no room for is told when the stations are seen again. */
static void read_events(struct scene *t)
{
    static bool told[STATIONS];
    wh_switch_event event;
    uint32_t count = 0;
    for (unsigned round = 0; round < 10 && count < STATIONS; round++) {
        uint64_t seen = port_counters(t->here.sw, WALL).rx_frames;
        while (wh_switch_next_event(t->here.sw, &event) == WH_OK) {
            uint32_t i = (uint32_t)event.mac[4] << 8 | event.mac[5];
            if (event.kind != WH_SW_MAC_LEARNED || event.mac[3] != 1 || i >= STATIONS || told[i])
                continue;
            told[i] = true;
            count++;
        }
        if (round == 0)
            CHECK(count < STATIONS); /* there was no room for all of them */
        stations_speak(t);
        WAIT_FOR(port_counters(t->here.sw, WALL).rx_frames == seen + STATIONS + 1);
    }
    CHECK(count == STATIONS);
}

static void goes_on(struct scene *t)
{
    uint8_t frame[2000];
    uint32_t len;
    while (wh_ring_peek(t->near.rx, &(const uint8_t *){NULL}, &len) == WH_OK)
        wh_ring_consume(t->near.rx);
    send_frame(t, t->near.mac, 1), send_frame(t, wall_mac, 2), send_frame(t, t->far.mac, 3);
    struct pollfd fd = {t->wall, POLLIN, 0};
    CHECK(nic_take(&t->near, frame, &len) != UINT32_MAX && tag_of(frame) == 1);
    CHECK(poll(&fd, 1, DEADLINE_MS) == 1 && recv(t->wall, frame, sizeof(frame), 0) == LENGTH && tag_of(frame) == 2);
    CHECK(nic_take(&t->far, frame, &len) != UINT32_MAX && tag_of(frame) == 3);
}

int main(void)
{
    struct scene t;
    scene_open(&t);
    fill_all(&t);
    empty_all(&t);
    read_events(&t);
    goes_on(&t);
    scene_close(&t);
    return finish("switch_full");
}
