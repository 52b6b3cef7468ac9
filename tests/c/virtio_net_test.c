/* The network device with the test on both sides: a driver at the queues and a switch at the rings. */
#include "base/ring_layout.h"
#include "virtio_guest.h"

#include <unistd.h>

#define HDR       12u
#define F_MAC     (1ull << 5)
#define F_STATUS  (1ull << 16)
#define FITTING   (1024u - WH_RING_RECORD) /* frames of this length fill a ring exactly: */
#define RING_FITS (WH_RING_CAPACITY / 1024u)
enum { RX = 0, TX = 1 };
static const wh_net_config CONFIG = {.mac = {2, 0, 0, 1, 2, 3}, .mtu = 1400, .pairs = 2};

struct net_side {
    int to_switch, to_guest;
    wh_ring *from_guest, *to_guest_ring; /* the switch's views */
};

static wh_device *make_net(struct guest *g)
{
    wh_virtio_env env = guest_env(g);
    wh_device *d = NULL;
    CHECK_EQ(wh_virtio_net_new(&env, &CONFIG, &d, NULL), 0);
    return d;
}

static void open_side(struct guest *g)
{
    struct net_side *s = g->user;
    int ring_fd;
    wh_ring_unmap(s->from_guest);
    wh_ring_unmap(s->to_guest_ring);
    wh_virtio_net_fds(g->dev, &ring_fd, &s->to_switch, &s->to_guest);
    CHECK_EQ(s->to_guest, g->dev->poll_fd);
    CHECK_EQ(wh_ring_map(ring_fd, 0, false, &s->from_guest, NULL), 0);
    CHECK_EQ(wh_ring_map(ring_fd, 1, true, &s->to_guest_ring, NULL), 0);
}

static void net_open(struct guest *g, struct net_side *s, bool rebirth)
{
    memset(s, 0, sizeof *s);
    guest_open(g, make_net);
    g->user = s;
    g->reborn = open_side;
    g->rebirth = rebirth;
    open_side(g);
}

static void net_close(struct guest *g)
{
    struct net_side *s = g->user;
    wh_ring_unmap(s->from_guest);
    wh_ring_unmap(s->to_guest_ring);
    guest_close(g);
}

static void pattern(uint8_t *p, uint32_t len, unsigned seed)
{
    for (uint32_t i = 0; i < len; i++)
        p[i] = (uint8_t)(i * 13 + seed);
}

/* The switch sends; returns the status of the ring. Rings the guest's bell as the switch would. */
static int switch_sends(struct guest *g, uint32_t len, unsigned seed)
{
    struct net_side *s = g->user;
    static uint8_t frame[WH_RING_MAX_FRAME];
    bool bell;
    pattern(frame, len, seed);
    int status = wh_ring_put(s->to_guest_ring, frame, len, &bell);
    if (bell)
        CHECK_EQ(eventfd_write(s->to_guest, 1), 0);
    return status;
}

static void expect_frame(struct guest *g, uint32_t len, unsigned seed)
{
    struct net_side *s = g->user;
    static uint8_t want[WH_RING_MAX_FRAME];
    const uint8_t *frame;
    uint32_t got;
    pattern(want, len, seed);
    CHECK_EQ(wh_ring_peek(s->from_guest, &frame, &got), 0);
    CHECK_EQ(got, len);
    CHECK(memcmp(frame, want, len) == 0);
    wh_ring_consume(s->from_guest);
}

/* Transmit len bytes whose frame starts in the header's segment (`joined`) or in one of its own, over `pieces`
 * segments. */
static void transmit(struct guest *g, uint32_t len, unsigned seed, bool joined, unsigned pieces)
{
    uint64_t off = guest_buffer(g, HDR + len);
    memset(at(g, off), 0, HDR);
    pattern(at(g, off + HDR), len, seed);
    struct part p[8];
    unsigned n = 0;
    uint32_t done = joined ? 0 : HDR, rest = HDR + len - done;
    if (!joined)
        p[n++] = (struct part){off, HDR, 0};
    for (unsigned i = 0; i < pieces; i++) {
        uint32_t part = i + 1 == pieces ? HDR + len - done : rest / pieces;
        p[n++] = (struct part){off + done, part, 0};
        done += part;
    }
    uint16_t head = add_chain(g, TX, p, n);
    checkpoint(g);
    kick(g, TX);
    expect_used(g, TX, head, 0);
}

static void transmits(bool rebirth)
{
    struct guest g;
    struct net_side s;
    net_open(&g, &s, rebirth);
    guest_start(&g, F_MAC | F_STATUS | WH_VIRTIO_F_EVENT_IDX, 2, 64);
    for (unsigned i = 0; i < 6; i++)
        CHECK_EQ(g.dev->ops->read(g.dev, R_CONFIG + i, 1, &(uint64_t){0}), 0);
    CHECK_EQ(reg_read(&g, R_CONFIG), 0x01000002);
    CHECK_EQ(reg_read(&g, R_CONFIG + 4) >> 16, 1); /* link up */
    const uint32_t lens[] = {14, 60, 1400, 1514, 9000, 65535};
    for (unsigned i = 0; i < WH_ARRAY_LEN(lens); i++)
        for (unsigned pieces = 1; pieces <= 4; pieces++) {
            transmit(&g, lens[i], i + pieces, pieces & 1, pieces);
            expect_frame(&g, lens[i], i + pieces);
        }
    wh_net_stats stats;
    wh_virtio_net_get_stats(g.dev, &stats);
    CHECK_EQ(stats.tx_frames, 24);
    CHECK_EQ(stats.tx_bytes, 4u * (14 + 60 + 1400 + 1514 + 9000 + 65535));
    CHECK_EQ(stats.dropped, 0);
    net_close(&g);
}

/* The doorbell is rung when the switch sleeps and not while it is awake. */
static void doorbell(void)
{
    struct guest g;
    struct net_side s;
    eventfd_t n;
    net_open(&g, &s, false);
    guest_start(&g, 0, 2, 64);
    transmit(&g, 60, 1, true, 1);
    CHECK(eventfd_read(s.to_switch, &n) != 0);
    expect_frame(&g, 60, 1);
    CHECK(wh_ring_sleep(s.from_guest));
    transmit(&g, 60, 2, true, 1);
    transmit(&g, 60, 3, true, 1);
    CHECK_EQ(eventfd_read(s.to_switch, &n), 0);
    CHECK_EQ(n, 1);
    net_close(&g);
}

static void full_ring_drops(void)
{
    struct guest g;
    struct net_side s;
    net_open(&g, &s, false);
    guest_start(&g, 0, 2, 64);
    for (unsigned i = 0; i < RING_FITS + 44; i++)
        transmit(&g, FITTING, i, true, 1);
    wh_net_stats stats;
    wh_virtio_net_get_stats(g.dev, &stats);
    CHECK_EQ(stats.tx_frames, RING_FITS);
    CHECK_EQ(stats.dropped, 44);
    for (unsigned i = 0; i < RING_FITS; i++)
        expect_frame(&g, FITTING, i);
    transmit(&g, FITTING, 9, true, 1); /* and goes on */
    expect_frame(&g, FITTING, 9);
    net_close(&g);
}

/* The switch takes the oldest frame and rings if the device waits for room, as the switch does. */
static bool switch_takes(struct guest *g, uint32_t len, unsigned seed)
{
    struct net_side *s = g->user;
    expect_frame(g, len, seed);
    bool owes = wh_ring_owes_room(s->from_guest);
    if (owes)
        CHECK_EQ(eventfd_write(s->to_guest, 1), 0);
    return owes;
}

static uint16_t offer_frame(struct guest *g, uint32_t len, unsigned seed)
{
    uint64_t off = guest_buffer(g, HDR + len);
    memset(at(g, off), 0, HDR);
    pattern(at(g, off + HDR), len, seed);
    const struct part p = {off, HDR + len, 0};
    return add_chain(g, TX, &p, 1);
}

/* Where the switch is there frames wait in the driver's queue while the ring is full; none is lost, and none overtakes.
 */
static void full_ring_waits(void)
{
    struct guest g;
    struct net_side s;
    wh_net_stats stats;
    enum { WAITING = 40 };
    uint16_t heads[WAITING];
    net_open(&g, &s, false);
    guest_start(&g, WH_VIRTIO_F_EVENT_IDX, 2, 64);
    wh_ring_attend(s.from_guest, true);
    for (unsigned i = 0; i < RING_FITS; i++)
        transmit(&g, FITTING, i, true, 1);
    for (unsigned i = 0; i < WAITING; i++) {
        heads[i] = offer_frame(&g, FITTING, RING_FITS + i);
        kick(&g, TX);
        expect_no_used(&g, TX);
    }
    guest_poll(&g);
    CHECK_EQ(guest_poll(&g), 0); /* nor does it ask itself again and again */
    wh_virtio_net_get_stats(g.dev, &stats);
    CHECK_EQ(stats.tx_frames, RING_FITS);
    CHECK_EQ(stats.dropped, 0);
    unsigned taken = 0;
    while (!switch_takes(&g, FITTING, taken++))
        CHECK(taken < RING_FITS);
    CHECK(guest_poll(&g) > 0);
    for (unsigned i = 0; i < WAITING; i++)
        expect_used(&g, TX, heads[i], 0);
    for (; taken < RING_FITS + WAITING; taken++)
        CHECK(!switch_takes(&g, FITTING, taken));
    net_close(&g);
}

/* The switch goes while frames wait for it: they are dropped and counted. */
static void switch_leaves(void)
{
    struct guest g;
    struct net_side s;
    wh_net_stats stats;
    net_open(&g, &s, false);
    guest_start(&g, 0, 2, 64);
    wh_ring_attend(s.from_guest, true);
    for (unsigned i = 0; i < RING_FITS; i++)
        transmit(&g, FITTING, i, true, 1);
    uint16_t head = offer_frame(&g, FITTING, 1);
    kick(&g, TX);
    expect_no_used(&g, TX);
    wh_ring_attend(s.from_guest, false);
    CHECK_EQ(eventfd_write(s.to_guest, 1), 0);
    CHECK(guest_poll(&g) > 0);
    expect_used(&g, TX, head, 0);
    wh_virtio_net_get_stats(g.dev, &stats);
    CHECK_EQ(stats.dropped, 1);
    net_close(&g);
}

static uint16_t give_buffer(struct guest *g, uint32_t len, uint64_t *off)
{
    *off = guest_buffer(g, len);
    memset(at(g, *off), 0xee, len);
    const struct part p[] = {{*off, 5, WRITE}, {*off + 5, len - 5, WRITE}}; /* the header crosses a border */
    return add_chain(g, RX, p, 2);
}

static void expect_received(struct guest *g, uint16_t head, uint64_t off, uint32_t len, unsigned seed)
{
    static uint8_t want[WH_RING_MAX_FRAME];
    static const uint8_t hdr[HDR] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0};
    pattern(want, len, seed);
    expect_used(g, RX, head, HDR + len);
    CHECK(memcmp(at(g, off), hdr, HDR) == 0);
    CHECK(memcmp(at(g, off + HDR), want, len) == 0);
    CHECK_EQ(*at(g, off + HDR + len), 0xee);
}

static void receives(bool rebirth)
{
    struct guest g;
    struct net_side s;
    net_open(&g, &s, rebirth);
    guest_start(&g, WH_VIRTIO_F_EVENT_IDX, 2, 64);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t off;
        uint32_t len = 60 + i * 7;
        uint16_t head = give_buffer(&g, 1600, &off);
        kick(&g, RX);
        checkpoint(&g);
        CHECK_EQ(switch_sends(&g, len, i), 0);
        guest_poll(&g);
        expect_received(&g, head, off, len, i);
        *u16_at(&g, avail_off(RX) + 4 + 2 * 64) = g.q[RX].used; /* used_event: the next one interrupts too */
        CHECK_EQ(g.irq_level, 1);
        ack(&g);
        checkpoint(&g);
    }
    wh_net_stats stats;
    wh_virtio_net_get_stats(g.dev, &stats);
    CHECK_EQ(stats.rx_frames, 200);
    CHECK_EQ(stats.dropped, 0);
    net_close(&g);
}

/* Frames wait in the ring while the driver has no buffers; a buffer's notification brings them. */
static void back_pressure(void)
{
    struct guest g;
    struct net_side s;
    net_open(&g, &s, false);
    guest_start(&g, WH_VIRTIO_F_EVENT_IDX, 2, 64);
    unsigned sent = 0;
    while (switch_sends(&g, FITTING, sent) == 0)
        sent++;
    CHECK_EQ(sent, RING_FITS);
    CHECK_EQ(switch_sends(&g, FITTING, 0), WH_E_FULL);
    guest_poll(&g);
    expect_no_used(&g, RX);
    for (unsigned i = 0; i < sent; i++) {
        uint64_t off;
        uint16_t head = give_buffer(&g, 1600, &off);
        kick(&g, RX);
        guest_poll(&g);
        expect_received(&g, head, off, FITTING, i);
    }
    CHECK_EQ(switch_sends(&g, 64, 5), 0); /* the ring is empty and the device sleeps: the bell rings */
    uint64_t off;
    uint16_t head = give_buffer(&g, 1600, &off);
    CHECK(guest_poll(&g) > 0);
    expect_received(&g, head, off, 64, 5);
    net_close(&g);
}

static void drops(void)
{
    struct guest g;
    struct net_side s;
    wh_net_stats stats;
    uint64_t off;
    net_open(&g, &s, false);
    for (unsigned i = 0; i < 200; i++)
        CHECK_EQ(switch_sends(&g, 60, i), 0);
    guest_poll(&g);
    wh_virtio_net_get_stats(g.dev, &stats);
    CHECK_EQ(stats.dropped, 200); /* no driver yet */
    guest_start(&g, 0, 2, 64);
    uint16_t head = give_buffer(&g, 1000, &off);
    kick(&g, RX);
    CHECK_EQ(switch_sends(&g, 1514, 1), 0); /* longer than the driver's buffers: only this frame is lost */
    CHECK_EQ(switch_sends(&g, 70, 2), 0);
    guest_poll(&g);
    expect_received(&g, head, off, 70, 2);
    wh_virtio_net_get_stats(g.dev, &stats);
    CHECK_EQ(stats.dropped, 201);
    CHECK_EQ(switch_sends(&g, 60, 3), 0); /* waits for a buffer, until the driver goes away */
    guest_poll(&g);
    reg_write(&g, R_STATUS, 0);
    guest_poll(&g);
    wh_virtio_net_get_stats(g.dev, &stats);
    CHECK_EQ(stats.dropped, 202);
    net_close(&g);
}

static void bad_transmissions(void)
{
    struct guest g;
    struct net_side s;
    wh_net_stats stats;
    net_open(&g, &s, false);
    guest_start(&g, 0, 2, 64);
    transmit(&g, 13, 0, true, 1); /* no Ethernet header */
    transmit(&g, WH_RING_MAX_FRAME + 1, 0, true, 1);
    uint64_t off = guest_buffer(&g, 100);
    memset(at(&g, off), 0, 100);
    *at(&g, off + 1) = 1; /* GSO that was not offered */
    const struct part gso = {off, 100, 0};
    uint16_t head = add_chain(&g, TX, &gso, 1);
    kick(&g, TX);
    expect_used(&g, TX, head, 0);
    wh_virtio_net_get_stats(g.dev, &stats);
    CHECK_EQ(stats.dropped, 3);
    CHECK_EQ(stats.tx_frames, 0);
    const struct part stub = {off, HDR - 1, 0};
    add_chain(&g, TX, &stub, 1);
    kick(&g, TX);
    expect_broken(&g, "shorter than its header");
    guest_start(&g, 0, 2, 64);
    const struct part in_only = {off, 100, WRITE};
    add_chain(&g, TX, &in_only, 1);
    kick(&g, TX);
    expect_broken(&g, "shorter than its header");
    guest_start(&g, 0, 2, 64);
    const struct part small = {off, HDR - 1, WRITE};
    add_chain(&g, RX, &small, 1);
    CHECK_EQ(switch_sends(&g, 60, 0), 0);
    guest_poll(&g);
    expect_broken(&g, "shorter than its header");
    net_close(&g);
}

/* A switch that writes nonsense into the ring costs the guest its link, nothing else. */
static void damaged_ring(void)
{
    struct guest g;
    struct net_side s;
    net_open(&g, &s, false);
    guest_start(&g, F_STATUS, 2, 64);
    atomic_store(&s.to_guest_ring->shared->head, 12345);
    CHECK_EQ(eventfd_write(s.to_guest, 1), 0);
    guest_poll(&g);
    CHECK_EQ(reg_read(&g, R_CONFIG + 4) >> 16, 0);
    CHECK_EQ(reg_read(&g, R_ISR), 2);
    transmit(&g, 60, 1, true, 1); /* taken and dropped */
    CHECK_EQ(reg_read(&g, R_STATUS), 15);
    wh_net_stats stats;
    wh_virtio_net_get_stats(g.dev, &stats);
    CHECK_EQ(stats.dropped, 1);
    g.rebirth = g.changes_on_load = true;
    checkpoint(&g); /* a new device has new rings: the link comes back, and the driver is told */
    CHECK_EQ(reg_read(&g, R_CONFIG + 4) >> 16, 1);
    transmit(&g, 60, 1, true, 1);
    expect_frame(&g, 60, 1);
    net_close(&g);
}

/* The machine is paused: what the ring holds goes into the driver's buffers, what has no buffer stays there. */
static void settles(void)
{
    struct guest g;
    struct net_side s;
    uint64_t off[3];
    uint16_t head[3];
    net_open(&g, &s, false);
    guest_start(&g, 0, 2, 64);
    for (unsigned i = 0; i < 3; i++)
        head[i] = give_buffer(&g, 1600, &off[i]);
    kick(&g, RX);
    for (unsigned i = 0; i < 4; i++)
        CHECK_EQ(switch_sends(&g, 60 + i, i), 0);
    wh_virtio_net_settle(g.dev);
    for (unsigned i = 0; i < 3; i++)
        expect_received(&g, head[i], off[i], 60 + i, i);
    expect_no_used(&g, RX);
    uint64_t last_off;
    uint16_t last = give_buffer(&g, 1600, &last_off);
    wh_virtio_net_settle(g.dev);
    expect_received(&g, last, last_off, 63, 3);
    atomic_store(&s.to_guest_ring->shared->head, 12345);
    wh_virtio_net_settle(g.dev); /* a ring that lies ends it */
    net_close(&g);
}

struct noted {
    unsigned frames;
    uint32_t last;
};

static void note(void *ctx, const uint8_t *frame, uint32_t len)
{
    struct noted *n = ctx;
    static uint8_t want[WH_RING_MAX_FRAME];
    pattern(want, len, n->frames);
    CHECK(memcmp(frame, want, len) == 0);
    n->frames++;
    n->last = len;
}

/* Frames come in when the owner says so, each told to it once; its own come the same way; sending never fails. */
static void gated(void)
{
    struct guest g;
    struct net_side s;
    struct noted n = {0};
    uint64_t off[3];
    uint16_t head[3];
    net_open(&g, &s, false);
    CHECK_EQ(wh_virtio_net_gate(g.dev, NULL), 0);
    guest_start(&g, 0, 2, 64);
    for (unsigned i = 0; i < 3; i++)
        head[i] = give_buffer(&g, 1600, &off[i]);
    kick(&g, RX);
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(switch_sends(&g, 60 + i, i), 0);
    guest_poll(&g);
    expect_no_used(&g, RX);
    wh_virtio_net_admit(g.dev, note, &n);
    CHECK_EQ(n.frames, 2);
    CHECK_EQ(n.last, 61);
    g.dev->ops->poll(g.dev);
    for (unsigned i = 0; i < 2; i++)
        expect_received(&g, head[i], off[i], 60 + i, i);
    uint8_t frame[64];
    pattern(frame, sizeof frame, 9);
    CHECK(wh_virtio_net_let_in(g.dev, frame, sizeof frame));
    g.dev->ops->poll(g.dev);
    expect_received(&g, head[2], off[2], sizeof frame, 9);
    unsigned sent = 0;
    while (switch_sends(&g, FITTING, 2 + sent) == 0)
        sent++;
    unsigned before = n.frames;
    for (unsigned i = 0; i < RING_FITS / 64 + 1; i++)
        wh_virtio_net_admit(g.dev, note, &n); /* no buffers: the second ring fills, and the first keeps the rest */
    CHECK_EQ(n.frames - before, sent);
    CHECK_EQ(switch_sends(&g, FITTING, n.frames), 0);
    before = n.frames;
    wh_virtio_net_admit(g.dev, note, &n);
    CHECK_EQ(n.frames, before);
    atomic_store(&s.from_guest->shared->tail, 777); /* a switch that lies */
    wh_net_stats stats;
    transmit(&g, 64, 1, true, 1);
    wh_virtio_net_get_stats(g.dev, &stats);
    CHECK_EQ(stats.tx_frames, 1);
    CHECK_EQ(stats.dropped, 0);
    net_close(&g);
}

#define OFFLOADS                                                                                                       \
    (1ull << 0 | 1ull << 1 | 1ull << 2 | 1ull << 7 | 1ull << 8 | 1ull << 11 | 1ull << 12 | 1ull << 15 | 1ull << 17 |   \
     1ull << 22)

/* Headers go to the switch as the driver wrote them where that was negotiated, and nowhere else. */
static void asks_of_the_switch(uint64_t features, uint8_t flags, uint8_t gso, bool passes)
{
    struct guest g;
    struct net_side s;
    net_open(&g, &s, false);
    guest_start(&g, features, 2, 64);
    uint64_t off = guest_buffer(&g, HDR + 3000);
    const struct wh_vnet want = {.flags = flags, .gso_type = gso, .hdr_len = 54, .gso_size = 1348, .csum_start = 34};
    memcpy(at(&g, off), &want, HDR);
    const struct part part = {off, HDR + 3000, 0};
    uint16_t head = add_chain(&g, TX, &part, 1);
    kick(&g, TX);
    expect_used(&g, TX, head, 0);
    const uint8_t *frame;
    uint32_t len;
    CHECK_EQ(wh_ring_peek(s.from_guest, &frame, &len), passes ? WH_OK : WH_E_AGAIN);
    if (passes) {
        struct wh_vnet got;
        wh_ring_todo(frame, &got);
        CHECK(len == 3000 && memcmp(&got, &want, sizeof got) == 0);
    }
    net_close(&g);
}

static void switch_sends_large(struct guest *g, uint32_t len, const struct wh_vnet *todo)
{
    struct net_side *s = g->user;
    uint8_t *room;
    bool bell;
    CHECK_EQ(wh_ring_reserve(s->to_guest_ring, len, &room), 0);
    pattern(room, len, 3);
    wh_ring_commit(s->to_guest_ring, todo, &bell);
    if (bell)
        CHECK_EQ(eventfd_write(s->to_guest, 1), 0);
}

/* One packet in as many buffers as it needs; it waits, and they stay the driver's, until there are enough. */
static void merged_buffers(bool rebirth)
{
    struct guest g;
    struct net_side s;
    wh_net_stats stats;
    uint64_t off[8];
    uint16_t head[8];
    static uint8_t want[WH_RING_MAX_FRAME], got[WH_RING_MAX_FRAME];
    const struct wh_vnet todo = {.flags = 1, .gso_type = 1, .gso_size = 1348, .csum_start = 34, .csum_offset = 16};
    net_open(&g, &s, rebirth);
    guest_start(&g, OFFLOADS & ~(1ull << 22), 2, 64);
    CHECK_EQ(wh_ring_takes(s.to_guest_ring), WH_TAKES_CSUM | WH_TAKES_TSO4 | WH_TAKES_TSO6);
    for (unsigned i = 0; i < 6; i++)
        head[i] = give_buffer(&g, 1500, &off[i]);
    kick(&g, RX);
    switch_sends_large(&g, 10000, &todo);
    guest_poll(&g);
    expect_no_used(&g, RX);
    checkpoint(&g);
    if (rebirth) /* the ring is a new one */
        switch_sends_large(&g, 10000, &todo);
    head[6] = give_buffer(&g, 1500, &off[6]);
    kick(&g, RX);
    guest_poll(&g);
    uint32_t done = 0;
    for (unsigned i = 0; i < 7; i++) {
        uint32_t skip = i == 0 ? HDR : 0, bytes = i < 6 ? 1500 - skip : 10000 - done;
        expect_used(&g, RX, head[i], skip + bytes);
        memcpy(got + done, at(&g, off[i] + skip), bytes);
        done += bytes;
    }
    expect_no_used(&g, RX);
    pattern(want, 10000, 3);
    CHECK(done == 10000 && memcmp(got, want, done) == 0);
    struct wh_vnet hdr;
    memcpy(&hdr, at(&g, off[0]), HDR);
    CHECK(hdr.gso_type == 1 && hdr.gso_size == 1348 && hdr.num_buffers == 7);
    const struct wh_vnet unwanted = {.flags = 1, .gso_type = 5, .gso_size = 1348}; /* USO was not negotiated */
    (void)give_buffer(&g, 20000, &off[0]);
    switch_sends_large(&g, 10000, &unwanted);
    guest_poll(&g);
    expect_no_used(&g, RX);
    wh_virtio_net_get_stats(g.dev, &stats);
    CHECK_EQ(stats.dropped, 1);
    net_close(&g);
}

/* A command of the control queue; returns the answer. */
static uint8_t command(struct guest *g, unsigned queue, const void *bytes, uint32_t len)
{
    uint64_t out = guest_buffer(g, 16), in = guest_buffer(g, 1);
    memcpy(at(g, out), bytes, len);
    *at(g, in) = 0xee;
    const struct part parts[] = {{out, len, 0}, {in, 1, WRITE}};
    uint16_t head = add_chain(g, queue, parts, 2);
    kick(g, queue);
    expect_used(g, queue, head, 1);
    checkpoint(g);
    return *at(g, in);
}

static void control(bool rebirth)
{
    struct guest g;
    struct net_side s;
    net_open(&g, &s, rebirth);
    guest_start(&g, OFFLOADS, 5, 64);
    const unsigned ctl = 4;
    CHECK_EQ(reg_read(&g, R_CONFIG + 8), 1400u << 16 | 2); /* MTU and pairs */
    const uint8_t two[] = {4, 0, 2, 0}, three[] = {4, 0, 3, 0}, none[] = {4, 0, 0, 0}, cut_off[] = {4, 0, 2};
    CHECK_EQ(command(&g, ctl, three, 4), 1);
    CHECK_EQ(command(&g, ctl, none, 4), 1);
    CHECK_EQ(command(&g, ctl, cut_off, 3), 1);
    CHECK_EQ(command(&g, ctl, two, 4), 0);
    uint8_t offloads[10] = {5, 0, 2};
    CHECK_EQ(command(&g, ctl, offloads, 10), 0);
    CHECK_EQ(wh_ring_takes(s.to_guest_ring), WH_TAKES_CSUM);
    offloads[3] = 2; /* ECN, which was not negotiated */
    CHECK_EQ(command(&g, ctl, offloads, 10), 1);
    const uint8_t unknown[] = {9, 0, 0};
    CHECK_EQ(command(&g, ctl, unknown, 3), 1);
    /* Flows go to both pairs, each always to the same one. */
    unsigned seen[2] = {0};
    bool first = false;
    for (unsigned i = 0; i < 80; i++) {
        const struct part buffer = {guest_buffer(&g, 200), 200, WRITE};
        add_chain(&g, i & 1 ? 2 : 0, &buffer, 1);
    }
    for (unsigned i = 0; i < 40; i++) {
        CHECK_EQ(switch_sends(&g, 100, i / 2), 0);
        guest_poll(&g);
        uint32_t id, len;
        unsigned before = seen[0];
        for (unsigned q = 0; q < 2; q++)
            seen[q] += take_used(&g, 2 * q, &id, &len);
        CHECK_EQ(seen[0] + seen[1], i + 1);
        if (i % 2 == 0)
            first = seen[0] != before;
        else
            CHECK_EQ(seen[0] != before, first);
    }
    CHECK(seen[0] > 4 && seen[1] > 4);
    net_close(&g);
}

/* A state of before there were offloads: two queues, and no word of pairs. */
static void old_state(void)
{
    static const char *const numbers[] = {"features", "features_sel",     "offered_sel",      "queue_sel",
                                          "status",   "interrupt_status", "config_generation"};
    static const char *const stats[] = {"link", "tx_frames", "rx_frames", "tx_bytes", "rx_bytes", "dropped"};
    struct guest g;
    struct net_side s;
    wh_writer w;
    wh_reader r;
    net_open(&g, &s, false);
    guest_start(&g, F_MAC | F_STATUS, 2, 64);
    const wh_virtio *v = (wh_virtio *)g.dev;
    wh_writer_init(&w);
    wh_put_map(&w, 9);
    for (unsigned i = 0; i < WH_ARRAY_LEN(numbers); i++)
        wh_put_kuint(&w, numbers[i], i == 0 ? v->accepted : i == 4 ? v->status : 0);
    wh_put_str(&w, "queues");
    wh_put_array(&w, 2);
    for (unsigned i = 0; i < 2; i++)
        wh_virtq_save(&v->queue[i], &w);
    wh_put_str(&w, "net");
    wh_put_map(&w, 6);
    for (unsigned i = 0; i < WH_ARRAY_LEN(stats); i++)
        wh_put_kuint(&w, stats[i], i == 0);
    wh_reader_init(&r, w.data, w.len);
    g.dev->ops->load(g.dev, &r);
    CHECK_EQ(r.status, 0);
    transmit(&g, 60, 1, true, 1);
    expect_frame(&g, 60, 1);
    CHECK_EQ(wh_ring_takes(s.to_guest_ring), 0);
    wh_writer_free(&w);
    net_close(&g);
}

int main(void)
{
    old_state();
    asks_of_the_switch(OFFLOADS, 1, 1, true);
    asks_of_the_switch(OFFLOADS, 1, 0, true);
    asks_of_the_switch(0, 1, 0, false);
    asks_of_the_switch(OFFLOADS, 1, 0x81, false); /* ECN */
    asks_of_the_switch(OFFLOADS, 1, 5, false);    /* USO */
    asks_of_the_switch(OFFLOADS, 1, 3, false);
    merged_buffers(false);
    merged_buffers(true);
    control(false);
    control(true);
    transmits(false);
    transmits(true);
    doorbell();
    full_ring_drops();
    full_ring_waits();
    switch_leaves();
    receives(false);
    receives(true);
    back_pressure();
    settles();
    gated();
    drops();
    bad_transmissions();
    damaged_ring();
    return report("virtio_net");
}
