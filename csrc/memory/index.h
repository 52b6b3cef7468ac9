/* index: what a migration's target has already, by the names of its pages. Private to memory/.
 *
 * Memory of other guests, as files, is read through once and its pages named (pagehash.h); what stayed of an earlier
 * stay of this guest is looked at only where it is asked for. The source asks by name, and later says "what I asked for
 * as number n stands here". Those files may be changing: a page is copied out and named anew before it counts as what
 * was asked for. */
#ifndef WH_INDEX_H
#define WH_INDEX_H

#include "memory/memory.h"

/* The page that was asked for by question n. WH_E_STATE: nothing here reads so (any more). For any thread. */
int wh_index_read(const wh_index *ix, uint64_t question, uint8_t page[WH_PAGE_SIZE]);
/* Questions that have been asked so far: numbers below this may be used. */
uint64_t wh_index_asked(const wh_index *ix);

#endif
