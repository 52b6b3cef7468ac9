/* The register file: identity, negotiation, status, configuration space, odd accesses, and damaged saved states. */
#include "virtio_echo.h"

static void identity(void)
{
    struct guest g;
    guest_open(&g, make_echo);
    CHECK_EQ(reg_read(&g, 0x000), 0x74726976);
    CHECK_EQ(reg_read(&g, 0x004), 2);
    CHECK_EQ(reg_read(&g, 0x008), 63);
    CHECK_EQ(reg_read(&g, 0x00c), 0x59524857);
    CHECK_EQ(reg_read(&g, 0x0b0), UINT32_MAX); /* no shared memory region */
    CHECK_EQ(reg_read(&g, 0x0bc), UINT32_MAX);
    uint64_t offered = 0;
    for (uint32_t i = 0; i < 2; i++) {
        reg_write(&g, 0x14, i);
        offered |= (uint64_t)reg_read(&g, 0x10) << (32 * i);
    }
    CHECK_EQ(offered,
             1ull << 3 | WH_VIRTIO_F_VERSION_1 | WH_VIRTIO_F_INDIRECT | WH_VIRTIO_F_EVENT_IDX | WH_VIRTIO_F_PACKED);
    reg_write(&g, 0x14, 2);
    CHECK_EQ(reg_read(&g, 0x10), 0);
    for (uint32_t q = 0; q < 4; q++) {
        reg_write(&g, R_QUEUE_SEL, q);
        CHECK_EQ(reg_read(&g, 0x34), q < 2 ? 256 : 0);
        CHECK_EQ(reg_read(&g, 0x44), 0);
        reg_write(&g, 0x38, 8); /* a queue that does not exist takes nothing */
    }
    guest_close(&g);
}

static void negotiation(void)
{
    struct guest g;
    guest_open(&g, make_echo);
    CHECK_EQ(guest_negotiate(&g, 0), 3);                              /* without VERSION_1 */
    CHECK_EQ(guest_negotiate(&g, WH_VIRTIO_F_VERSION_1 | 1 << 4), 3); /* what was not offered */
    CHECK_EQ(guest_negotiate(&g, WH_VIRTIO_F_VERSION_1 | 1ull << 60), 3);
    CHECK_EQ(guest_negotiate(&g, WH_VIRTIO_F_VERSION_1 | 1 << 3), 11);
    reg_write(&g, 0x24, 0); /* features are frozen now */
    reg_write(&g, 0x20, 0xffff);
    CHECK(wh_virtio_has((wh_virtio *)g.dev, 1 << 3) && !wh_virtio_has((wh_virtio *)g.dev, 1));
    reg_write(&g, R_STATUS, 1); /* bits cannot be taken back but by a reset */
    CHECK_EQ(reg_read(&g, R_STATUS), 11);
    reg_write(&g, R_STATUS, 0);
    CHECK_EQ(reg_read(&g, R_STATUS), 0);
    reg_write(&g, R_STATUS, 7);
    expect_broken(&g, "without FEATURES_OK");
    reg_write(&g, R_STATUS, 64); /* the device's own bit is not the driver's to set, nor a reset */
    CHECK_EQ(reg_read(&g, R_STATUS), 64 | 7);
    guest_start(&g, 0, 1, 4);
    guest_close(&g);
}

static void configuration_space(void)
{
    struct guest g;
    guest_open(&g, make_echo);
    uint64_t v;
    const struct {
        uint64_t off;
        unsigned size;
        uint64_t want;
    } reads[] = {
        {0, 1, 0xa0},    {3, 1, 0xa3}, {2, 2, 0xa3a2}, {4, 4, 0xa7a6a5a4}, {0, 8, 0xa7a6a5a4a3a2a1a0},
        {10, 4, 0xabaa}, {12, 4, 0},   {0xeff, 1, 0},
    };
    for (unsigned i = 0; i < WH_ARRAY_LEN(reads); i++) {
        CHECK_EQ(g.dev->ops->read(g.dev, R_CONFIG + reads[i].off, reads[i].size, &v), 0);
        CHECK_EQ(v, reads[i].want);
    }
    CHECK_EQ(g.dev->ops->write(g.dev, R_CONFIG, 4, 0), 0);
    CHECK_EQ(reg_read(&g, R_CONFIG), 0xa3a2a1a0);
    const uint32_t generation = reg_read(&g, 0xfc);
    guest_start(&g, 0, 1, 4);
    wh_virtio_config_changed((wh_virtio *)g.dev);
    CHECK_EQ(reg_read(&g, 0xfc), generation + 1);
    CHECK_EQ(reg_read(&g, R_ISR), 2);
    guest_close(&g);
}

/* Registers answer to whole aligned words only; anything else reads 0 and writes nothing. */
static void odd_accesses(void)
{
    struct guest g;
    guest_open(&g, make_echo);
    guest_start(&g, 0, 1, 4);
    for (uint64_t off = 0; off < R_CONFIG; off++)
        for (unsigned size = 1; size <= 8; size *= 2) {
            if (size == 4 && off % 4 == 0)
                continue;
            uint64_t v = 1;
            CHECK_EQ(g.dev->ops->read(g.dev, off, size, &v), 0);
            CHECK_EQ(v, 0);
            CHECK_EQ(g.dev->ops->write(g.dev, off, size, 0), 0);
        }
    CHECK_EQ(reg_read(&g, R_STATUS), 15);
    guest_close(&g);
}

/* A state that was saved in full use, cut at each length and with each byte changed: the load fails or gives a device
 * that works, and never touches what it must not (the sanitizers watch). */
static void damaged_states(void)
{
    struct guest g;
    guest_open(&g, make_echo);
    guest_start(&g, WH_VIRTIO_F_EVENT_IDX, 2, 8);
    const struct part p[] = {{BUFFER_AREA, 4, 0}, {BUFFER_AREA + 64, 4, WRITE}};
    add_chain(&g, 0, p, 2);
    kick(&g, 0);
    wh_writer w;
    wh_writer_init(&w);
    g.dev->ops->save(g.dev, &w);
    wh_reader r;
    for (size_t n = 0; n < w.len; n++) {
        wh_reader_init(&r, w.data, n);
        g.dev->ops->load(g.dev, &r);
        CHECK(r.status != 0);
        CHECK_EQ(reg_read(&g, R_STATUS), 0); /* a failed load leaves a reset device */
    }
    unsigned refused = 0;
    for (size_t n = 0; n < w.len; n++)
        for (unsigned bit = 0; bit < 8; bit++) {
            w.data[n] ^= 1u << bit;
            wh_reader_init(&r, w.data, w.len);
            g.dev->ops->load(g.dev, &r);
            refused += r.status != 0;
            kick(&g, 0);
            guest_poll(&g);
            w.data[n] ^= 1u << bit;
        }
    CHECK(refused > w.len);
    wh_reader_init(&r, w.data, w.len);
    g.dev->ops->load(g.dev, &r);
    CHECK_EQ(r.status, 0);
    CHECK_EQ(g.irq_level, 1);
    wh_writer_free(&w);
    guest_close(&g);
}

int main(void)
{
    identity();
    negotiation();
    configuration_space();
    odd_accesses();
    damaged_states();
    return report("virtio_mmio");
}
