/* blk: the virtio block device (virtio 1.2, section 5.2) on a regular file.
 *
 * A notification only rings the device's eventfd; requests run in poll, on the I/O thread, in order and one at a time,
 * and each is complete before the board lock is let go, so that a saved state has no requests in flight. A turn serves
 * a bounded number of bytes and then rings again, so that other devices and harts get the lock. Data moves between the
 * file and guest RAM by preadv/pwritev without a copy. */
#include "disk/share.h"
#include "virtio/transport.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define DEVICE_ID_BLK 2u
#define F_SEG_MAX     (1ull << 2)
#define F_RO          (1ull << 5)
#define F_BLK_SIZE    (1ull << 6)
#define F_FLUSH       (1ull << 9)
#define BLK_QUEUE     0u
#define QUEUE_MAX     256u
#define SECTOR        512u
#define SERIAL_BYTES  20u
#define TURN_BYTES    (1u << 20)
#define TURN_REQUESTS 32u
#define DATA_MAX      (64u << 20) /* of one request; Linux stays far below, and the lock is held meanwhile */

enum { CONFIG_CAPACITY = 0, CONFIG_SEG_MAX = 12, CONFIG_BLK_SIZE = 20, CONFIG_BYTES = 60 };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

struct blk_hdr {
    uint32_t type, reserved;
    uint64_t sector;
};
#define HDR_BYTES 16u
_Static_assert(sizeof(struct blk_hdr) == HDR_BYTES, "wire format");

struct blk {
    wh_virtio v;
    int fd;
    bool read_only;
    uint64_t sectors;
    uint8_t serial[SERIAL_BYTES];
    wh_blk_stats stats;
    wh_disktrack track; /* what was written, for who moves the guest */
    wh_chain chain;
    struct iovec iov[WH_VIRTQ_MAX];
};

static struct blk *blk_of(wh_device *d)
{
    return (struct blk *)d;
}

/* Bytes [offset, offset + len) of count segments as an iovec; returns its length. */
static int gather(struct iovec *iov, const wh_segment *seg, unsigned count, uint32_t offset, uint32_t len)
{
    int n = 0;
    for (unsigned i = 0; i < count && len > 0; i++) {
        if (offset >= seg[i].len) {
            offset -= seg[i].len;
            continue;
        }
        uint32_t part = seg[i].len - offset < len ? seg[i].len - offset : len;
        iov[n++] = (struct iovec){seg[i].host + offset, part};
        len -= part;
        offset = 0;
    }
    return n;
}

/* All of the bytes or false: a short file and a full disk are errors of this request. */
static bool transfer(struct blk *b, bool write, struct iovec *iov, int n, uint64_t at)
{
    while (n > 0) {
        ssize_t done = write ? pwritev(b->fd, iov, n, (off_t)at) : preadv(b->fd, iov, n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        at += (uint64_t)done;
        while (n > 0 && (size_t)done >= iov->iov_len) {
            done -= (ssize_t)iov->iov_len;
            iov++;
            n--;
        }
        if (n > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + done;
            iov->iov_len -= (size_t)done;
        }
    }
    return true;
}

static void mark_dirty(struct blk *b, uint32_t len)
{
    for (unsigned i = 0; i < b->chain.in_count && len > 0; i++) {
        const wh_segment *s = &b->chain.seg[b->chain.out_count + i];
        uint32_t part = s->len < len ? s->len : len;
        wh_ram_mark_dirty_range(b->v.ram, s->pa, part);
        len -= part;
    }
}

static bool in_range(const struct blk *b, uint64_t sector, uint32_t len)
{
    return len <= DATA_MAX && len % SECTOR == 0 && sector <= b->sectors && len / SECTOR <= b->sectors - sector;
}

/* `written` counts what was put into the in part before its status byte. */
static uint8_t read_sectors(struct blk *b, uint64_t sector, uint32_t *written)
{
    const wh_chain *c = &b->chain;
    uint32_t len = c->in_bytes - 1;
    if (!in_range(b, sector, len))
        return S_IOERR;
    int n = gather(b->iov, c->seg + c->out_count, c->in_count, 0, len);
    bool ok = transfer(b, false, b->iov, n, sector * SECTOR);
    mark_dirty(b, len); /* a failed read may have written a part */
    *written = len;
    b->stats.reads++;
    return ok ? S_OK : S_IOERR;
}

static uint8_t write_sectors(struct blk *b, uint64_t sector)
{
    const wh_chain *c = &b->chain;
    uint32_t len = c->out_bytes - HDR_BYTES;
    if (b->read_only || !in_range(b, sector, len))
        return S_IOERR;
    int n = gather(b->iov, c->seg, c->out_count, HDR_BYTES, len);
    b->stats.writes++;
    bool ok = transfer(b, true, b->iov, n, sector * SECTOR);
    wh_disktrack_wrote(&b->track, sector * SECTOR, len); /* a failed write may have written a part */
    return ok ? S_OK : S_IOERR;
}

static uint8_t get_id(struct blk *b, uint32_t *written)
{
    uint32_t room = b->chain.in_bytes - 1;
    uint32_t len = room < SERIAL_BYTES ? room : SERIAL_BYTES;
    *written = wh_chain_write(&b->chain, b->v.ram, 0, b->serial, len);
    return S_OK;
}

/* Returns the bytes moved, for the budget of this turn. */
static uint64_t serve_one(struct blk *b)
{
    wh_chain *c = &b->chain;
    struct blk_hdr hdr;
    if (wh_chain_read(c, 0, &hdr, HDR_BYTES) != HDR_BYTES || c->in_bytes == 0) {
        wh_virtio_break(&b->v, "block request without header or status byte");
        return 0;
    }
    uint64_t sector = le64toh(hdr.sector);
    uint32_t written = 0;
    uint8_t status = S_UNSUPP;
    switch (le32toh(hdr.type)) {
    case T_IN:
        status = read_sectors(b, sector, &written);
        break;
    case T_OUT:
        status = write_sectors(b, sector);
        break;
    case T_FLUSH:
        status = b->read_only || fdatasync(b->fd) == 0 ? S_OK : S_IOERR;
        break;
    case T_GET_ID:
        status = get_id(b, &written);
        break;
    default:
        break;
    }
    wh_chain_write(c, b->v.ram, c->in_bytes - 1, &status, 1);
    /* used.len promises that so many bytes from the start were written: the status byte counts if all before it was. */
    wh_virtio_push(&b->v, BLK_QUEUE, c, written == c->in_bytes - 1 ? written + 1 : written);
    return (uint64_t)c->in_bytes + c->out_bytes;
}

static void blk_poll(wh_device *d)
{
    struct blk *b = blk_of(d);
    uint64_t bytes = 0;
    for (unsigned i = 0; i < TURN_REQUESTS && bytes < TURN_BYTES; i++) {
        if (!wh_virtio_pop(&b->v, BLK_QUEUE, &b->chain))
            break;
        bytes += serve_one(b);
    }
    if (!wh_virtio_live(&b->v))
        return;
    wh_virtio_signal(&b->v, BLK_QUEUE);
    if (!wh_virtq_idle(&b->v.queue[BLK_QUEUE], b->v.ram))
        wh_virtio_kick(&b->v);
}

static void blk_notify(wh_virtio *v, unsigned queue)
{
    (void)queue;
    wh_virtio_kick(v);
}

static void blk_save(wh_virtio *v, wh_writer *w)
{
    const struct blk *b = (const struct blk *)v;
    wh_put_map(w, 4);
    wh_put_kuint(w, "sectors", b->sectors);
    wh_put_kuint(w, "read_only", b->read_only);
    wh_put_kuint(w, "reads", b->stats.reads);
    wh_put_kuint(w, "writes", b->stats.writes);
}

/* The disk itself is configuration; a state that was saved over another one is refused. */
static void blk_load(wh_virtio *v, wh_reader *r)
{
    struct blk *b = (struct blk *)v;
    const wh_reader map = *r;
    if (wh_map_uint(&map, "sectors", r) != b->sectors)
        wh_reader_refuse(r, "sectors");
    if (wh_map_uint(&map, "read_only", r) != b->read_only)
        wh_reader_refuse(r, "read_only");
    b->stats.reads = wh_map_uint(&map, "reads", r);
    b->stats.writes = wh_map_uint(&map, "writes", r);
    wh_get_skip(r);
}

static void blk_destroy(wh_device *d)
{
    struct blk *b = blk_of(d);
    if (b->fd >= 0)
        close(b->fd);
    wh_disktrack_free(&b->track);
    if (d->poll_fd >= 0)
        close(d->poll_fd);
    free(b);
}

static const wh_device_ops BLK_OPS = {
    .name = "virtio-blk",
    .read = wh_virtio_mmio_read,
    .write = wh_virtio_mmio_write,
    .poll = blk_poll,
    .reset = wh_virtio_reset,
    .save = wh_virtio_save,
    .load = wh_virtio_load,
    .destroy = blk_destroy,
};

static const wh_virtio_type BLK_TYPE = {
    .name = "blk",
    .device_id = DEVICE_ID_BLK,
    .queues = 1,
    .queue_max = QUEUE_MAX,
    .notify = blk_notify,
    .save = blk_save,
    .load = blk_load,
};

static int open_disk(struct blk *b, int fd, wh_error *err)
{
    struct stat st;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &st) != 0)
        return wh_fail(err, WH_E_IO, "disk", "fd %d: %s", fd, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return wh_fail(err, WH_E_INVAL, "disk", "not a regular file");
    if (!b->read_only && (flags & O_ACCMODE) != O_RDWR)
        return wh_fail(err, WH_E_INVAL, "disk", "not open for reading and writing, and not declared read-only");
    if (st.st_size < (off_t)SECTOR || st.st_size % SECTOR != 0)
        return wh_fail(err, WH_E_INVAL, "disk", "size %lld; it must be a positive multiple of 512",
                       (long long)st.st_size);
    b->sectors = (uint64_t)st.st_size / SECTOR;
    b->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (b->fd < 0)
        return wh_fail(err, WH_E_IO, "disk", "dup: %s", strerror(errno));
    return wh_virtio_kick_new(&b->v, err);
}

static void put_le(uint8_t *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

int wh_virtio_blk_new(const wh_virtio_env *env, int fd, bool read_only, const char *serial, wh_device **out,
                      wh_error *err)
{
    *out = NULL;
    struct blk *b = calloc(1, sizeof *b);
    if (!b)
        return wh_fail(err, WH_E_NOMEM, "disk", "out of memory");
    b->v.device = (wh_device){&BLK_OPS, -1};
    b->fd = b->track.fd = -1;
    b->read_only = read_only;
    /* FLUSH also without writes: a driver that has it issues it, and it costs nothing. */
    wh_virtio_init(&b->v, &BLK_TYPE, env, F_SEG_MAX | F_BLK_SIZE | F_FLUSH | (read_only ? F_RO : 0));
    int status = open_disk(b, fd, err);
    if (status == WH_OK)
        status = wh_disktrack_new(b->sectors * SECTOR, &b->track, err);
    if (status != WH_OK) {
        blk_destroy(&b->v.device);
        return status;
    }
    if (serial)
        memcpy(b->serial, serial, strnlen(serial, SERIAL_BYTES));
    put_le(b->v.config + CONFIG_CAPACITY, b->sectors, 8);
    put_le(b->v.config + CONFIG_SEG_MAX, QUEUE_MAX - 2, 4); /* header and status take one descriptor each */
    put_le(b->v.config + CONFIG_BLK_SIZE, SECTOR, 4);
    b->v.config_len = CONFIG_BYTES;
    *out = &b->v.device;
    return WH_OK;
}

void wh_virtio_blk_get_stats(wh_device *d, wh_blk_stats *out)
{
    *out = blk_of(d)->stats;
}

int wh_virtio_blk_share_fd(wh_device *d)
{
    return blk_of(d)->track.fd;
}
