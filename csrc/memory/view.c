/* Guest RAM seen from the agent: rounds of dirty pages (the protocol is told in memory.h). */
#include "memory/view.h"
#include "memory/extent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* How long to sleep between two looks at the harts' acknowledgements. A hart looks at the round number every few
 * thousand instructions, thus within tens of microseconds. */
#define ACK_POLL_NS 50000
/* The same for absent pages, which come from a file; and how long none may come before we give up. */
#define PRESENT_POLL_NS  1000000
#define PRESENT_STALL_NS 5000000000ull

uint64_t wh_share_bytes(uint64_t pages)
{
    uint64_t bytes = offsetof(struct wh_share, dirty) + (pages + 63) / 64 * 24;
    return (bytes + WH_PAGE_SIZE - 1) & ~(uint64_t)(WH_PAGE_SIZE - 1);
}

/* A file that cannot shrink under our mapping, and its size. */
static int sealed_size(int fd, const char *field, uint64_t *bytes, wh_error *err)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || fstat(fd, &st))
        return wh_fail(err, WH_E_IO, field, "%s", strerror(errno));
    if (!(seals & F_SEAL_SHRINK))
        return wh_fail(err, WH_E_FORMAT, field, "not sealed against shrinking");
    *bytes = (uint64_t)st.st_size;
    return WH_OK;
}

static int check_share(const wh_ramview *v, uint64_t ram_bytes, wh_error *err)
{
    const struct wh_share *s = v->share;
    if (s->magic != WH_SHARE_MAGIC)
        return wh_fail(err, WH_E_FORMAT, "share", "not a share page");
    if (s->version != WH_SHARE_VERSION)
        return wh_fail(err, WH_E_VERSION, "share", "version %llu, %u is understood", (unsigned long long)s->version,
                       WH_SHARE_VERSION);
    if (s->ram_bytes != ram_bytes || s->pages != ram_bytes >> WH_PAGE_SHIFT || !s->harts || s->harts > WH_MAX_HARTS)
        return wh_fail(err, WH_E_FORMAT, "share", "does not belong to this memory");
    return WH_OK;
}

static int map_view(wh_ramview *v, int ram_fd, int share_fd, wh_error *err)
{
    uint64_t ram_bytes, share_bytes;
    int status = sealed_size(ram_fd, "ram", &ram_bytes, err);
    if (!status)
        status = sealed_size(share_fd, "share", &share_bytes, err);
    if (status)
        return status;
    if (!ram_bytes || ram_bytes % WH_PAGE_SIZE || share_bytes != wh_share_bytes(ram_bytes >> WH_PAGE_SHIFT))
        return wh_fail(err, WH_E_FORMAT, "share", "%llu bytes do not fit %llu bytes of memory",
                       (unsigned long long)share_bytes, (unsigned long long)ram_bytes);
    void *host = mmap(NULL, ram_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, ram_fd, 0);
    void *share = mmap(NULL, share_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, share_fd, 0);
    v->host = host == MAP_FAILED ? NULL : host;
    v->share = share == MAP_FAILED ? NULL : share;
    v->pages = ram_bytes >> WH_PAGE_SHIFT;
    v->share_bytes = share_bytes;
    v->words = (v->pages + 63) / 64;
    v->set = calloc(v->words, sizeof *v->set);
    v->ram_fd = fcntl(ram_fd, F_DUPFD_CLOEXEC, 0);
    if (!v->host || !v->share || !v->set || v->ram_fd < 0)
        return wh_fail(err, WH_E_NOMEM, "ram", "mapping %llu bytes: %s", (unsigned long long)ram_bytes,
                       strerror(errno));
    status = check_share(v, ram_bytes, err);
    v->harts = v->share->harts <= WH_MAX_HARTS ? v->share->harts : WH_MAX_HARTS;
    return status;
}

int wh_ramview_open(int ram_fd, int share_fd, wh_ramview **out, wh_error *err)
{
    *out = NULL;
    wh_ramview *v = calloc(1, sizeof *v);
    if (!v)
        return wh_fail(err, WH_E_NOMEM, "ram", "no memory for a view");
    v->ram_fd = -1;
    int status = map_view(v, ram_fd, share_fd, err);
    if (status) {
        wh_ramview_close(v);
        return status;
    }
    *out = v;
    return WH_OK;
}

void wh_ramview_close(wh_ramview *v)
{
    if (!v)
        return;
    if (v->host)
        munmap(v->host, v->pages << WH_PAGE_SHIFT);
    if (v->share)
        munmap(v->share, v->share_bytes);
    if (v->ram_fd >= 0)
        close(v->ram_fd);
    (void)wh_ramview_remember(v, 0);
    wh_files_close(v);
    wh_asker_free(v->asker);
    free(v->missed);
    free(v->set);
    free(v->asked);
    for (unsigned i = 0; i < WH_FIRSTS; i++)
        free(v->likely[i]);
    free(v);
}

uint64_t wh_ramview_pages(wh_ramview *v)
{
    return v->pages;
}

uint64_t wh_ramview_absent(wh_ramview *v)
{
    return atomic_load(&v->share->absent_pages);
}

/* Absence only ends, so that one look at zero is enough. The other process may be anything: the wait is bounded by
 * progress, not by its promise. */
int wh_view_wait_present(const wh_ramview *v)
{
    struct wh_share *s = v->share;
    uint64_t least = UINT64_MAX, deadline = 0;
    for (;;) {
        uint64_t absent = atomic_load(&s->absent_pages), now = wh_now_ns();
        if (!absent)
            return WH_OK;
        if (atomic_load(&s->lost))
            return WH_E_IO;
        if (absent < least) {
            least = absent;
            deadline = now + PRESENT_STALL_NS;
            uint32_t nobody = 0;
            atomic_compare_exchange_strong(&s->wanted, &nobody, 1);
            syscall(SYS_futex, &s->wanted, FUTEX_WAKE, 1, NULL, NULL, 0);
        }
        if (now >= deadline)
            return WH_E_TIMEOUT;
        nanosleep(&(struct timespec){.tv_nsec = PRESENT_POLL_NS}, NULL);
    }
}

uint64_t wh_ramview_resident(wh_ramview *v)
{
    struct stat st;
    if (fstat(v->ram_fd, &st))
        return 0;
    return (uint64_t)st.st_blocks / (WH_PAGE_SIZE / 512);
}

int wh_ramview_track(wh_ramview *v, int on)
{
    memset(v->set, 0, v->words * sizeof *v->set);
    v->left = v->cursor = 0;
    wh_asker_forget(v);
    v->first = on != 0;
    (void)wh_ramview_remember(v, 0);
    if (!on) {
        atomic_store(&v->share->tracking, 0);
        return WH_OK;
    }
    atomic_store(&v->share->tracking, 1);
    for (uint64_t i = 0; i < v->words; i++)
        atomic_store_explicit(&v->share->dirty[i], 0, memory_order_relaxed);
    return WH_OK;
}

static void fetch_and_clear(wh_ramview *v)
{
    uint64_t tail = v->pages % 64 ? (1ull << v->pages % 64) - 1 : ~0ull;
    for (uint64_t i = 0; i < v->words; i++) {
        if (!atomic_load_explicit(&v->share->dirty[i], memory_order_relaxed))
            continue;
        uint64_t bits = atomic_exchange_explicit(&v->share->dirty[i], 0, memory_order_acq_rel);
        v->set[i] |= i + 1 == v->words ? bits & tail : bits;
    }
}

static bool acknowledged(wh_ramview *v, uint64_t round)
{
    for (uint32_t i = 0; i < v->harts; i++) {
        struct wh_hart_share *h = &v->share->hart[i];
        if (atomic_load(&h->round_seen) < round && !atomic_load(&h->parked))
            return false;
    }
    return true;
}

/* Absent pages have content too. Their bits are read before the file's extents: a page that appears between is in both.
 */
static void add_present(wh_ramview *v)
{
    uint64_t first, end;
    const _Atomic uint64_t *absent = wh_share_absent(v->share, v->pages);
    uint64_t tail = v->pages % 64 ? (1ull << v->pages % 64) - 1 : ~0ull;
    for (uint64_t i = 0; i < v->words; i++)
        v->set[i] |= atomic_load_explicit(&absent[i], memory_order_acquire) & (i + 1 == v->words ? tail : ~0ull);
    for (uint64_t pfn = 0; wh_extent_next(v->ram_fd, v->pages, pfn, &first, &end); pfn = end)
        for (uint64_t p = first; p < end; p++)
            v->set[p / 64] |= 1ull << p % 64;
}

int wh_ramview_round(wh_ramview *v, int timeout_ms, uint64_t *dirty)
{
    *dirty = 0;
    if (!atomic_load(&v->share->tracking))
        return WH_E_STATE;
    wh_asker_forget(v);
    fetch_and_clear(v);
    uint64_t round = atomic_fetch_add(&v->share->round, 1) + 1;
    uint64_t deadline = wh_now_ns() + (timeout_ms > 0 ? (uint64_t)timeout_ms : 0) * 1000000ull;
    while (!acknowledged(v, round)) {
        if (wh_now_ns() >= deadline)
            return WH_E_TIMEOUT; /* the set stays and is merged into the next round */
        nanosleep(&(struct timespec){.tv_nsec = ACK_POLL_NS}, NULL);
    }
    if (v->first) { /* only now: a page that appeared under an untracked translation is present */
        add_present(v);
        v->first = false;
    }
    v->left = v->cursor = 0;
    v->extent = (wh_extent){0, 0, 0};
    for (uint64_t i = 0; i < v->words; i++)
        v->left += (uint64_t)__builtin_popcountll(v->set[i]);
    *dirty = v->left;
    return WH_OK;
}

uint64_t wh_ramview_dirty_now(wh_ramview *v)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < v->words; i++)
        n += (uint64_t)__builtin_popcountll(atomic_load_explicit(&v->share->dirty[i], memory_order_relaxed));
    return n;
}

int wh_ramview_dirty(wh_ramview *v, uint8_t *bitmap, size_t len)
{
    uint64_t tail = v->pages % 64 ? (1ull << v->pages % 64) - 1 : ~0ull;
    if (len != v->words * sizeof *v->set)
        return WH_E_INVAL;
    for (uint64_t i = 0; i < v->words; i++) {
        uint64_t bits = atomic_load_explicit(&v->share->dirty[i], memory_order_relaxed);
        bits &= i + 1 == v->words ? tail : ~0ull;
        memcpy(bitmap + i * sizeof bits, &bits, sizeof bits);
    }
    return WH_OK;
}
