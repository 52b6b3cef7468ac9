/* The inside of a disk view. Private to disk/. */
#ifndef WH_DISK_VIEW_H
#define WH_DISK_VIEW_H

#include "disk/share.h"

#define WH_DISK_RUN    16u /* blocks that are read, compared and sent at a time */
#define WH_DISK_HEADER 5u  /* of a batch: a msgpack array of 32-bit length */
#define WH_DISK_LOOK                                                                                                   \
    (64u << 20) /* bytes that one pack looks at, at most: it comes back also where it finds nothing to send */

struct wh_diskview {
    int fd, base_fd;             /* our own dups; base_fd -1: the other end has nothing yet */
    struct wh_disk_share *share; /* NULL: nobody writes the disk */
    uint64_t share_bytes;
    uint64_t bytes, blocks, words;
    uint64_t *set;   /* the round's set, one bit per block */
    uint64_t *fresh; /* blocks that were not sent yet: the other end has the base's */
    uint64_t left, cursor;
    uint8_t *run, *base; /* WH_DISK_RUN blocks each */
};

/* Bytes of `count` blocks from `block` on: the disk's last one may be shorter. */
uint64_t wh_disk_span(const struct wh_diskview *v, uint64_t block, uint64_t count);

#endif
