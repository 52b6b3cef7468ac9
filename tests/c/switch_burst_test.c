/* Packets that one guest leaves to be cut, to a guest of another node: every segment arrives once, in its order, and is
 * counted, whether segments go out in one burst, share datagrams, wait, or cannot go at all. */
#include "base/ring_layout.h"
#include "switch/pack.h"
#include "switch_packets.h"
#include "switch_rig.h"

#define PACKETS 60u

struct fixture {
    struct node n1, n2;
    struct nic a, b;
    uint64_t random;
};

static void fixture_open(struct fixture *t, uint32_t takes)
{
    memset(t, 0, sizeof(*t));
    t->random = 0x2545f491;
    pair_open(&t->n1, &t->n2, &t->a, &t->b);
    wh_ring_set_takes(t->b.rx, WH_TAKES_ALL);
    CHECK(wh_switch_peer_takes(t->n1.sw, 2, takes) == WH_OK && wh_switch_peer_takes(t->n2.sw, 1, takes) == WH_OK);
}

static void fixture_close(struct fixture *t)
{
    pair_close(&t->n1, &t->n2, &t->a, &t->b);
}

/* A packet of more than one segment, from a to b, that a network of MTU 1400 carries. small: segments of which several
 * share a datagram. */
static void make(struct fixture *t, struct packet *k, unsigned flow, uint32_t seq, bool small)
{
    do
        packet_make(k, &t->random, flow, seq, 2 + below(&t->random, 40));
    while (k->f.gso == WH_GSO_NONE || (uint32_t)k->f.hdr_len + k->f.gso_size > 1000 ||
           ((uint32_t)k->f.hdr_len + k->f.gso_size <= WH_PACK_FRAME_MAX) != small);
    memcpy(k->f.data, t->b.mac, 6);
    memcpy(k->f.data + 6, t->a.mac, 6);
}

static void send_packet(struct fixture *t, const struct packet *k)
{
    uint64_t one = 1;
    uint8_t *room;
    bool kick;
    CHECK(wh_ring_reserve(t->a.tx, k->f.len, &room) == WH_OK);
    memcpy(room, k->f.data, k->f.len);
    wh_ring_commit(t->a.tx, &k->todo, &kick);
    if (kick)
        CHECK(write(t->a.to_switch, &one, 8) == 8);
}

static uint32_t segments_of(const struct packet *k)
{
    return (k->f.len - k->f.hdr_len + k->f.gso_size - 1u) / k->f.gso_size;
}

/* Takes what came for b until all of k's payload is there; TCP: nothing is missing or twice. */
static void receive_packet(struct fixture *t, const struct packet *k)
{
    static uint8_t frame[WH_RING_MAX_FRAME];
    uint32_t have = k->f.hdr_len, len = 0;
    struct wh_layers y;
    while (have < k->f.len) {
        if (nic_take(&t->b, frame, &len) == UINT32_MAX) {
            CHECK(!"all of the packet arrives");
            return;
        }
        CHECK(wh_layers_of(frame, len, &y) && y.data == k->f.hdr_len && have + (y.end - y.data) <= k->f.len);
        CHECK(memcmp(frame + y.data, k->f.data + have, y.end - y.data) == 0);
        if (y.proto == WH_PROTO_TCP)
            CHECK(wh_get32(frame + y.l4 + 4) == wh_get32(k->f.data + y.l4 + 4) + have - k->f.hdr_len);
        have += y.end - y.data;
    }
}

/* Two packets of one flow at a time, the first with segments that share datagrams: they stay in front. */
static void passes(uint32_t takes, uint64_t rate)
{
    static struct packet k[2];
    struct fixture t;
    uint64_t segments = 0, bytes = 0;
    fixture_open(&t, takes);
    if (rate)
        CHECK(wh_switch_peer_rate(t.n1.sw, 2, rate) == WH_OK);
    for (unsigned i = 0; i < PACKETS; i++) {
        for (unsigned n = 0; n < 2; n++)
            make(&t, &k[n], i % 12, (2 * i + n) * 100000, n == 0);
        for (unsigned n = 0; n < 2; n++)
            send_packet(&t, &k[n]);
        for (unsigned n = 0; n < 2; n++) {
            receive_packet(&t, &k[n]);
            segments += segments_of(&k[n]);
            bytes += k[n].f.len + (segments_of(&k[n]) - 1) * k[n].f.hdr_len;
        }
    }
    wh_counters tx = peer_counters(t.n1.sw, 2), rx = peer_counters(t.n2.sw, 1);
    CHECK(tx.tx_frames == segments && tx.tx_bytes == bytes && rx.rx_frames == segments && rx.rx_bytes == bytes);
    CHECK(rate == 0 || tx.queued > 0);
    CHECK(wh_switch_counters(t.n1.sw, &tx) == WH_OK && tx.tx_frames == segments && tx.tx_bytes == bytes);
    fixture_close(&t);
}

/* No key to seal with: each segment is a frame that is lost for that reason. */
static void no_key(void)
{
    static struct packet k;
    struct fixture t;
    uint64_t segments = 0;
    fixture_open(&t, WH_TAKES_CSUM);
    CHECK(wh_switch_peer_set(t.n1.sw, 3, 3, &t.n2.addr, sizeof(t.n2.addr), NULL) == WH_OK);
    CHECK(wh_switch_peer_takes(t.n1.sw, 3, WH_TAKES_CSUM) == WH_OK);
    CHECK(wh_switch_mac_set(t.n1.sw, VNI, t.b.mac, 3, NULL) == WH_OK);
    for (unsigned i = 0; i < PACKETS; i++) {
        make(&t, &k, i % 12, 1, false);
        send_packet(&t, &k);
        segments += segments_of(&k);
    }
    WAIT_FOR(peer_counters(t.n1.sw, 3).drop_no_key == segments);
    CHECK(peer_counters(t.n1.sw, 3).tx_frames == 0);
    fixture_close(&t);
}

int main(void)
{
    passes(WH_TAKES_CSUM, 0);
    passes(0, 0);
    passes(WH_TAKES_CSUM, 4000000);
    no_key();
    return finish("switch_burst");
}
