/* The packed virtqueue: a driver of its own against the echo device, through many rounds of rings of any size, with the
 * device saved and loaded in between, and what a driver may not do. */
#include "virtio_echo.h"
#include "virtio_guest.h"

enum { AVAIL = 0x80, USED = 0x8000 };

struct packed {
    struct guest g;
    uint16_t num, next, seen; /* positions of the driver: the next free entry, the next used one */
    bool next_wrap, seen_wrap;
    uint16_t length[64]; /* entries that buffer id takes */
};

static void packed_open(struct packed *p, uint16_t num, uint64_t features, bool rebirth)
{
    memset(p, 0, sizeof *p);
    guest_open(&p->g, make_echo);
    p->g.rebirth = rebirth;
    p->num = num;
    p->next_wrap = p->seen_wrap = true;
    guest_start(&p->g, features | WH_VIRTIO_F_PACKED, 1, num);
}

static uint8_t *entry(struct packed *p, uint16_t i)
{
    return at(&p->g, desc_off(0) + 16ull * i);
}

static void put(uint8_t *d, uint64_t pa, uint32_t len, uint16_t id)
{
    memcpy(d, &pa, 8);
    memcpy(d + 8, &len, 4);
    memcpy(d + 12, &id, 2);
}

/* One chain in the ring; the flags of its first entry last. */
static void offer(struct packed *p, const struct part *parts, unsigned n, uint16_t id)
{
    uint16_t first = p->next, first_flags = 0;
    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = parts[i].flags | (i + 1 < n ? NEXT : 0) | (p->next_wrap ? AVAIL : USED);
        put(entry(p, p->next), WH_RAM_BASE + parts[i].off, parts[i].len, id);
        if (i == 0)
            first_flags = flags;
        else
            memcpy(entry(p, p->next) + 14, &flags, 2);
        if (++p->next == p->num) {
            p->next = 0;
            p->next_wrap = !p->next_wrap;
        }
    }
    p->length[id] = (uint16_t)n;
    __atomic_store_n((uint16_t *)(void *)(entry(p, first) + 14), first_flags, __ATOMIC_SEQ_CST);
}

static bool used(struct packed *p, uint16_t *id, uint32_t *len)
{
    uint16_t flags = __atomic_load_n((uint16_t *)(void *)(entry(p, p->seen) + 14), __ATOMIC_SEQ_CST);
    if (((flags & AVAIL) != 0) != p->seen_wrap || ((flags & USED) != 0) != p->seen_wrap)
        return false;
    memcpy(len, entry(p, p->seen) + 8, 4);
    memcpy(id, entry(p, p->seen) + 12, 2);
    CHECK(*id < 64);
    CHECK_EQ((flags & WRITE) != 0, *len != 0);
    p->seen = (uint16_t)(p->seen + p->length[*id & 63]);
    if (p->seen >= p->num) {
        p->seen = (uint16_t)(p->seen - p->num);
        p->seen_wrap = !p->seen_wrap;
    }
    return true;
}

static void expect(struct packed *p, uint16_t want, uint32_t bytes)
{
    uint16_t id = 0;
    uint32_t len = 0;
    CHECK(used(p, &id, &len));
    CHECK_EQ(id, want);
    CHECK_EQ(len, bytes);
}

static void echoes(uint16_t num, uint64_t features, bool rebirth)
{
    struct packed p;
    packed_open(&p, num, features, rebirth);
    uint64_t from = guest_buffer(&p.g, 64), to = guest_buffer(&p.g, 64);
    for (unsigned i = 0; i < 100; i++) {
        unsigned outs = 1 + i % (num - 1);
        struct part parts[8];
        for (unsigned k = 0; k < 48; k++)
            *at(&p.g, from + k) = (uint8_t)(i + k * 3);
        memset(at(&p.g, to), 0, 64);
        for (unsigned k = 0; k < outs; k++)
            parts[k] = (struct part){from + k * (48 / outs), 48 / outs, 0};
        parts[outs] = (struct part){to, 64, WRITE};
        if ((features & WH_VIRTIO_F_INDIRECT) && i % 3 == 1) {
            uint64_t table = guest_buffer(&p.g, 128);
            for (unsigned k = 0; k <= outs; k++) {
                put(at(&p.g, table + 16ull * k), WH_RAM_BASE + parts[k].off, parts[k].len, 0);
                memcpy(at(&p.g, table + 16ull * k + 14), &parts[k].flags, 2);
            }
            offer(&p, &(struct part){table, 16 * (outs + 1), INDIRECT}, 1, (uint16_t)(i % 64));
        } else {
            offer(&p, parts, outs + 1, (uint16_t)(i % 64));
        }
        checkpoint(&p.g);
        kick(&p.g, 0);
        checkpoint(&p.g);
        expect(&p, (uint16_t)(i % 64), 48 / outs * outs);
        CHECK(memcmp(at(&p.g, from), at(&p.g, to), 48 / outs * outs) == 0);
        ack(&p.g);
    }
    guest_close(&p.g);
}

/* The driver's area says when it wants to be interrupted; the device's says when it wants to be notified. */
static void suppression(void)
{
    struct packed p;
    packed_open(&p, 4, WH_VIRTIO_F_EVENT_IDX, false);
    uint64_t buffer = guest_buffer(&p.g, 64);
    const struct part in = {buffer, 64, WRITE}, out = {buffer, 1, 0};
    const struct part pair[2] = {out, in};
    for (unsigned i = 0; i < 40; i++) {
        uint16_t position = (uint16_t)(p.next | (p.next_wrap ? 0x8000 : 0));
        const bool wanted = i % 2 == 0;
        /* At the entry that the device is to use now, or at one that it uses a round later. */
        *u16_at(&p.g, avail_off(0)) = wanted ? position : position ^ 0x8000;
        *u16_at(&p.g, avail_off(0) + 2) = i % 7 == 6 ? 1 : i % 7 == 5 ? 0 : 2;
        offer(&p, pair, 2, 5);
        kick(&p.g, 0);
        expect(&p, 5, 1);
        CHECK_EQ(p.g.irq_level, i % 7 == 6 ? 0 : i % 7 == 5 ? 1 : wanted);
        reg_write(&p.g, R_ACK, 1);
        CHECK_EQ(*u16_at(&p.g, used_off(0)), p.next | (p.next_wrap ? 0x8000 : 0));
        CHECK_EQ(*u16_at(&p.g, used_off(0) + 2), 2);
    }
    guest_close(&p.g);
}

static void nonsense(void)
{
    struct packed p;
    const uint64_t f = WH_VIRTIO_F_INDIRECT;
    packed_open(&p, 4, f, false);
    uint64_t buffer = guest_buffer(&p.g, 64);
    struct part long_chain[5];
    for (unsigned i = 0; i < 5; i++)
        long_chain[i] = (struct part){buffer, 8, i < 4 ? NEXT : 0};
    offer(&p, long_chain, 4, 1); /* the last one has NEXT, too */
    kick(&p.g, 0);
    expect_broken(&p.g, "longer than its ring");
    const struct {
        struct part part;
        const char *why;
    } bad[] = {{{buffer, 0, 0}, "length zero"},
               {{RAM_BYTES, 8, 0}, "outside RAM"},
               {{buffer, 24, INDIRECT}, "bad length"},
               {{buffer, 32, INDIRECT | NEXT}, "with a next one"},
               {{RAM_BYTES, 32, INDIRECT}, "outside RAM"}};
    for (unsigned i = 0; i < WH_ARRAY_LEN(bad); i++) {
        guest_close(&p.g);
        packed_open(&p, 4, f, false);
        offer(&p, &bad[i].part, 1, 1);
        kick(&p.g, 0);
        expect_broken(&p.g, bad[i].why);
    }
    guest_close(&p.g);
}

int main(void)
{
    static const uint16_t sizes[] = {2, 3, 4, 5, 8};
    for (unsigned i = 0; i < WH_ARRAY_LEN(sizes); i++) {
        echoes(sizes[i], 0, false);
        echoes(sizes[i], WH_VIRTIO_F_INDIRECT | WH_VIRTIO_F_EVENT_IDX, true);
    }
    suppression();
    nonsense();
    return report("virtio_packed");
}
