/* The split queue through an echo device: what a sound driver does, with saves in between, and what a hostile one does.
 */
#include "virtio_echo.h"

#define ALL (WH_VIRTIO_F_INDIRECT | WH_VIRTIO_F_EVENT_IDX)

/* One echo request: `outs` and `ins` parts of `len` bytes each. */
static void echo_once(struct guest *g, unsigned outs, unsigned ins, uint32_t len, bool indirect)
{
    struct part p[WH_VIRTQ_MAX];
    for (unsigned i = 0; i < outs + ins; i++) {
        p[i] = (struct part){guest_buffer(g, len), len, i < outs ? 0 : WRITE};
        memset(at(g, p[i].off), i < outs ? (int)(i + g->q[0].avail) : 0xee, len);
    }
    uint16_t head = indirect ? add_indirect(g, 0, p, outs + ins) : add_chain(g, 0, p, outs + ins);
    checkpoint(g);
    kick(g, 0);
    uint32_t n = (outs < ins ? outs : ins) * len;
    expect_used(g, 0, head, n);
    for (unsigned i = 0; i < ins; i++)
        for (uint32_t b = 0; b < len; b++)
            if (*at(g, p[outs + i].off + b) != (i < outs ? *at(g, p[i].off) : 0xee)) {
                CHECK(!"echo differs");
                return;
            }
    checkpoint(g);
}

static void ordinary(uint64_t features, bool rebirth)
{
    struct guest g;
    guest_open(&g, make_echo);
    g.rebirth = rebirth;
    guest_start(&g, features, 1, 256);
    bool indirect = features & WH_VIRTIO_F_INDIRECT;
    for (unsigned parts = 1; parts <= 100; parts += 33) {
        echo_once(&g, parts, parts, 1, false);
        echo_once(&g, parts, parts + 1, 555, indirect);
        echo_once(&g, parts + 2, parts, 64, indirect);
    }
    echo_once(&g, 128, 128, 9, false); /* the whole queue in one chain */
    echo_once(&g, 128, 128, 9, indirect);
    CHECK(g.irq_level == 1);
    ack(&g);
    guest_close(&g);
}

static void wraps_at_65536(uint64_t features)
{
    struct guest g;
    guest_open(&g, make_echo);
    guest_start(&g, features, 1, 8);
    uint64_t in = guest_buffer(&g, 4), out = guest_buffer(&g, 4);
    for (uint32_t i = 0; i < 140000; i++) {
        memcpy(at(&g, out), &i, 4);
        const struct part p[] = {{out, 4, 0}, {in, 4, WRITE}};
        uint16_t head = add_chain(&g, 0, p, 2);
        g.rebirth = i % 9973 == 0 || (i & 0xffff) < 2 || (i & 0xffff) == 0xffff;
        checkpoint(&g);
        kick(&g, 0);
        expect_used(&g, 0, head, 4);
        if (memcmp(at(&g, in), &i, 4) != 0 || failures) {
            CHECK(!"wrong echo");
            break;
        }
    }
    guest_close(&g);
}

static void nothing_before_driver_ok(void)
{
    struct guest g;
    guest_open(&g, make_echo);
    CHECK_EQ(guest_negotiate(&g, WH_VIRTIO_F_VERSION_1), 11);
    guest_queue_setup(&g, 0, 4);
    const struct part p[] = {{guest_buffer(&g, 4), 4, 0}, {guest_buffer(&g, 4), 4, WRITE}};
    uint16_t head = add_chain(&g, 0, p, 2);
    kick(&g, 0);
    expect_no_used(&g, 0);
    guest_driver_ok(&g); /* now it is served without another notification */
    expect_used(&g, 0, head, 4);
    kick(&g, 1); /* a queue that was never set up, and one that does not exist */
    kick(&g, 99);
    CHECK_EQ(reg_read(&g, R_STATUS), 15);
    guest_close(&g);
}

static void interrupts_without_event_idx(void)
{
    struct guest g;
    guest_open(&g, make_echo);
    guest_start(&g, 0, 1, 4);
    *u16_at(&g, avail_off(0)) = 1; /* VIRTQ_AVAIL_F_NO_INTERRUPT */
    echo_once(&g, 1, 1, 4, false);
    CHECK_EQ(g.irq_level, 0);
    *u16_at(&g, avail_off(0)) = 0;
    echo_once(&g, 1, 1, 4, false);
    CHECK_EQ(g.irq_level, 1);
    CHECK_EQ(reg_read(&g, R_ISR), 1);
    reg_write(&g, R_ACK, 2); /* another bit: the line stays */
    CHECK_EQ(g.irq_level, 1);
    ack(&g);
    CHECK_EQ(reg_read(&g, R_ISR), 0);
    kick(&g, 0); /* nothing there: no interrupt */
    CHECK_EQ(g.irq_level, 0);
    guest_close(&g);
}

static void interrupts_with_event_idx(void)
{
    struct guest g;
    guest_open(&g, make_echo);
    guest_start(&g, WH_VIRTIO_F_EVENT_IDX, 1, 4);
    uint64_t used_event = avail_off(0) + 4 + 2 * 4, avail_event = used_off(0) + 4 + 8 * 4;
    *u16_at(&g, used_event) = 2; /* wake me when the third is used */
    for (unsigned i = 0; i < 5; i++) {
        echo_once(&g, 1, 1, 4, false);
        CHECK_EQ(g.irq_level, i >= 2);
        CHECK_EQ(*u16_at(&g, avail_event), i + 1); /* and the device wants to hear of the very next buffer */
    }
    CHECK_EQ(g.irq_edges, 1);
    guest_close(&g);
}

/* What the driver wrote reaches the dirty bits, and nothing else does. */
static void dirty_pages(void)
{
    struct guest g;
    guest_open(&g, make_echo);
    CHECK_EQ(guest_negotiate(&g, WH_VIRTIO_F_VERSION_1), 11);
    guest_queue_setup(&g, 0, 4);
    const uint64_t used = used_off(0) + 0xff8; /* the index in one page, the first entry across its border */
    reg_write(&g, 0x44, 0);
    reg_write(&g, 0x38, 4);
    const uint64_t area[3] = {desc_off(0), avail_off(0), used};
    for (unsigned i = 0; i < 3; i++)
        reg_write(&g, 0x80 + 0x10 * i, (uint32_t)(WH_RAM_BASE + area[i]));
    reg_write(&g, 0x44, 1);
    guest_driver_ok(&g);
    CHECK_EQ(reg_read(&g, R_STATUS), 15);
    dirty_clear(&g);
    uint64_t in = BUFFER_AREA + 0x1ffc; /* crosses a page border */
    const struct part p[] = {{BUFFER_AREA + 0x8000, 8, 0}, {in, 8, WRITE}};
    add_chain(&g, 0, p, 2);
    kick(&g, 0);
    CHECK_EQ(*u16_at(&g, used + 2), 1);
    for (uint64_t off = 0; off < RAM_BYTES; off += WH_PAGE_SIZE) {
        uint64_t pfn = off >> 12;
        CHECK_EQ(dirty(&g, off),
                 pfn == used >> 12 || pfn == (used + 11) >> 12 || pfn == in >> 12 || pfn == (in + 7) >> 12);
    }
    guest_close(&g);
}

/* ---- hostile drivers -----------------------------------------------------------------------------------------------
 */

struct hostile {
    const char *why;
    uint64_t features;
    void (*act)(struct guest *g);
};

static void raw(struct guest *g, uint16_t i, uint64_t pa, uint32_t len, uint16_t flags, uint16_t next)
{
    put_desc(g, desc_off(0), i, pa, len, flags, next);
}
#define BUF (WH_RAM_BASE + BUFFER_AREA)

static void loop_of_one(struct guest *g)
{
    raw(g, 0, BUF, 4, NEXT, 0);
    make_available(g, 0, 0);
}
static void loop_of_two(struct guest *g)
{
    raw(g, 0, BUF, 4, NEXT, 1);
    raw(g, 1, BUF, 4, NEXT, 0);
    make_available(g, 0, 0);
}
static void next_out_of_range(struct guest *g)
{
    raw(g, 0, BUF, 4, NEXT, 8);
    make_available(g, 0, 0);
}
static void head_out_of_range(struct guest *g)
{
    make_available(g, 0, 8);
}
static void zero_length(struct guest *g)
{
    raw(g, 0, BUF, 0, 0, 0);
    make_available(g, 0, 0);
}
static void below_ram(struct guest *g)
{
    raw(g, 0, WH_RAM_BASE - 1, 4, 0, 0);
    make_available(g, 0, 0);
}
static void over_the_end(struct guest *g)
{
    raw(g, 0, WH_RAM_BASE + RAM_BYTES - 3, 4, WRITE, 0);
    make_available(g, 0, 0);
}
static void address_wraps(struct guest *g)
{
    raw(g, 0, UINT64_MAX - 1, 8, WRITE, 0);
    make_available(g, 0, 0);
}
static void length_overflows(struct guest *g)
{
    raw(g, 0, BUF, UINT32_MAX, WRITE, 0);
    make_available(g, 0, 0);
}
static void readable_after_writable(struct guest *g)
{
    raw(g, 0, BUF, 4, WRITE | NEXT, 1);
    raw(g, 1, BUF, 4, 0, 0);
    make_available(g, 0, 0);
}
static void idx_jumps(struct guest *g)
{
    raw(g, 0, BUF, 4, 0, 0);
    *u16_at(g, avail_off(0) + 2) = 9;
}
static void idx_goes_back(struct guest *g)
{
    *u16_at(g, avail_off(0) + 2) = 0xffff;
}
static void indirect_table(struct guest *g, uint64_t pa, uint32_t len, uint16_t flags)
{
    raw(g, 0, pa, len, flags, 1);
    raw(g, 1, BUF, 4, 0, 0);
    make_available(g, 0, 0);
}
static void indirect_odd_length(struct guest *g)
{
    indirect_table(g, BUF, 17, INDIRECT);
}
static void indirect_empty(struct guest *g)
{
    indirect_table(g, BUF, 0, INDIRECT);
}
static void indirect_huge(struct guest *g)
{
    indirect_table(g, BUF, 16 * (WH_VIRTQ_MAX + 1), INDIRECT);
}
static void indirect_outside(struct guest *g)
{
    indirect_table(g, WH_RAM_BASE + RAM_BYTES - 16, 32, INDIRECT);
}
static void indirect_and_next(struct guest *g)
{
    indirect_table(g, BUF, 16, INDIRECT | NEXT);
}
static void indirect_not_negotiated(struct guest *g)
{
    put_desc(g, BUFFER_AREA, 0, BUF, 4, 0, 0);
    indirect_table(g, BUF, 16, INDIRECT);
}
static void indirect_nested(struct guest *g)
{
    put_desc(g, BUFFER_AREA, 0, BUF + 64, 16, INDIRECT, 0);
    indirect_table(g, BUF, 16, INDIRECT);
}
static void indirect_loop(struct guest *g)
{
    put_desc(g, BUFFER_AREA, 0, BUF + 64, 16, NEXT, 1);
    put_desc(g, BUFFER_AREA, 1, BUF + 64, 16, NEXT, 0);
    indirect_table(g, BUF, 32, INDIRECT);
}
static void indirect_four_gigabytes(struct guest *g)
{
    for (unsigned i = 0; i < 256; i++) /* each in RAM, together one byte too many for 32 bits */
        put_desc(g, BUFFER_AREA, (uint16_t)i, WH_RAM_BASE, RAM_BYTES, i < 255 ? NEXT : 0, (uint16_t)(i + 1));
    indirect_table(g, BUF, 16 * 256, INDIRECT);
}
static void direct_then_indirect(struct guest *g)
{
    raw(g, 0, BUF, 4, NEXT, 1);
    raw(g, 1, BUF, 16, INDIRECT, 0);
    make_available(g, 0, 0);
}

static const struct hostile HOSTILE[] = {
    {"loop", 0, loop_of_one},
    {"loop", 0, loop_of_two},
    {"next descriptor index", 0, next_out_of_range},
    {"available descriptor index", 0, head_out_of_range},
    {"length zero", 0, zero_length},
    {"outside RAM", 0, below_ram},
    {"outside RAM", 0, over_the_end},
    {"outside RAM", 0, address_wraps},
    {"outside RAM", 0, length_overflows},
    {"readable descriptor after", 0, readable_after_writable},
    {"more than a queue ahead", 0, idx_jumps},
    {"more than a queue ahead", 0, idx_goes_back},
    {"bad length", ALL, indirect_odd_length},
    {"bad length", ALL, indirect_empty},
    {"bad length", ALL, indirect_huge},
    {"table lies outside RAM", ALL, indirect_outside},
    {"with a next one", ALL, indirect_and_next},
    {"not negotiated", 0, indirect_not_negotiated},
    {"inside a chain", ALL, indirect_nested},
    {"loop", ALL, indirect_loop},
    {"inside a chain", ALL, direct_then_indirect},
    {"exceeds 4 GiB", ALL, indirect_four_gigabytes},
};

static void hostile_drivers(void)
{
    struct guest g;
    guest_open(&g, make_echo);
    for (unsigned i = 0; i < WH_ARRAY_LEN(HOSTILE); i++) {
        guest_start(&g, HOSTILE[i].features, 1, 8);
        HOSTILE[i].act(&g);
        kick(&g, 0);
        expect_broken(&g, HOSTILE[i].why);
        CHECK_EQ(reg_read(&g, R_ISR), 2); /* a configuration interrupt tells the driver */
        CHECK_EQ(g.irq_level, 1);
        expect_no_used(&g, 0);
        kick(&g, 0); /* nothing more happens until a reset */
        guest_poll(&g);
        expect_no_used(&g, 0);
        g.rebirth = true;
        checkpoint(&g);
        expect_broken(&g, "");
        guest_start(&g, ALL, 1, 8); /* and with it, all is well */
        echo_once(&g, 2, 2, 16, true);
        g.rebirth = false;
    }
    guest_close(&g);
}

static void bad_queue(struct guest *g, uint32_t num, uint64_t desc, uint64_t avail, uint64_t used, const char *why)
{
    CHECK_EQ(guest_negotiate(g, WH_VIRTIO_F_VERSION_1), 11);
    const uint64_t area[3] = {desc, avail, used};
    const uint64_t reg[3] = {0x80, 0x90, 0xa0};
    reg_write(g, R_QUEUE_SEL, 0);
    reg_write(g, 0x38, num);
    for (unsigned i = 0; i < 3; i++) {
        reg_write(g, reg[i], (uint32_t)area[i]);
        reg_write(g, reg[i] + 4, (uint32_t)(area[i] >> 32));
    }
    reg_write(g, 0x44, 1);
    expect_broken(g, why);
    CHECK_EQ(reg_read(g, 0x44), 0);
    CHECK_EQ(g->irq_level, 0); /* before DRIVER_OK there is no interrupt */
}

static void bad_queues(void)
{
    struct guest g;
    guest_open(&g, make_echo);
    uint64_t d = WH_RAM_BASE + desc_off(0), a = WH_RAM_BASE + avail_off(0), u = WH_RAM_BASE + used_off(0);
    uint64_t end = WH_RAM_BASE + RAM_BYTES;
    const uint32_t sizes[] = {0, 3, 100, 512, 0x10008, UINT32_MAX};
    for (unsigned i = 0; i < WH_ARRAY_LEN(sizes); i++)
        bad_queue(&g, sizes[i], d, a, u, "power of two");
    bad_queue(&g, 8, d + 8, a, u, "aligned");
    bad_queue(&g, 8, d, a + 1, u, "aligned");
    bad_queue(&g, 8, d, a, u + 2, "aligned");
    bad_queue(&g, 8, end - 112, a, u, "outside RAM");
    bad_queue(&g, 8, d, end - 20, u, "outside RAM");
    bad_queue(&g, 8, d, a, end - 68, "outside RAM");
    bad_queue(&g, 8, 0, a, u, "outside RAM");
    bad_queue(&g, 8, d, UINT64_MAX - 1, u, "outside RAM");
    guest_start(&g, 0, 1, 8);
    reg_write(&g, R_QUEUE_SEL, 0);
    reg_write(&g, 0x80, 0); /* areas of a queue in use cannot be moved */
    reg_write(&g, 0x38, 16);
    echo_once(&g, 1, 1, 4, false);
    reg_write(&g, 0x44, 0); /* the driver takes the queue away */
    kick(&g, 0);
    CHECK_EQ(reg_read(&g, R_STATUS), 15);
    guest_close(&g);
}

int main(void)
{
    for (unsigned f = 0; f < 4; f++) {
        uint64_t features = (f & 1 ? WH_VIRTIO_F_INDIRECT : 0) | (f & 2 ? WH_VIRTIO_F_EVENT_IDX : 0);
        ordinary(features, false);
        ordinary(features, true);
    }
    wraps_at_65536(0);
    wraps_at_65536(ALL);
    nothing_before_driver_ok();
    interrupts_without_event_idx();
    interrupts_with_event_idx();
    dirty_pages();
    hostile_drivers();
    bad_queues();
    return report("virtio_queue");
}
