/* Frames around a guest's move: held and released here, sent after it, waiting for the news of the move. */
#include "switch/moved.h"
#include "switch_rig.h"

struct trio { /* the guest moves from one node to the other; a third talks to it */
    struct node from, to, third;
    struct nic old, new, talker;
};

static void open_trio(struct trio *t)
{
    node_open(&t->from, 1), node_open(&t->to, 2), node_open(&t->third, 3);
    join(&t->from, &t->to, 0), join(&t->from, &t->third, 0), join(&t->to, &t->third, 0);
    nic_open(&t->old, 1), nic_open(&t->new, 1), nic_open(&t->talker, 9);
    CHECK(nic_plug(&t->old, t->from.sw, 1, t->old.mac, 1) == WH_OK);
    CHECK(nic_plug(&t->talker, t->third.sw, 1, t->talker.mac, 1) == WH_OK);
    CHECK(wh_switch_mac_set(t->third.sw, VNI, t->old.mac, 1, NULL) == WH_OK);
    CHECK(wh_switch_mac_set(t->from.sw, VNI, t->talker.mac, 3, NULL) == WH_OK);
    CHECK(wh_switch_mac_set(t->to.sw, VNI, t->talker.mac, 3, NULL) == WH_OK);
    /* The target as before COMMIT: a port that is off, the MAC at the source. */
    CHECK(wh_switch_mac_set(t->to.sw, VNI, t->old.mac, 1, NULL) == WH_OK);
    CHECK(nic_plug(&t->new, t->to.sw, 1, t->new.mac, 1) == WH_OK && wh_switch_port_enable(t->to.sw, 1, 0) == WH_OK);
}

static void close_trio(struct trio *t)
{
    wh_switch_free(t->from.sw), wh_switch_free(t->to.sw), wh_switch_free(t->third.sw);
    nic_close(&t->old), nic_close(&t->new), nic_close(&t->talker);
}

static uint32_t waiting(struct trio *t)
{
    uint32_t n = 0;
    wh_switch_lock(t->from.sw);
    struct wh_port *p = wh_idmap_get(&t->from.sw->all->ports, 1);
    for (struct wh_waiting *w = p->waiting.head; w; w = w->next)
        n++;
    wh_switch_unlock(t->from.sw);
    return n;
}

/* The move fails: what came meanwhile is delivered here, once and in order; what the guest sends still flows. */
static void held_and_resumed(void)
{
    struct trio t;
    open_trio(&t);
    CHECK(wh_switch_port_hold(t.from.sw, 1, 1) == WH_OK && wh_switch_port_hold(t.from.sw, 77, 1) == WH_E_NOTFOUND);
    for (uint32_t i = 0; i < 20; i++)
        nic_send(&t.talker, t.old.mac, i);
    WAIT_FOR(waiting(&t) == 20);
    nic_send(&t.old, t.talker.mac, 100);
    CHECK(nic_take(&t.talker, NULL, NULL) == 100);
    CHECK(port_counters(t.from.sw, 1).tx_frames == 0);
    CHECK(wh_switch_port_hold(t.from.sw, 1, 0) == WH_OK && wh_switch_port_hold(t.from.sw, 1, 0) == WH_OK);
    nic_send(&t.talker, t.old.mac, 20);
    for (uint32_t i = 0; i <= 20; i++)
        CHECK(nic_take(&t.old, NULL, NULL) == i);
    close_trio(&t);
}

/* The move is committed: ring, queue and late frames follow the guest, also broadcasts, in order and once each. */
static void held_and_moved(void)
{
    struct trio t;
    uint32_t both[] = {1, 2};
    open_trio(&t);
    CHECK(wh_switch_network_peers(t.third.sw, VNI, both, 2, NULL) == WH_OK);
    nic_send(&t.talker, t.old.mac, 0); /* in the ring, and the guest takes nothing more */
    WAIT_FOR(port_counters(t.from.sw, 1).tx_frames == 1);
    nic_send(&t.old, t.talker.mac, 50);
    CHECK(wh_switch_port_hold(t.from.sw, 1, 1) == WH_OK);
    nic_send(&t.talker, t.old.mac, 1);
    nic_send(&t.talker, everybody, 2);
    WAIT_FOR(waiting(&t) == 2); /* of several workers, floods may come behind what goes to one station */
    nic_send(&t.talker, t.old.mac, 3);
    WAIT_FOR(waiting(&t) == 3);
    CHECK(nic_take(&t.talker, NULL, NULL) == 50);
    CHECK(wh_switch_port_enable(t.to.sw, 1, 1) == WH_OK);
    CHECK(wh_switch_mac_set(t.from.sw, VNI, t.old.mac, 2, NULL) == WH_OK);
    CHECK(wh_switch_port_hold(t.from.sw, 1, 0) == WH_OK && wh_switch_port_del(t.from.sw, 1) == WH_OK);
    nic_send(&t.talker, t.old.mac, 4); /* node 3 has not heard of it */
    for (uint32_t i = 0; i <= 4; i++)
        CHECK(nic_take(&t.new, NULL, NULL) == i);
    CHECK(wh_switch_mac_set(t.from.sw, VNI, t.old.mac, 2, NULL) == WH_OK); /* the target's advert says it again */
    nic_send(&t.talker, t.old.mac, 5);
    CHECK(nic_take(&t.new, NULL, NULL) == 5);
    CHECK(peer_counters(t.to.sw, 1).rx_frames == 6 && all_counters(t.to.sw).drop_fenced == 0);
    close_trio(&t);
}

/* The paused guest's process forged what lies in its ring: the smallest record, at the very end, then nonsense. */
static void forged_ring(void)
{
    struct trio t;
    open_trio(&t);
    CHECK(wh_switch_port_hold(t.from.sw, 1, 1) == WH_OK);
    size_t half = WH_PAGE_SIZE + WH_RING_CAPACITY;
    struct wh_ring_shared *shared = mmap(NULL, half, PROT_READ | PROT_WRITE, MAP_SHARED, t.old.file, (off_t)half);
    uint8_t *data = (uint8_t *)shared + WH_PAGE_SIZE;
    const uint32_t one = 1;
    memcpy(data + WH_RING_CAPACITY - (WH_RING_RECORD + 8), &one, 4);
    atomic_store(&shared->tail, WH_RING_CAPACITY - (WH_RING_RECORD + 8));
    atomic_store(&shared->head, WH_RING_CAPACITY + 64);
    memset(data, 0xee, 64);
    nic_send(&t.talker, t.old.mac, 1);
    WAIT_FOR(waiting(&t) == 1);
    CHECK(wh_switch_port_enable(t.to.sw, 1, 1) == WH_OK);
    CHECK(wh_switch_mac_set(t.from.sw, VNI, t.old.mac, 2, NULL) == WH_OK);
    CHECK(wh_switch_port_hold(t.from.sw, 1, 0) == WH_OK);
    CHECK(nic_take(&t.new, NULL, NULL) == 1);
    CHECK(port_counters(t.from.sw, 1).drop_no_peer == 1);
    munmap(shared, half);
    close_trio(&t);
}

/* Moved frames are taken from the node that had the MAC only, and never sent on: two nodes that each believe that the
 * other has the guest do not play with its frames. */
static void no_loop(void)
{
    struct trio t;
    open_trio(&t);
    CHECK(wh_switch_port_enable(t.to.sw, 1, 1) == WH_OK);
    CHECK(wh_switch_mac_set(t.from.sw, VNI, t.old.mac, 2, NULL) == WH_OK);
    CHECK(wh_switch_mac_set(t.to.sw, VNI, t.old.mac, 1, NULL) == WH_OK);
    nic_send(&t.talker, t.old.mac, 1);
    WAIT_FOR(peer_counters(t.to.sw, 1).drop_fenced == 1);
    CHECK(peer_counters(t.from.sw, 2).tx_frames == 1 && peer_counters(t.to.sw, 1).tx_frames == 0);
    /* The MAC is at the target again, but came there from node 1: node 3 may not use this door. */
    CHECK(wh_switch_mac_set(t.to.sw, VNI, t.old.mac, 2, NULL) == WH_OK);
    uint8_t room[WH_HEADROOM + 64 + WH_MOVED_SUFFIX] = {0};
    struct wh_frame f = wh_frame_plain(room + WH_HEADROOM, 64);
    memcpy(f.data, t.old.mac, 6);
    memcpy(f.data + 6, t.talker.mac, 6);
    wh_switch_lock(t.third.sw);
    wh_peer_send_moved(t.third.sw, wh_idmap_get(&t.third.sw->all->peers, 2), VNI, &f, NULL);
    wh_peer_flush(t.third.sw);
    wh_switch_unlock(t.third.sw);
    WAIT_FOR(peer_counters(t.to.sw, 3).drop_fenced == 1);
    nic_send(&t.talker, t.old.mac, 2);
    CHECK(nic_take(&t.new, NULL, NULL) == 2);
    close_trio(&t);
}

/* A guest process that is full of frames, and one that fills while it is held: bounded, counted, the rest arrives. */
static void bounded(void)
{
    struct trio t;
    open_trio(&t);
    CHECK(wh_switch_port_hold(t.from.sw, 1, 1) == WH_OK);
    uint32_t sent = 0;
    while (port_counters(t.from.sw, 1).drop_full == 0 && sent < 20000) {
        nic_send(&t.talker, t.old.mac, sent++);
        if (sent % 100 == 0)
            WAIT_FOR(peer_counters(t.from.sw, 3).rx_frames == sent);
    }
    WAIT_FOR(peer_counters(t.from.sw, 3).rx_frames == sent);
    uint64_t dropped = port_counters(t.from.sw, 1).drop_full;
    CHECK(dropped > 0 && waiting(&t) + dropped == sent);
    CHECK(waiting(&t) == WH_HOLD_BYTES / (sizeof(struct wh_waiting) + WH_HEADROOM + 64));
    CHECK(wh_switch_port_del(t.from.sw, 1) == WH_OK); /* and with it all that waited */
    CHECK(all_counters(t.from.sw).drop_disabled == sent - dropped);
    close_trio(&t);
}

/* The moved guest speaks before node 3 has heard of the move. */
static void outruns_the_news(void)
{
    struct trio t;
    open_trio(&t);
    CHECK(wh_switch_port_enable(t.to.sw, 1, 1) == WH_OK);
    nic_send(&t.new, t.talker.mac, 1);
    nic_send(&t.new, t.talker.mac, 2);
    WAIT_FOR(peer_counters(t.to.sw, 3).tx_frames == 2);
    struct wh_frameq *parked = &t.third.sw->all->parked;
    bool there = false;
    for (int i = 0; !there && i < DEADLINE_MS; i++) {
        wh_switch_lock(t.third.sw);
        there = parked->head && parked->head->next;
        for (struct wh_waiting *w = parked->head; there && w; w = w->next)
            w->since_ns += 60000000000ull; /* this test may be slow */
        wh_switch_unlock(t.third.sw);
        poll(NULL, 0, 1);
    }
    CHECK(there && wh_switch_mac_set(t.third.sw, VNI, t.new.mac, 2, NULL) == WH_OK);
    CHECK(nic_take(&t.talker, NULL, NULL) == 1 && nic_take(&t.talker, NULL, NULL) == 2);
    CHECK(peer_counters(t.third.sw, 2).drop_fenced == 0);
    /* The stale copy speaks: nobody will place the MAC there, so after a while it was fenced. */
    nic_send(&t.old, t.talker.mac, 3);
    WAIT_FOR(peer_counters(t.third.sw, 1).drop_fenced == 1);
    nic_send(&t.new, t.talker.mac, 4);
    CHECK(nic_take(&t.talker, NULL, NULL) == 4);
    close_trio(&t);
}

int main(void)
{
    held_and_resumed();
    held_and_moved();
    forged_ring();
    no_loop();
    bounded();
    outruns_the_news();
    return finish("switch_moved");
}
