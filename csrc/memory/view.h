/* The inside of a RAM view. Private to memory/. */
#ifndef WH_VIEW_H
#define WH_VIEW_H

#include "memory/delta.h"
#include "memory/extent.h"
#include "memory/index.h"
#include "memory/memory.h"

#define WH_SHARE_MAGIC   0x6572616873687721ull
#define WH_SHARE_VERSION 3u

#define WH_FIRSTS 3u
#define WH_FILES  8u

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
    uint64_t left;               /* bits in set */
    uint64_t cursor;             /* no bit of set below this page */
    uint64_t push;               /* post-copy's source: where pages that nobody asked for go on */
    uint64_t *likely[WH_FIRSTS]; /* before these: pages that will be asked for soon; NULL: none are known */
    uint64_t *asked;             /* post-copy's target: wanted pages that were reported; NULL until the first */
    uint64_t *marks;             /* wh_ramview_remember: of pages as they were sent last, WH_MARKS each; NULL: none */
    uint64_t *known;             /* which pages have some, one bit per page */
    uint64_t may_keep;
    wh_delta_key key; /* of the marks */
    bool fills;       /* the other end knows fills */
    struct wh_view_file {
        int fd;
        uint64_t bytes;
    } files[WH_FILES]; /* wh_ramview_files: where content may come from */
    uint32_t file_count;
    uint64_t *found; /* source: of each page where it stands in a file, WH_FOUND; 0: nowhere; NULL: nobody looked */
    uint8_t *bounce; /* target: pages of files and of the index on their way */
    struct wh_asker *asker; /* source: ask.c; NULL: nothing is asked */
    const wh_index *index;  /* target: borrowed; NULL: nothing may be named by a question */
    uint64_t *missed;       /* target: pages that were named so and are not there, one bit each; NULL: none yet */
    uint64_t missed_count;
    wh_extent extent; /* what pack knows of the file in this round: a hole that is filled later is dirty */
};

struct wh_writer;
struct wh_reader;
/* pages.c: what a batch is made of. */
#define WH_BATCH_HEADER 5u
#define WH_ENTRY_MAX    (1u + 9u + 9u + 3u + WH_PAGE_SIZE) /* array header, pfn, count, bin header, page */
typedef struct wh_page_entry {
    uint64_t pfn, count;
    const uint8_t *page; /* NULL: `fill` over and over */
    size_t len;          /* of it; less than a page: a delta (delta.h) */
    uint64_t fill;
    bool from_file; /* the page stands at `offset` of `file`, and has this check (files.c) */
    bool asked;     /* the page is what question `offset` asked for (index.h) */
    uint64_t file, offset, check;
} wh_page_entry;
void wh_batch_put(struct wh_writer *w, uint64_t pfn, uint64_t count, const uint8_t *page); /* NULL: zeros */
void wh_batch_put_count(uint8_t *header, uint32_t entries);
int wh_batch_get(const wh_ramview *v, struct wh_reader *r, wh_page_entry *e); /* WH_E_FORMAT: no entry of this RAM */
/* files.c: pages that stand in a file which both ends have. */
bool wh_files_name(wh_ramview *v, struct wh_writer *w, uint64_t pfn, const uint8_t *page); /* false: it does not */
int wh_files_read(const wh_ramview *v, const wh_page_entry *e, uint8_t page[WH_PAGE_SIZE]);
void wh_files_close(wh_ramview *v);
/* ask.c: pages that the other end said it has. */
bool wh_ask_put(wh_ramview *v, struct wh_writer *w, uint64_t pfn); /* false: not this one */
void wh_asker_forget(wh_ramview *v);                               /* a round begins: what was asked is over */
void wh_asker_free(struct wh_asker *a);
/* pages.c, of the source: the other end has a version of the page of which marks are kept; has none from now on; the
 * page needs no data of its own. */
bool wh_view_knows(const wh_ramview *v, uint64_t pfn);
void wh_view_forget(wh_ramview *v, uint64_t pfn, uint64_t count);
bool wh_view_is_filled(wh_ramview *v, uint64_t pfn);
int wh_page_put_zero(wh_ramview *v, uint64_t pfn, uint64_t count);
uint64_t wh_view_next_set(const wh_ramview *v, uint64_t pfn); /* first page at or after pfn in the set, or `pages` */

/* Waits (bounded) until the other process has made every page present: no absent page may be read. WH_E_IO: one of them
 * is lost; WH_E_TIMEOUT: they do not come. */
int wh_view_wait_present(const wh_ramview *v);
/* Bytes of the share file for so many pages. */
uint64_t wh_share_bytes(uint64_t pages);
bool wh_page_is_zero(const uint8_t *page);

#endif
