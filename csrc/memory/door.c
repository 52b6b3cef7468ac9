/* The fault door: absent pages come in when someone touches them, or by the filler. What it promises: memory.h.
 *
 * Beside the share page's absent bits stands a private bitmap of claims. Who sets a page's claim bit fills the page,
 * clears its absent bit (release) and counts it; claims are never given back, for a source that failed once has lost
 * the guest. Who finds the bit set by another waits on `finished`, a counter that every fill raises: it is read before
 * the absent bit is looked at, so that no wake is lost between. No lock is taken. */
#include "memory/door.h"

#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Neighbours that come along with a touched page: a read of the file costs more than the pages, and guests touch
 * neighbours next. */
#define FAULT_AROUND 8u

enum { CANCELLED = 2 }; /* of wh_share.wanted, beside 0 and 1 */

/* How long waits were: four buckets an octave, so that a median is right to an eighth. */
#define WAITS 160u

struct wh_door {
    wh_page_source source;
    int bell; /* the other process brings the pages, and watches this; -1: the source does */
    uint64_t pages, named;
    _Atomic uint64_t faulted, wait_ns, wait_max_ns;
    _Atomic uint32_t waits[WAITS];
    atomic_bool losing;                                /* a fill failed, and the owner is being told */
    _Alignas(WH_CACHE_LINE) _Atomic uint32_t finished; /* futex; fills that ended, well or not */
    _Atomic uint32_t waiters;
    _Alignas(WH_CACHE_LINE) _Atomic uint64_t claimed[];
};

static long futex(_Atomic uint32_t *word, int op, uint32_t value)
{
    return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

static bool is_absent(const wh_ram *ram, uint64_t pfn)
{
    const _Atomic uint64_t *absent = wh_share_absent(ram->share, ram->door->pages);
    return atomic_load_explicit(&absent[pfn / 64], memory_order_acquire) >> pfn % 64 & 1;
}

static bool claim(wh_door *d, uint64_t pfn)
{
    uint64_t bit = 1ull << pfn % 64;
    return !(atomic_fetch_or_explicit(&d->claimed[pfn / 64], bit, memory_order_acq_rel) & bit);
}

static void tell_waiters(wh_door *d)
{
    atomic_fetch_add(&d->finished, 1);
    if (atomic_load(&d->waiters))
        futex(&d->finished, FUTEX_WAKE_PRIVATE, INT32_MAX);
}

static void wait_finished(wh_door *d, uint32_t seq)
{
    atomic_fetch_add(&d->waiters, 1);
    futex(&d->finished, FUTEX_WAIT_PRIVATE, seq);
    atomic_fetch_sub(&d->waiters, 1);
}

/* Nobody goes on without a page before the owner has been told: a hart would trap for want of it, and end the guest
 * with the wrong reason. */
static void lose(const wh_ram *ram, const wh_error *err)
{
    wh_door *d = ram->door;
    if (!atomic_exchange(&d->losing, true)) {
        d->source.lost(d->source.ctx, err);
        atomic_store(&ram->share->lost, 1);
        tell_waiters(d);
    }
    for (;;) {
        uint32_t seq = atomic_load(&d->finished);
        if (wh_ram_lost(ram))
            return;
        wait_finished(d, seq);
    }
}

/* The pages [first, first+count) are claimed by the caller and absent. */
static int fill_claimed(const wh_ram *ram, uint64_t first, uint64_t count)
{
    wh_door *d = ram->door;
    struct wh_share *s = ram->share;
    wh_error err = {0};
    int status = d->source.fill(d->source.ctx, first, count, ram->host + (first << WH_PAGE_SHIFT), &err);
    if (status) {
        lose(ram, &err);
        return WH_E_IO;
    }
    _Atomic uint64_t *absent = wh_share_absent(s, d->pages);
    for (uint64_t p = first; p < first + count; p++)
        atomic_fetch_and_explicit(&absent[p / 64], ~(1ull << p % 64), memory_order_release);
    bool last = atomic_fetch_sub_explicit(&s->absent_pages, count, memory_order_acq_rel) == count;
    tell_waiters(d);
    if (last)
        d->source.done(d->source.ctx);
    return WH_OK;
}

/* Claim the run of absent pages that begins with the claimed page first; returns its length. */
static uint64_t claim_run(const wh_ram *ram, uint64_t first, uint64_t most)
{
    uint64_t n = 1;
    while (n < most && first + n < ram->door->pages && is_absent(ram, first + n) && claim(ram->door, first + n))
        n++;
    return n;
}

/* `arrived` is read before the absent bit is looked at, so that no wake is lost between. */
static int wait_for_other(const wh_ram *ram, uint64_t pfn)
{
    struct wh_share *s = ram->share;
    for (;;) {
        uint32_t seq = atomic_load(&s->arrived);
        if (!is_absent(ram, pfn))
            return WH_OK;
        if (wh_ram_lost(ram))
            return WH_E_IO;
        atomic_fetch_add(&s->waiting, 1);
        syscall(SYS_futex, &s->arrived, FUTEX_WAIT, seq, NULL, NULL, 0);
        atomic_fetch_sub(&s->waiting, 1);
    }
}

static unsigned wait_bucket(uint64_t ns)
{
    unsigned octave = ns < 4 ? 2 : 63 - (unsigned)__builtin_clzll(ns), at = octave * 4 + (ns >> (octave - 2) & 3);
    return at < WAITS ? at : WAITS - 1;
}

/* The middle of the bucket that has the median in it; 0: there was no wait. */
static uint64_t median_wait(const wh_door *d)
{
    uint64_t all = 0, below = 0;
    for (unsigned i = 0; i < WAITS; i++)
        all += atomic_load_explicit(&d->waits[i], memory_order_relaxed);
    for (unsigned i = 0; i < WAITS && all; i++) {
        below += atomic_load_explicit(&d->waits[i], memory_order_relaxed);
        if (2 * below >= all) /* [4 + i % 4, 5 + i % 4) quarters of the octave */
            return (9 + 2 * (i % 4)) * (1ull << i / 4) / 8;
    }
    return 0;
}

static int bring_from_other(const wh_ram *ram, uint64_t pfn)
{
    wh_door *d = ram->door;
    const uint64_t bit = 1ull << pfn % 64, one = 1, began = wh_now_ns();
    atomic_fetch_add_explicit(&d->faulted, 1, memory_order_relaxed);
    if (!(atomic_fetch_or(&wh_share_wanted(ram->share, d->pages)[pfn / 64], bit) & bit))
        (void)!write(d->bell, &one, sizeof one); /* full means that it rings already */
    int status = wait_for_other(ram, pfn);
    uint64_t took = wh_now_ns() - began, most = atomic_load_explicit(&d->wait_max_ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&d->wait_ns, took, memory_order_relaxed);
    atomic_fetch_add_explicit(&d->waits[wait_bucket(took)], 1, memory_order_relaxed);
    while (took > most && !atomic_compare_exchange_weak(&d->wait_max_ns, &most, took))
        ;
    return status;
}

static int bring(const wh_ram *ram, uint64_t pfn)
{
    wh_door *d = ram->door;
    if (d->bell >= 0)
        return bring_from_other(ram, pfn);
    for (;;) {
        uint32_t seq = atomic_load(&d->finished);
        if (!is_absent(ram, pfn))
            return WH_OK;
        if (wh_ram_lost(ram))
            return WH_E_IO;
        if (claim(d, pfn)) {
            atomic_fetch_add_explicit(&d->faulted, 1, memory_order_relaxed);
            return fill_claimed(ram, pfn, claim_run(ram, pfn, FAULT_AROUND));
        }
        wait_finished(d, seq);
    }
}

int wh_ram_fetch(const wh_ram *ram, uint64_t pa, uint64_t len)
{
    if (!len || !ram->door)
        return WH_OK;
    uint64_t last = (pa - WH_RAM_BASE + len - 1) >> WH_PAGE_SHIFT;
    for (uint64_t pfn = (pa - WH_RAM_BASE) >> WH_PAGE_SHIFT; pfn <= last; pfn++) {
        int status = is_absent(ram, pfn) ? bring(ram, pfn) : WH_OK;
        if (status)
            return status;
    }
    return WH_OK;
}

static int set_absent(wh_ram *ram, const uint64_t *bitmap, const wh_page_source *source, int bell, wh_error *err)
{
    uint64_t pages = ram->bytes >> WH_PAGE_SHIFT, words = (pages + 63) / 64, named = 0;
    wh_door *d = NULL;
    size_t bytes = sizeof *d + words * sizeof d->claimed[0];
    if (ram->door)
        return wh_fail(err, WH_E_STATE, "memory", "it has absent pages already");
    if (posix_memalign((void **)&d, WH_CACHE_LINE, (bytes + WH_CACHE_LINE - 1) & ~(size_t)(WH_CACHE_LINE - 1)))
        return wh_fail(err, WH_E_NOMEM, "memory", "no memory for its absent pages");
    memset(d, 0, bytes);
    if (source)
        d->source = *source;
    d->bell = bell;
    d->pages = pages;
    _Atomic uint64_t *absent = wh_share_absent(ram->share, pages);
    for (uint64_t i = 0; i < words; i++) {
        atomic_store_explicit(&absent[i], bitmap[i], memory_order_relaxed);
        named += (uint64_t)__builtin_popcountll(bitmap[i]);
    }
    d->named = named;
    ram->door = d;
    atomic_store(&ram->share->absent_pages, named);
    return WH_OK;
}

int wh_ram_set_absent(wh_ram *ram, const uint64_t *bitmap, const wh_page_source *source, wh_error *err)
{
    return set_absent(ram, bitmap, source, -1, err);
}

int wh_ram_set_remote(wh_ram *ram, const uint64_t *bitmap, int bell, wh_error *err)
{
    return set_absent(ram, bitmap, NULL, bell, err);
}

bool wh_ram_is_remote(const wh_ram *ram)
{
    return ram->door && ram->door->bell >= 0;
}

void wh_ram_remote_cancel(const wh_ram *ram)
{
    struct wh_share *s = ram->share;
    if (!wh_ram_is_remote(ram) || !atomic_load(&s->absent_pages))
        return;
    atomic_store(&s->lost, 1);
    atomic_fetch_add(&s->arrived, 1);
    syscall(SYS_futex, &s->arrived, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void wh_door_free(wh_door *door)
{
    free(door);
}

int wh_ram_fill(const wh_ram *ram, uint64_t *cursor, uint64_t most)
{
    wh_door *d = ram->door;
    while (d && d->bell < 0 && *cursor < d->pages && atomic_load(&ram->share->absent_pages)) {
        if (wh_ram_lost(ram))
            return WH_E_IO;
        uint64_t pfn = *cursor, word = atomic_load(&wh_share_absent(ram->share, d->pages)[pfn / 64]) >> pfn % 64;
        if (!word) {
            *cursor = (pfn | 63) + 1;
            continue;
        }
        pfn += (uint64_t)__builtin_ctzll(word);
        uint64_t n = 1;
        int status = WH_OK;
        if (claim(d, pfn)) {
            n = claim_run(ram, pfn, most);
            status = fill_claimed(ram, pfn, n);
        }
        *cursor = pfn + n; /* a page that another claimed is on its way */
        return status;
    }
    return WH_E_AGAIN;
}

bool wh_ram_fill_wait(const wh_ram *ram, int timeout_ms)
{
    _Atomic uint32_t *wanted = &ram->share->wanted; /* shared futex: the other process wakes it */
    const uint64_t end = timeout_ms < 0 ? UINT64_MAX : wh_now_ns() + (uint64_t)timeout_ms * 1000000ull;
    while (atomic_load(wanted) == 0) {
        uint64_t now = wh_now_ns(), left = end - now;
        if (now >= end)
            break;
        struct timespec wait = {(time_t)(left / 1000000000ull), (long)(left % 1000000000ull)};
        syscall(SYS_futex, wanted, FUTEX_WAIT, 0, timeout_ms < 0 ? NULL : &wait, NULL, 0);
    }
    return atomic_load(wanted) != CANCELLED;
}

void wh_ram_fill_cancel(const wh_ram *ram)
{
    atomic_store(&ram->share->wanted, CANCELLED);
    futex(&ram->share->wanted, FUTEX_WAKE, INT32_MAX);
}

void wh_ram_door_stats(const wh_ram *ram, wh_door_stats *out)
{
    const wh_door *d = ram->door;
    memset(out, 0, sizeof *out);
    out->absent = atomic_load_explicit(&ram->share->absent_pages, memory_order_relaxed);
    if (d) {
        out->named = d->named;
        out->faulted = atomic_load_explicit(&d->faulted, memory_order_relaxed);
        out->wait_ns = atomic_load_explicit(&d->wait_ns, memory_order_relaxed);
        out->wait_median_ns = median_wait(d);
        out->wait_max_ns = atomic_load_explicit(&d->wait_max_ns, memory_order_relaxed);
    }
}
