/* snapfile: the file of a snapshot. RAM pages that are not zero lie page-aligned in ascending order, so that a page is
 * read by itself; named sections hold the rest (the machine's state document, what its owner adds). Everything is
 * checked before it is believed: a damaged, cut or newer file is refused with what is wrong, a damaged page is found
 * when it is read.
 *
 *   0        magic (8 bytes), u32 version, u32 length of the map, 16 bytes checksum of the rest of the map's bytes
 *   32       msgpack map {"page_bytes": 4096, "ram_bytes": n, "pages": n, "ram": offset, "bytes": length of the file,
 *            "sections": [{"name": str, "offset": n, "bytes": n, "sum": bin16}, ...]}
 *   4096     the pages; then the sections, each from a multiple of 4096 on
 *
 * The section "index" is a bitmap (u64 words, bit = page of RAM that is stored) and one u64 checksum per stored page.
 * All integers little-endian. Unknown keys and sections are passed over. The first 4096 bytes are written last, behind
 * an fsync: a file whose writer died has no magic. Checksums are those of checksum.c: they find accidents, they are no
 * MAC. */
#ifndef WH_SNAPFILE_H
#define WH_SNAPFILE_H

#include "memory/memory.h"

#define WH_SNAPFILE_VERSION  1u
#define WH_SNAPFILE_SECTIONS 16u

typedef struct wh_section {
    const char *name; /* at most 31 bytes; not "index" */
    const void *data;
    size_t len;
} wh_section;

/* Write RAM (all present, nobody writes it) and sections to the empty file fd; returns when it is on the disk. */
int wh_snapfile_write(int fd, const wh_ram *ram, const wh_section *sections, unsigned count, wh_error *err);

typedef struct wh_snapfile wh_snapfile;
/* Reads header and index. fd is dup'ed. */
int wh_snapfile_open(int fd, wh_snapfile **out, wh_error *err);
void wh_snapfile_close(wh_snapfile *f); /* NULL is fine */
uint64_t wh_snapfile_ram_bytes(const wh_snapfile *f);
uint64_t wh_snapfile_pages(const wh_snapfile *f);         /* stored ones */
const uint64_t *wh_snapfile_bitmap(const wh_snapfile *f); /* of stored pages, as many words as RAM has pages / 64 */
/* A section's bytes, for the caller to free (wh_buf_free); NULL and length 0 when the file has none of that name. */
int wh_snapfile_section(const wh_snapfile *f, const char *name, uint8_t **data, size_t *len, wh_error *err);
/* wh_page_source.fill for these pages; ctx is the wh_snapfile. Any thread. */
int wh_snapfile_fill(void *ctx, uint64_t first, uint64_t count, uint8_t *to, wh_error *err);

#endif
