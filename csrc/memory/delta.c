/* delta: making, checking and applying deltas of pages. Format: delta.h. */
#include "memory/delta.h"

#include <string.h>

enum { WORDS = WH_PAGE_SIZE / 8, HEAD = 4 };

static unsigned get16(const uint8_t *p)
{
    return p[0] | (unsigned)p[1] << 8;
}

static bool differs(const uint8_t *a, const uint8_t *b, unsigned word)
{
    uint64_t x, y;
    memcpy(&x, a + 8 * word, 8);
    memcpy(&y, b + 8 * word, 8);
    return x != y;
}

size_t wh_delta_make(const uint8_t *old, const uint8_t *now, uint8_t out[WH_DELTA_MAX])
{
    size_t len = 0;
    for (unsigned at = 0; at < WORDS; at++) {
        if (at % 8 == 0 && memcmp(old + 8 * at, now + 8 * at, 64) == 0) {
            at += 7;
            continue;
        }
        if (!differs(old, now, at))
            continue;
        unsigned end = at + 1;
        while (end < WORDS && differs(old, now, end))
            end++;
        size_t bytes = 8 * (end - at);
        if (len + HEAD + bytes > WH_DELTA_MAX)
            return SIZE_MAX;
        const uint8_t head[HEAD] = {(uint8_t)at, (uint8_t)(at >> 8), (uint8_t)(end - at), (uint8_t)((end - at) >> 8)};
        memcpy(out + len, head, HEAD);
        memcpy(out + len + HEAD, now + 8 * at, bytes);
        len += HEAD + bytes;
        at = end; /* which is the same, or beyond the page */
    }
    return len;
}

bool wh_delta_valid(const uint8_t *delta, size_t len)
{
    size_t at = 0;
    unsigned least = 0;
    if (len > WH_DELTA_MAX)
        return false;
    while (at < len) {
        if (len - at < HEAD)
            return false;
        unsigned first = get16(delta + at), words = get16(delta + at + 2);
        at += HEAD;
        if (words == 0 || first < least || first >= WORDS || words > WORDS - first || len - at < 8u * words)
            return false;
        least = first + words;
        at += 8u * words;
    }
    return len != 0;
}

void wh_delta_apply(uint8_t *page, const uint8_t *delta, size_t len)
{
    for (size_t at = 0; at < len;) {
        unsigned first = get16(delta + at), words = get16(delta + at + 2);
        memcpy(page + 8 * first, delta + at + HEAD, 8u * words);
        at += HEAD + 8u * words;
    }
}
