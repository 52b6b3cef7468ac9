/* The parts of a RAM file that have memory behind them. Private to memory/. */
#ifndef WH_EXTENT_H
#define WH_EXTENT_H

#include "base/base.h"

/* The first run of pages at or after pfn that are there: [*first, *end). False when there is none before `pages`. A
 * mapped read of a hole would allocate it, so that every walk over RAM asks here first. Swapped pages count as there.
 */
bool wh_extent_next(int fd, uint64_t pages, uint64_t pfn, uint64_t *first, uint64_t *end);

/* What is known of the file around the page that was looked at last: [from, first) is a hole, [first, end) is there.
 * Begins with zeros. It may be older than what was written since, which costs time and never data. */
typedef struct wh_extent {
    uint64_t from, first, end;
} wh_extent;
bool wh_extent_hole(wh_extent *x, int fd, uint64_t pages, uint64_t pfn);

#endif
