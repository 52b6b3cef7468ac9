/* disk: what a guest writes to its disks, followed by another process. The guest process makes a share for each disk (a
 * sealed memfd): one bit per block that was written since somebody asked last. The process that moves the guest maps it
 * and has the disk's file open too (view.c).
 *
 * The bits are exact without a lock. A write is first done and then marked; who copies first takes the marks and then
 * reads. So a block that was read while it was being written, or before, has its mark still to come. While nobody
 * follows, a write costs one look at `tracked`: whoever sets that reads the whole disk afterwards, and either the
 * writer sees it or the reader sees what was written. */
#ifndef WH_DISK_SHARE_H
#define WH_DISK_SHARE_H

#include "base/base.h"

#include <stdatomic.h>

#define WH_DISK_BLOCK         4096u
#define WH_DISK_SHARE_MAGIC   0x6b73696479727277ull
#define WH_DISK_SHARE_VERSION 1u

struct wh_disk_share {
    uint64_t magic;
    uint32_t version, block_bytes;
    uint64_t disk_bytes;
    _Atomic uint32_t tracked;
    uint32_t reserved;
    _Atomic uint64_t dirty[]; /* bit b % 64 of word b / 64 */
};

typedef struct wh_disktrack {
    int fd; /* -1: there is none */
    struct wh_disk_share *share;
    uint64_t bytes; /* of the share */
} wh_disktrack;

int wh_disktrack_new(uint64_t disk_bytes, wh_disktrack *out, wh_error *err);
void wh_disktrack_free(wh_disktrack *t);
/* Bytes [at, at + len) of the disk are written, or may be in part. Any thread. */
void wh_disktrack_wrote(wh_disktrack *t, uint64_t at, uint64_t len);

static inline uint64_t wh_disk_blocks(uint64_t disk_bytes)
{
    return disk_bytes / WH_DISK_BLOCK + (disk_bytes % WH_DISK_BLOCK != 0);
}

static inline uint64_t wh_disk_share_bytes(uint64_t disk_bytes)
{
    uint64_t words = (wh_disk_blocks(disk_bytes) + 63) / 64;
    uint64_t bytes = sizeof(struct wh_disk_share) + words * sizeof(uint64_t);
    return (bytes + 4095) & ~4095ull;
}

#endif
