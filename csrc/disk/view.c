/* A guest's disk seen from the process that moves it: rounds of blocks that were written, packed into batches.
 *
 * A batch is a msgpack array of [first block, blocks, nil] for zeros and [first block, blocks, bin] for data, at most
 * WH_DISK_RUN blocks of it. Of blocks that were never sent those that are the base's are left out: both ends have the
 * base, and the other end began with a copy of it. Holes of both files are passed over without a look. */
#include "disk/view.h"
#include "state/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum verdict { SAME, ZERO, DATA };

uint64_t wh_disk_span(const struct wh_diskview *v, uint64_t block, uint64_t count)
{
    uint64_t at = block * WH_DISK_BLOCK, len = count * WH_DISK_BLOCK;
    return len <= v->bytes - at ? len : v->bytes - at;
}

static bool in_set(const uint64_t *set, uint64_t block)
{
    return set[block / 64] >> block % 64 & 1;
}

static int open_share(wh_diskview *v, int share_fd, wh_error *err)
{
    struct stat st;
    int seals = fcntl(share_fd, F_GET_SEALS);
    if (seals < 0 || fstat(share_fd, &st))
        return wh_fail(err, WH_E_IO, "disk", "share: %s", strerror(errno));
    v->share_bytes = wh_disk_share_bytes(v->bytes);
    if (!(seals & F_SEAL_SHRINK) || (uint64_t)st.st_size != v->share_bytes)
        return wh_fail(err, WH_E_FORMAT, "disk", "the share is not this disk's");
    void *p = mmap(NULL, v->share_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, share_fd, 0);
    if (p == MAP_FAILED)
        return wh_fail(err, WH_E_NOMEM, "disk", "mapping its share: %s", strerror(errno));
    v->share = p;
    if (v->share->magic != WH_DISK_SHARE_MAGIC || v->share->version != WH_DISK_SHARE_VERSION ||
        v->share->block_bytes != WH_DISK_BLOCK || v->share->disk_bytes != v->bytes)
        return wh_fail(err, WH_E_FORMAT, "disk", "the share is not this disk's");
    return WH_OK;
}

static int open_files(wh_diskview *v, int disk_fd, int base_fd, wh_error *err)
{
    struct stat st;
    if (fstat(disk_fd, &st))
        return wh_fail(err, WH_E_IO, "disk", "%s", strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size <= 0)
        return wh_fail(err, WH_E_INVAL, "disk", "not a regular file with content");
    v->bytes = (uint64_t)st.st_size;
    v->blocks = wh_disk_blocks(v->bytes);
    v->words = (v->blocks + 63) / 64;
    v->fd = fcntl(disk_fd, F_DUPFD_CLOEXEC, 0);
    v->base_fd = base_fd >= 0 ? fcntl(base_fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (v->fd < 0 || (base_fd >= 0 && v->base_fd < 0))
        return wh_fail(err, WH_E_IO, "disk", "dup: %s", strerror(errno));
    v->set = calloc(v->words, sizeof *v->set);
    v->fresh = calloc(v->words, sizeof *v->fresh);
    v->run = malloc(2ul * WH_DISK_RUN * WH_DISK_BLOCK);
    if (!v->set || !v->fresh || !v->run)
        return wh_fail(err, WH_E_NOMEM, "disk", "no memory for %llu blocks", (unsigned long long)v->blocks);
    v->base = v->run + (size_t)WH_DISK_RUN * WH_DISK_BLOCK;
    return WH_OK;
}

int wh_diskview_open(int disk_fd, int share_fd, int base_fd, wh_diskview **out, wh_error *err)
{
    *out = NULL;
    wh_diskview *v = calloc(1, sizeof *v);
    if (!v)
        return wh_fail(err, WH_E_NOMEM, "disk", "no memory for a view");
    v->fd = v->base_fd = -1;
    int status = open_files(v, disk_fd, base_fd, err);
    if (!status && share_fd >= 0)
        status = open_share(v, share_fd, err);
    if (status) {
        wh_diskview_close(v);
        return status;
    }
    *out = v;
    return WH_OK;
}

void wh_diskview_close(wh_diskview *v)
{
    if (!v)
        return;
    if (v->share)
        munmap(v->share, v->share_bytes);
    if (v->fd >= 0)
        close(v->fd);
    if (v->base_fd >= 0)
        close(v->base_fd);
    free(v->set);
    free(v->fresh);
    free(v->run);
    free(v);
}

uint64_t wh_diskview_bytes(wh_diskview *v)
{
    return v->bytes;
}

int wh_diskview_track(wh_diskview *v, int on)
{
    v->left = v->cursor = 0;
    memset(v->set, 0, v->words * sizeof *v->set);
    if (v->share) {
        for (uint64_t i = 0; on && i < v->words; i++)
            atomic_store(&v->share->dirty[i], 0);
        atomic_store(&v->share->tracked, on != 0);
        atomic_thread_fence(memory_order_seq_cst); /* before anything is read: share.h */
    }
    if (on)
        for (uint64_t block = 0; block < v->blocks; block++)
            v->set[block / 64] |= 1ull << block % 64;
    memcpy(v->fresh, v->set, v->words * sizeof *v->set);
    v->left = on ? v->blocks : 0;
    return WH_OK;
}

uint64_t wh_diskview_dirty_now(wh_diskview *v)
{
    uint64_t blocks = 0;
    for (uint64_t i = 0; v->share && i < v->words; i++)
        blocks += (uint64_t)__builtin_popcountll(atomic_load_explicit(&v->share->dirty[i], memory_order_relaxed));
    return blocks < v->blocks ? blocks : v->blocks;
}

uint64_t wh_diskview_left(wh_diskview *v)
{
    return v->left;
}

int wh_diskview_round(wh_diskview *v, uint64_t *blocks)
{
    uint64_t left = 0;
    for (uint64_t i = 0; i < v->words; i++) {
        if (v->share && atomic_load_explicit(&v->share->dirty[i], memory_order_relaxed))
            v->set[i] |= atomic_exchange(&v->share->dirty[i], 0);
        if (i == v->words - 1 && v->blocks % 64)
            v->set[i] &= (1ull << v->blocks % 64) - 1; /* the other process may have written anything */
        left += (uint64_t)__builtin_popcountll(v->set[i]);
    }
    v->left = *blocks = left;
    v->cursor = 0;
    return WH_OK;
}

/* First block at or after `block` in the set, or `blocks`. */
static uint64_t next_set(const wh_diskview *v, uint64_t block)
{
    if (block >= v->blocks)
        return v->blocks;
    uint64_t i = block / 64, word = v->set[i] >> block % 64 << block % 64;
    while (!word) {
        if (++i == v->words)
            return v->blocks;
        word = v->set[i];
    }
    return i * 64 + (uint64_t)__builtin_ctzll(word);
}

static uint64_t run_length(const wh_diskview *v, uint64_t first, uint64_t most)
{
    uint64_t n = 1;
    while (n < most && first + n < v->blocks && in_set(v->set, first + n))
        n++;
    return n;
}

static void take(wh_diskview *v, uint64_t first, uint64_t count)
{
    for (uint64_t block = first; block < first + count; block++) {
        v->set[block / 64] &= ~(1ull << block % 64);
        v->fresh[block / 64] &= ~(1ull << block % 64);
    }
    v->left -= count;
    v->cursor = first + count;
}

/* Blocks from `first` on that lie in a hole of the file: whole ones. 0 where that is not known. */
static uint64_t hole_blocks(const wh_diskview *v, int fd, uint64_t first)
{
    off_t data = lseek(fd, (off_t)(first * WH_DISK_BLOCK), SEEK_DATA);
    if (data < 0)
        return errno == ENXIO ? v->blocks - first : 0; /* a hole up to the file's end */
    uint64_t end = (uint64_t)data / WH_DISK_BLOCK;
    return end > first ? end - first : 0;
}

/* All of the bytes; behind the end of a file there are zeros. */
static int read_span(int fd, uint8_t *into, uint64_t len, uint64_t at)
{
    while (len > 0) {
        ssize_t got = pread(fd, into, len, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return WH_E_IO;
        if (got == 0) {
            memset(into, 0, len);
            return WH_OK;
        }
        into += got;
        at += (uint64_t)got;
        len -= (uint64_t)got;
    }
    return WH_OK;
}

static bool all_zero(const uint8_t *p, uint64_t len)
{
    return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static enum verdict judge(const wh_diskview *v, uint64_t first, uint64_t i)
{
    uint64_t offset = i * WH_DISK_BLOCK, len = wh_disk_span(v, first + i, 1);
    if (v->base_fd >= 0 && in_set(v->fresh, first + i) && memcmp(v->run + offset, v->base + offset, len) == 0)
        return SAME;
    return all_zero(v->run + offset, len) ? ZERO : DATA;
}

static void put_entry(wh_writer *w, uint64_t first, uint64_t count, const uint8_t *data, uint64_t len)
{
    wh_put_array(w, 3);
    wh_put_uint(w, first);
    wh_put_uint(w, count);
    if (data)
        wh_put_bin(w, data, len);
    else
        wh_put_nil(w);
}

/* A hole of the disk, as far as the set goes on: zeros that nobody has to read. Returns its blocks, 0: there is none.
 */
static uint64_t pack_hole(wh_diskview *v, wh_writer *w, uint64_t first, wh_disk_info *out, uint32_t *entries)
{
    uint64_t count = hole_blocks(v, v->fd, first);
    if (count && v->base_fd >= 0) {
        uint64_t both = hole_blocks(v, v->base_fd, first);
        count = both < count ? both : count;
    }
    if (!count)
        return 0;
    count = run_length(v, first, count);
    bool fresh = in_set(v->fresh, first);
    uint64_t alike = 1;
    while (alike < count && in_set(v->fresh, first + alike) == fresh)
        alike++;
    if (v->base_fd < 0 || !fresh) {
        put_entry(w, first, alike, NULL, 0);
        out->zero_blocks += alike;
        ++*entries;
    }
    take(v, first, alike);
    return alike;
}

static int pack_run(wh_diskview *v, wh_writer *w, uint64_t first, wh_disk_info *out, uint32_t *entries)
{
    uint64_t count = run_length(v, first, WH_DISK_RUN), len = wh_disk_span(v, first, count);
    int status = read_span(v->fd, v->run, len, first * WH_DISK_BLOCK);
    if (!status && v->base_fd >= 0)
        status = read_span(v->base_fd, v->base, len, first * WH_DISK_BLOCK);
    if (status)
        return status;
    for (uint64_t i = 0, n; i < count; i += n) {
        enum verdict what = judge(v, first, i);
        for (n = 1; i + n < count && judge(v, first, i + n) == what;)
            n++;
        if (what == SAME)
            continue;
        put_entry(w, first + i, n, what == DATA ? v->run + i * WH_DISK_BLOCK : NULL, wh_disk_span(v, first + i, n));
        *(what == DATA ? &out->data_blocks : &out->zero_blocks) += n;
        ++*entries;
    }
    take(v, first, count);
    return WH_OK;
}

static void put_header(uint8_t *header, uint32_t entries)
{
    header[0] = 0xdd;
    for (unsigned i = 0; i < 4; i++)
        header[1 + i] = (uint8_t)(entries >> (24 - 8 * i));
}

int wh_diskview_pack(wh_diskview *v, uint8_t *buf, size_t cap, wh_disk_info *out)
{
    /* The most that a run needs: every block an entry of its own, or all of them one with data. */
    const size_t room = WH_DISK_RUN * (WH_DISK_BLOCK + 24ul);
    *out = (wh_disk_info){0};
    if (cap < WH_DISK_HEADER + room)
        return WH_E_INVAL;
    wh_writer w;
    wh_writer_fixed(&w, buf + WH_DISK_HEADER, cap - WH_DISK_HEADER);
    uint32_t entries = 0;
    uint64_t first;
    for (uint64_t looked = 0; looked < WH_DISK_LOOK && cap - WH_DISK_HEADER - w.len >= room;) {
        first = next_set(v, v->cursor);
        if (first == v->blocks)
            break;
        uint64_t left = v->left;
        if (!pack_hole(v, &w, first, out, &entries)) {
            int status = pack_run(v, &w, first, out, &entries);
            if (status)
                return status;
            looked += (left - v->left) * WH_DISK_BLOCK;
        }
    }
    put_header(buf, entries);
    out->bytes = entries ? WH_DISK_HEADER + w.len : 0;
    out->left = v->left;
    return w.status;
}
