/* delta: what changed in a page since it was sent last. Private to memory/.
 *
 * Runs of 64-bit words, in order: first word u16 LE, number of words u16 LE, the words. */
#ifndef WH_DELTA_H
#define WH_DELTA_H

#include "base/base.h"

#define WH_DELTA_MAX 2048u /* more than that goes as the whole page */

/* Bytes of the delta from `old` to `now`, pages both; 0: they are the same; SIZE_MAX: more than WH_DELTA_MAX. */
size_t wh_delta_make(const uint8_t *old, const uint8_t *now, uint8_t out[WH_DELTA_MAX]);
/* Every run is within a page and behind the one before it. */
bool wh_delta_valid(const uint8_t *delta, size_t len);
void wh_delta_apply(uint8_t *page, const uint8_t *delta, size_t len); /* a valid one */

#endif
