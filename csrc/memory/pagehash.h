/* pagehash: the name of a page's content. Private to memory/.
 *
 * BLAKE3 in keyed mode (the BLAKE3 paper, 2020, sections 2.1 to 2.4), its first 128 bits, of exactly one page: four
 * chunks of 1 KiB, one to a lane of a vector, and the three parents above them. Whoever does not have the key can find
 * no two pages of one name, nor learn a page from its name. */
#ifndef WH_PAGEHASH_H
#define WH_PAGEHASH_H

#include "base/base.h"

#define WH_PAGE_NAME     16u
#define WH_PAGE_KEY      32u
#define WH_PAGE_NAME_MAX 32u

typedef struct wh_page_key {
    uint32_t word[8];
} wh_page_key;

void wh_page_key_set(wh_page_key *key, const uint8_t bytes[WH_PAGE_KEY]);
/* `page` must not change meanwhile. len: at most WH_PAGE_NAME_MAX bytes of the hash. */
void wh_page_name(const wh_page_key *key, const uint8_t page[WH_PAGE_SIZE], uint8_t *name, size_t len);

#endif
