/* The plain devices, each with a save and load in the middle of its ordinary test, and all of them against random
 * accesses and random state documents. */
#include "dev/devices.h"
#include "switch_check.h"

#include <stdlib.h>

static struct world {
    bool line[4][16]; /* hart, mip bit */
    bool irq[WH_PLIC_SOURCES];
    uint64_t mtime, wall;
    unsigned changes, end_code, reboots;
    char out[64];
    size_t out_len;
    char in[64];
    size_t in_len;
} world;

static void set_line(void *ctx, unsigned hart, unsigned bit, bool level)
{
    (void)ctx;
    CHECK(hart < 4 && bit < 16);
    world.line[hart][bit] = level;
}

static void set_irq(void *ctx, unsigned line, bool level)
{
    (void)ctx;
    world.irq[line] = level;
}

static uint64_t now(void *ctx)
{
    (void)ctx;
    return world.mtime;
}

static void set_now(void *ctx, uint64_t v)
{
    (void)ctx;
    world.mtime = v;
}

static uint64_t wall(void *ctx)
{
    (void)ctx;
    return world.wall;
}

static void changed(void *ctx)
{
    (void)ctx;
    world.changes++;
}

static void poweroff(void *ctx, unsigned code)
{
    (void)ctx;
    world.end_code = code + 1;
}

static void reboot(void *ctx)
{
    (void)ctx;
    world.reboots++;
}

static size_t output(void *ctx, const uint8_t *data, size_t len)
{
    (void)ctx;
    for (size_t i = 0; i < len && world.out_len < sizeof world.out; i++)
        world.out[world.out_len++] = (char)data[i];
    return len;
}

static size_t input(void *ctx, uint8_t *data, size_t cap)
{
    (void)ctx;
    size_t n = cap < world.in_len ? cap : world.in_len;
    memcpy(data, world.in, n);
    memmove(world.in, world.in + n, world.in_len -= n);
    return n;
}

static size_t input_ready(void *ctx)
{
    (void)ctx;
    return world.in_len;
}

static void opened(void *ctx, bool open)
{
    (void)ctx, (void)open;
}

static const wh_hart_line line = {set_line, NULL};
static const wh_aclint_env aclint_env = {{set_line, NULL}, 4, now, set_now, changed, NULL};
static const wh_rtc_env rtc_env = {{set_irq, NULL, 11}, wall, changed, NULL};
static const wh_finisher_env finisher_env = {poweroff, reboot, NULL};

static wh_device *make(const char *name)
{
    wh_device *d = NULL;
    wh_irq irq = {set_irq, NULL, 10};
    wh_channel_end end = {NULL, output, input, input_ready, opened};
    int status = -1;
    if (!strcmp(name, "aclint"))
        status = wh_aclint_new(&aclint_env, &d, NULL);
    else if (!strcmp(name, "plic"))
        status = wh_plic_new(&line, 4, &d, NULL);
    else if (!strcmp(name, "uart"))
        status = wh_uart_new(&irq, &end, &d, NULL);
    else if (!strcmp(name, "rtc"))
        status = wh_rtc_new(&rtc_env, &d, NULL);
    else if (!strcmp(name, "finisher"))
        status = wh_finisher_new(&finisher_env, &d, NULL);
    else if (!strcmp(name, "rom"))
        status = wh_rom_new(&d, NULL);
    else
        status = wh_empty_slot_new(&d, NULL);
    CHECK(!status && !strcmp(d->ops->name, name));
    return d;
}

static uint64_t rd(wh_device *d, uint64_t offset, unsigned size)
{
    uint64_t v = 0xdead;
    CHECK(!d->ops->read(d, offset, size, &v));
    return v;
}

static void wr(wh_device *d, uint64_t offset, unsigned size, uint64_t v)
{
    CHECK(!d->ops->write(d, offset, size, v));
}

/* The device goes on as a new one that was given its saved state. */
static wh_device *reborn(wh_device *d)
{
    wh_writer w;
    wh_writer_init(&w);
    d->ops->save(d, &w);
    CHECK(!w.status);
    wh_device *other = make(d->ops->name);
    wh_reader r;
    wh_reader_init(&r, w.data, w.len);
    other->ops->load(other, &r);
    CHECK(!r.status);
    wh_writer again;
    wh_writer_init(&again);
    other->ops->save(other, &again);
    CHECK(again.len == w.len && !memcmp(again.data, w.data, w.len));
    wh_writer_free(&again);
    wh_writer_free(&w);
    d->ops->destroy(d);
    return other;
}

static void test_aclint(void)
{
    wh_device *d = make("aclint");
    wr(d, 4, 4, 0xff);
    CHECK(world.line[1][3] && !world.line[0][3] && rd(d, 4, 4) == 1);
    world.mtime = 1000;
    CHECK(rd(d, 0xbff8, 8) == 1000 && rd(d, 0xbffc, 4) == 0);
    wr(d, 0x4000 + 16, 8, 2000);
    CHECK(!world.line[2][7] && wh_aclint_deadline(d) == 2000 && world.changes);
    d = reborn(d);
    CHECK(rd(d, 0x4000 + 16, 4) == 2000 && wh_aclint_deadline(d) == 2000);
    world.mtime = 2000;
    wh_aclint_tick(d);
    CHECK(world.line[2][7] && wh_aclint_deadline(d) == UINT64_MAX);
    wr(d, 0x4014, 4, 1); /* the high half alone */
    CHECK(!world.line[2][7] && rd(d, 0x4010, 8) == (1ull << 32 | 2000));
    wr(d, 0xbff8, 8, 5ull << 32);
    CHECK(world.mtime == 5ull << 32 && world.line[2][7]);
    uint64_t v;
    CHECK(d->ops->read(d, 0, 1, &v) && d->ops->write(d, 0, 8, 1));
    CHECK(rd(d, 0x4000 + 8 * 4, 8) == 0); /* no such hart */
    d->ops->reset(d);
    CHECK(!world.line[2][7] && !world.line[1][3]);
    d->ops->destroy(d);
}

static void test_plic(void)
{
    enum { S1 = 3, SEIP = 9 }; /* hart 1's supervisor context */
    wh_device *d = make("plic");
    wr(d, 4 * 5, 4, 2);
    wr(d, 4 * 40, 4, 6);
    wr(d, 4 * 41, 4, 15); /* only 0..7 exist */
    CHECK(rd(d, 4 * 41, 4) == 7);
    wr(d, 4 * 41, 4, 6);
    wr(d, 0x2000 + 0x80 * S1, 4, ~0u);
    wr(d, 0x2004 + 0x80 * S1, 4, ~0u);
    CHECK(rd(d, 0x2000 + 0x80 * S1, 4) == ~1u); /* source 0 does not exist */
    wh_plic_set_line(d, 5, true);
    CHECK(world.line[1][SEIP] && !world.line[1][11] && !world.line[0][SEIP]);
    wh_plic_set_line(d, 41, true);
    wh_plic_set_line(d, 40, true);
    CHECK(rd(d, 0x1000, 4) == 1u << 5 && rd(d, 0x1004, 4) == 3u << 8);
    CHECK(rd(d, 0x200004 + 0x1000 * S1, 4) == 40); /* the higher priority; among equals the lower number */
    CHECK(rd(d, 0x200004 + 0x1000 * S1, 4) == 41);
    d = reborn(d);
    CHECK(world.line[1][SEIP]);
    CHECK(rd(d, 0x200004 + 0x1000 * S1, 4) == 5);
    CHECK(rd(d, 0x200004 + 0x1000 * S1, 4) == 0 && !world.line[1][SEIP]);
    wh_plic_set_line(d, 41, false);
    wr(d, 0x200004 + 0x1000 * S1, 4, 41);
    CHECK(!world.line[1][SEIP]);
    wr(d, 0x200004 + 0x1000 * S1, 4, 40); /* its line is still high */
    CHECK(world.line[1][SEIP]);
    wr(d, 0x200000 + 0x1000 * S1, 4, 6);
    CHECK(!world.line[1][SEIP]); /* masked by the threshold */
    wr(d, 0x200000 + 0x1000 * S1, 4, 5);
    CHECK(world.line[1][SEIP]);
    wr(d, 0x200004 + 0x1000 * S1, 4, 5000);
    wh_plic_set_line(d, 0, true);
    wh_plic_set_line(d, WH_PLIC_SOURCES, true);
    uint64_t v;
    CHECK(d->ops->read(d, 0, 8, &v) && d->ops->write(d, 0, 1, 0));
    d->ops->reset(d);
    CHECK(!world.line[1][SEIP]);
    d->ops->destroy(d);
}

static void feed(const char *text)
{
    world.in_len = strlen(text);
    memcpy(world.in, text, world.in_len);
}

static void test_uart(void)
{
    wh_device *d = make("uart");
    wr(d, 3, 1, 0x83);
    wr(d, 0, 1, 0x12);
    wr(d, 1, 1, 0x34);
    CHECK(rd(d, 0, 1) == 0x12 && rd(d, 1, 1) == 0x34);
    wr(d, 3, 1, 3);
    wr(d, 2, 1, 0x81); /* FIFO on, trigger at 8 */
    CHECK((rd(d, 5, 1) & 0x61) == 0x60 && rd(d, 2, 1) == 0xc1);
    wr(d, 0, 1, 'h');
    wr(d, 0, 1, 'i');
    CHECK(world.out_len == 2 && !memcmp(world.out, "hi", 2) && !world.irq[10]);
    wr(d, 1, 1, 2); /* transmitter empty is told, and told once */
    CHECK(world.irq[10] && rd(d, 2, 1) == 0xc2 && !world.irq[10] && rd(d, 2, 1) == 0xc1);
    wr(d, 0, 1, '!');
    CHECK(world.irq[10]);
    wr(d, 1, 1, 1);
    CHECK(!world.irq[10]);
    feed("0123456789abcdefXYZ"); /* more than the FIFO holds */
    d->ops->poll(d);
    CHECK(world.irq[10] && rd(d, 2, 1) == 0xc4 && world.in_len == 3);
    for (unsigned i = 0; i < 10; i++)
        CHECK(rd(d, 0, 1) == (uint64_t)"0123456789"[i]);
    CHECK(rd(d, 2, 1) == 0xcc);
    d = reborn(d);
    CHECK(world.irq[10]);
    for (unsigned i = 0; i < 9; i++)
        CHECK(rd(d, 0, 1) == (uint64_t)"abcdefXYZ"[i]);
    CHECK(!world.irq[10] && !(rd(d, 5, 1) & 1) && rd(d, 0, 1) == 0);
    wr(d, 4, 1, 0x1f); /* loop */
    CHECK((rd(d, 6, 1) & 0xf0) == 0xf0);
    size_t before = world.out_len;
    wr(d, 0, 1, 'L');
    CHECK(rd(d, 0, 1) == 'L' && world.out_len == before);
    wr(d, 7, 1, 0xa5);
    CHECK(rd(d, 7, 1) == 0xa5 && rd(d, 50, 1) == 0);
    uint64_t v;
    CHECK(d->ops->read(d, 0, 4, &v) && d->ops->write(d, 0, 2, 0));
    d->ops->reset(d);
    d->ops->destroy(d);
}

static void test_rtc(void)
{
    wh_device *d = make("rtc");
    world.wall = 0x1122334455667788ull;
    CHECK(rd(d, 0, 4) == 0x55667788);
    world.wall = 0x2222222200000000ull;
    CHECK(rd(d, 4, 4) == 0x11223344); /* latched with the low half */
    wr(d, 4, 4, 0x10);
    wr(d, 0, 4, 0x20); /* the guest sets its own time */
    CHECK(rd(d, 0, 4) == 0x20 && rd(d, 4, 4) == 0x10);
    wr(d, 0x10, 4, 1);
    wr(d, 0xc, 4, 0x10);
    wr(d, 0x8, 4, 0x120);
    CHECK(rd(d, 0x18, 4) == 1 && wh_rtc_deadline(d) == world.wall + 0x100 && !world.irq[11]);
    d = reborn(d);
    world.wall += 0x100;
    wh_rtc_tick(d);
    CHECK(world.irq[11] && rd(d, 0x18, 4) == 0 && wh_rtc_deadline(d) == UINT64_MAX);
    wr(d, 0x1c, 4, 1);
    CHECK(!world.irq[11]);
    wr(d, 0xc, 4, 0);
    wr(d, 0x8, 4, 0); /* in the past */
    CHECK(world.irq[11]);
    wr(d, 0x10, 4, 0);
    CHECK(!world.irq[11]);
    uint64_t v;
    CHECK(d->ops->read(d, 0, 8, &v));
    d->ops->reset(d);
    d->ops->destroy(d);
}

static void test_finisher(void)
{
    wh_device *d = make("finisher");
    wr(d, 0, 4, 0x1234);
    CHECK(!world.end_code && !world.reboots);
    wr(d, 0, 4, 0x5555);
    CHECK(world.end_code == 1);
    wr(d, 0, 4, 7 << 16 | 0x3333);
    CHECK(world.end_code == 8);
    wr(d, 0, 4, 0x7777);
    CHECK(world.reboots == 1);
    d = reborn(d);
    d->ops->destroy(d);
    d = make("empty");
    CHECK(rd(d, 0, 4) == 0x74726976 && rd(d, 4, 4) == 2 && rd(d, 8, 4) == 0);
    d->ops->destroy(d);
}

/* What firmware finds through a1 and a2, before and after a save; and a ROM is not written. */
static void test_rom(void)
{
    wh_device *d = make("rom"), *other = make("rom");
    wh_rom_set(d, 0x80000000, 0x87e00000, 0x80200000);
    wr(d, 0x18, 8, 1);
    wh_writer w;
    wh_writer_init(&w);
    d->ops->save(d, &w);
    wh_reader r;
    wh_reader_init(&r, w.data, w.len);
    other->ops->load(other, &r);
    CHECK(!r.status);
    wh_writer_free(&w);
    static const uint64_t want[] = {0x80000000, 0x87e00000, 0x4942534f, 2, 0x80200000, 1, 0, 0, 0};
    for (unsigned i = 0; i < WH_ARRAY_LEN(want); i++)
        CHECK(rd(d, 0x18 + 8 * i, 8) == want[i] && rd(other, 0x18 + 8 * i, 8) == want[i]);
    CHECK(rd(d, 0, 4) == 0x297 && rd(d, 2, 2) == 0 && rd(d, 0x14, 4) == 0x28067); /* auipc t0, 0 ... jr t0 */
    CHECK(rd(d, WH_ROM_SIZE - 8, 8) == 0);
    d->ops->destroy(d);
    other->ops->destroy(other);
}

static void put_noise(uint8_t *doc, size_t len, uint64_t *seed)
{
    for (unsigned k = 0; k < 1 + next_random(seed) % 4; k++)
        doc[next_random(seed) % len] = (uint8_t)next_random(seed);
}

/* Random accesses, and states that were damaged: nothing may go wrong but an error. */
static void test_noise(const char *name)
{
    uint64_t seed = 0xabcdef;
    wh_device *d = make(name);
    for (unsigned i = 0; i < 50000; i++) {
        uint64_t v, offset = next_random(&seed) % (i % 2 ? 0x6000 : 0x600000);
        unsigned size = 1u << next_random(&seed) % 4;
        offset &= ~(uint64_t)(size - 1);
        if (next_random(&seed) % 2)
            d->ops->read(d, offset, size, &v);
        else
            d->ops->write(d, offset, size, next_random(&seed));
        if (d->ops->poll && i % 16 == 0) {
            feed("noise");
            d->ops->poll(d);
        }
    }
    for (unsigned i = 0; i < 3000; i++) {
        wh_writer w;
        wh_writer_init(&w);
        d->ops->save(d, &w);
        put_noise(w.data, w.len, &seed);
        wh_reader r;
        wh_reader_init(&r, w.data, w.len - next_random(&seed) % 2);
        d->ops->load(d, &r);
        rd(d, 0, strcmp(name, "uart") ? 4 : 1);
        wh_writer_free(&w);
    }
    d->ops->destroy(d);
}

int main(void)
{
    test_aclint();
    test_plic();
    test_uart();
    test_rtc();
    test_finisher();
    test_rom();
    static const char *const all[] = {"aclint", "plic", "uart", "rtc", "finisher", "rom", "empty"};
    for (size_t i = 0; i < WH_ARRAY_LEN(all); i++)
        test_noise(all[i]);
    return finish("dev");
}
