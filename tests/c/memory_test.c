/* Guest RAM, rounds, page batches and the checksum. */
#include "memory/memory.h"
#include "state/state.h"
#include "switch_check.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 1000u /* not a multiple of 64: the last word of bits is partial */

struct pair {
    wh_ram ram;
    wh_ramview *view;
};

static struct pair make(uint32_t harts)
{
    struct pair p;
    wh_error err;
    CHECK(!wh_ram_new((uint64_t)PAGES * WH_PAGE_SIZE, harts, &p.ram, &err));
    CHECK(!wh_ramview_open(p.ram.ram_fd, p.ram.share_fd, &p.view, &err));
    return p;
}

static void drop(struct pair *p)
{
    wh_ramview_close(p->view);
    wh_ram_free(&p->ram);
}

static void touch(struct pair *p, unsigned pfn, uint8_t byte)
{
    uint64_t pa = WH_RAM_BASE + (uint64_t)pfn * WH_PAGE_SIZE;
    wh_ram_at(&p->ram, pa, 1)[7] = byte;
    wh_ram_mark_dirty(&p->ram, pa);
}

static void test_bounds(void)
{
    struct pair p = make(1);
    uint64_t end = WH_RAM_BASE + p.ram.bytes;
    CHECK(wh_ram_at(&p.ram, WH_RAM_BASE, p.ram.bytes));
    CHECK(!wh_ram_at(&p.ram, WH_RAM_BASE, p.ram.bytes + 1));
    CHECK(!wh_ram_at(&p.ram, WH_RAM_BASE - 1, 1) && !wh_ram_at(&p.ram, 0, 1) && !wh_ram_at(&p.ram, end, 1));
    CHECK(wh_ram_at(&p.ram, end - 1, 1) && !wh_ram_at(&p.ram, end - 1, 2) && !wh_ram_at(&p.ram, end - 1, UINT64_MAX));
    CHECK(wh_ramview_pages(p.view) == PAGES && wh_ramview_resident(p.view) == 0);
    wh_error err;
    wh_ram bad;
    CHECK(wh_ram_new(4097, 1, &bad, &err) == WH_E_INVAL && !strcmp(err.field, "memory"));
    CHECK(wh_ram_new(4096, 65, &bad, &err) == WH_E_INVAL && !strcmp(err.field, "harts"));
    drop(&p);
}

static void test_open_refuses(void)
{
    struct pair p = make(2);
    wh_ramview *v;
    wh_error err;
    CHECK(wh_ramview_open(p.ram.share_fd, p.ram.ram_fd, &v, &err) == WH_E_FORMAT && !v);
    int plain = memfd_create("plain", MFD_CLOEXEC);
    CHECK(!ftruncate(plain, 8192));
    CHECK(wh_ramview_open(plain, p.ram.share_fd, &v, &err) == WH_E_FORMAT && !strcmp(err.field, "ram"));
    close(plain);
    p.ram.share->version = 99;
    CHECK(wh_ramview_open(p.ram.ram_fd, p.ram.share_fd, &v, &err) == WH_E_VERSION);
    CHECK(wh_ramview_open(-1, -1, &v, &err) == WH_E_IO);
    drop(&p);
}

static void test_rounds(void)
{
    struct pair p = make(2);
    uint64_t dirty;
    touch(&p, 3, 1);
    touch(&p, 999, 1);
    CHECK(wh_ramview_round(p.view, 0, &dirty) == WH_E_STATE);
    CHECK(!wh_ramview_track(p.view, 1));
    CHECK(!wh_ramview_round(p.view, 0, &dirty) && dirty == 2); /* the first round: what is present */
    CHECK(!wh_ramview_track(p.view, 1));
    touch(&p, 5, 1);
    CHECK(wh_ramview_dirty_now(p.view) == 1);
    CHECK(!wh_ramview_round(p.view, 0, &dirty) && dirty == 3);
    static uint8_t buf[64 << 10];
    wh_batch_info info;
    CHECK(!wh_ramview_pack(p.view, buf, sizeof buf, &info) && info.data_pages == 3 && !info.more);
    touch(&p, 6, 1);
    atomic_store(&p.ram.share->hart[1].parked, 0); /* a hart that runs and does not look */
    CHECK(wh_ramview_round(p.view, 2, &dirty) == WH_E_TIMEOUT);
    touch(&p, 7, 1);
    atomic_store(&p.ram.share->hart[1].round_seen, atomic_load(&p.ram.share->round) + 1);
    CHECK(!wh_ramview_round(p.view, 0, &dirty) && dirty == 2); /* 6 of the failed round is not lost */
    wh_ram_mark_dirty_range(&p.ram, WH_RAM_BASE + 4095, 2);
    wh_ram_mark_dirty_range(&p.ram, WH_RAM_BASE + 9 * WH_PAGE_SIZE, WH_PAGE_SIZE);
    wh_ram_mark_dirty_range(&p.ram, WH_RAM_BASE + 20 * WH_PAGE_SIZE, 0);
    CHECK(wh_ramview_dirty_now(p.view) == 3);
    uint64_t bitmap[(PAGES + 63) / 64];
    unsigned bits = 0;
    CHECK(wh_ramview_dirty(p.view, (uint8_t *)bitmap, sizeof bitmap - 8) == WH_E_INVAL);
    CHECK(wh_ramview_dirty(p.view, (uint8_t *)bitmap, sizeof bitmap) == WH_OK);
    for (unsigned i = 0; i < sizeof bitmap / 8; i++)
        bits += (unsigned)__builtin_popcountll(bitmap[i]);
    CHECK(bits == 3);
    CHECK(wh_ramview_dirty_now(p.view) == 3);
    atomic_store(&p.ram.share->dirty[PAGES / 64], ~0ull); /* bits beyond the last page are not believed */
    atomic_store(&p.ram.share->hart[1].parked, 1);
    CHECK(!wh_ramview_round(p.view, 0, &dirty) && dirty == 2 + 3 + PAGES % 64);
    CHECK(!wh_ramview_track(p.view, 0));
    touch(&p, 8, 1);
    CHECK(wh_ramview_dirty_now(p.view) == 0);
    drop(&p);
}

static void fill_random(struct pair *p, uint64_t seed)
{
    for (unsigned i = 0; i < PAGES; i++) {
        unsigned kind = next_random(&seed) % 4;
        if (kind == 0)
            continue;                                                   /* a hole */
        touch(p, i, (uint8_t)(kind == 1 ? 0 : next_random(&seed) | 1)); /* a zero page that is present, or data */
    }
}

/* All batches from one to the other; returns pages told. */
static uint64_t carry(struct pair *from, struct pair *to, size_t cap)
{
    uint8_t *buf = malloc(cap);
    wh_batch_info packed, unpacked = {0};
    uint64_t pages = 0;
    wh_error err;
    do {
        CHECK(!wh_ramview_pack(from->view, buf, cap, &packed));
        CHECK(packed.bytes <= cap);
        CHECK(!wh_ramview_unpack(to->view, buf, packed.bytes, &unpacked, &err));
        CHECK(unpacked.data_pages == packed.data_pages && unpacked.zero_pages == packed.zero_pages);
        pages += packed.data_pages + packed.zero_pages;
    } while (packed.more);
    free(buf);
    return pages;
}

static void test_carry(size_t cap)
{
    struct pair a = make(1), b = make(1);
    uint64_t dirty;
    uint8_t sum_a[16], sum_b[16];
    fill_random(&a, 11);
    uint64_t resident = wh_ramview_resident(a.view);
    wh_ramview_track(a.view, 1);
    CHECK(!wh_ramview_round(a.view, 0, &dirty) && dirty == resident);
    CHECK(carry(&a, &b, cap) == dirty);
    CHECK(wh_ramview_resident(a.view) == resident); /* packing allocates nothing */
    CHECK(wh_ramview_resident(b.view) < resident);  /* zero pages do not become resident */
    wh_ramview_checksum(a.view, sum_a);
    wh_ramview_checksum(b.view, sum_b);
    CHECK(!memcmp(sum_a, sum_b, 16));
    CHECK(!memcmp(a.ram.host, b.ram.host, a.ram.bytes));
    for (unsigned i = 0; i < PAGES; i += 3) /* data becomes zero and the reverse */
        touch(&a, i, i % 2 ? 0 : 9);
    CHECK(!wh_ramview_round(a.view, 0, &dirty) && dirty == (PAGES + 2) / 3);
    CHECK(carry(&a, &b, cap) == dirty);
    CHECK(!memcmp(a.ram.host, b.ram.host, a.ram.bytes));
    drop(&a);
    drop(&b);
}

static int try_unpack(struct pair *p, const uint8_t *bytes, size_t len)
{
    uint8_t *exact = malloc(len ? len : 1);
    memcpy(exact, bytes, len);
    wh_batch_info info;
    wh_error err;
    int status = wh_ramview_unpack(p->view, exact, len, &info, &err);
    free(exact);
    return status;
}

static size_t put_entry(uint8_t *buf, size_t cap, uint64_t pfn, uint64_t count, size_t len)
{
    static const uint8_t page[2 * WH_PAGE_SIZE] = {1};
    wh_writer w;
    wh_writer_fixed(&w, buf, cap);
    wh_put_array(&w, 2);
    wh_put_array(&w, 3);
    wh_put_uint(&w, 0);
    wh_put_uint(&w, 1);
    wh_put_bin(&w, page, WH_PAGE_SIZE);
    wh_put_array(&w, 3);
    wh_put_uint(&w, pfn);
    wh_put_uint(&w, count);
    if (len)
        wh_put_bin(&w, page, len);
    else
        wh_put_nil(&w);
    return w.len;
}

static void test_hostile_batches(void)
{
    struct pair p = make(1);
    static uint8_t buf[32 << 10];
    static const struct {
        uint64_t pfn, count;
        size_t len;
    } bad[] = {{PAGES, 1, 0}, {0, PAGES + 1, 0},    {PAGES - 1, 2, 0}, {UINT64_MAX, 2, 0}, {1, UINT64_MAX, 0},
               {1, 0, 0},     {1, 2, WH_PAGE_SIZE}, {1, 1, 4095},      {1, 1, 4097},       {PAGES, 1, WH_PAGE_SIZE}};
    for (size_t i = 0; i < WH_ARRAY_LEN(bad); i++) {
        size_t len = put_entry(buf, sizeof buf, bad[i].pfn, bad[i].count, bad[i].len);
        CHECK(try_unpack(&p, buf, len) == WH_E_FORMAT);
    }
    size_t len = put_entry(buf, sizeof buf, 1, 1, WH_PAGE_SIZE);
    for (size_t cut = 0; cut < len; cut++)
        CHECK(try_unpack(&p, buf, cut) == WH_E_FORMAT);
    CHECK(wh_ramview_resident(p.view) == 0); /* a damaged batch changed nothing, though its first entry was sound */
    buf[len] = 0xc0;
    CHECK(try_unpack(&p, buf, len + 1) == WH_E_FORMAT);
    CHECK(try_unpack(&p, buf, len) == WH_OK);
    uint64_t seed = 77;
    for (unsigned round = 0; round < 50000; round++) {
        uint8_t noise[64];
        for (unsigned i = 0; i < sizeof noise; i++)
            noise[i] = (uint8_t)next_random(&seed);
        if (round % 2)
            noise[0] = 0x91, noise[1] = 0x93;
        try_unpack(&p, noise, next_random(&seed) % sizeof noise);
    }
    wh_batch_info info;
    CHECK(wh_ramview_pack(p.view, buf, 8191, &info) == WH_E_INVAL);
    drop(&p);
}

static void test_checksum(void)
{
    struct pair p = make(1), q = make(1);
    uint8_t empty[16], one[16], other[16], zero[16];
    wh_ramview_checksum(p.view, empty);
    touch(&p, 4, 0);
    wh_ramview_checksum(p.view, zero);
    CHECK(!memcmp(empty, zero, 16)); /* a zero page is as good as none */
    touch(&p, 4, 1);
    touch(&q, 5, 1);
    wh_ramview_checksum(p.view, one);
    wh_ramview_checksum(q.view, other);
    CHECK(memcmp(one, other, 16) && memcmp(one, empty, 16)); /* the same page elsewhere */
    for (unsigned bit = 0; bit < WH_PAGE_SIZE * 8; bit += 61) {
        p.ram.host[4 * WH_PAGE_SIZE + bit / 8] ^= (uint8_t)(1u << bit % 8);
        wh_ramview_checksum(p.view, other);
        CHECK(memcmp(one, other, 16));
        p.ram.host[4 * WH_PAGE_SIZE + bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    /* One fixed value: the same on every host, forever. */
    for (unsigned i = 0; i < 3 * WH_PAGE_SIZE; i++)
        q.ram.host[i] = (uint8_t)(i * 7 + (i >> 8));
    wh_ramview_checksum(q.view, other);
    static const uint8_t golden[16] = {0xd8, 0xf0, 0x2e, 0x81, 0x89, 0x36, 0x18, 0x7d,
                                       0x77, 0x16, 0xd4, 0x3a, 0x82, 0x7f, 0xdf, 0x46};
    if (memcmp(other, golden, 16)) {
        for (unsigned i = 0; i < 16; i++)
            printf("0x%02x, ", other[i]);
        printf("\n");
    }
    CHECK(!memcmp(other, golden, 16));
    drop(&p);
    drop(&q);
}

/* A writer that marks pages as a hart does, against rounds: what is packed at last must equal what was written at last.
 */
struct storm {
    struct pair *p;
    _Atomic bool stop;
};

static void *storm_main(void *arg)
{
    struct storm *s = arg;
    struct wh_share *share = s->p->ram.share;
    uint64_t seed = 5, seen = 0;
    bool writable[PAGES] = {false};
    while (!atomic_load(&s->stop)) {
        uint64_t round = atomic_load(&share->round);
        if (round != seen) {
            memset(writable, 0, sizeof writable);
            seen = round;
            atomic_store_explicit(&share->hart[0].round_seen, round, memory_order_release);
        }
        for (unsigned i = 0; i < 50; i++) {
            unsigned pfn = next_random(&seed) % PAGES;
            uint64_t pa = WH_RAM_BASE + (uint64_t)pfn * WH_PAGE_SIZE;
            if (!writable[pfn]) {
                wh_ram_mark_dirty(&s->p->ram, pa);
                writable[pfn] = true;
            }
            __atomic_store_n((uint64_t *)wh_ram_at(&s->p->ram, pa, 8), next_random(&seed), __ATOMIC_RELAXED);
        }
    }
    atomic_store(&share->hart[0].parked, 1);
    return NULL;
}

static void test_storm(void)
{
    struct pair a = make(1), b = make(1);
    struct storm s = {.p = &a};
    atomic_store(&a.ram.share->hart[0].parked, 0);
    pthread_t t;
    pthread_create(&t, NULL, storm_main, &s);
    uint64_t dirty;
    wh_ramview_track(a.view, 1);
    for (unsigned i = 0; i < 30; i++) {
        CHECK(!wh_ramview_round(a.view, 5000, &dirty));
        carry(&a, &b, 1 << 20);
    }
    atomic_store(&s.stop, true);
    pthread_join(t, NULL);
    CHECK(!wh_ramview_round(a.view, 0, &dirty));
    carry(&a, &b, 1 << 20);
    CHECK(!memcmp(a.ram.host, b.ram.host, a.ram.bytes));
    drop(&a);
    drop(&b);
}

int main(void)
{
    test_bounds();
    test_open_refuses();
    test_rounds();
    test_carry(8192);
    test_carry(100000);
    test_hostile_batches();
    test_checksum();
    test_storm();
    return finish("memory");
}
