/* delta: what changed in a page since it was sent last. Private to memory/.
 *
 * Runs of 64-bit words, in order: first word u16 LE, number of words u16 LE, the words.
 *
 * What was sent is not kept, only a mark of 64 bits for each 32 bytes of it: a quarter of the memory, and of the time
 * that it takes to get it. Blocks whose mark is another one go. The marks are keyed by the sender's own random words,
 * so that nobody can choose two contents with one mark; by chance a changed block is taken for the same once in 2^64.
 */
#ifndef WH_DELTA_H
#define WH_DELTA_H

#include "base/base.h"

#define WH_DELTA_MAX 2048u /* more than that goes as the whole page */
#define WH_MARKS     128u  /* of a page */

typedef struct wh_delta_key {
    uint64_t word[4];
} wh_delta_key;

int wh_delta_key_draw(wh_delta_key *key); /* from the host's randomness; WH_E_IO */
/* The page's marks. It must not change meanwhile. */
void wh_delta_mark(const wh_delta_key *key, const uint8_t *page, uint64_t marks[WH_MARKS]);
/* Bytes of the delta from the page whose marks these are to `now`; 0: they are the same; SIZE_MAX: more than
 * WH_DELTA_MAX. The marks become those of `now`, which must not change meanwhile. */
size_t wh_delta_make(const wh_delta_key *key, uint64_t marks[WH_MARKS], const uint8_t *now, uint8_t out[WH_DELTA_MAX]);
/* Every run is within a page and behind the one before it. */
bool wh_delta_valid(const uint8_t *delta, size_t len);
void wh_delta_apply(uint8_t *page, const uint8_t *delta, size_t len); /* a valid one */

#endif
