/* What the snapshot file's writer and reader share. Private to memory/. */
#ifndef WH_SNAPFORMAT_H
#define WH_SNAPFORMAT_H

#include "memory/snapfile.h"

#define WH_SNAPFILE_HEAD 4096u
#define WH_SNAPFILE_MAP  32u /* where the map begins */

/* No text file begins so, and a transfer that changes line ends shows. */
static const uint8_t wh_snapfile_magic[8] = {0x89, 'W', 'H', 'S', 'N', 'A', 'P', '\n'};

enum { WH_SNAP_VERSION_AT = 8, WH_SNAP_LENGTH_AT = 12, WH_SNAP_SUM_AT = 16 };

/* checksum.c: adds a page (number pfn) to the sum; a page of zeros adds nothing. */
void wh_sum_page(const uint8_t *page, uint64_t pfn, uint64_t sum[2]);
/* The same over any bytes, their length included. */
void wh_sum_bytes(const void *data, size_t len, uint8_t out[16]);

#endif
