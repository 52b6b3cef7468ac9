/* Small frames that share datagrams: all arrive, whole and in order, among large ones and towards many nodes. */
#include "switch_rig.h"

#include "switch/pack.h"

#define NODES 11u /* one sends to ten, more than are packed for at a time */

static uint32_t length_of(uint32_t i)
{
    static const uint32_t lengths[] = {64, 64, 64, 1414, 60, 512, 513, 64, 300, 18};
    return i < 200 ? 64 : lengths[i % WH_ARRAY_LEN(lengths)];
}

static void fill(uint8_t *frame, const uint8_t *dst, const uint8_t *src, uint32_t i)
{
    memcpy(frame, dst, 6);
    memcpy(frame + 6, src, 6);
    frame[12] = 8, frame[13] = 0;
    memcpy(frame + 14, &i, 4);
    for (uint32_t k = 18; k < length_of(i); k++)
        frame[k] = (uint8_t)(i + k);
}

static uint64_t datagrams_to(struct node *from, uint32_t node)
{
    wh_switch_lock(from->sw);
    const struct wh_peer *p = wh_idmap_get(&from->sw->all->peers, node);
    uint64_t n = p->part[0].tx.counter - p->udp.id; /* answers to probes are few */
    wh_switch_unlock(from->sw);
    return n;
}

/* The frames stand in the ring before the port exists, so that they come in bursts. */
static void put_all(struct nic *a, const uint8_t *dst, uint32_t count)
{
    uint8_t frame[1500];
    bool kick;
    for (uint32_t i = 0; i < count; i++) {
        fill(frame, dst, a->mac, i);
        CHECK(wh_ring_put(a->tx, frame, length_of(i), &kick) == WH_OK);
    }
}

static void take_all(struct nic *b, const uint8_t *dst, const uint8_t *src, uint32_t count)
{
    uint8_t frame[1500], want[1500];
    uint32_t len = 0;
    for (uint32_t i = 0; i < count; i++) {
        fill(want, dst, src, i);
        CHECK(nic_take(b, frame, &len) == i && len == length_of(i) && !memcmp(frame, want, len));
    }
}

static void to_one(int cipher)
{
    struct node n1, n2;
    struct nic a, b;
    node_open(&n1, 1), node_open(&n2, 2);
    join(&n1, &n2, cipher);
    nic_open(&a, 1), nic_open(&b, 2);
    CHECK(wh_switch_mac_set(n1.sw, VNI, b.mac, 2, NULL) == WH_OK);
    CHECK(nic_plug(&b, n2.sw, 1, b.mac, 1) == WH_OK);
    put_all(&a, b.mac, 400);
    CHECK(nic_plug(&a, n1.sw, 1, a.mac, 1) == WH_OK);
    take_all(&b, b.mac, a.mac, 400);
    wh_counters sent = peer_counters(n1.sw, 2), got = peer_counters(n2.sw, 1);
    CHECK(sent.tx_frames == 400 && got.rx_frames == 400 && sent.tx_bytes == got.rx_bytes);
    CHECK(datagrams_to(&n1, 2) < 250); /* the 200 in front need some twenty */
    wh_switch_free(n1.sw), wh_switch_free(n2.sw);
    nic_close(&a), nic_close(&b);
}

static void flooded_to_many(void)
{
    struct node n[NODES];
    struct nic nic[NODES];
    uint32_t others[NODES - 1];
    for (uint32_t i = 0; i < NODES; i++) {
        node_open(&n[i], i + 1);
        nic_open(&nic[i], (uint8_t)(i + 1));
        if (i == 0)
            continue;
        others[i - 1] = i + 1;
        join(&n[0], &n[i], 0);
        CHECK(nic_plug(&nic[i], n[i].sw, 1, nic[i].mac, 1) == WH_OK);
    }
    CHECK(wh_switch_network_peers(n[0].sw, VNI, others, NODES - 1, NULL) == WH_OK);
    put_all(&nic[0], everybody, 150);
    CHECK(nic_plug(&nic[0], n[0].sw, 1, nic[0].mac, 1) == WH_OK);
    for (uint32_t i = 1; i < NODES; i++)
        take_all(&nic[i], everybody, nic[0].mac, 150);
    for (uint32_t i = 0; i < NODES; i++) {
        wh_switch_free(n[i].sw);
        nic_close(&nic[i]);
    }
}

/* What cannot be sent is counted frame by frame, also when it was packed. */
static void counted(void)
{
    struct node n1, n2;
    struct nic a;
    uint8_t b[6] = {2, 9, 9, 9, 9, 9};
    node_open(&n1, 1), node_open(&n2, 2);
    CHECK(wh_switch_peer_set(n1.sw, 2, 2, &n2.addr, sizeof(n2.addr), NULL) == WH_OK);
    nic_open(&a, 1);
    CHECK(wh_switch_mac_set(n1.sw, VNI, b, 2, NULL) == WH_OK);
    put_all(&a, b, 100);
    CHECK(nic_plug(&a, n1.sw, 1, a.mac, 1) == WH_OK);
    WAIT_FOR(port_counters(n1.sw, 1).rx_frames == 100 && peer_counters(n1.sw, 2).drop_no_key == 100);
    CHECK(all_counters(n1.sw).drop_no_key == 100 && peer_counters(n1.sw, 2).tx_frames == 0);
    wh_switch_free(n1.sw), wh_switch_free(n2.sw);
    nic_close(&a);
}

int main(void)
{
    to_one(0);
    to_one(1);
    flooded_to_many();
    counted();
    return finish("switch_pack");
}
