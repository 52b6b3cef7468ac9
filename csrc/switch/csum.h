/* csum: the Internet checksum (RFC 1071). Sums are of 16-bit words as they lie in memory, so that they can be stored as
 * they are on a machine of either byte order. */
#ifndef WH_SWITCH_CSUM_H
#define WH_SWITCH_CSUM_H

#include "switch/frame.h"
#include "switch/layers.h"

/* Add bytes to a sum; an odd number of them only at the end of what is summed. */
uint64_t wh_csum_add(uint64_t sum, const void *data, size_t len);
uint16_t wh_csum_fold(uint64_t sum); /* not inverted */
/* The pseudo header of a transport header with `length` bytes from there to the end (RFC 793, 768, 8200). */
uint64_t wh_csum_pseudo(const uint8_t *frame, const struct wh_layers *y, uint32_t length);
/* Fill in a checksum that was left open. Any frame; nothing is left to do to it but gso. */
void wh_csum_complete(struct wh_frame *f);

#endif
