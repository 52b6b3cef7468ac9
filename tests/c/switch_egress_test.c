/* What waits for the way to another node: whole switches over loopback, with a socket that is full when the test says
 * so. Where a time is compared, it is that something took long enough: a slow host changes nothing. */
#include "switch_rig.h"

#include "switch/layers.h"
#include "switch/tos.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>

static _Atomic int full_port, full_errno; /* the socket bound there takes nothing ... */
static _Atomic int full_times;            /* ... so many times */

/* In place of the C library's. */
int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    struct sockaddr_in at;
    socklen_t len = sizeof(at);
    if (full_port && getsockname(fd, (struct sockaddr *)&at, &len) == 0 && at.sin_port == full_port &&
        full_times-- > 0) {
        errno = full_errno;
        return -1;
    }
    return (int)syscall(SYS_sendmmsg, fd, messages, count, flags);
}

static void set_full(const struct node *n, int error)
{
    full_errno = error;
    full_times = error == ENOBUFS ? 10 : INT32_MAX;
    full_port = error ? n->addr.sin_port : 0;
    wh_switch_wake(n->sw);
}

/* Of all workers, as far as it is looked at here. */
static struct wh_egress egress_of(const struct node *n)
{
    struct wh_egress sum = {0};
    wh_switch_lock(n->sw);
    for (uint32_t i = 0; i < n->sw->all->workers; i++) {
        const struct wh_egress *e = &n->sw->all->worker[i]->egress;
        sum.bytes += e->bytes;
        sum.ways += e->ways;
        sum.slow += e->slow;
        sum.blocked |= e->blocked;
        sum.control.bytes += e->control.bytes;
        sum.moved.bytes += e->moved.bytes;
    }
    wh_switch_unlock(n->sw);
    return sum;
}

struct pair {
    struct node a, b;
    struct nic from, to;
};

static void open_pair(struct pair *t)
{
    node_open(&t->a, 1), node_open(&t->b, 2);
    nic_open(&t->from, 1), nic_open(&t->to, 2);
    CHECK(nic_plug(&t->from, t->a.sw, 1, any, 1) == WH_OK && nic_plug(&t->to, t->b.sw, 2, t->to.mac, 1) == WH_OK);
    CHECK(wh_switch_mac_set(t->a.sw, VNI, t->to.mac, 2, NULL) == WH_OK);
    join(&t->a, &t->b, 0);
    nic_send(&t->from, t->to.mac, 1);
    CHECK(nic_take(&t->to, NULL, NULL) == 1);
}

static void close_pair(struct pair *t)
{
    wh_switch_free(t->a.sw), wh_switch_free(t->b.sw);
    nic_close(&t->from), nic_close(&t->to);
}

/* An IPv4 UDP packet of a flow, with this class. */
static void send_udp(struct pair *t, uint16_t flow, uint8_t tos, uint32_t tag, uint32_t len)
{
    uint8_t frame[1500] = {0};
    bool kick = false;
    uint64_t one = 1;
    memcpy(frame, t->to.mac, 6), memcpy(frame + 6, t->from.mac, 6);
    memcpy(frame + 12, (uint8_t[]){8, 0, 0x45, tos}, 4);
    wh_set16(frame + 16, (uint16_t)(len - 14));
    frame[22] = 64, frame[23] = WH_PROTO_UDP;
    wh_set16(frame + 34, flow);
    wh_set16(frame + 38, (uint16_t)(len - 34));
    memcpy(frame + 42, &tag, 4);
    while (wh_ring_put(t->from.tx, frame, len, &kick) == WH_E_FULL)
        poll(NULL, 0, 1);
    if (kick)
        CHECK(write(t->from.to_switch, &one, 8) == 8);
}

struct got {
    uint16_t flow;
    uint8_t tos;
    uint32_t tag;
};

static struct got take_udp(struct pair *t)
{
    uint8_t frame[2000];
    uint32_t len = 0;
    struct got g = {0};
    if (nic_take(&t->to, frame, &len) == UINT32_MAX && !len)
        return g;
    g = (struct got){.flow = wh_get16(frame + 34), .tos = frame[15]};
    memcpy(&g.tag, frame + 42, 4);
    return g;
}

/* A full socket loses nothing: all comes later, each flow in its order, and the small flow before the end of the large
 * one. */
static void full_socket(int error)
{
    struct pair t;
    enum { BULK = 600, SMALL = 20 }; /* fits a ring */
    open_pair(&t);
    set_full(&t.a, error);
    for (uint32_t i = 1; i <= BULK; i++)
        send_udp(&t, 7, 0, i, 600);
    for (uint32_t i = 1; i <= SMALL; i++)
        send_udp(&t, 8, 0, i, 100);
    WAIT_FOR(port_counters(t.a.sw, 1).rx_frames == 1 + BULK + SMALL);
    wh_counters c = peer_counters(t.a.sw, 2);
    if (error == EAGAIN)
        CHECK(c.queued > BULK / 4 && c.tx_frames < BULK);
    else
        WAIT_FOR(full_times <= 0); /* a host without buffers is asked again by itself */
    if (error == EAGAIN)
        set_full(&t.a, 0);
    uint32_t bulk = 0, small = 0, last_small = 0;
    for (uint32_t n = 0; n < BULK + SMALL; n++) {
        struct got g = take_udp(&t);
        last_small = g.flow == 8 ? n : last_small;
        CHECK(g.tag == (g.flow == 7 ? ++bulk : ++small));
        if (!g.flow)
            break;
    }
    CHECK(bulk == BULK && small == SMALL && (error != EAGAIN || last_small < BULK));
    set_full(&t.a, 0);
    c = all_counters(t.a.sw);
    CHECK(c.drop_queue == 0 && c.drop_aqm == 0 && c.drop_full == 0 && c.drop_no_peer == 0);
    send_udp(&t, 7, 0, 99, 600); /* and afterwards straight on */
    CHECK(take_udp(&t).tag == 99);
    CHECK(peer_counters(t.a.sw, 2).queued == c.queued);
    close_pair(&t);
}

/* The bound holds, and it is the flood that pays. */
static void flooded(void)
{
    struct pair t;
    open_pair(&t);
    set_full(&t.a, EAGAIN);
    for (uint32_t i = 1; i <= 200; i++)
        send_udp(&t, 7, 0, i, 600);
    WAIT_FOR(peer_counters(t.a.sw, 2).queued > 0);
    for (uint32_t i = 1; i <= 10; i++)
        send_udp(&t, 8, 0, i, 100);
    for (uint32_t i = 1; i <= 12000; i++)
        send_udp(&t, 9, 0, i, 1400);
    WAIT_FOR(port_counters(t.a.sw, 1).rx_frames == 1 + 12210);
    CHECK(peer_counters(t.a.sw, 2).drop_queue > 1000);
    CHECK(wh_switch_peer_del(t.a.sw, 2) == WH_OK); /* and it may go with all that waits */
    CHECK(all_counters(t.a.sw).drop_queue >= 12000 - WH_FRAME_MAX);
    set_full(&t.a, 0);
    CHECK(egress_of(&t.a).bytes == 0 && egress_of(&t.a).ways == 0);
    close_pair(&t);
}

static uint64_t now_ms(void)
{
    return wh_now_ns() / 1000000;
}

static void paced(uint8_t tos)
{
    struct pair t;
    enum { FRAMES = 120, LENGTH = 1000, RATE = 200000 };
    uint32_t got = 0, ce = 0, lost;
    open_pair(&t);
    CHECK(wh_switch_peer_rate(t.a.sw, 2, RATE) == WH_OK && wh_switch_peer_rate(t.a.sw, 9, 1) == WH_E_NOTFOUND);
    uint64_t began = now_ms();
    for (uint32_t i = 1; i <= FRAMES; i++)
        send_udp(&t, 7, tos, i, LENGTH);
    WAIT_FOR(port_counters(t.a.sw, 1).rx_frames == 1 + FRAMES);
    for (uint32_t last = 0; last < FRAMES; got++) {
        struct got g = take_udp(&t);
        CHECK(g.tag > last);
        if (g.tag <= last)
            break;
        last = g.tag;
        ce += (g.tos & 3) == WH_ECN_CE;
    }
    wh_counters c = peer_counters(t.a.sw, 2);
    lost = (uint32_t)c.drop_aqm;
    CHECK(got + lost == FRAMES && c.drop_queue == 0);
    CHECK(now_ms() - began >= (uint64_t)got * LENGTH * 1000 / RATE * 9 / 10); /* the burst is within the tenth */
    if (tos)
        CHECK(ce > 0 && ce == c.marked && lost == 0);
    else
        CHECK(lost > 0 && c.marked == 0);
    CHECK(wh_switch_peer_rate(t.a.sw, 2, 0) == WH_OK);
    send_udp(&t, 7, 0, 5, 600);
    CHECK(take_udp(&t).tag == 5);
    CHECK(egress_of(&t.a).slow == 0);
    close_pair(&t);
}

/* Frames of minutes wait; probes do not. A rate that is lifted lets all of it go. */
static void probes_pass(void)
{
    struct pair t;
    open_pair(&t);
    CHECK(event_of(t.a.sw, WH_SW_PEER_UP).node == 2);
    CHECK(wh_switch_peer_rate(t.a.sw, 2, 1000) == WH_OK);
    for (uint32_t i = 1; i <= 100; i++)
        send_udp(&t, 7, 0, i, 1000);
    WAIT_FOR(peer_counters(t.a.sw, 2).queued > 90);
    CHECK(wh_switch_peer_set(t.a.sw, 2, 2, NULL, 0, NULL) == WH_OK);
    CHECK(event_of(t.a.sw, WH_SW_PEER_DOWN).node == 2);
    CHECK(wh_switch_peer_set(t.a.sw, 2, 2, &t.b.addr, sizeof(t.b.addr), NULL) == WH_OK);
    CHECK(event_of(t.a.sw, WH_SW_PEER_UP).node == 2);
    CHECK(wh_switch_peer_rate(t.a.sw, 2, 0) == WH_OK);
    WAIT_FOR(egress_of(&t.a).bytes == 0);
    wh_counters c = peer_counters(t.a.sw, 2);
    CHECK(c.tx_frames + c.drop_aqm + c.drop_no_peer == 101);
    close_pair(&t);
}

/* 1 -> 2 -> 3, where 2 has a full socket: what it relays waits there too. */
static void relayed(void)
{
    struct pair t;
    struct node c;
    struct nic far;
    open_pair(&t);
    node_open(&c, 3);
    nic_open(&far, 3);
    CHECK(nic_plug(&far, c.sw, 3, far.mac, 1) == WH_OK);
    CHECK(wh_switch_peer_set(t.a.sw, 3, 2, NULL, 0, NULL) == WH_OK);
    CHECK(wh_switch_peer_set(t.b.sw, 3, 3, &c.addr, sizeof(c.addr), NULL) == WH_OK);
    CHECK(wh_switch_peer_set(c.sw, 1, 2, NULL, 0, NULL) == WH_OK);
    accept_epoch(&c, &t.a, 1, 0), use_epoch(&t.a, &c, 1, 0);
    CHECK(wh_switch_mac_set(t.a.sw, VNI, far.mac, 3, NULL) == WH_OK);
    set_full(&t.b, EAGAIN);
    for (uint32_t i = 1; i <= 500; i++) {
        nic_send(&t.from, far.mac, i);
        if (i == 1) /* the first one finds out that the socket is full */
            WAIT_FOR(egress_of(&t.b).blocked);
    }
    WAIT_FOR(port_counters(t.a.sw, 1).rx_frames == 501);
    WAIT_FOR(egress_of(&t.b).bytes > 0);
    set_full(&t.b, 0);
    for (uint32_t i = 1; i <= 500; i++)
        CHECK(nic_take(&far, NULL, NULL) == i);
    CHECK(all_counters(t.b.sw).drop_queue == 0);
    wh_switch_free(c.sw);
    nic_close(&far);
    close_pair(&t);
}

/* A guest moves while the socket is full: what follows it and the probes wait, before all other frames, and get there.
 */
static void moved(void)
{
    struct pair t;
    struct nic old, new;
    open_pair(&t);
    nic_open(&old, 4), nic_open(&new, 4);
    CHECK(nic_plug(&old, t.a.sw, 4, old.mac, 1) == WH_OK);
    CHECK(wh_switch_mac_set(t.b.sw, VNI, old.mac, 1, NULL) == WH_OK);
    CHECK(nic_plug(&new, t.b.sw, 4, new.mac, 1) == WH_OK && wh_switch_port_enable(t.b.sw, 4, 0) == WH_OK);
    CHECK(wh_switch_port_hold(t.a.sw, 4, 1) == WH_OK);
    for (uint32_t i = 1; i <= 50; i++)
        nic_send(&t.from, old.mac, i);
    WAIT_FOR(port_counters(t.a.sw, 1).rx_frames == 51);
    CHECK(wh_switch_port_enable(t.b.sw, 4, 1) == WH_OK);
    CHECK(wh_switch_mac_set(t.a.sw, VNI, old.mac, 2, NULL) == WH_OK);
    set_full(&t.a, EAGAIN);
    nic_send(&t.from, t.to.mac, 7);
    WAIT_FOR(egress_of(&t.a).blocked);
    CHECK(wh_switch_port_hold(t.a.sw, 4, 0) == WH_OK);
    CHECK(egress_of(&t.a).moved.bytes > 0);
    WAIT_FOR(egress_of(&t.a).control.bytes > 0);
    set_full(&t.a, 0);
    for (uint32_t i = 1; i <= 50; i++)
        CHECK(nic_take(&new, NULL, NULL) == i);
    CHECK(nic_take(&t.to, NULL, NULL) == 7);
    CHECK(egress_of(&t.a).moved.bytes == 0 && egress_of(&t.a).control.bytes == 0);
    nic_send(&t.from, old.mac, 51); /* this node has heard of the move: straight on */
    CHECK(nic_take(&new, NULL, NULL) == 51);
    close_pair(&t);
    nic_close(&old), nic_close(&new);
}

int main(void)
{
    full_socket(EAGAIN);
    full_socket(ENOBUFS);
    flooded();
    paced(0);
    paced(WH_ECN_ECT0);
    probes_pass();
    relayed();
    moved();
    return finish("switch_egress");
}
