/* The entropy device: fills what it is given, reproducible with a seed also across a save, bounded in work. */
#include "virtio_guest.h"

static wh_device *make_rng(struct guest *g)
{
    wh_virtio_env env = guest_env(g);
    wh_device *d = NULL;
    CHECK_EQ(wh_virtio_rng_new(&env, (uintptr_t)g->user, &d, NULL), 0);
    return d;
}

/* 64 requests of growing sizes, all bytes appended to out; returns how many. */
static size_t stream(uint64_t seed, bool rebirth, uint8_t *out)
{
    struct guest g;
    memset(&g, 0, sizeof g);
    CHECK_EQ(wh_ram_new(RAM_BYTES, 1, &g.ram, NULL), 0);
    g.user = (void *)(uintptr_t)seed;
    g.make = make_rng;
    g.next_buffer = BUFFER_AREA;
    g.dev = make_rng(&g);
    g.rebirth = rebirth;
    guest_start(&g, WH_VIRTIO_F_EVENT_IDX, 1, 64);
    size_t n = 0;
    for (uint32_t i = 1; i <= 64; i++) {
        const struct part p[] = {{guest_buffer(&g, 3 * i), 3 * i, WRITE}, {guest_buffer(&g, i), i, WRITE}};
        uint16_t head = add_chain(&g, 0, p, 2);
        checkpoint(&g);
        kick(&g, 0);
        expect_used(&g, 0, head, 4 * i);
        memcpy(out + n, at(&g, p[0].off), 3 * i);
        memcpy(out + n + 3 * i, at(&g, p[1].off), i);
        n += 4 * i;
    }
    guest_close(&g);
    return n;
}

static void seeds(void)
{
    static uint8_t a[16384], b[16384];
    size_t n = stream(7, false, a);
    CHECK_EQ(stream(7, true, b), n);
    CHECK(memcmp(a, b, n) == 0);
    stream(8, false, b);
    CHECK(memcmp(a, b, n) != 0);
    stream(0, false, a);
    stream(0, true, b);
    CHECK(memcmp(a, b, n) != 0);
    unsigned seen[256] = {0}, missing = 0;
    for (size_t i = 0; i < n; i++)
        seen[a[i]]++;
    for (unsigned i = 0; i < 256; i++)
        missing += seen[i] == 0;
    CHECK_EQ(missing, 0); /* 8320 random bytes miss a value with probability 2e-12 */
}

static void nonsense(void)
{
    struct guest g;
    guest_open(&g, make_rng);
    guest_start(&g, 0, 1, 4);
    const struct part large = {BUFFER_AREA, 1 << 20, WRITE};
    uint16_t head = add_chain(&g, 0, &large, 1);
    kick(&g, 0);
    expect_used(&g, 0, head, 4096); /* answered in part */
    const struct part out = {BUFFER_AREA, 16, 0};
    add_chain(&g, 0, &out, 1);
    kick(&g, 0);
    expect_broken(&g, "nothing to write to");
    guest_close(&g);
}

int main(void)
{
    seeds();
    nonsense();
    return report("virtio_rng");
}
