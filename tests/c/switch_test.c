/* Whole switches in this process: guests are ring files driven from here, nodes meet over loopback UDP.
 *
 * Nothing waits for a time: a test waits for a doorbell, an event or a counter, with a deadline far away. That a frame
 * did NOT arrive is shown by a later frame on the same path, which comes first. */
#include "base/ring_layout.h"
#include "switch/peer.h"
#include "switch_check.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define DEADLINE_MS 5000
#define VNI         7u
#define WAIT_FOR(cond)                                                                                                 \
    do {                                                                                                               \
        for (int ms_ = 0; !(cond) && ms_ < DEADLINE_MS; ms_++)                                                         \
            poll(NULL, 0, 1);                                                                                          \
        CHECK(cond);                                                                                                   \
    } while (0)

struct nic {
    int file, to_switch, to_guest;
    wh_ring *tx, *rx;
    uint8_t mac[6];
};

struct node {
    uint32_t id;
    wh_switch *sw;
    struct sockaddr_in addr;
};

/* ---- a guest's NIC ---- */

static void nic_open(struct nic *n, uint8_t last)
{
    uint8_t mac[6] = {2, 0, 0, 0, 0, last};
    memcpy(n->mac, mac, 6);
    n->file = wh_ring_file_new(NULL);
    n->to_switch = eventfd(0, EFD_NONBLOCK);
    n->to_guest = eventfd(0, EFD_NONBLOCK);
    CHECK(n->file >= 0 && wh_ring_map(n->file, 0, true, &n->tx, NULL) == WH_OK);
    CHECK(wh_ring_map(n->file, 1, false, &n->rx, NULL) == WH_OK);
}

static void nic_close(struct nic *n)
{
    wh_ring_unmap(n->tx);
    wh_ring_unmap(n->rx);
    close(n->file);
    close(n->to_switch);
    close(n->to_guest);
}

static int nic_plug(struct nic *n, wh_switch *sw, uint32_t port, const uint8_t *mac, uint64_t generation)
{
    return wh_switch_port_ring(sw, port, VNI, n->file, n->to_switch, n->to_guest, mac, generation, NULL);
}

/* A frame of 64 bytes whose payload starts with tag. */
static void nic_send_as(struct nic *n, const uint8_t *src, const uint8_t *dst, uint32_t tag)
{
    uint8_t frame[64] = {0};
    bool kick = false;
    uint64_t one = 1;
    memcpy(frame, dst, 6);
    memcpy(frame + 6, src, 6);
    frame[12] = 8;
    memcpy(frame + 14, &tag, 4);
    CHECK(wh_ring_put(n->tx, frame, sizeof(frame), &kick) == WH_OK);
    if (kick)
        CHECK(write(n->to_switch, &one, 8) == 8);
}

static void nic_send(struct nic *n, const uint8_t *dst, uint32_t tag)
{
    nic_send_as(n, n->mac, dst, tag);
}

/* The next frame's tag (copying the frame when out is given), or UINT32_MAX after the deadline. */
static uint32_t nic_take(struct nic *n, uint8_t *out, uint32_t *out_len)
{
    const uint8_t *frame;
    uint32_t len, tag;
    for (;;) {
        int status = wh_ring_peek(n->rx, &frame, &len);
        if (status == WH_OK) {
            memcpy(&tag, frame + 14, 4);
            if (out) {
                memcpy(out, frame, len);
                *out_len = len;
            }
            wh_ring_consume(n->rx);
            return tag;
        }
        if (status != WH_E_AGAIN)
            return UINT32_MAX;
        if (wh_ring_sleep(n->rx)) {
            struct pollfd fd = {n->to_guest, POLLIN, 0};
            uint64_t count;
            if (poll(&fd, 1, DEADLINE_MS) != 1 || read(n->to_guest, &count, 8) != 8)
                return UINT32_MAX;
        }
        wh_ring_wake(n->rx);
    }
}

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static const uint8_t any[6];

/* ---- nodes ---- */

static int udp_socket(struct sockaddr_in *addr)
{
    socklen_t len = sizeof(*addr);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    *addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK(bind(fd, (struct sockaddr *)addr, sizeof(*addr)) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)addr, &len) == 0);
    return fd;
}

static void node_open(struct node *n, uint32_t id)
{
    n->id = id;
    wh_switch_config config = {.node_id = id, .fdb_age_s = 300, .fdb_max = 100, .udp_fd = udp_socket(&n->addr)};
    CHECK(wh_switch_new(&config, &n->sw, NULL) == WH_OK);
    CHECK(wh_switch_network_add(n->sw, VNI, 1400, NULL) == WH_OK);
}

static void direction_key(uint32_t from, uint32_t to, uint32_t epoch, uint8_t key[32])
{
    memset(key, 0x5a, 32);
    key[0] = (uint8_t)from;
    key[1] = (uint8_t)to;
    key[2] = (uint8_t)epoch;
}

static void accept_epoch(struct node *at, struct node *from, uint32_t epoch, int cipher)
{
    uint8_t key[32];
    direction_key(from->id, at->id, epoch, key);
    CHECK(wh_switch_peer_rx_key(at->sw, from->id, epoch, cipher, key, NULL) == WH_OK);
}

static void use_epoch(struct node *at, struct node *to, uint32_t epoch, int cipher)
{
    uint8_t key[32];
    direction_key(at->id, to->id, epoch, key);
    CHECK(wh_switch_peer_tx_key(at->sw, to->id, epoch, cipher, key, NULL) == WH_OK);
}

static void join(struct node *a, struct node *b, int cipher)
{
    CHECK(wh_switch_peer_set(a->sw, b->id, b->id, &b->addr, sizeof(b->addr), NULL) == WH_OK);
    CHECK(wh_switch_peer_set(b->sw, a->id, a->id, &a->addr, sizeof(a->addr), NULL) == WH_OK);
    accept_epoch(a, b, 1, cipher);
    accept_epoch(b, a, 1, cipher);
    use_epoch(a, b, 1, cipher);
    use_epoch(b, a, 1, cipher);
}

static wh_counters port_counters(wh_switch *sw, uint32_t port)
{
    wh_counters c = {0};
    CHECK(wh_switch_port_counters(sw, port, &c) == WH_OK);
    return c;
}

static wh_counters peer_counters(wh_switch *sw, uint32_t node)
{
    wh_counters c = {0};
    CHECK(wh_switch_peer_counters(sw, node, &c) == WH_OK);
    return c;
}

static wh_counters all_counters(wh_switch *sw)
{
    wh_counters c;
    wh_switch_counters(sw, &c);
    return c;
}

/* Throw events away until one of this kind comes. */
static wh_switch_event event_of(wh_switch *sw, uint32_t kind)
{
    wh_switch_event event;
    for (;;) {
        while (wh_switch_next_event(sw, &event) == WH_OK)
            if (event.kind == kind)
                return event;
        struct pollfd fd = {wh_switch_event_fd(sw), POLLIN, 0};
        if (poll(&fd, 1, DEADLINE_MS) != 1)
            return (wh_switch_event){0};
    }
}

/* ---- one node ---- */

static void local_switching(void)
{
    struct nic a, b, c;
    wh_switch *sw;
    wh_switch_config config = {.node_id = 1, .udp_fd = -1};
    CHECK(wh_switch_new(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
    nic_open(&a, 1), nic_open(&b, 2), nic_open(&c, 3);
    CHECK(nic_plug(&a, sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, sw, 2, b.mac, 1) == WH_OK);
    CHECK(nic_plug(&c, sw, 3, any, 1) == WH_OK);

    nic_send(&a, everybody, 10);
    CHECK(nic_take(&b, NULL, NULL) == 10 && nic_take(&c, NULL, NULL) == 10);
    nic_send(&c, b.mac, 11); /* locked MACs are known at once, c's own is learned */
    CHECK(nic_take(&b, NULL, NULL) == 11);
    wh_switch_event event = event_of(sw, WH_SW_MAC_LEARNED);
    CHECK(event.port == 3 && event.vni == VNI && !memcmp(event.mac, c.mac, 6));
    nic_send(&b, c.mac, 12);
    CHECK(nic_take(&c, NULL, NULL) == 12);
    nic_send(&a, a.mac, 13); /* to itself: nobody's business */
    nic_send_as(&a, b.mac, everybody, 14);
    WAIT_FOR(port_counters(sw, 1).drop_spoofed == 1);
    nic_send_as(&c, b.mac, everybody, 15); /* an open port may not take a locked MAC either */
    WAIT_FOR(port_counters(sw, 3).drop_spoofed == 1);
    nic_send_as(&c, everybody, everybody, 16);
    WAIT_FOR(port_counters(sw, 3).drop_invalid == 1);
    nic_send(&b, everybody, 17); /* neither 11, 13, 14, 15 nor 16 reached a */
    CHECK(nic_take(&a, NULL, NULL) == 17 && nic_take(&c, NULL, NULL) == 17);

    CHECK(wh_switch_port_del(sw, 3) == WH_OK);
    event = event_of(sw, WH_SW_MAC_AGED);
    CHECK(event.port == 3 && !memcmp(event.mac, c.mac, 6));
    wh_switch_free(sw);
    nic_close(&a), nic_close(&b), nic_close(&c);
}

static void off_and_announced(void)
{
    struct nic a, b;
    uint8_t frame[WH_FRAME_MAX];
    uint32_t len = 0;
    wh_switch *sw;
    wh_switch_config config = {.node_id = 1, .udp_fd = -1};
    CHECK(wh_switch_new(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
    nic_open(&a, 1), nic_open(&b, 2);
    CHECK(nic_plug(&a, sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, sw, 2, b.mac, 1) == WH_OK);
    CHECK(wh_switch_port_enable(sw, 2, 0) == WH_OK);
    nic_send(&a, b.mac, 1);
    WAIT_FOR(port_counters(sw, 2).drop_disabled == 1);
    nic_send(&b, a.mac, 2);
    WAIT_FOR(port_counters(sw, 2).drop_disabled == 2);
    CHECK(wh_switch_port_announce(sw, 2) == WH_E_STATE && wh_switch_port_announce(sw, 9) == WH_E_NOTFOUND);
    CHECK(wh_switch_port_enable(sw, 2, 1) == WH_OK && wh_switch_port_announce(sw, 2) == WH_OK);
    nic_take(&a, frame, &len);
    CHECK(len == 60 && !memcmp(frame, everybody, 6) && !memcmp(frame + 6, b.mac, 6) && frame[12] == 0x80 &&
          frame[13] == 0x35);
    CHECK(frame[21] == 3 && !memcmp(frame + 22, b.mac, 6) && !memcmp(frame + 32, b.mac, 6));
    wh_switch_free(sw);
    nic_close(&a), nic_close(&b);
}

/* The guest process of port 1 turned hostile: the port goes down, its neighbours do not notice. */
static void lying_ring(void)
{
    struct nic a, b, c;
    wh_switch *sw;
    uint64_t one = 1;
    wh_switch_config config = {.node_id = 1, .udp_fd = -1};
    CHECK(wh_switch_new(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
    nic_open(&a, 1), nic_open(&b, 2), nic_open(&c, 3);
    CHECK(nic_plug(&a, sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, sw, 2, b.mac, 1) == WH_OK);
    CHECK(nic_plug(&c, sw, 3, c.mac, 1) == WH_OK);
    struct wh_ring_shared *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, a.file, 0);
    atomic_store(&shared->head, 0xdeadbeefull);
    CHECK(write(a.to_switch, &one, 8) == 8);
    wh_switch_event event = event_of(sw, WH_SW_PORT_DOWN);
    CHECK(event.port == 1 && event.vni == VNI);
    for (unsigned i = 0; i < 100; i++) /* its doorbell is no longer heard */
        CHECK(write(a.to_switch, &one, 8) == 8);
    nic_send(&b, everybody, 5);
    CHECK(nic_take(&c, NULL, NULL) == 5);
    CHECK(port_counters(sw, 1).drop_disabled == 1);
    CHECK(wh_switch_port_del(sw, 1) == WH_OK);
    munmap(shared, 4096);
    wh_switch_free(sw);
    nic_close(&a), nic_close(&b), nic_close(&c);
}

/* A guest that does not take its frames loses those that do not fit, and nobody else's. */
static void full_ring(void)
{
    struct nic a, b;
    wh_switch *sw;
    wh_switch_config config = {.node_id = 1, .udp_fd = -1};
    CHECK(wh_switch_new(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
    nic_open(&a, 1), nic_open(&b, 2);
    CHECK(nic_plug(&a, sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, sw, 2, b.mac, 1) == WH_OK);
    uint32_t sent = 0;
    while (port_counters(sw, 2).drop_full == 0 && sent < 20000) {
        nic_send(&a, b.mac, sent++);
        if (sent % 500 == 0)
            WAIT_FOR(port_counters(sw, 1).rx_frames == sent);
    }
    WAIT_FOR(port_counters(sw, 1).rx_frames == sent);
    wh_counters c = port_counters(sw, 2);
    CHECK(c.drop_full > 0 && c.tx_frames + c.drop_full == sent);
    for (uint32_t i = 0; i < c.tx_frames; i++)
        CHECK(nic_take(&b, NULL, NULL) == i);
    wh_switch_free(sw);
    nic_close(&a), nic_close(&b);
}

static void learned_cap_and_age(void)
{
    struct nic a;
    wh_switch *sw;
    wh_fdb_entry rows[64];
    uint32_t count = 0;
    wh_switch_config config = {.node_id = 1, .udp_fd = -1, .fdb_age_s = 1, .fdb_max = 16};
    CHECK(wh_switch_new(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
    nic_open(&a, 1);
    CHECK(nic_plug(&a, sw, 1, any, 0) == WH_OK);
    for (uint8_t i = 0; i < 20; i++) {
        uint8_t mac[6] = {2, 1, 0, 0, 0, i};
        nic_send_as(&a, mac, everybody, i);
    }
    WAIT_FOR(all_counters(sw).rx_frames == 20);
    CHECK(all_counters(sw).fdb_full == 4);
    CHECK(wh_switch_fdb(sw, VNI, rows, 64, &count) == WH_OK && count == 16 && rows[0].port == 1 && rows[0].node == 1);
    CHECK(wh_switch_fdb(sw, VNI, rows, 5, &count) == WH_OK && count == 5);
    for (unsigned i = 0; i < 16; i++)
        CHECK(event_of(sw, WH_SW_MAC_AGED).port == 1);
    CHECK(wh_switch_fdb(sw, VNI, rows, 64, &count) == WH_OK && count == 0);
    wh_switch_free(sw);
    nic_close(&a);
}

static void bad_calls(void)
{
    struct nic a, b;
    wh_switch *sw = NULL;
    wh_error err = {0};
    wh_counters c;
    uint8_t key[32] = {0}, group[6] = {1};
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    CHECK(wh_switch_new(&(wh_switch_config){.node_id = 0, .udp_fd = -1}, &sw, &err) == WH_E_INVAL &&
          !strcmp(err.field, "node_id"));
    CHECK(wh_switch_new(&(wh_switch_config){.node_id = 1, .udp_fd = pipes[0]}, &sw, &err) < 0 &&
          !strcmp(err.field, "udp_fd"));
    CHECK(wh_switch_new(&(wh_switch_config){.node_id = 1, .udp_fd = -1}, &sw, &err) == WH_OK);
    CHECK(wh_switch_network_add(sw, 0, 1400, &err) == WH_E_INVAL &&
          wh_switch_network_add(sw, 1u << 24, 1400, &err) == WH_E_INVAL);
    CHECK(wh_switch_network_add(sw, VNI, 100, &err) == WH_E_INVAL && !strcmp(err.field, "mtu"));
    CHECK(wh_switch_network_add(sw, VNI, 1400, &err) == WH_OK &&
          wh_switch_network_add(sw, VNI, 1400, &err) == WH_E_EXISTS);
    nic_open(&a, 1), nic_open(&b, 1);
    CHECK(wh_switch_port_ring(sw, 1, 99, a.file, a.to_switch, a.to_guest, a.mac, 1, &err) == WH_E_NOTFOUND);
    CHECK(wh_switch_port_ring(sw, 1, VNI, pipes[0], a.to_switch, a.to_guest, a.mac, 1, &err) == WH_E_FORMAT);
    CHECK(wh_switch_port_ring(sw, 1, VNI, a.file, pipes[0], a.to_guest, a.mac, 1, &err) == WH_E_INVAL &&
          !strcmp(err.field, "to_switch_event"));
    CHECK(wh_switch_port_ring(sw, 1, VNI, a.file, a.to_switch, pipes[1], a.mac, 1, &err) == WH_E_INVAL);
    CHECK(wh_switch_port_ring(sw, 1, VNI, a.file, a.to_switch, a.to_guest, group, 1, &err) == WH_E_INVAL);
    CHECK(nic_plug(&a, sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, sw, 1, b.mac, 1) == WH_E_EXISTS);
    CHECK(wh_switch_port_tap(sw, 2, VNI, -1, &err) == WH_E_IO && !strcmp(err.field, "tap_fd"));
    CHECK(wh_switch_network_del(sw, VNI) == WH_E_STATE && wh_switch_network_del(sw, 99) == WH_E_NOTFOUND);
    CHECK(wh_switch_peer_set(sw, 1, 1, NULL, 0, &err) == WH_E_INVAL &&
          wh_switch_peer_set(sw, 2, 1, NULL, 0, &err) == WH_E_INVAL);
    CHECK(wh_switch_peer_set(sw, 2, 2, key, 16, &err) == WH_E_INVAL && !strcmp(err.field, "addr")); /* no socket */
    CHECK(wh_switch_peer_tx_key(sw, 2, 1, 0, key, &err) == WH_E_NOTFOUND && wh_switch_peer_del(sw, 2) == WH_E_NOTFOUND);
    CHECK(wh_switch_peer_set(sw, 2, 2, NULL, 0, &err) == WH_OK &&
          wh_switch_peer_rx_key(sw, 2, 1, 7, key, &err) == WH_E_INVAL);
    CHECK(wh_switch_mac_set(sw, VNI, group, 2, &err) == WH_E_INVAL &&
          wh_switch_mac_set(sw, 99, a.mac, 2, &err) == WH_E_NOTFOUND);
    CHECK(wh_switch_mac_del(sw, VNI, b.mac) == WH_OK); /* back to its port, where it is */
    CHECK(wh_switch_mac_del(sw, VNI, any) == WH_E_NOTFOUND);
    CHECK(wh_switch_port_counters(sw, 5, &c) == WH_E_NOTFOUND && wh_switch_peer_counters(sw, 5, &c) == WH_E_NOTFOUND);
    CHECK(wh_switch_port_del(sw, 1) == WH_OK && wh_switch_port_del(sw, 1) == WH_E_NOTFOUND &&
          wh_switch_network_del(sw, VNI) == WH_OK);
    wh_switch_free(sw);
    wh_switch_free(NULL);
    nic_close(&a), nic_close(&b);
    close(pipes[0]), close(pipes[1]);
}

/* ---- several nodes ---- */

static void over_the_tunnel(int cipher)
{
    struct node n1, n2;
    struct nic a, b;
    node_open(&n1, 1), node_open(&n2, 2);
    join(&n1, &n2, cipher);
    nic_open(&a, 1), nic_open(&b, 2);
    CHECK(nic_plug(&a, n1.sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, n2.sw, 1, b.mac, 1) == WH_OK);
    uint32_t two = 2;
    CHECK(wh_switch_network_peers(n1.sw, VNI, &two, 1, NULL) == WH_OK);
    nic_send(&a, everybody, 1); /* flooded: n2 learns a */
    CHECK(nic_take(&b, NULL, NULL) == 1);
    nic_send(&b, a.mac, 2); /* n2 has no one to flood to: only what it learned can carry this */
    CHECK(nic_take(&a, NULL, NULL) == 2);
    CHECK(peer_counters(n1.sw, 2).tx_frames == 1 && peer_counters(n1.sw, 2).rx_frames == 1);
    CHECK(event_of(n1.sw, WH_SW_PEER_UP).node == 2 && event_of(n2.sw, WH_SW_PEER_UP).node == 1);
    wh_switch_free(n1.sw), wh_switch_free(n2.sw);
    nic_close(&a), nic_close(&b);
}

/* Keys change under traffic in both directions: every frame arrives, in order. */
static void rotation_loses_nothing(void)
{
    struct node n1, n2;
    struct nic a, b;
    uint32_t sent = 0;
    node_open(&n1, 1), node_open(&n2, 2);
    join(&n1, &n2, 0);
    nic_open(&a, 1), nic_open(&b, 2);
    CHECK(nic_plug(&a, n1.sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, n2.sw, 1, b.mac, 1) == WH_OK);
    CHECK(wh_switch_mac_set(n1.sw, VNI, b.mac, 2, NULL) == WH_OK &&
          wh_switch_mac_set(n2.sw, VNI, a.mac, 1, NULL) == WH_OK);
    for (uint32_t epoch = 2; epoch < 40; epoch++) {
        for (unsigned i = 0; i < 50; i++)
            nic_send(&a, b.mac, sent++);
        accept_epoch(&n2, &n1, epoch, epoch % 2); /* while the 50 are on their way */
        use_epoch(&n1, &n2, epoch, epoch % 2);
        for (uint32_t i = sent - 50; i < sent; i++)
            CHECK(nic_take(&b, NULL, NULL) == i);
    }
    wh_counters c = peer_counters(n2.sw, 1);
    CHECK(c.rx_frames == sent && c.drop_no_key == 0 && c.drop_replay == 0 && c.drop_auth == 0);
    use_epoch(&n1, &n2, 39, 1); /* the same key again must not start its counter anew */
    nic_send(&a, b.mac, sent);
    CHECK(nic_take(&b, NULL, NULL) == sent && peer_counters(n2.sw, 1).drop_replay == 0);
    wh_switch_free(n1.sw), wh_switch_free(n2.sw);
    nic_close(&a), nic_close(&b);
}

static void worn_key(void)
{
    struct node n1, n2;
    struct nic a;
    node_open(&n1, 1), node_open(&n2, 2);
    join(&n1, &n2, 0);
    nic_open(&a, 1);
    CHECK(nic_plug(&a, n1.sw, 1, a.mac, 1) == WH_OK && wh_switch_mac_set(n1.sw, VNI, everybody, 2, NULL) == WH_E_INVAL);
    uint8_t b[6] = {2, 9, 9, 9, 9, 9};
    CHECK(wh_switch_mac_set(n1.sw, VNI, b, 2, NULL) == WH_OK);
    CHECK(event_of(n1.sw, WH_SW_PEER_UP).node == 2);
    wh_switch_lock(n1.sw);
    struct wh_peer *p = wh_idmap_get(&n1.sw->peers, 2);
    p->tx.counter = WH_REKEY_DATAGRAMS - 1;
    wh_switch_unlock(n1.sw);
    nic_send(&a, b, 1);
    CHECK(event_of(n1.sw, WH_SW_REKEY).node == 2);
    wh_switch_lock(n1.sw);
    p->tx.counter = WH_KEY_DATAGRAMS;
    wh_switch_unlock(n1.sw);
    nic_send(&a, b, 2);
    WAIT_FOR(peer_counters(n1.sw, 2).drop_no_key >= 1);
    use_epoch(&n1, &n2, 2, 0);
    accept_epoch(&n2, &n1, 2, 0);
    nic_send(&a, b, 3);
    WAIT_FOR(peer_counters(n2.sw, 1).rx_frames == 2);
    wh_switch_free(n1.sw), wh_switch_free(n2.sw);
    nic_close(&a);
}

/* Two copies of one guest on one node: the higher generation owns the MAC, the other is mute. */
static void generations(void)
{
    struct nic old, new, other;
    wh_switch *sw;
    wh_switch_config config = {.node_id = 1, .udp_fd = -1};
    CHECK(wh_switch_new(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
    nic_open(&old, 1), nic_open(&new, 1), nic_open(&other, 2);
    CHECK(nic_plug(&new, sw, 1, new.mac, 5) == WH_OK && nic_plug(&old, sw, 2, old.mac, 4) == WH_OK);
    CHECK(nic_plug(&other, sw, 3, other.mac, 1) == WH_OK);
    nic_send(&old, other.mac, 1);
    WAIT_FOR(port_counters(sw, 2).drop_fenced == 1);
    nic_send(&new, other.mac, 2);
    CHECK(nic_take(&other, NULL, NULL) == 2);
    nic_send(&other, new.mac, 3);
    CHECK(nic_take(&new, NULL, NULL) == 3);
    /* The control plane moves the MAC to another node and back. */
    CHECK(wh_switch_mac_set(sw, VNI, new.mac, 9, NULL) == WH_OK);
    nic_send(&new, other.mac, 4);
    WAIT_FOR(port_counters(sw, 1).drop_fenced == 1);
    nic_send(&other, new.mac, 5);
    WAIT_FOR(port_counters(sw, 3).drop_no_peer == 1);
    CHECK(wh_switch_mac_set(sw, VNI, new.mac, 1, NULL) == WH_OK);
    nic_send(&new, other.mac, 6);
    CHECK(nic_take(&other, NULL, NULL) == 6);
    /* The newer copy goes away: the older may speak again. */
    CHECK(wh_switch_port_del(sw, 1) == WH_OK);
    nic_send(&other, old.mac, 7);
    CHECK(nic_take(&old, NULL, NULL) == 7);
    nic_send(&old, other.mac, 8);
    CHECK(nic_take(&other, NULL, NULL) == 8);
    CHECK(port_counters(sw, 3).flooded == 0); /* 7 was no lucky flood */
    wh_switch_free(sw);
    nic_close(&old), nic_close(&new), nic_close(&other);
}

/* A target's port before and after COMMIT: until enabled, the guest's MAC stays where the control plane has it. */
static void incoming_guest(void)
{
    struct nic in, b;
    struct node n;
    node_open(&n, 1);
    nic_open(&in, 1), nic_open(&b, 2);
    CHECK(nic_plug(&b, n.sw, 2, b.mac, 1) == WH_OK && wh_switch_mac_set(n.sw, VNI, in.mac, 9, NULL) == WH_OK);
    CHECK(nic_plug(&in, n.sw, 1, in.mac, 2) == WH_OK && wh_switch_port_enable(n.sw, 1, 0) == WH_OK);
    nic_send(&b, in.mac, 1);
    WAIT_FOR(port_counters(n.sw, 2).drop_no_peer == 1); /* sent towards node 9 */
    CHECK(wh_switch_port_enable(n.sw, 1, 1) == WH_OK && wh_switch_port_announce(n.sw, 1) == WH_OK);
    nic_send(&b, in.mac, 2);
    CHECK(nic_take(&in, NULL, NULL) == 2);
    wh_switch_free(n.sw);
    nic_close(&in), nic_close(&b);
}

/* Between probes the thread sleeps: a timer that is set wrongly would keep a core busy. */
static void idle_costs_nothing(void)
{
    struct node n1, n2;
    clockid_t clock;
    struct timespec before, after;
    uint32_t first, now = 0;
    node_open(&n1, 1), node_open(&n2, 2);
    join(&n1, &n2, 0);
    CHECK(event_of(n1.sw, WH_SW_PEER_UP).node == 2);
    struct wh_peer *p = wh_idmap_get(&n1.sw->peers, 2);
    wh_switch_lock(n1.sw);
    n1.sw->fdb_age_ns = 800000000ull; /* ages each 100 ms from now on */
    n1.sw->next_age_ns = n1.sw->timer_ns = 0;
    first = p->probe_id;
    wh_switch_unlock(n1.sw);
    wh_switch_wake(n1.sw);
    CHECK(pthread_getcpuclockid(n1.sw->thread, &clock) == 0 && clock_gettime(clock, &before) == 0);
    while (now - first < 2 && !failures) {
        poll(NULL, 0, 5);
        wh_switch_lock(n1.sw);
        now = p->probe_id;
        wh_switch_unlock(n1.sw);
    }
    CHECK(clock_gettime(clock, &after) == 0);
    double used = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) / 1e9;
    CHECK(used < 0.1); /* of about a second, with sanitizers */
    wh_switch_free(n1.sw), wh_switch_free(n2.sw);
}

struct chatter {
    struct nic *nic;
    const uint8_t *to;
    _Atomic bool stop;
    uint32_t sent;
};

static void *chat(void *arg)
{
    struct chatter *c = arg;
    uint8_t frame[64] = {0};
    memcpy(frame, c->to, 6);
    memcpy(frame + 6, c->nic->mac, 6);
    while (!atomic_load(&c->stop)) {
        bool kick = false;
        uint64_t one = 1;
        if (wh_ring_put(c->nic->tx, frame, sizeof(frame), &kick) == WH_OK)
            c->sent++;
        if (kick && write(c->nic->to_switch, &one, 8) != 8)
            break;
    }
    return NULL;
}

/* Ports, networks, peers, keys and MACs change while a guest sends as fast as it can. What is measured is that nothing
 * breaks (sanitizers) and that every control call still gets its turn. */
static void control_under_load(void)
{
    struct node n1, n2;
    struct nic a, b, c;
    pthread_t thread;
    node_open(&n1, 1), node_open(&n2, 2);
    join(&n1, &n2, 0);
    nic_open(&a, 1), nic_open(&b, 2), nic_open(&c, 3);
    struct chatter chatter = {.nic = &a, .to = b.mac};
    CHECK(nic_plug(&a, n1.sw, 1, a.mac, 1) == WH_OK);
    CHECK(pthread_create(&thread, NULL, chat, &chatter) == 0);
    uint64_t worst = 0;
    for (uint32_t i = 1; i <= 150; i++) {
        uint32_t two = 2;
        uint64_t start = wh_now_ns();
        CHECK(nic_plug(&b, n1.sw, 2, b.mac, i) == WH_OK && nic_plug(&c, n1.sw, 3, any, 0) == WH_OK);
        CHECK(wh_switch_network_add(n1.sw, 100 + i, 1400, NULL) == WH_OK);
        CHECK(wh_switch_network_peers(n1.sw, VNI, &two, i % 2, NULL) == WH_OK);
        accept_epoch(&n2, &n1, 1 + i, 0);
        use_epoch(&n1, &n2, 1 + i, 0);
        CHECK(wh_switch_port_enable(n1.sw, 2, 0) == WH_OK && wh_switch_port_del(n1.sw, 2) == WH_OK);
        CHECK(wh_switch_mac_set(n1.sw, VNI, b.mac, 2, NULL) == WH_OK && wh_switch_mac_del(n1.sw, VNI, b.mac) == WH_OK);
        CHECK(wh_switch_port_del(n1.sw, 3) == WH_OK && wh_switch_network_del(n1.sw, 100 + i) == WH_OK);
        if (i % 50 == 0) {
            CHECK(wh_switch_peer_del(n1.sw, 2) == WH_OK);
            CHECK(wh_switch_peer_set(n1.sw, 2, 2, &n2.addr, sizeof(n2.addr), NULL) == WH_OK);
        }
        if (wh_now_ns() - start > worst)
            worst = wh_now_ns() - start;
    }
    atomic_store(&chatter.stop, true);
    pthread_join(thread, NULL);
    CHECK(worst < 2000000000ull); /* twelve calls; starved ones would wait for the sender to stop */
    WAIT_FOR(port_counters(n1.sw, 1).rx_frames == chatter.sent);
    wh_switch_free(n1.sw), wh_switch_free(n2.sw);
    nic_close(&a), nic_close(&b), nic_close(&c);
}

/* The other direction lies: the guest claims to have consumed what was never there. */
static void lying_consumer(void)
{
    struct nic a, b;
    wh_switch *sw;
    wh_switch_config config = {.node_id = 1, .udp_fd = -1};
    CHECK(wh_switch_new(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
    nic_open(&a, 1), nic_open(&b, 2);
    CHECK(nic_plug(&a, sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, sw, 2, b.mac, 1) == WH_OK);
    struct wh_ring_shared *shared =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, a.file, WH_PAGE_SIZE + WH_RING_CAPACITY);
    atomic_store(&shared->tail, 8 * 12345ull);
    nic_send(&b, a.mac, 1);
    CHECK(event_of(sw, WH_SW_PORT_DOWN).port == 1);
    munmap(shared, 4096);
    wh_switch_free(sw);
    nic_close(&a), nic_close(&b);
}

/* ---- hostile datagrams, under the sanitizers ---- */

static void send_raw(int fd, const struct node *to, const uint8_t *data, size_t len)
{
    CHECK(sendto(fd, data, len, 0, (const struct sockaddr *)&to->addr, sizeof(to->addr)) == (ssize_t)len);
}

static uint64_t dropped(wh_switch *sw)
{
    wh_counters c = all_counters(sw);
    return c.drop_invalid + c.drop_no_peer + c.drop_no_key + c.drop_auth + c.drop_replay + c.drop_ttl + c.drop_fenced;
}

/* Random datagrams from nobody, then random and mutated payloads that a peer with a good key has sealed. */
static void random_datagrams(unsigned rounds, uint64_t seed)
{
    static const uint8_t seeds[][64] = {
        {0x93, 0, 7, 0xc4, 20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 8},
        {0x92, 1, 0x91, 0x92, 7, 0xc4, 20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9},
        {0x93, 2, 5, 6},
        {0x93, 3, 1, 0xcf, 1}};
    struct node n;
    struct nic a;
    struct sockaddr_in from;
    uint8_t key[32], data[256], plain[200];
    int fd = udp_socket(&from);
    uint64_t state = seed, counter = 0;
    node_open(&n, 1);
    nic_open(&a, 1);
    struct node peer = {.id = 2, .addr = from};
    CHECK(nic_plug(&a, n.sw, 1, a.mac, 1) == WH_OK);
    CHECK(wh_switch_peer_set(n.sw, 2, 2, &from, sizeof(from), NULL) == WH_OK);
    accept_epoch(&n, &peer, 1, 0);
    use_epoch(&n, &peer, 1, 0);
    direction_key(2, 1, 1, key);
    for (unsigned i = 0; i < rounds; i++) {
        size_t len = next_random(&state) % sizeof(data);
        for (size_t k = 0; k < len; k++)
            data[k] = (uint8_t)next_random(&state);
        if (len > 12 && i % 2) /* past the first checks */
            memcpy(data, (uint8_t[]){1, 1 + i % 4 / 2, (uint8_t)i, 0, 0, 0, 0, 1, 0, 0, 0, 2}, 12);
        if (len > 16 && i % 4 == 1)
            memcpy(data + 12, (uint8_t[]){0, 0, 0, 1}, 4);
        if (len > WH_TUNNEL_OVERHEAD && i % 8 == 1) /* a counter that was used, unless it is the first round's */
            memcpy(data + 16, (uint8_t[]){0, 0, 0, 0, 0, 0, 0, 1}, 8);
        send_raw(fd, &n, data, len);
        struct wh_header h = {
            .version = 1, .type = 1, .hops = 1, .epoch = 1, .sender = 2, .dest = 1, .counter = ++counter};
        uint8_t header[WH_TUNNEL_HEADER], sealed[300];
        size_t n_plain = next_random(&state) % 64 + 1, n_sealed = sizeof(sealed);
        memcpy(plain, seeds[next_random(&state) % WH_ARRAY_LEN(seeds)], 64);
        for (unsigned k = 0; k < i % 4; k++)
            plain[next_random(&state) % n_plain] = (uint8_t)next_random(&state);
        wh_header_encode(&h, header);
        CHECK(wh_tunnel_seal(0, key, header, sizeof(header), plain, n_plain, sealed, &n_sealed) == WH_OK);
        send_raw(fd, &n, sealed, n_sealed);
        if (i % 256 == 255) { /* no faster than it reads: a datagram that the kernel drops tests nothing */
            struct wh_header last = h;
            last.counter = ++counter;
            uint64_t before = peer_counters(n.sw, 2).drop_auth;
            wh_header_encode(&last, header);
            n_sealed = sizeof(sealed);
            CHECK(wh_tunnel_seal(0, key, header, sizeof(header), plain, n_plain, sealed, &n_sealed) == WH_OK);
            sealed[n_sealed - 1] ^= 1;
            send_raw(fd, &n, sealed, n_sealed);
            WAIT_FOR(peer_counters(n.sw, 2).drop_auth > before);
        }
    }
    CHECK(dropped(n.sw) > rounds);
    CHECK(peer_counters(n.sw, 2).rx_frames > rounds / 20);
    wh_counters c = peer_counters(n.sw, 2);
    CHECK(c.drop_auth > 0 && c.drop_invalid > 0 && c.drop_replay > 0);
    wh_switch_free(n.sw);
    nic_close(&a);
    close(fd);
}

int main(void)
{
    const char *rounds = getenv("WHERRY_FUZZ_ROUNDS");
    local_switching();
    off_and_announced();
    lying_ring();
    full_ring();
    learned_cap_and_age();
    bad_calls();
    over_the_tunnel(0);
    over_the_tunnel(1);
    rotation_loses_nothing();
    worn_key();
    generations();
    incoming_guest();
    lying_consumer();
    idle_costs_nothing();
    control_under_load();
    random_datagrams(rounds ? (unsigned)strtoul(rounds, NULL, 10) : 4000, 0x9e3779b9);
    return finish("switch");
}
