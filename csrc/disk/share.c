/* The share of a disk, on the side of the guest process that writes it. */
#include "disk/share.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Sealed: the other process must not shrink the file under our mapping. */
static int sealed_file(uint64_t bytes, wh_error *err)
{
    int fd = memfd_create("wherry-disk", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return wh_fail(err, WH_E_IO, "disk", "memfd_create: %s", strerror(errno));
    if (ftruncate(fd, (off_t)bytes) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        int e = errno;
        close(fd);
        return wh_fail(err, WH_E_IO, "disk", "memfd of %llu bytes: %s", (unsigned long long)bytes, strerror(e));
    }
    return fd;
}

int wh_disktrack_new(uint64_t disk_bytes, wh_disktrack *out, wh_error *err)
{
    uint64_t bytes = wh_disk_share_bytes(disk_bytes);
    *out = (wh_disktrack){-1, NULL, bytes};
    int fd = sealed_file(bytes, err);
    if (fd < 0)
        return fd;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (p == MAP_FAILED) {
        int e = errno;
        close(fd);
        return wh_fail(err, WH_E_NOMEM, "disk", "mapping %llu bytes: %s", (unsigned long long)bytes, strerror(e));
    }
    out->fd = fd;
    out->share = p;
    out->share->version = WH_DISK_SHARE_VERSION;
    out->share->block_bytes = WH_DISK_BLOCK;
    out->share->disk_bytes = disk_bytes;
    out->share->magic = WH_DISK_SHARE_MAGIC;
    return WH_OK;
}

void wh_disktrack_free(wh_disktrack *t)
{
    if (t->share)
        munmap(t->share, t->bytes);
    if (t->fd >= 0)
        close(t->fd);
    *t = (wh_disktrack){-1, NULL, 0};
}

void wh_disktrack_wrote(wh_disktrack *t, uint64_t at, uint64_t len)
{
    struct wh_disk_share *s = t->share;
    /* The data before the look: who has set `tracked` since reads what we have written. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load_explicit(&s->tracked, memory_order_relaxed) || !len)
        return;
    uint64_t last = (at + len - 1) / WH_DISK_BLOCK;
    for (uint64_t block = at / WH_DISK_BLOCK; block <= last;) {
        uint64_t bit = block % 64, count = last - block + 1 < 64 - bit ? last - block + 1 : 64 - bit;
        uint64_t mask = count == 64 ? ~0ull : ((1ull << count) - 1) << bit;
        atomic_fetch_or(&s->dirty[block / 64], mask);
        block += count;
    }
}
