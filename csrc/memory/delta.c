/* delta: making, checking and applying deltas of pages. Format: delta.h. */
#include "memory/delta.h"

#include <string.h>
#include <sys/random.h>

enum { WORDS = WH_PAGE_SIZE / 8, HEAD = 4, BLOCK_WORDS = WORDS / WH_MARKS };

static unsigned get16(const uint8_t *p)
{
    return p[0] | (unsigned)p[1] << 8;
}

int wh_delta_key_draw(wh_delta_key *key)
{
    return getrandom(key, sizeof *key, 0) == sizeof *key ? WH_OK : WH_E_IO;
}

/* Both halves of a product depend on every bit of both factors (the step of wyhash and its kin). */
static inline uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t mark(const wh_delta_key *key, const uint8_t *block)
{
    uint64_t w[BLOCK_WORDS];
    memcpy(w, block, sizeof w);
    return fold(w[0] ^ key->word[0], w[1] ^ key->word[1]) + fold(w[2] ^ key->word[2], w[3] ^ key->word[3]);
}

void wh_delta_mark(const wh_delta_key *key, const uint8_t *page, uint64_t marks[WH_MARKS])
{
    for (unsigned i = 0; i < WH_MARKS; i++)
        marks[i] = mark(key, page + i * WH_PAGE_SIZE / WH_MARKS);
}

static size_t put_run(uint8_t *out, size_t len, const uint8_t *page, unsigned block, unsigned end)
{
    unsigned at = block * BLOCK_WORDS, words = (end - block) * BLOCK_WORDS;
    if (len > WH_DELTA_MAX || len + HEAD + 8 * words > WH_DELTA_MAX)
        return SIZE_MAX;
    const uint8_t head[HEAD] = {(uint8_t)at, (uint8_t)(at >> 8), (uint8_t)words, (uint8_t)(words >> 8)};
    memcpy(out + len, head, HEAD);
    memcpy(out + len + HEAD, page + 8 * at, 8 * words);
    return len + HEAD + 8 * words;
}

size_t wh_delta_make(const wh_delta_key *key, uint64_t marks[WH_MARKS], const uint8_t *now, uint8_t out[WH_DELTA_MAX])
{
    uint64_t fresh[WH_MARKS];
    wh_delta_mark(key, now, fresh);
    size_t len = 0;
    for (unsigned i = 0; i < WH_MARKS; i++) {
        if (fresh[i] == marks[i])
            continue;
        unsigned end = i + 1;
        while (end < WH_MARKS && fresh[end] != marks[end])
            end++;
        len = put_run(out, len, now, i, end);
        i = end; /* which is the same, or beyond the page */
    }
    memcpy(marks, fresh, sizeof fresh);
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
