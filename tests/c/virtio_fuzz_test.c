/* Every virtio device under a driver that writes random bytes into rings, descriptors, requests and registers. Nothing
 * is expected but that the sanitizers stay silent, that each call ends, that writes stay inside RAM, and that a reset
 * brings the device back. WHERRY_FUZZ_ITERATIONS: rounds for each device (default 10000); WHERRY_FUZZ_SEED: where to
 * begin. */
#include "virtio_guest.h"

#include "base/ring_layout.h"

#include <sys/mman.h>
#include <unistd.h>

static uint64_t seed;

static uint32_t rnd(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed >> 16) % below);
}

/* ---- the devices and their outsides ---------------------------------------------------------------------------------
 */

static int disk_fd;

static wh_device *make_rng(struct guest *g)
{
    wh_virtio_env env = guest_env(g);
    wh_device *d = NULL;
    CHECK_EQ(wh_virtio_rng_new(&env, 1, &d, NULL), 0);
    return d;
}

static wh_device *make_blk(struct guest *g)
{
    wh_virtio_env env = guest_env(g);
    wh_device *d = NULL;
    CHECK_EQ(wh_virtio_blk_new(&env, disk_fd, false, "fuzz", &d, NULL), 0);
    return d;
}

static wh_device *make_net(struct guest *g)
{
    static const wh_net_config config = {.mac = {2, 0, 0, 0, 0, 1}, .mtu = 1400, .pairs = 2};
    wh_virtio_env env = guest_env(g);
    wh_device *d = NULL;
    CHECK_EQ(wh_virtio_net_new(&env, &config, &d, NULL), 0);
    return d;
}

static size_t sink(void *ctx, const uint8_t *data, size_t len)
{
    uint8_t *sum = ctx;
    for (size_t i = 0; i < len; i += 4096)
        *sum ^= data[i];
    if (len > 0)
        *sum ^= data[len - 1];
    return rnd(4) ? len : rnd(len + 1); /* a reader that is behind */
}

static size_t source(void *ctx, uint8_t *data, size_t cap)
{
    (void)ctx;
    size_t n = cap < 100 ? cap : 100;
    memset(data, 'x', n);
    return n;
}

static size_t source_ready(void *ctx)
{
    (void)ctx;
    return rnd(3) * 50;
}

static void opened(void *ctx, bool open)
{
    *(uint8_t *)ctx ^= open;
}

static uint8_t sums[2];

static wh_device *make_console(struct guest *g)
{
    wh_virtio_env env = guest_env(g);
    const wh_channel_end a = {&sums[0], sink, source, source_ready, opened};
    const wh_channel_end b = {&sums[1], sink, source, source_ready, opened};
    wh_device *d = NULL;
    CHECK_EQ(wh_virtio_console_new(&env, &a, &b, &d, NULL), 0);
    return d;
}

/* ---- what the driver does ------------------------------------------------------------------------------------------
 */

/* An address: mostly inside RAM, sometimes at its edges, sometimes anywhere. */
static uint64_t address(void)
{
    switch (rnd(12)) {
    case 0:
        return WH_RAM_BASE + RAM_BYTES - rnd(64);
    case 1:
        return WH_RAM_BASE - rnd(64);
    case 2:
        return (uint64_t)rnd(UINT32_MAX) << rnd(33);
    case 3: /* the device's own rings */
        return WH_RAM_BASE + QUEUE_AREA + rnd(0x60000);
    default:
        return WH_RAM_BASE + BUFFER_AREA + rnd(1 << 20);
    }
}

static uint32_t length(void)
{
    switch (rnd(10)) {
    case 0:
        return rnd(UINT32_MAX);
    case 1:
        return 16 * rnd(300);
    case 2:
        return 0;
    case 3:
        return 512 * rnd(64);
    default:
        return 1 + rnd(100);
    }
}

static void random_descriptors(struct guest *g, unsigned q)
{
    uint16_t num = g->q[q].num;
    for (unsigned i = 0; i < num; i++) {
        uint16_t flags = (uint16_t)(rnd(4) ? rnd(4) : rnd(8));
        uint16_t next = (uint16_t)(rnd(8) ? rnd(num) : rnd(65536));
        put_desc(g, desc_off(q), (uint16_t)i, address(), length(), flags, next);
    }
}

/* A request that gets past the first look: a block or control header, or the like, in front of random parts. */
static void likely_request(struct guest *g, unsigned q)
{
    uint64_t hdr = BUFFER_AREA + rnd(1 << 20);
    const uint32_t words[4] = {rnd(12), rnd(8) << 16 | rnd(8), rnd(4096), rnd(8) ? 0 : rnd(UINT32_MAX)};
    memcpy(at(g, hdr), words, 16);
    struct part p[6] = {{hdr, rnd(2) ? 16 : 12, 0}};
    unsigned n = 1;
    for (unsigned outs = rnd(3); outs > 0; outs--)
        p[n++] = (struct part){BUFFER_AREA + rnd(1 << 20), 1 + rnd(2048), 0};
    for (unsigned ins = rnd(3); ins > 0; ins--)
        p[n++] = (struct part){BUFFER_AREA + rnd(1 << 20), 1 + rnd(2048), WRITE};
    if (rnd(2))
        add_chain(g, q, p + (rnd(4) == 0), n - (n > 1));
    else
        add_indirect(g, q, p, n);
}

/* Entries of a packed ring, a run of them from the device's next one on as this round's. */
static void random_packed(struct guest *g, unsigned q)
{
    const wh_virtq *v = &((wh_virtio *)g->dev)->queue[q];
    uint16_t num = g->q[q].num, first = v->next_avail & 0x7fff;
    bool wrap = v->next_avail >> 15;
    for (unsigned i = 1 + rnd(num), k = first; i > 0; i--, k++) {
        bool lies = rnd(12) == 0;
        uint16_t flags = (uint16_t)(rnd(6) ? rnd(4) : rnd(8));
        flags |= ((k < num) == wrap) != lies ? 0x80 : 0x8000;
        uint16_t id = (uint16_t)(rnd(4) ? k % num : rnd(65536));
        put_desc(g, desc_off(q), (uint16_t)(k % num), address(), length(), id, flags);
    }
    if (rnd(3) == 0)
        *u16_at(g, avail_off(q) + 2ull * rnd(2)) = (uint16_t)rnd(65536);
}

static void random_ring(struct guest *g, unsigned q)
{
    if (g->features & WH_VIRTIO_F_PACKED) {
        random_packed(g, q);
        return;
    }
    switch (rnd(6)) {
    case 0:
        random_descriptors(g, q);
        break;
    case 1: /* the available ring's words, index too */
        for (unsigned i = 0; i < 8; i++)
            *u16_at(g, avail_off(q) + 2ull * rnd(3 + g->q[q].num)) = (uint16_t)rnd(rnd(2) ? 65536 : g->q[q].num);
        g->q[q].avail = *u16_at(g, avail_off(q) + 2);
        break;
    case 2:
        make_available(g, q, (uint16_t)rnd(g->q[q].num));
        break;
    default:
        likely_request(g, q);
    }
}

static void random_register(struct guest *g)
{
    static const uint16_t regs[] = {0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64,
                                    0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4};
    const unsigned size = 1u << rnd(4);
    uint64_t v;
    uint64_t off = rnd(4) ? regs[rnd(WH_ARRAY_LEN(regs))] : rnd(WH_VIRTIO_MMIO_SIZE);
    CHECK_EQ(g->dev->ops->write(g->dev, off, rnd(4) ? 4 : size, rnd(3) ? rnd(16) : rnd(UINT32_MAX)), 0);
    CHECK_EQ(g->dev->ops->read(g->dev, rnd(WH_VIRTIO_MMIO_SIZE), size, &v), 0);
}

/* The switch's side of a network device: frames in, frames out. */
static void play_switch(struct guest *g)
{
    int ring_fd, to_switch, to_guest;
    wh_ring *tx, *rx;
    const uint8_t *got;
    uint32_t len;
    bool bell;
    wh_virtio_net_fds(g->dev, &ring_fd, &to_switch, &to_guest);
    CHECK_EQ(wh_ring_map(ring_fd, 0, false, &rx, NULL), 0);
    CHECK_EQ(wh_ring_map(ring_fd, 1, true, &tx, NULL), 0);
    while (wh_ring_peek(rx, &got, &len) == 0)
        wh_ring_consume(rx);
    for (unsigned i = rnd(4); i > 0; i--) {
        uint8_t *room;
        struct wh_vnet todo = {.flags = (uint8_t)rnd(4), .gso_type = (uint8_t)(rnd(2) ? 0 : rnd(256))};
        if (wh_ring_reserve(tx, 1 + rnd(rnd(4) ? 2048 : 60000), &room) != 0)
            continue;
        wh_ring_commit(tx, &todo, &bell);
        if (bell)
            CHECK_EQ(eventfd_write(to_guest, 1), 0);
    }
    wh_ring_unmap(rx);
    wh_ring_unmap(tx);
}

static void reload(struct guest *g)
{
    wh_writer w;
    wh_reader r;
    wh_writer_init(&w);
    g->dev->ops->save(g->dev, &w);
    if (rnd(2))
        for (unsigned i = 1 + rnd(3); i > 0; i--)
            w.data[rnd((uint32_t)w.len)] = (uint8_t)rnd(256);
    wh_reader_init(&r, w.data, rnd(8) ? w.len : rnd((uint32_t)w.len));
    g->dev->ops->load(g->dev, &r);
    wh_writer_free(&w);
}

static void bounded_poll(struct guest *g)
{
    eventfd_t n;
    for (unsigned i = 0; i < 20 && eventfd_read(g->dev->poll_fd, &n) == 0; i++)
        g->dev->ops->poll(g->dev);
}

static void fuzz(const char *name, wh_device *(*make)(struct guest *g), unsigned queues, uint64_t features,
                 unsigned rounds)
{
    struct guest g;
    unsigned broke = 0, live = 0;
    guest_open(&g, make);
    for (unsigned round = 0; round < rounds && !failures; round++) {
        const uint64_t ring = (rnd(2) ? WH_VIRTIO_F_EVENT_IDX : 0) | (rnd(4) ? WH_VIRTIO_F_INDIRECT : 0) |
                              (rnd(3) ? 0 : WH_VIRTIO_F_PACKED);
        const uint64_t some = features & ((uint64_t)rnd(UINT32_MAX) << 32 | rnd(UINT32_MAX));
        guest_start(&g, (rnd(4) ? features : some) | ring, queues, (uint16_t)(1u << rnd(7)));
        for (unsigned step = rnd(30); step > 0; step--) {
            unsigned q = rnd(queues);
            if (rnd(60) == 0)
                random_register(&g);
            else
                random_ring(&g, q);
            if (rnd(3))
                kick(&g, q);
            if (rnd(40) == 0)
                reload(&g);
            if (make == make_net)
                play_switch(&g);
            bounded_poll(&g);
        }
        broke += wh_virtio_broken(g.dev) != NULL;
        live += wh_virtio_live((wh_virtio *)g.dev);
    }
    /* A fuzz that never gets past the first check, or never breaks anything, tests nothing. */
    CHECK(rounds < 500 || (broke > rounds / 10 && live > rounds / 20));
    if (getenv("WHERRY_FUZZ_VERBOSE"))
        fprintf(stderr, "%s: %u rounds, %u broken, %u live at the end\n", name, rounds, broke, live);
    guest_close(&g);
}

int main(void)
{
    const char *iterations = getenv("WHERRY_FUZZ_ITERATIONS"), *start = getenv("WHERRY_FUZZ_SEED");
    unsigned rounds = iterations ? (unsigned)strtoul(iterations, NULL, 10) : 10000;
    seed = (start ? strtoull(start, NULL, 10) : 0) * 2 + 0x9e3779b97f4a7c15ull;
    disk_fd = memfd_create("disk", MFD_CLOEXEC);
    CHECK_EQ(ftruncate(disk_fd, 1 << 20), 0);
    fuzz("rng", make_rng, 1, 0, rounds);
    fuzz("blk", make_blk, 1, 1ull << 9, rounds);
    fuzz("net", make_net, 2, 1ull << 5 | 1ull << 16, rounds);
    fuzz("net with offloads", make_net, 5, 0x01c000000043bb8full, rounds / 2);
    fuzz("console", make_console, 6, 1ull << 1, rounds);
    close(disk_fd);
    return report("virtio_fuzz");
}
