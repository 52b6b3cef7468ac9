/* Guest RAM and its share page: two sealed memfds, made by the guest process. */
#include "memory/door.h"
#include "memory/memory.h"
#include "memory/view.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Seals keep the other process from shrinking the file under our mapping (SIGBUS). */
static int sealed_memfd(const char *name, uint64_t bytes, wh_error *err)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return wh_fail(err, WH_E_IO, "memory", "memfd_create: %s", strerror(errno));
    if (ftruncate(fd, (off_t)bytes) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        int e = errno;
        close(fd);
        return wh_fail(err, WH_E_IO, "memory", "memfd of %llu bytes: %s", (unsigned long long)bytes, strerror(e));
    }
    return fd;
}

static void *map_shared(int fd, uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

static int map_both(wh_ram *ram, uint64_t bytes, uint32_t harts, wh_error *err)
{
    uint64_t share_bytes = wh_share_bytes(bytes >> WH_PAGE_SHIFT);
    ram->ram_fd = sealed_memfd("wherry-ram", bytes, err);
    if (ram->ram_fd < 0)
        return ram->ram_fd;
    ram->share_fd = sealed_memfd("wherry-share", share_bytes, err);
    if (ram->share_fd < 0)
        return ram->share_fd;
    ram->host = map_shared(ram->ram_fd, bytes);
    ram->share = ram->host ? map_shared(ram->share_fd, share_bytes) : NULL;
    ram->bytes = bytes;
    ram->share_bytes = share_bytes;
    if (!ram->share)
        return wh_fail(err, WH_E_NOMEM, "memory", "mapping %llu bytes: %s", (unsigned long long)bytes, strerror(errno));
    madvise(ram->host, bytes, MADV_DONTDUMP); /* a core file must not hold a guest's memory; best effort */
    ram->share->version = WH_SHARE_VERSION;
    ram->share->ram_bytes = bytes;
    ram->share->pages = bytes >> WH_PAGE_SHIFT;
    ram->share->harts = harts;
    for (uint32_t i = 0; i < harts; i++)
        atomic_store(&ram->share->hart[i].parked, 1);
    ram->share->magic = WH_SHARE_MAGIC;
    return WH_OK;
}

int wh_ram_new(uint64_t bytes, uint32_t harts, wh_ram *out, wh_error *err)
{
    memset(out, 0, sizeof *out);
    out->ram_fd = out->share_fd = -1;
    if (!bytes || bytes % WH_PAGE_SIZE || bytes > 1ull << 40)
        return wh_fail(err, WH_E_INVAL, "memory", "%llu bytes: a multiple of 4096 up to 1 TiB is allowed",
                       (unsigned long long)bytes);
    if (!harts || harts > WH_MAX_HARTS)
        return wh_fail(err, WH_E_INVAL, "harts", "%u: 1 to %u are allowed", harts, WH_MAX_HARTS);
    int status = map_both(out, bytes, harts, err);
    if (status < 0)
        wh_ram_free(out);
    return status < 0 ? status : WH_OK;
}

void wh_ram_free(wh_ram *ram)
{
    wh_door_free(ram->door);
    if (ram->host)
        munmap(ram->host, ram->bytes);
    if (ram->share)
        munmap(ram->share, ram->share_bytes);
    if (ram->ram_fd >= 0)
        close(ram->ram_fd);
    if (ram->share_fd >= 0)
        close(ram->share_fd);
    memset(ram, 0, sizeof *ram);
    ram->ram_fd = ram->share_fd = -1;
}

/* The kernel runs a full barrier in each running thread of the process: the fence that the hart's atomics leave out. */
void wh_ram_use_plain_atomics(wh_ram *ram)
{
    ram->plain_atomics = syscall(__NR_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
}

void wh_ram_settle(const wh_ram *ram)
{
    if (!ram->plain_atomics)
        return;
    long status = syscall(__NR_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
    assert(status == 0); /* the process is registered */
    (void)status;
}

void wh_ram_mark_dirty_range(wh_ram *ram, uint64_t pa, uint64_t len)
{
    if (!len || !atomic_load_explicit(&ram->share->tracking, memory_order_relaxed))
        return;
    assert(wh_ram_at(ram, pa, len));
    uint64_t last = pa + len - 1;
    for (uint64_t page = pa & ~(uint64_t)(WH_PAGE_SIZE - 1); page <= last; page += WH_PAGE_SIZE)
        wh_ram_mark_dirty(ram, page);
}
