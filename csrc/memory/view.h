/* The inside of a RAM view. Private to memory/. */
#ifndef WH_VIEW_H
#define WH_VIEW_H

#include "memory/memory.h"

#define WH_SHARE_MAGIC   0x6572616873687721ull
#define WH_SHARE_VERSION 2u

struct wh_ramview {
    int ram_fd; /* our own dup: SEEK_DATA and punching holes need the file */
    uint8_t *host;
    uint64_t pages;
    struct wh_share *share;
    size_t share_bytes;
    uint32_t harts; /* copied: what the other process writes later is not believed */
    bool first;     /* tracking began: the next round adds every present page */
    uint64_t *set;  /* the round set, one bit per page */
    uint64_t words;
    uint64_t left;   /* bits in set */
    uint64_t cursor; /* no bit of set below this page */
};

/* Waits (bounded) until the other process has made every page present: no absent page may be read. WH_E_IO: one of them
 * is lost; WH_E_TIMEOUT: they do not come. */
int wh_view_wait_present(const wh_ramview *v);
/* Bytes of the share file for so many pages. */
uint64_t wh_share_bytes(uint64_t pages);
bool wh_page_is_zero(const uint8_t *page);

#endif
