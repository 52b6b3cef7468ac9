/* virtio_guest: a driver that a test plays. It has real guest RAM, one device behind the register interface, and one
 * split queue layout per queue number, and it can save, destroy, make and load the device between any two steps
 * (rebirth). */
#ifndef WH_TEST_VIRTIO_GUEST_H
#define WH_TEST_VIRTIO_GUEST_H

#include "virtio/transport.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

static int failures;
#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, #cond);                         \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)
#define CHECK_EQ(a, b)                                                                                                 \
    do {                                                                                                               \
        unsigned long long a_ = (unsigned long long)(a), b_ = (unsigned long long)(b);                                 \
        if (a_ != b_) {                                                                                                \
            fprintf(stderr, "%s:%d: %s: %s is %llu, not %s = %llu\n", __FILE__, __LINE__, __func__, #a, a_, #b, b_);   \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

#define RAM_BYTES   (16ull << 20)
#define QUEUE_AREA  0x10000ull /* guest offset of queue i's areas: i * 64 KiB on from here */
#define BUFFER_AREA 0x100000ull

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
enum { R_STATUS = 0x70, R_QUEUE_SEL = 0x30, R_NOTIFY = 0x50, R_ISR = 0x60, R_ACK = 0x64, R_CONFIG = 0x100 };
#define NEEDS_RESET 64u

struct guest_queue {
    uint16_t num, avail, used; /* used: how many used entries the driver has looked at */
    uint16_t free_desc;        /* next descriptor to take; tests never have more than num in flight */
};

struct guest {
    wh_ram ram;
    wh_device *dev;
    unsigned irq_level, irq_edges;
    uint64_t features;
    struct guest_queue q[WH_VIRTIO_MAX_QUEUES];
    wh_device *(*make)(struct guest *g);
    void (*reborn)(struct guest *g); /* after a rebirth: take the new device's fds */
    bool rebirth;                    /* checkpoint() really saves and loads */
    bool changes_on_load;            /* the outside differs after a rebirth, so that the saved states may differ too */
    uint64_t next_buffer;
    void *user;
};

static void guest_irq(void *ctx, unsigned line, bool level)
{
    struct guest *g = ctx;
    (void)line;
    g->irq_edges += level && !g->irq_level;
    g->irq_level = level;
}

static inline wh_virtio_env guest_env(struct guest *g)
{
    return (wh_virtio_env){&g->ram, {guest_irq, g, 1}};
}

static inline uint32_t reg_read(struct guest *g, uint64_t reg)
{
    uint64_t v = 0;
    CHECK_EQ(g->dev->ops->read(g->dev, reg, 4, &v), 0);
    return (uint32_t)v;
}

static inline void reg_write(struct guest *g, uint64_t reg, uint32_t v)
{
    CHECK_EQ(g->dev->ops->write(g->dev, reg, 4, v), 0);
}

static inline uint8_t *at(struct guest *g, uint64_t offset)
{
    return g->ram.host + offset;
}

/* Queue areas in one 64 KiB piece: descriptors, available ring, used ring. */
static inline uint64_t desc_off(unsigned q)
{
    return QUEUE_AREA + 0x10000ull * q;
}
static inline uint64_t avail_off(unsigned q)
{
    return desc_off(q) + 0x4000;
}
static inline uint64_t used_off(unsigned q)
{
    return desc_off(q) + 0x8000;
}
static inline uint16_t *u16_at(struct guest *g, uint64_t offset)
{
    return (uint16_t *)(void *)at(g, offset);
}

static inline void guest_queue_setup(struct guest *g, unsigned q, uint16_t num)
{
    const uint64_t area[3] = {desc_off(q), avail_off(q), used_off(q)};
    const uint64_t reg[3] = {0x80, 0x90, 0xa0};
    memset(at(g, desc_off(q)), 0, 0x10000);
    g->q[q] = (struct guest_queue){.num = num};
    reg_write(g, R_QUEUE_SEL, q);
    reg_write(g, 0x38, num);
    for (unsigned i = 0; i < 3; i++) {
        reg_write(g, reg[i], (uint32_t)(WH_RAM_BASE + area[i]));
        reg_write(g, reg[i] + 4, (uint32_t)((WH_RAM_BASE + area[i]) >> 32));
    }
    reg_write(g, 0x44, 1);
}

/* Reset to FEATURES_OK. Returns the status read back. */
static inline uint32_t guest_negotiate(struct guest *g, uint64_t features)
{
    g->features = features;
    reg_write(g, R_STATUS, 0);
    reg_write(g, R_STATUS, 1);
    reg_write(g, R_STATUS, 3);
    for (uint32_t i = 0; i < 2; i++) {
        reg_write(g, 0x24, i);
        reg_write(g, 0x20, (uint32_t)(features >> (32 * i)));
    }
    reg_write(g, R_STATUS, 11);
    return reg_read(g, R_STATUS);
}

static inline void guest_driver_ok(struct guest *g)
{
    reg_write(g, R_STATUS, 15);
}

/* Negotiate, set up `queues` queues of `num`, go. */
static inline void guest_start(struct guest *g, uint64_t features, unsigned queues, uint16_t num)
{
    CHECK_EQ(guest_negotiate(g, features | WH_VIRTIO_F_VERSION_1), 11);
    for (unsigned q = 0; q < queues; q++)
        guest_queue_setup(g, q, num);
    guest_driver_ok(g);
    CHECK_EQ(reg_read(g, R_STATUS), 15);
}

static inline void guest_open(struct guest *g, wh_device *(*make)(struct guest *g))
{
    memset(g, 0, sizeof *g);
    CHECK_EQ(wh_ram_new(RAM_BYTES, 1, &g->ram, NULL), 0);
    g->make = make;
    g->next_buffer = BUFFER_AREA;
    g->dev = make(g);
}

static inline void guest_close(struct guest *g)
{
    if (g->dev)
        g->dev->ops->destroy(g->dev);
    wh_ram_free(&g->ram);
}

/* Save, destroy, make, load: what a migration does to a device. */
static inline void checkpoint(struct guest *g)
{
    if (!g->rebirth)
        return;
    wh_writer w;
    wh_writer_init(&w);
    g->dev->ops->save(g->dev, &w);
    CHECK_EQ(w.status, 0);
    unsigned level = g->irq_level;
    g->dev->ops->destroy(g->dev);
    g->dev = g->make(g);
    g->irq_level = 0;
    wh_reader r;
    wh_reader_init(&r, w.data, w.len);
    g->dev->ops->load(g->dev, &r);
    CHECK_EQ(r.status, 0);
    CHECK(r.p == r.end);
    CHECK_EQ(g->irq_level, level);
    wh_writer again;
    wh_writer_init(&again);
    g->dev->ops->save(g->dev, &again);
    CHECK(g->changes_on_load || (again.len == w.len && memcmp(again.data, w.data, w.len) == 0));
    wh_writer_free(&again);
    wh_writer_free(&w);
    if (g->reborn)
        g->reborn(g);
}

/* Run poll as the I/O thread would, while its event is set. Returns how often. */
static inline unsigned guest_poll(struct guest *g)
{
    eventfd_t n;
    unsigned times = 0;
    while (eventfd_read(g->dev->poll_fd, &n) == 0 && times < 10000) {
        g->dev->ops->poll(g->dev);
        times++;
    }
    return times;
}

/* Start tracking with every page clean. */
static inline void dirty_clear(struct guest *g)
{
    struct wh_share *s = g->ram.share;
    atomic_store(&s->tracking, 1);
    for (uint64_t i = 0; i < s->pages / 64; i++)
        atomic_store(&s->dirty[i], 0);
}

static inline bool dirty(struct guest *g, uint64_t off)
{
    return (atomic_load(&g->ram.share->dirty[off >> 18]) >> (off >> 12 & 63)) & 1;
}

static inline uint64_t guest_buffer(struct guest *g, uint32_t len)
{
    uint64_t off = g->next_buffer;
    g->next_buffer += (len + 63u) & ~63ull;
    if (g->next_buffer > RAM_BYTES) {
        off = BUFFER_AREA;
        g->next_buffer = BUFFER_AREA + ((len + 63u) & ~63ull);
    }
    return off;
}

struct part {
    uint64_t off;
    uint32_t len;
    uint16_t flags;
};

static inline void put_desc(struct guest *g, uint64_t table, uint16_t i, uint64_t pa, uint32_t len, uint16_t flags,
                            uint16_t next)
{
    uint8_t *d = at(g, table + 16ull * i);
    memcpy(d, &pa, 8);
    memcpy(d + 8, &len, 4);
    memcpy(d + 12, &flags, 2);
    memcpy(d + 14, &next, 2);
}

static inline void make_available(struct guest *g, unsigned q, uint16_t head)
{
    struct guest_queue *gq = &g->q[q];
    *u16_at(g, avail_off(q) + 4 + 2ull * (gq->avail % gq->num)) = head;
    __atomic_store_n(u16_at(g, avail_off(q) + 2), ++gq->avail, __ATOMIC_SEQ_CST);
}

/* A direct chain of n parts; returns its head. */
static inline uint16_t add_chain(struct guest *g, unsigned q, const struct part *p, unsigned n)
{
    struct guest_queue *gq = &g->q[q];
    uint16_t head = gq->free_desc % gq->num;
    for (unsigned i = 0; i < n; i++) {
        uint16_t me = gq->free_desc++ % gq->num;
        put_desc(g, desc_off(q), me, WH_RAM_BASE + p[i].off, p[i].len, p[i].flags | (i + 1 < n ? NEXT : 0),
                 (uint16_t)((me + 1) % gq->num));
    }
    make_available(g, q, head);
    return head;
}

/* The same behind one indirect descriptor. */
static inline uint16_t add_indirect(struct guest *g, unsigned q, const struct part *p, unsigned n)
{
    struct guest_queue *gq = &g->q[q];
    uint64_t table = guest_buffer(g, 16 * n);
    for (unsigned i = 0; i < n; i++)
        put_desc(g, table, (uint16_t)i, WH_RAM_BASE + p[i].off, p[i].len, p[i].flags | (i + 1 < n ? NEXT : 0),
                 (uint16_t)(i + 1));
    uint16_t head = gq->free_desc++ % gq->num;
    put_desc(g, desc_off(q), head, WH_RAM_BASE + table, 16 * n, INDIRECT, 0);
    make_available(g, q, head);
    return head;
}

static inline void kick(struct guest *g, unsigned q)
{
    reg_write(g, R_NOTIFY, q);
}

/* The next used entry that the driver has not seen: true and its two words. */
static inline bool take_used(struct guest *g, unsigned q, uint32_t *id, uint32_t *len)
{
    struct guest_queue *gq = &g->q[q];
    if (__atomic_load_n(u16_at(g, used_off(q) + 2), __ATOMIC_SEQ_CST) == gq->used)
        return false;
    const uint8_t *e = at(g, used_off(q) + 4 + 8ull * (gq->used++ % gq->num));
    memcpy(id, e, 4);
    memcpy(len, e + 4, 4);
    return true;
}

/* Exactly one new used entry, for this head with this length. */
static inline void expect_used(struct guest *g, unsigned q, uint16_t head, uint32_t len)
{
    uint32_t id = ~0u, got = ~0u;
    CHECK(take_used(g, q, &id, &got));
    CHECK_EQ(id, head);
    CHECK_EQ(got, len);
}

static inline void expect_no_used(struct guest *g, unsigned q)
{
    uint32_t id, len;
    CHECK(!take_used(g, q, &id, &len));
}

static inline void ack(struct guest *g)
{
    reg_write(g, R_ACK, reg_read(g, R_ISR));
    CHECK_EQ(g->irq_level, 0);
}

static inline void expect_broken(struct guest *g, const char *part)
{
    const char *why = wh_virtio_broken(g->dev);
    CHECK(reg_read(g, R_STATUS) & NEEDS_RESET);
    if (!why || !strstr(why, part)) {
        fprintf(stderr, "broken reason is \"%s\", not about \"%s\"\n", why ? why : "(none)", part);
        failures++;
    }
}

static inline int report(const char *name)
{
    if (failures)
        fprintf(stderr, "%s: %d failures\n", name, failures);
    return failures != 0;
}

#endif
