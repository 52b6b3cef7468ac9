/* Forged datagrams in a peer's name, while the peer works, roams, changes its keys and comes back. */
#include "switch_rig.h"

struct forger {
    int fd;
    struct sockaddr_in at;
    uint64_t counter;
};

/* One that is right but for its key: it costs an AEAD unless something stops it before. */
static void forge(struct forger *f, uint32_t as, const struct node *to, uint32_t epoch, const uint8_t key[32])
{
    uint8_t header[WH_TUNNEL_HEADER], sealed[200], plain[64] = {0x93, 2, 1, 1};
    size_t len = sizeof(sealed);
    struct wh_header h = {
        .version = 1, .type = 1, .hops = 1, .epoch = epoch, .sender = as, .dest = to->id, .counter = ++f->counter};
    wh_header_encode(&h, header);
    CHECK(wh_tunnel_seal(0, key, header, sizeof(header), plain, sizeof(plain), sealed, &len) == WH_OK);
    CHECK(sendto(f->fd, sealed, len, 0, (const struct sockaddr *)&to->addr, sizeof(to->addr)) == (ssize_t)len);
}

static uint64_t refused(struct node *n)
{
    wh_counters c = peer_counters(n->sw, 2);
    return c.drop_auth + c.drop_flood;
}

static void flood_of_strangers(void)
{
    struct node n1, n2;
    struct nic a, b;
    struct forger bad = {.counter = 1ull << 40}, moved = {.counter = 1ull << 41};
    uint8_t none[32] = {0}, real[32];
    node_open(&n1, 1), node_open(&n2, 2);
    join(&n1, &n2, 0);
    nic_open(&a, 1), nic_open(&b, 2);
    CHECK(nic_plug(&a, n1.sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, n2.sw, 1, b.mac, 1) == WH_OK);
    CHECK(wh_switch_mac_set(n2.sw, VNI, a.mac, 1, NULL) == WH_OK);
    CHECK(event_of(n1.sw, WH_SW_PEER_UP).node == 2);
    bad.fd = udp_socket(&bad.at), moved.fd = udp_socket(&moved.at);
    uint64_t start = wh_now_ns();
    for (uint32_t i = 0; i < 3000; i++) {
        forge(&bad, 2, &n1, 1, none);
        nic_send(&b, a.mac, i);
        if (i % 100 == 99) { /* no faster than it reads: what the kernel drops tests nothing */
            for (uint32_t k = i - 99; k <= i; k++)
                CHECK(nic_take(&a, NULL, NULL) == k); /* the peer's own frames are not touched by it */
            WAIT_FOR(refused(&n1) >= i + 1);
        }
    }
    uint64_t ms = (wh_now_ns() - start) / 1000000;
    wh_counters c = peer_counters(n1.sw, 2);
    CHECK(c.drop_auth + c.drop_flood == 3000 && c.rx_frames == 3000 && c.drop_replay == 0);
    CHECK(c.drop_auth <= WH_STRANGE_BURST + 2 + ms * 1000000 / WH_STRANGE_EVERY_NS);
    /* The peer shows up at another address, and is heard although the flood goes on. */
    direction_key(2, 1, 1, real);
    bool there = false;
    for (unsigned i = 0; i < 5000 && !there; i++) {
        forge(&bad, 2, &n1, 1, none);
        forge(&moved, 2, &n1, 1, real);
        if (i % 50 == 0)
            poll(NULL, 0, 1);
        wh_switch_lock(n1.sw);
        const struct wh_peer *p = wh_idmap_get(&n1.sw->all->peers, 2);
        there = p->addr.v4.sin_port == moved.at.sin_port;
        wh_switch_unlock(n1.sw);
    }
    CHECK(there);
    wh_switch_free(n1.sw), wh_switch_free(n2.sw);
    nic_close(&a), nic_close(&b);
    close(bad.fd), close(moved.fd);
}

/* Senders and epochs that are not known cost a look-up and a count. */
static void unknown(void)
{
    struct node n1, n2;
    struct forger bad = {0};
    uint8_t none[32] = {0};
    node_open(&n1, 1), node_open(&n2, 2);
    join(&n1, &n2, 0);
    bad.fd = udp_socket(&bad.at);
    for (unsigned i = 0; i < 200; i++)
        forge(&bad, 2, &n1, 99, none);
    WAIT_FOR(peer_counters(n1.sw, 2).drop_no_key == 200);
    CHECK(wh_switch_peer_del(n1.sw, 2) == WH_OK);
    for (unsigned i = 0; i < 200; i++)
        forge(&bad, 2, &n1, 1, none);
    WAIT_FOR(all_counters(n1.sw).drop_no_peer >= 200);
    CHECK(all_counters(n1.sw).drop_auth == 0);
    wh_switch_free(n1.sw), wh_switch_free(n2.sw);
    close(bad.fd);
}

/* An epoch that was taken back is refused, the other one goes on, and a new one can be installed. */
static void erased(void)
{
    struct node n1, n2;
    struct nic a, b;
    struct forger old = {.counter = 1000};
    uint8_t first[32];
    node_open(&n1, 1), node_open(&n2, 2);
    join(&n1, &n2, 0);
    nic_open(&a, 1), nic_open(&b, 2);
    CHECK(nic_plug(&a, n1.sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, n2.sw, 1, b.mac, 1) == WH_OK);
    CHECK(wh_switch_mac_set(n1.sw, VNI, b.mac, 2, NULL) == WH_OK);
    accept_epoch(&n2, &n1, 2, 0);
    nic_send(&a, b.mac, 1);
    CHECK(nic_take(&b, NULL, NULL) == 1);
    CHECK(wh_switch_peer_rx_drop(n2.sw, 1, 1) == WH_E_STATE); /* it is in use */
    use_epoch(&n1, &n2, 2, 0);
    nic_send(&a, b.mac, 2);
    CHECK(nic_take(&b, NULL, NULL) == 2);
    WAIT_FOR(wh_switch_peer_rx_drop(n2.sw, 1, 1) != WH_E_STATE); /* a probe under it may have come late */
    CHECK(wh_switch_peer_rx_drop(n2.sw, 1, 1) == WH_E_NOTFOUND);
    old.fd = udp_socket(&old.at);
    direction_key(1, 2, 1, first);
    uint64_t before = peer_counters(n2.sw, 1).drop_no_key;
    forge(&old, 1, &n2, 1, first);
    WAIT_FOR(peer_counters(n2.sw, 1).drop_no_key > before);
    close(old.fd);
    accept_epoch(&n2, &n1, 3, 0);
    CHECK(wh_switch_peer_rx_drop(n2.sw, 1, 3) == WH_OK); /* the newest: the older one stays */
    nic_send(&a, b.mac, 3);
    CHECK(nic_take(&b, NULL, NULL) == 3);
    accept_epoch(&n2, &n1, 4, 1);
    nic_send(&a, b.mac, 4);
    CHECK(nic_take(&b, NULL, NULL) == 4);
    use_epoch(&n1, &n2, 4, 1);
    nic_send(&a, b.mac, 5);
    CHECK(nic_take(&b, NULL, NULL) == 5);
    wh_switch_free(n1.sw), wh_switch_free(n2.sw);
    nic_close(&a), nic_close(&b);
}

/* Keys are offered again and again, and the sender never hears that it may use them (its link is cut each time): it
 * goes on with the one it has, and whenever it does hear, it changes. */
static void offered_in_vain(void)
{
    struct node n1, n2;
    struct nic a, b;
    pair_open(&n1, &n2, &a, &b);
    for (uint32_t i = 0; i < 200 && !failures; i++) {
        nic_send(&a, b.mac, i);
        CHECK(nic_take(&b, NULL, NULL) == i);
        accept_epoch(&n2, &n1, 2 + i, i % 2);
        if (i % 10 == 9)
            use_epoch(&n1, &n2, 2 + i, i % 2);
    }
    wh_counters c = peer_counters(n2.sw, 1);
    CHECK(c.rx_frames == 200 && c.drop_auth == 0);
    pair_close(&n1, &n2, &a, &b);
}

/* A link that goes and comes a thousand times: each time frames go on at once, and each change is told. */
static void flapping(void)
{
    struct node n1, n2;
    struct nic a, b;
    pair_open(&n1, &n2, &a, &b);
    for (uint32_t i = 0; i < 1000 && !failures; i++) {
        CHECK(event_of(n1.sw, WH_SW_PEER_UP).node == 2);
        nic_send(&a, b.mac, i);
        CHECK(nic_take(&b, NULL, NULL) == i);
        CHECK(wh_switch_peer_set(n1.sw, 2, 2, NULL, 0, NULL) == WH_OK);
        CHECK(event_of(n1.sw, WH_SW_PEER_DOWN).node == 2);
        CHECK(wh_switch_peer_set(n1.sw, 2, 2, &n2.addr, sizeof(n2.addr), NULL) == WH_OK);
    }
    CHECK(peer_counters(n2.sw, 1).rx_frames == 1000 && all_counters(n1.sw).events_lost == 0);
    pair_close(&n1, &n2, &a, &b);
}

int main(void)
{
    flood_of_strangers();
    unknown();
    erased();
    offered_in_vain();
    flapping();
    return finish("switch_flood");
}
