/* A rig for whole switches in one process: guests are ring files driven from here, nodes meet over loopback UDP.
 *
 * Nothing waits for a time: a test waits for a doorbell, an event or a counter, with a deadline far away. That a frame
 * did NOT arrive is shown by a later frame on the same path, which comes first. */
#ifndef SWITCH_RIG_H
#define SWITCH_RIG_H

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

static inline void nic_open(struct nic *n, uint8_t last)
{
    uint8_t mac[6] = {2, 0, 0, 0, 0, last};
    memcpy(n->mac, mac, 6);
    n->file = wh_ring_file_new(NULL);
    n->to_switch = eventfd(0, EFD_NONBLOCK);
    n->to_guest = eventfd(0, EFD_NONBLOCK);
    CHECK(n->file >= 0 && wh_ring_map(n->file, 0, true, &n->tx, NULL) == WH_OK);
    CHECK(wh_ring_map(n->file, 1, false, &n->rx, NULL) == WH_OK);
}

static inline void nic_close(struct nic *n)
{
    wh_ring_unmap(n->tx);
    wh_ring_unmap(n->rx);
    close(n->file);
    close(n->to_switch);
    close(n->to_guest);
}

static inline int nic_plug(struct nic *n, wh_switch *sw, uint32_t port, const uint8_t *mac, uint64_t generation)
{
    return wh_switch_port_ring(sw, port, VNI, n->file, n->to_switch, n->to_guest, mac, generation, NULL);
}

/* A frame of 64 bytes whose payload starts with tag. */
static inline void nic_send_as(struct nic *n, const uint8_t *src, const uint8_t *dst, uint32_t tag)
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

static inline void nic_send(struct nic *n, const uint8_t *dst, uint32_t tag)
{
    nic_send_as(n, n->mac, dst, tag);
}

/* The next frame's tag (copying the frame when out is given), or UINT32_MAX after the deadline. */
static inline uint32_t nic_take(struct nic *n, uint8_t *out, uint32_t *out_len)
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

static inline int udp_socket(struct sockaddr_in *addr)
{
    socklen_t len = sizeof(*addr);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    *addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK(bind(fd, (struct sockaddr *)addr, sizeof(*addr)) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)addr, &len) == 0);
    return fd;
}

/* As many workers as the environment says: the tests hold for each number of them. */
static inline uint32_t workers_wanted(void)
{
    const char *n = getenv("WHERRY_SWITCH_WORKERS");
    return n ? (uint32_t)atoi(n) : 1;
}

static inline int open_switch(const wh_switch_config *config, wh_switch **out, wh_error *err)
{
    wh_switch_config with = *config;
    if (!with.workers)
        with.workers = workers_wanted();
    return wh_switch_new(&with, out, err);
}

static inline void node_open(struct node *n, uint32_t id)
{
    n->id = id;
    wh_switch_config config = {.node_id = id, .fdb_age_s = 300, .fdb_max = 100, .udp_fd = udp_socket(&n->addr)};
    CHECK(open_switch(&config, &n->sw, NULL) == WH_OK);
    CHECK(wh_switch_network_add(n->sw, VNI, 1400, NULL) == WH_OK);
}

static inline void direction_key(uint32_t from, uint32_t to, uint32_t epoch, uint8_t key[32])
{
    memset(key, 0x5a, 32);
    key[0] = (uint8_t)from;
    key[1] = (uint8_t)to;
    key[2] = (uint8_t)epoch;
}

static inline void accept_epoch(struct node *at, struct node *from, uint32_t epoch, int cipher)
{
    uint8_t key[32];
    direction_key(from->id, at->id, epoch, key);
    CHECK(wh_switch_peer_rx_key(at->sw, from->id, epoch, cipher, key, NULL) == WH_OK);
}

static inline void use_epoch(struct node *at, struct node *to, uint32_t epoch, int cipher)
{
    uint8_t key[32];
    direction_key(at->id, to->id, epoch, key);
    CHECK(wh_switch_peer_tx_key(at->sw, to->id, epoch, cipher, key, NULL) == WH_OK);
}

static inline void join(struct node *a, struct node *b, int cipher)
{
    CHECK(wh_switch_peer_set(a->sw, b->id, b->id, &b->addr, sizeof(b->addr), NULL) == WH_OK);
    CHECK(wh_switch_peer_set(b->sw, a->id, a->id, &a->addr, sizeof(a->addr), NULL) == WH_OK);
    CHECK(wh_switch_peer_takes(a->sw, b->id, WH_TAKES_LANES) == WH_OK);
    CHECK(wh_switch_peer_takes(b->sw, a->id, WH_TAKES_LANES) == WH_OK);
    accept_epoch(a, b, 1, cipher);
    accept_epoch(b, a, 1, cipher);
    use_epoch(a, b, 1, cipher);
    use_epoch(b, a, 1, cipher);
}

/* A guest's port on each of two nodes; the first node knows where the second guest is. */
static inline void pair_open(struct node *n1, struct node *n2, struct nic *a, struct nic *b)
{
    node_open(n1, 1), node_open(n2, 2);
    join(n1, n2, 0);
    nic_open(a, 1), nic_open(b, 2);
    CHECK(nic_plug(a, n1->sw, 1, a->mac, 1) == WH_OK && nic_plug(b, n2->sw, 1, b->mac, 1) == WH_OK);
    CHECK(wh_switch_mac_set(n1->sw, VNI, b->mac, 2, NULL) == WH_OK);
}

static inline void pair_close(struct node *n1, struct node *n2, struct nic *a, struct nic *b)
{
    wh_switch_free(n1->sw), wh_switch_free(n2->sw);
    nic_close(a), nic_close(b);
}

static inline wh_counters port_counters(wh_switch *sw, uint32_t port)
{
    wh_counters c = {0};
    CHECK(wh_switch_port_counters(sw, port, &c) == WH_OK);
    return c;
}

static inline wh_counters peer_counters(wh_switch *sw, uint32_t node)
{
    wh_counters c = {0};
    CHECK(wh_switch_peer_counters(sw, node, &c) == WH_OK);
    return c;
}

static inline wh_counters all_counters(wh_switch *sw)
{
    wh_counters c;
    wh_switch_counters(sw, &c);
    return c;
}

/* Throw events away until one of this kind comes. */
static inline wh_switch_event event_of(wh_switch *sw, uint32_t kind)
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

#endif
