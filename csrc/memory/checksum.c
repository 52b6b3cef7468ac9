/* A checksum of guest RAM that a migration's source and target compare.
 *
 * Each non-zero page is hashed by eight independent 64-bit lanes; a lane's step is one multiply-with-carry step
 * (Marsaglia) of lane xor word: lo * M + hi, 32 x 32 -> 64 bits, which vector units of every host have. The lanes are
 * then folded with the page number into 128 bits, and pages are added up, so that neither the order of the walk nor
 * holes matter. It finds accidents, it is no MAC. */
#include "memory/extent.h"
#include "memory/snapformat.h"
#include "memory/view.h"

#include <endian.h>
#include <string.h>
#include <sys/mman.h>

#define LANES   8u
#define STRIPES (WH_PAGE_SIZE / (8u * LANES))
/* A multiplier near 2^32 makes the step as good as injective. */
#define MWC 0xfffeb81bull

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ull;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ull;
    return x ^ x >> 32;
}

static const uint64_t lane_seed[LANES] = {
    0x243f6a8885a308d3ull, 0x13198a2e03707344ull, 0xa4093822299f31d0ull, 0x082efa98ec4e6c89ull,
    0x452821e638d01377ull, 0xbe5466cf34e90c6cull, 0xc0ac29b7c97c50ddull, 0x3f84d5b5b5470917ull,
};

/* -O2 of GCC 12 leaves these loops scalar. */
#ifdef __clang__
#define VECTORISED
#else
#define VECTORISED __attribute__((optimize("O3")))
#endif

/* Adds page pfn to the sum. A page of zeros adds nothing. */
static VECTORISED void add_page(const uint8_t *page, uint64_t pfn, uint64_t sum[2])
{
    uint64_t acc[LANES], any[LANES] = {0};
    memcpy(acc, lane_seed, sizeof acc);
    for (unsigned s = 0; s < STRIPES; s++) {
        uint64_t w[LANES];
        memcpy(w, page + s * sizeof w, sizeof w);
        for (unsigned i = 0; i < LANES; i++) {
            uint64_t x = acc[i] ^ le64toh(w[i]);
            any[i] |= w[i];
            acc[i] = (x & 0xffffffffu) * MWC + (x >> 32);
        }
    }
    if (!(any[0] | any[1] | any[2] | any[3] | any[4] | any[5] | any[6] | any[7]))
        return;
    uint64_t a = mix(pfn + 1), b = mix(~pfn);
    for (unsigned i = 0; i < LANES; i++) {
        a = mix(a ^ acc[i]);
        b = mix(b + acc[i] * 0x9e3779b97f4a7c15ull);
    }
    sum[0] += a;
    sum[1] += b;
}

void wh_sum_page(const uint8_t *page, uint64_t pfn, uint64_t sum[2])
{
    add_page(page, pfn, sum);
}

static void put_sum(const uint64_t sum[2], uint8_t out[16])
{
    uint64_t le[2] = {htole64(sum[0]), htole64(sum[1])};
    memcpy(out, le, sizeof le);
}

void wh_sum_bytes(const void *data, size_t len, uint8_t out[16])
{
    uint64_t sum[2] = {mix(len), mix(~(uint64_t)len)};
    const uint8_t *p = data;
    size_t whole = len / WH_PAGE_SIZE;
    for (size_t i = 0; i < whole; i++)
        add_page(p + i * WH_PAGE_SIZE, i, sum);
    if (len % WH_PAGE_SIZE) {
        uint8_t last[WH_PAGE_SIZE] = {0};
        memcpy(last, p + whole * WH_PAGE_SIZE, len % WH_PAGE_SIZE);
        add_page(last, whole, sum);
    }
    put_sum(sum, out);
}

int wh_ramview_checksum(wh_ramview *v, uint8_t out[16])
{
    uint64_t sum[2] = {0, 0}, first, end;
    int status = wh_view_wait_present(v);
    if (status)
        return status;
    for (uint64_t pfn = 0; wh_extent_next(v->ram_fd, v->pages, pfn, &first, &end); pfn = end) {
#ifdef MADV_POPULATE_READ
        madvise(v->host + (first << WH_PAGE_SHIFT), (end - first) << WH_PAGE_SHIFT, MADV_POPULATE_READ);
#endif
        for (uint64_t p = first; p < end; p++)
            add_page(v->host + (p << WH_PAGE_SHIFT), p, sum);
    }
    put_sum(sum, out);
    return WH_OK;
}
