/* arena: the translator's memory - made, filled from both ends, emptied as a whole. Theory: cache.h. */
#include "jit/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int map_arena(wh_jit_arena *a, int fd, uint32_t bytes, wh_error *err)
{
    int exec = MAP_SHARED;
#ifdef MAP_32BIT
    exec |= MAP_32BIT; /* jump caches keep 32-bit code addresses */
#endif
    void *rw = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *rx = mmap(NULL, bytes, PROT_READ | PROT_EXEC, exec, fd, 0);
    a->rw = rw == MAP_FAILED ? NULL : rw;
    a->rx = rx == MAP_FAILED ? NULL : rx;
    a->size = bytes;
    if (a->rw == NULL || a->rx == NULL)
        return wh_fail(err, WH_E_UNSUPPORTED, "engine", "no executable memory: %s", strerror(errno));
    if ((uintptr_t)a->rx + bytes > UINT32_MAX)
        return wh_fail(err, WH_E_UNSUPPORTED, "engine", "no executable memory below 4 GiB");
    return WH_OK;
}

static void start(wh_jit *j)
{
    j->arena.code = 0;
    j->arena.records = j->arena.size & ~7u;
    wh_backend_start(&j->arena);
}

int wh_jit_new(uint32_t bytes, wh_jit **out, wh_error *err)
{
    *out = NULL;
    if (!wh_backend_available())
        return wh_fail(err, WH_E_UNSUPPORTED, "engine",
                       "the translator needs an x86-64 host with BMI1, BMI2, LZCNT and POPCNT");
    wh_jit *j = calloc(1, sizeof(*j));
    if (j == NULL)
        return wh_fail(err, WH_E_NOMEM, "engine", "no memory");
    pthread_mutex_init(&j->lock, NULL);
    atomic_store(&j->epoch, 1);
    atomic_store(&j->generation, 1);
    j->fd = memfd_create("wherry-code", MFD_CLOEXEC);
    int status = WH_OK;
    if (j->fd < 0 || ftruncate(j->fd, bytes) != 0)
        status = wh_fail(err, WH_E_UNSUPPORTED, "engine", "no memory for code: %s", strerror(errno));
    if (status == WH_OK)
        status = map_arena(&j->arena, j->fd, bytes, err);
    if (status != WH_OK) {
        wh_jit_free(j);
        return status;
    }
    start(j);
    *out = j;
    return WH_OK;
}

void wh_jit_free(wh_jit *j)
{
    if (j == NULL)
        return;
    wh_jit_shrink_end(j);
    if (j->arena.rw != NULL)
        munmap(j->arena.rw, j->arena.size);
    if (j->arena.rx != NULL)
        munmap(j->arena.rx, j->arena.size);
    if (j->fd >= 0)
        close(j->fd);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

void *wh_jit_record(wh_jit *j, size_t bytes)
{
    bytes = (bytes + 7) & ~(size_t)7;
    if (j->arena.records - j->arena.code < bytes) {
        atomic_store(&j->full, true);
        return NULL;
    }
    j->arena.records -= (uint32_t)bytes;
    return j->arena.rw + j->arena.records;
}

/* Harts look at `resetting` after they have said that they use the cache (run.c, guard), and this looks whether they do
 * after it has said that it resets: one of them sees the other. Slices are short, so the wait is. False: another hart
 * is at it. */
static bool begin_alone(wh_jit *j)
{
    uint32_t nobody = 0;
    if (!atomic_compare_exchange_strong(&j->resetting, &nobody, 1))
        return false;
    for (unsigned i = 0; i < WH_MAX_HARTS; i++) {
        wh_hart *other = atomic_load(&j->hart[i]);
        while (other != NULL && atomic_load(&other->in_code) != 0)
            sched_yield();
    }
    return true;
}

/* Alone, lock held. */
static void drop_all(wh_jit *j)
{
    for (unsigned i = 0; i < WH_JIT_BUCKETS; i++)
        atomic_store_explicit(&j->bucket[i], 0, memory_order_relaxed);
    memset(j->page_bucket, 0, sizeof(j->page_bucket));
    start(j);
    atomic_store(&j->full, false);
    atomic_fetch_add(&j->generation, 1);
}

void wh_jit_reset(wh_jit *j)
{
    if (!begin_alone(j))
        return;
    pthread_mutex_lock(&j->lock);
    if (j->full) {
        drop_all(j);
        memset(j->restless, 0, sizeof(j->restless));
        j->resets++;
    }
    pthread_mutex_unlock(&j->lock);
    atomic_store(&j->resetting, 0);
}

bool wh_jit_drop_all(wh_jit *j)
{
    if (!begin_alone(j))
        return false;
    pthread_mutex_lock(&j->lock);
    drop_all(j);
    pthread_mutex_unlock(&j->lock);
    atomic_store(&j->resetting, 0);
    return true;
}

uint32_t wh_jit_used(wh_jit *j)
{
    pthread_mutex_lock(&j->lock);
    uint32_t used = j->arena.code + (j->arena.size - j->arena.records);
    pthread_mutex_unlock(&j->lock);
    return used;
}

/* Host pages between code and records are empty, whatever was in them before the arena was emptied. */
bool wh_jit_punch(wh_jit *j, uint32_t at, uint32_t bytes)
{
    pthread_mutex_lock(&j->lock);
    const uint32_t page = WH_PAGE_SIZE, low = (j->arena.code + page - 1) & ~(page - 1),
                   high = j->arena.records & ~(page - 1);
    const uint32_t from = at > low ? at : low, to = at + bytes < high ? at + bytes : high;
    if (from < to)
        (void)fallocate(j->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, to - from);
    bool more = at + bytes < high;
    pthread_mutex_unlock(&j->lock);
    return more;
}

void wh_jit_get_stats(wh_jit *j, wh_jit_stats *out)
{
    pthread_mutex_lock(&j->lock);
    *out = (wh_jit_stats){
        .blocks = j->blocks, .instructions = j->instructions, .discarded = j->discarded, .resets = j->resets};
    pthread_mutex_unlock(&j->lock);
}
