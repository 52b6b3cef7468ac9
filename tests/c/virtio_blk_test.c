/* The block device against a memfd that stands for a disk: contents compared with a plain copy after every request. */
#include "disk/share.h"
#include "virtio_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define SECTORS 2048u
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

struct disk {
    int fd;
    bool read_only;
    uint8_t copy[SECTORS * 512];
};

static wh_device *make_blk(struct guest *g)
{
    struct disk *k = g->user;
    wh_virtio_env env = guest_env(g);
    wh_device *d = NULL;
    CHECK_EQ(wh_virtio_blk_new(&env, k->fd, k->read_only, "serial-of-twenty-and-more", &d, NULL), 0);
    return d;
}

static struct disk *disk_open(struct guest *g, bool read_only, bool rebirth)
{
    memset(g, 0, sizeof *g);
    CHECK_EQ(wh_ram_new(RAM_BYTES, 1, &g->ram, NULL), 0);
    struct disk *k = calloc(1, sizeof *k);
    k->fd = memfd_create("disk", MFD_CLOEXEC);
    k->read_only = read_only;
    for (unsigned i = 0; i < sizeof k->copy; i++)
        k->copy[i] = (uint8_t)(i * 7 + i / 512);
    CHECK_EQ(write(k->fd, k->copy, sizeof k->copy), sizeof k->copy);
    g->user = k;
    g->make = make_blk;
    g->next_buffer = BUFFER_AREA;
    g->dev = make_blk(g);
    g->rebirth = rebirth;
    guest_start(g, 1ull << 9 | WH_VIRTIO_F_INDIRECT | WH_VIRTIO_F_EVENT_IDX, 1, 256);
    return k;
}

static void disk_close(struct guest *g, struct disk *k)
{
    guest_close(g);
    close(k->fd);
    free(k);
}

/* One request whose data lies in `parts` pieces; returns the status byte. *data is the offset of the first piece;
 * pieces follow one another in guest memory. */
static uint8_t request(struct guest *g, uint32_t type, uint64_t sector, uint64_t data, uint32_t len, unsigned parts)
{
    struct part p[WH_VIRTQ_MAX];
    unsigned n = 0;
    uint64_t hdr = guest_buffer(g, 16), status = guest_buffer(g, 1);
    const uint32_t words[4] = {type, 0, (uint32_t)sector, (uint32_t)(sector >> 32)};
    memcpy(at(g, hdr), words, 16);
    p[n++] = (struct part){hdr, 7, 0}; /* framing is the driver's choice: the header in two pieces */
    p[n++] = (struct part){hdr + 7, 9, 0};
    for (unsigned i = 0; i < parts; i++)
        p[n++] = (struct part){data + (uint64_t)len / parts * i, len / parts, type == T_OUT ? 0 : WRITE};
    p[n++] = (struct part){status, 1, WRITE};
    *at(g, status) = 0xff;
    uint16_t head = n > 8 ? add_indirect(g, 0, p, n) : add_chain(g, 0, p, n);
    checkpoint(g);
    kick(g, 0);
    expect_no_used(g, 0); /* only the I/O thread does the work */
    checkpoint(g);
    CHECK(guest_poll(g) > 0);
    uint32_t id, written;
    CHECK(take_used(g, 0, &id, &written));
    CHECK_EQ(id, head);
    return *at(g, status);
}

static void ordinary(bool rebirth)
{
    struct guest g;
    struct disk *k = disk_open(&g, false, rebirth);
    uint64_t buf = 0x800000;
    CHECK_EQ(reg_read(&g, R_CONFIG), SECTORS);
    CHECK_EQ(reg_read(&g, R_CONFIG + 12), 254);
    CHECK_EQ(reg_read(&g, R_CONFIG + 20), 512);
    for (unsigned i = 0; i < 60; i++) {
        uint32_t len = 512 * (1 + i % 9 * 8);
        uint64_t sector = (i * 97u) % (SECTORS - 80);
        unsigned parts = i % 3 == 2 ? 64 : 1 + i % 3;
        if (i & 1) {
            for (uint32_t b = 0; b < len; b++)
                *at(&g, buf + b) = k->copy[sector * 512 + b] = (uint8_t)(b * 31 + i);
            CHECK_EQ(request(&g, T_OUT, sector, buf, len, parts), S_OK);
            CHECK_EQ(request(&g, T_FLUSH, 0, 0, 0, 0), S_OK);
        } else {
            memset(at(&g, buf), 0, len);
            dirty_clear(&g);
            CHECK_EQ(request(&g, T_IN, sector, buf, len, parts), S_OK);
            CHECK(memcmp(at(&g, buf), k->copy + sector * 512, len) == 0);
            for (uint64_t off = buf; off < buf + len; off += WH_PAGE_SIZE)
                CHECK(dirty(&g, off));
            CHECK(!dirty(&g, buf + len + WH_PAGE_SIZE - 1));
        }
    }
    static uint8_t now[SECTORS * 512];
    CHECK_EQ(pread(k->fd, now, sizeof now, 0), sizeof now);
    CHECK(memcmp(now, k->copy, sizeof now) == 0);
    CHECK_EQ(request(&g, T_GET_ID, 0, buf, 20, 1), S_OK);
    CHECK(memcmp(at(&g, buf), "serial-of-twenty-and-more", 20) == 0);
    wh_blk_stats stats;
    wh_virtio_blk_get_stats(g.dev, &stats);
    CHECK_EQ(stats.reads, 30);
    CHECK_EQ(stats.writes, 30);
    CHECK_EQ(g.irq_level, 1);
    disk_close(&g, k);
}

static void refused_requests(void)
{
    struct guest g;
    struct disk *k = disk_open(&g, false, true);
    uint64_t buf = 0x800000;
    CHECK_EQ(request(&g, T_IN, SECTORS, buf, 512, 1), S_IOERR);
    CHECK_EQ(request(&g, T_IN, SECTORS - 1, buf, 1024, 2), S_IOERR);
    CHECK_EQ(request(&g, T_IN, UINT64_MAX, buf, 512, 1), S_IOERR);
    CHECK_EQ(request(&g, T_IN, UINT64_MAX / 512 + 1, buf, 512, 1), S_IOERR);
    CHECK_EQ(request(&g, T_OUT, SECTORS, buf, 512, 1), S_IOERR);
    CHECK_EQ(request(&g, T_IN, 0, buf, 500, 1), S_IOERR);
    CHECK_EQ(request(&g, 11, 0, buf, 512, 1), S_UNSUPP);
    CHECK_EQ(request(&g, UINT32_MAX, 0, buf, 512, 1), S_UNSUPP);
    CHECK_EQ(request(&g, T_IN, SECTORS - 1, buf, 512, 1), S_OK);
    g.rebirth = false;                       /* a load would notice */
    CHECK_EQ(ftruncate(k->fd, 512 * 10), 0); /* someone cut the disk */
    CHECK_EQ(request(&g, T_IN, 9, buf, 1024, 2), S_IOERR);
    CHECK_EQ(request(&g, T_IN, 9, buf, 512, 1), S_OK);
    CHECK_EQ(reg_read(&g, R_STATUS), 15);
    disk_close(&g, k);
}

static void host_errors(void)
{
    struct guest g;
    struct disk *k = disk_open(&g, false, false);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit old, small = {4096, RLIM_INFINITY};
    getrlimit(RLIMIT_FSIZE, &old);
    setrlimit(RLIMIT_FSIZE, &small); /* as a full disk: writes from 4096 on fail */
    CHECK_EQ(ftruncate(k->fd, 4096), 0);
    CHECK_EQ(request(&g, T_OUT, 7, 0x800000, 512, 1), S_OK);
    CHECK_EQ(request(&g, T_OUT, 7, 0x800000, 1024, 1), S_IOERR);
    CHECK_EQ(request(&g, T_OUT, 8, 0x800000, 512, 1), S_IOERR);
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK_EQ(request(&g, T_OUT, 8, 0x800000, 512, 1), S_OK);
    disk_close(&g, k);
}

static void read_only(void)
{
    struct guest g;
    struct disk *k = disk_open(&g, true, true);
    reg_write(&g, 0x14, 0);
    CHECK(reg_read(&g, 0x10) & 1 << 5);
    memset(at(&g, 0x800000), 0x55, 512);
    CHECK_EQ(request(&g, T_OUT, 0, 0x800000, 512, 1), S_IOERR);
    uint8_t first[512];
    CHECK_EQ(pread(k->fd, first, 512, 0), 512);
    CHECK(memcmp(first, k->copy, 512) == 0);
    CHECK_EQ(request(&g, T_FLUSH, 0, 0, 0, 0), S_OK);
    disk_close(&g, k);
}

static void nonsense(void)
{
    struct guest g;
    struct disk *k = disk_open(&g, false, false);
    const struct part no_status = {BUFFER_AREA, 16, 0};
    add_chain(&g, 0, &no_status, 1);
    kick(&g, 0);
    guest_poll(&g);
    expect_broken(&g, "without header or status");
    guest_start(&g, 0, 1, 8);
    const struct part short_header[] = {{BUFFER_AREA, 15, 0}, {BUFFER_AREA + 64, 1, WRITE}};
    add_chain(&g, 0, short_header, 2);
    kick(&g, 0);
    guest_poll(&g);
    expect_broken(&g, "without header or status");
    disk_close(&g, k);
}

/* Many requests at once come out in order and in several turns, and then the device waits for the next notification
 * (also when the last turn's budget was spent exactly). */
static void a_long_queue(unsigned count)
{
    struct guest g;
    struct disk *k = disk_open(&g, false, false);
    uint16_t heads[80];
    for (unsigned i = 0; i < count; i++) {
        uint64_t hdr = guest_buffer(&g, 16), status = guest_buffer(&g, 1);
        const uint32_t words[4] = {T_IN, 0, i, 0};
        memcpy(at(&g, hdr), words, 16);
        const struct part p[] = {{hdr, 16, 0}, {0x800000 + 512u * i, 512, WRITE}, {status, 1, WRITE}};
        heads[i] = add_chain(&g, 0, p, 3);
    }
    kick(&g, 0);
    CHECK_EQ(guest_poll(&g), (count + 31) / 32);
    for (unsigned i = 0; i < count; i++)
        expect_used(&g, 0, heads[i], 513);
    CHECK(memcmp(at(&g, 0x800000), k->copy, count * 512) == 0);
    CHECK_EQ(*u16_at(&g, used_off(0) + 4 + 8 * 256), count); /* avail_event */
    disk_close(&g, k);
}

static void bad_files(void)
{
    struct guest g = {0};
    wh_virtio_env env = guest_env(&g);
    wh_device *d = NULL;
    wh_error err;
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(wh_virtio_blk_new(&env, fds[0], false, "", &d, &err), WH_E_INVAL);
    CHECK_EQ(wh_virtio_blk_new(&env, 9999, false, "", &d, &err), WH_E_IO);
    int fd = memfd_create("disk", 0);
    CHECK_EQ(wh_virtio_blk_new(&env, fd, false, "", &d, &err), WH_E_INVAL);
    CHECK_EQ(ftruncate(fd, 1000), 0);
    CHECK_EQ(wh_virtio_blk_new(&env, fd, false, "", &d, &err), WH_E_INVAL);
    CHECK_EQ(ftruncate(fd, 1024), 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int ro = open(path, O_RDONLY);
    CHECK_EQ(wh_virtio_blk_new(&env, ro, false, "", &d, &err), WH_E_INVAL);
    CHECK(strcmp(err.field, "disk") == 0 && d == NULL);
    CHECK_EQ(wh_virtio_blk_new(&env, ro, true, NULL, &d, &err), WH_OK);
    d->ops->destroy(d);
    close(ro);
    close(fd);
    close(fds[0]);
    close(fds[1]);
}

/* Who follows the disk learns of each write, and of nothing else. */
static void followed(void)
{
    struct guest g;
    struct disk *k = disk_open(&g, false, false);
    wh_diskview *v;
    uint64_t blocks;
    CHECK_EQ(wh_diskview_open(k->fd, wh_virtio_blk_share_fd(g.dev), -1, &v, NULL), 0);
    CHECK_EQ(request(&g, T_OUT, 3, 0x800000, 512, 1), S_OK);
    CHECK_EQ(wh_diskview_dirty_now(v), 0); /* nobody follows yet */
    CHECK_EQ(wh_diskview_track(v, 1), 0);
    CHECK_EQ(request(&g, T_IN, 0, 0x800000, 4096, 1), S_OK);
    CHECK_EQ(request(&g, T_FLUSH, 0, 0, 0, 0), S_OK);
    CHECK_EQ(wh_diskview_dirty_now(v), 0);
    CHECK_EQ(request(&g, T_OUT, 7, 0x800000, 1024, 2), S_OK); /* over the end of a block */
    CHECK_EQ(request(&g, T_OUT, 64, 0x800000, 512, 1), S_OK);
    CHECK_EQ(wh_diskview_dirty_now(v), 3);
    CHECK_EQ(request(&g, T_OUT, SECTORS, 0x800000, 512, 1), S_IOERR);
    CHECK_EQ(wh_diskview_dirty_now(v), 3);
    CHECK_EQ(wh_diskview_track(v, 0), 0);
    CHECK_EQ(request(&g, T_OUT, 100, 0x800000, 512, 1), S_OK);
    CHECK_EQ(wh_diskview_round(v, &blocks), 0);
    CHECK_EQ(blocks, 3); /* those that had been marked; nothing since */
    wh_diskview_close(v);
    disk_close(&g, k);
}

/* A state goes only with its own disk. */
static void other_disk(void)
{
    struct guest g;
    struct disk *k = disk_open(&g, false, false);
    wh_writer w;
    wh_writer_init(&w);
    g.dev->ops->save(g.dev, &w);
    CHECK_EQ(ftruncate(k->fd, 512 * 4), 0);
    g.dev->ops->destroy(g.dev);
    g.dev = make_blk(&g);
    wh_reader r;
    wh_reader_init(&r, w.data, w.len);
    g.dev->ops->load(g.dev, &r);
    CHECK_EQ(r.status, WH_E_FORMAT);
    CHECK(strcmp(r.field, "sectors") == 0);
    wh_writer_free(&w);
    disk_close(&g, k);
}

int main(void)
{
    ordinary(false);
    ordinary(true);
    refused_requests();
    host_errors();
    read_only();
    nonsense();
    a_long_queue(80);
    a_long_queue(64);
    a_long_queue(1);
    bad_files();
    followed();
    other_disk();
    return report("virtio_blk");
}
