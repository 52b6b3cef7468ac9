/* BLAKE3 of one page (pagehash.h). The four chunks are compressed side by side, a word of each in a vector of four; the
 * same code with one lane does the parents. */
#include "memory/pagehash.h"

#include <endian.h>
#include <string.h>

enum { CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8, KEYED = 16 };
enum { LANES = 4, BLOCK = 64, CHUNK = 1024, WORDS = BLOCK / 4, BLOCKS = CHUNK / BLOCK, ROUNDS = 7 };
_Static_assert(LANES *CHUNK == WH_PAGE_SIZE, "a page is as many chunks as there are lanes");

typedef uint32_t quad __attribute__((vector_size(4 * LANES)));

static const uint32_t iv[4] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a};
/* Which message word stands where in each round: the permutation of table 2 over and over. */
static const uint8_t order[ROUNDS][WORDS] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8},
    {3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1}, {10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6},
    {12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4}, {9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7},
    {11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13}};

#define TURN(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#define MIX(a, b, c, d, x, y)                                                                                          \
    do {                                                                                                               \
        v[a] += v[b] + (x);                                                                                            \
        v[d] = TURN(v[d] ^ v[a], 16);                                                                                  \
        v[c] += v[d];                                                                                                  \
        v[b] = TURN(v[b] ^ v[c], 12);                                                                                  \
        v[a] += v[b] + (y);                                                                                            \
        v[d] = TURN(v[d] ^ v[a], 8);                                                                                   \
        v[c] += v[d];                                                                                                  \
        v[b] = TURN(v[b] ^ v[c], 7);                                                                                   \
    } while (0)
#define ROUND(m, o)                                                                                                    \
    do {                                                                                                               \
        MIX(0, 4, 8, 12, (m)[(o)[0]], (m)[(o)[1]]);                                                                    \
        MIX(1, 5, 9, 13, (m)[(o)[2]], (m)[(o)[3]]);                                                                    \
        MIX(2, 6, 10, 14, (m)[(o)[4]], (m)[(o)[5]]);                                                                   \
        MIX(3, 7, 11, 15, (m)[(o)[6]], (m)[(o)[7]]);                                                                   \
        MIX(0, 5, 10, 15, (m)[(o)[8]], (m)[(o)[9]]);                                                                   \
        MIX(1, 6, 11, 12, (m)[(o)[10]], (m)[(o)[11]]);                                                                 \
        MIX(2, 7, 8, 13, (m)[(o)[12]], (m)[(o)[13]]);                                                                  \
        MIX(3, 4, 9, 14, (m)[(o)[14]], (m)[(o)[15]]);                                                                  \
    } while (0)

static uint32_t load(const uint8_t *p)
{
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return le32toh(word);
}

/* One block of each chunk. */
static inline void compress_four(quad cv[8], const quad m[WORDS], uint32_t flags)
{
    static const quad counter = {0, 1, 2, 3};
    const quad none = {0};
    quad v[16];
    for (unsigned i = 0; i < 8; i++)
        v[i] = cv[i];
    for (unsigned i = 0; i < 4; i++)
        v[8 + i] = none + iv[i];
    v[12] = counter;
    v[13] = none;
    v[14] = none + (uint32_t)BLOCK;
    v[15] = none + flags;
#pragma GCC unroll 7
    for (unsigned r = 0; r < ROUNDS; r++)
        ROUND(m, order[r]);
    for (unsigned i = 0; i < 8; i++)
        cv[i] = v[i] ^ v[8 + i];
}

/* The words of block `b` of all chunks: word by word, a chunk to a lane. */
static inline void load_four(quad m[WORDS], const uint8_t *page, unsigned b)
{
    const uint8_t *at = page + b * BLOCK;
    for (unsigned i = 0; i < WORDS; i++, at += 4)
        m[i] = (quad){load(at), load(at + CHUNK), load(at + 2 * CHUNK), load(at + 3 * CHUNK)};
}

/* The node above two, whose chaining values stand in `m`: the first eight words of its output. */
static void parent(const wh_page_key *key, const uint32_t m[WORDS], uint32_t flags, uint32_t out[8])
{
    uint32_t v[16] = {0};
    memcpy(v, key->word, sizeof key->word);
    memcpy(v + 8, iv, sizeof iv);
    v[14] = BLOCK;
    v[15] = PARENT | KEYED | flags;
    for (unsigned r = 0; r < ROUNDS; r++)
        ROUND(m, order[r]);
    for (unsigned i = 0; i < 8; i++)
        out[i] = v[i] ^ v[8 + i];
}

void wh_page_key_set(wh_page_key *key, const uint8_t bytes[WH_PAGE_KEY])
{
    for (unsigned i = 0; i < 8; i++)
        key->word[i] = load(bytes + 4 * i);
}

void wh_page_name(const wh_page_key *key, const uint8_t page[WH_PAGE_SIZE], uint8_t *name, size_t len)
{
    const quad none = {0};
    quad cv[8], m[WORDS];
    for (unsigned i = 0; i < 8; i++)
        cv[i] = none + key->word[i];
    for (unsigned b = 0; b < BLOCKS; b++) {
        load_four(m, page, b);
        compress_four(cv, m, KEYED | (b == 0 ? CHUNK_START : 0) | (b == BLOCKS - 1 ? CHUNK_END : 0));
    }
    uint32_t pairs[LANES * 8], above[2 * 8], root[8];
    for (unsigned lane = 0; lane < LANES; lane++)
        for (unsigned i = 0; i < 8; i++)
            pairs[8 * lane + i] = cv[i][lane];
    parent(key, pairs, 0, above);
    parent(key, pairs + WORDS, 0, above + 8);
    parent(key, above, ROOT, root);
    for (unsigned i = 0; i < 8; i++)
        root[i] = htole32(root[i]);
    memcpy(name, root, len < sizeof root ? len : sizeof root);
}
