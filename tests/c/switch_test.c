/* One switch: local forwarding, locked MACs, hostile rings, limits, bad calls. */
#include "switch_rig.h"

static void local_switching(void)
{
    struct nic a, b, c;
    wh_switch *sw;
    wh_switch_config config = {.node_id = 1, .udp_fd = -1};
    CHECK(open_switch(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
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
    CHECK(open_switch(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
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

/* So that what a port lets through is set before its first frame. */
static void off_at_first(void)
{
    struct nic a, b;
    uint8_t frame[WH_FRAME_MAX];
    uint32_t len = 0;
    wh_switch *sw;
    wh_switch_config config = {.node_id = 1, .udp_fd = -1, .ports_off = 1};
    CHECK(open_switch(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
    nic_open(&a, 1), nic_open(&b, 2);
    CHECK(nic_plug(&a, sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, sw, 2, b.mac, 1) == WH_OK);
    CHECK(wh_switch_port_enable(sw, 2, 1) == WH_OK);
    nic_send(&a, b.mac, 1);
    WAIT_FOR(port_counters(sw, 1).drop_disabled == 1);
    CHECK(wh_switch_port_enable(sw, 1, 1) == WH_OK);
    nic_send(&a, b.mac, 2);
    nic_take(&b, frame, &len);
    CHECK(!memcmp(frame + 6, a.mac, 6) && port_counters(sw, 2).tx_frames == 1);
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
    CHECK(open_switch(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
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
    CHECK(open_switch(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
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

static bool bell_rings(struct nic *n)
{
    struct pollfd fd = {n->to_guest, POLLIN, 0};
    uint64_t count;
    return poll(&fd, 1, DEADLINE_MS) == 1 && read(n->to_guest, &count, 8) == 8;
}

/* A guest that sends as fast as it can and waits when its ring is full loses nothing of it on the way in, and is told
 * when its port goes while it waits. */
static void sender_waits(void)
{
    enum { FRAMES = 40000 }; /* four rings */
    struct nic a;
    wh_switch *sw;
    uint32_t waits = 0;
    uint8_t frame[64] = {0};
    wh_switch_config config = {.node_id = 1, .udp_fd = -1};
    CHECK(open_switch(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
    nic_open(&a, 1);
    memcpy(frame, everybody, 6), memcpy(frame + 6, a.mac, 6);
    for (uint32_t sent = 0; sent < FRAMES;) {
        bool kick = false;
        uint64_t one = 1;
        int status = wh_ring_put(a.tx, frame, sizeof(frame), &kick);
        if (kick)
            CHECK(write(a.to_switch, &one, 8) == 8);
        if (status == WH_OK)
            sent++;
        else if (waits == 0) { /* full, and nobody there yet */
            CHECK(!wh_ring_await_room(a.tx, sizeof(frame)) && waits++ == 0);
            CHECK(nic_plug(&a, sw, 1, a.mac, 1) == WH_OK);
        } else if (wh_ring_await_room(a.tx, sizeof(frame)) && ++waits && !bell_rings(&a))
            break;
    }
    WAIT_FOR(port_counters(sw, 1).rx_frames == FRAMES);
    wh_switch_lock(sw); /* it takes nothing now */
    bool kick;
    while (wh_ring_put(a.tx, frame, sizeof(frame), &kick) == WH_OK)
        ;
    CHECK(wh_ring_await_room(a.tx, sizeof(frame)));
    wh_switch_unlock(sw);
    CHECK(wh_switch_port_del(sw, 1) == WH_OK);
    CHECK(bell_rings(&a) && !wh_ring_await_room(a.tx, sizeof(frame)));
    wh_switch_free(sw);
    nic_close(&a);
}

/* The agent is killed while a guest waits for room: the next one finds the ring, empties it and rings. */
static void sender_outlives_the_agent(void)
{
    struct nic a;
    wh_switch *sw;
    wh_ring *killed;
    uint32_t sent = 0;
    uint8_t frame[64] = {0};
    bool kick;
    wh_switch_config config = {.node_id = 1, .udp_fd = -1};
    nic_open(&a, 1);
    memcpy(frame, everybody, 6), memcpy(frame + 6, a.mac, 6);
    CHECK(wh_ring_map(a.file, 0, false, &killed, NULL) == WH_OK);
    wh_ring_attend(killed, true);
    while (wh_ring_put(a.tx, frame, sizeof(frame), &kick) == WH_OK)
        sent++;
    CHECK(wh_ring_await_room(a.tx, sizeof(frame)));
    wh_ring_unmap(killed);
    CHECK(wh_ring_await_room(a.tx, sizeof(frame))); /* it may come back */
    CHECK(open_switch(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
    CHECK(nic_plug(&a, sw, 1, a.mac, 1) == WH_OK);
    CHECK(bell_rings(&a));
    CHECK(wh_ring_put(a.tx, frame, sizeof(frame), &kick) == WH_OK);
    WAIT_FOR(port_counters(sw, 1).rx_frames >= sent);
    wh_switch_free(sw);
    nic_close(&a);
}

static void learned_cap_and_age(void)
{
    struct nic a;
    wh_switch *sw;
    wh_fdb_entry rows[64];
    uint32_t count = 0;
    wh_switch_config config = {.node_id = 1, .udp_fd = -1, .fdb_age_s = 1, .fdb_max = 16};
    CHECK(open_switch(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
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
    CHECK(open_switch(&(wh_switch_config){.node_id = 0, .udp_fd = -1}, &sw, &err) == WH_E_INVAL &&
          !strcmp(err.field, "node_id"));
    CHECK(open_switch(&(wh_switch_config){.node_id = 1, .udp_fd = pipes[0]}, &sw, &err) < 0 &&
          !strcmp(err.field, "udp_fd"));
    CHECK(open_switch(&(wh_switch_config){.node_id = 1, .udp_fd = -1}, &sw, &err) == WH_OK);
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

/* The other direction lies: the guest claims to have consumed what was never there. */
static void lying_consumer(void)
{
    struct nic a, b;
    wh_switch *sw;
    wh_switch_config config = {.node_id = 1, .udp_fd = -1};
    CHECK(open_switch(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
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

int main(void)
{
    local_switching();
    off_and_announced();
    off_at_first();
    lying_ring();
    lying_consumer();
    full_ring();
    sender_waits();
    sender_outlives_the_agent();
    learned_cap_and_age();
    bad_calls();
    return finish("switch");
}
