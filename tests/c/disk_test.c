/* Disks that are followed while they are written: what the rounds carry makes the copy the same, whatever the writers
 * do meanwhile; what both ends have is not sent; what no source sends is refused. */
#include "disk/share.h"
#include "state/state.h"
#include "switch_check.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHECK_EQ(a, b) CHECK((a) == (b))
#define BLOCK          WH_DISK_BLOCK
#define BLOCKS         700u
#define BYTES          (BLOCKS * BLOCK - 1536ul) /* the last block is a short one */
#define WRITERS        3u
#define CAP            (128u << 10)

static uint32_t draw(uint32_t *state, uint32_t most)
{
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % most;
}

static int new_file(uint64_t bytes)
{
    int fd = memfd_create("disk", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    return fd;
}

static void fill(int fd, uint64_t block, uint8_t seed)
{
    uint8_t data[BLOCK];
    for (unsigned i = 0; i < BLOCK; i++)
        data[i] = (uint8_t)(seed + i * 13 + block);
    uint64_t at = block * BLOCK, len = at + BLOCK <= BYTES ? BLOCK : BYTES - at;
    CHECK(pwrite(fd, data, len, (off_t)at) == (ssize_t)len);
}

static bool same_files(int a, int b)
{
    uint8_t x[BLOCK], y[BLOCK];
    for (uint64_t at = 0; at < BYTES; at += BLOCK) {
        ssize_t got = pread(a, x, BLOCK, (off_t)at);
        if (got <= 0 || pread(b, y, BLOCK, (off_t)at) != got || memcmp(x, y, (size_t)got))
            return false;
    }
    return true;
}

/* One round from the one view to the other. */
static wh_disk_info carry(wh_diskview *from, wh_diskview *to)
{
    static uint8_t buf[CAP];
    wh_disk_info sum = {0}, part, placed;
    uint64_t blocks;
    CHECK_EQ(wh_diskview_round(from, &blocks), WH_OK);
    do {
        CHECK_EQ(wh_diskview_pack(from, buf, sizeof buf, &part), WH_OK);
        if (part.bytes)
            CHECK_EQ(wh_diskview_unpack(to, buf, part.bytes, &placed, NULL), WH_OK);
        sum.data_blocks += part.data_blocks;
        sum.zero_blocks += part.zero_blocks;
        sum.bytes += part.bytes;
    } while (part.left);
    return sum;
}

struct writer {
    pthread_t thread;
    int fd;
    uint32_t seed;
    wh_disktrack *track;
    _Atomic bool *stop;
};

/* As the device does: the file first, then the mark. Requests of a few sectors, anywhere, also over block ends. */
static void *write_on(void *ctx)
{
    struct writer *w = ctx;
    uint8_t data[6 * 512];
    while (!atomic_load(w->stop)) {
        uint32_t len = 512 * (1 + draw(&w->seed, 6));
        uint64_t at = 512ul * draw(&w->seed, (uint32_t)((BYTES - len) / 512 + 1));
        memset(data, (int)draw(&w->seed, 256), len);
        CHECK(pwrite(w->fd, data, len, (off_t)at) == (ssize_t)len);
        wh_disktrack_wrote(w->track, at, len);
    }
    return NULL;
}

static void followed_while_written(void)
{
    int disk = new_file(BYTES), copy = new_file(BYTES);
    wh_disktrack track;
    wh_diskview *from, *to;
    CHECK_EQ(wh_disktrack_new(BYTES, &track, NULL), WH_OK);
    CHECK_EQ(wh_diskview_open(disk, track.fd, -1, &from, NULL), WH_OK);
    CHECK_EQ(wh_diskview_open(copy, -1, -1, &to, NULL), WH_OK);
    for (unsigned turn = 0; turn < 6; turn++) {
        _Atomic bool stop = false;
        struct writer w[WRITERS];
        for (unsigned i = 0; i < WRITERS; i++) {
            w[i] = (struct writer){.fd = disk, .seed = turn * 10 + i + 1, .track = &track, .stop = &stop};
            CHECK(pthread_create(&w[i].thread, NULL, write_on, &w[i]) == 0);
        }
        CHECK_EQ(wh_diskview_track(from, 1), WH_OK); /* while they write: the first round must miss nothing either */
        for (unsigned round = 0; round < 8; round++)
            carry(from, to);
        atomic_store(&stop, true);
        for (unsigned i = 0; i < WRITERS; i++)
            pthread_join(w[i].thread, NULL);
        carry(from, to); /* the paused guest's */
        CHECK(same_files(disk, copy));
        CHECK_EQ(wh_diskview_dirty_now(from), 0);
        CHECK_EQ(wh_diskview_track(from, 0), WH_OK);
        wh_disktrack_wrote(&track, 0, BYTES);
        CHECK_EQ(wh_diskview_dirty_now(from), 0); /* nobody follows */
    }
    wh_diskview_close(from);
    wh_diskview_close(to);
    wh_disktrack_free(&track);
    close(disk);
    close(copy);
}

/* The base's blocks are not sent before the guest has written them; when it has, they are, even with the base's
 * content. */
static void what_the_base_has(void)
{
    int base = new_file(BYTES), disk = new_file(BYTES), copy = new_file(BYTES);
    for (unsigned b = 0; b < 300; b++) {
        fill(base, b, 1);
        fill(disk, b, 1);
        fill(copy, b, 1);
    }
    fill(disk, 7, 9);
    fill(disk, BLOCKS - 1, 9); /* short */
    uint8_t zeros[BLOCK] = {0};
    CHECK(pwrite(disk, zeros, BLOCK, 20 * BLOCK) == BLOCK);
    wh_disktrack track;
    wh_diskview *from, *to;
    CHECK_EQ(wh_disktrack_new(BYTES, &track, NULL), WH_OK);
    CHECK_EQ(wh_diskview_open(disk, track.fd, base, &from, NULL), WH_OK);
    CHECK_EQ(wh_diskview_open(copy, -1, -1, &to, NULL), WH_OK);
    CHECK_EQ(wh_diskview_track(from, 1), WH_OK);
    wh_disk_info sent = carry(from, to);
    CHECK_EQ(sent.data_blocks, 2);
    CHECK_EQ(sent.zero_blocks, 1);
    CHECK(same_files(disk, copy));

    fill(disk, 7, 1); /* what the base has, but the other end has the other by now */
    wh_disktrack_wrote(&track, 7 * BLOCK, BLOCK);
    CHECK_EQ(wh_diskview_dirty_now(from), 1);
    sent = carry(from, to);
    CHECK_EQ(sent.data_blocks, 1);
    CHECK(same_files(disk, copy));
    wh_diskview_close(from);
    wh_diskview_close(to);
    wh_disktrack_free(&track);
    close(base);
    close(disk);
    close(copy);
}

/* Holes: named, not read; and a copy that held something there has it no more. */
static void holes(void)
{
    int disk = new_file(BYTES), copy = new_file(BYTES);
    fill(disk, 5, 3);
    fill(copy, 6, 3);
    fill(copy, BLOCKS - 1, 3);
    wh_diskview *from, *to;
    CHECK_EQ(wh_diskview_open(disk, -1, -1, &from, NULL), WH_OK);
    CHECK_EQ(wh_diskview_open(copy, -1, -1, &to, NULL), WH_OK);
    CHECK_EQ(wh_diskview_track(from, 1), WH_OK);
    wh_disk_info sent = carry(from, to);
    CHECK_EQ(sent.data_blocks, 1);
    CHECK_EQ(sent.zero_blocks, BLOCKS - 1);
    CHECK(sent.bytes < BLOCK + 64);
    CHECK(same_files(disk, copy));
    wh_diskview_close(from);
    wh_diskview_close(to);
    close(disk);
    close(copy);
}

static int place(wh_diskview *v, uint64_t first, uint64_t count, size_t data, size_t len_cut)
{
    static uint8_t bytes[64 * BLOCK], buf[65 * BLOCK];
    wh_writer w;
    wh_disk_info info;
    wh_writer_fixed(&w, buf, sizeof buf);
    wh_put_array(&w, 1);
    wh_put_array(&w, 3);
    wh_put_uint(&w, first);
    wh_put_uint(&w, count);
    if (data)
        wh_put_bin(&w, bytes, data);
    else
        wh_put_nil(&w);
    wh_error err = {0};
    return wh_diskview_unpack(v, buf, w.len - len_cut, &info, &err);
}

static void refused(void)
{
    int copy = new_file(BYTES);
    wh_diskview *to;
    CHECK_EQ(wh_diskview_open(copy, -1, -1, &to, NULL), WH_OK);
    CHECK_EQ(place(to, BLOCKS - 1, 1, BYTES - (BLOCKS - 1) * BLOCK, 0), WH_OK);
    CHECK_EQ(place(to, BLOCKS - 1, 1, BLOCK, 0), WH_E_FORMAT);
    CHECK_EQ(place(to, BLOCKS, 1, 0, 0), WH_E_FORMAT);
    CHECK_EQ(place(to, 1, 0, 0, 0), WH_E_FORMAT);
    CHECK_EQ(place(to, 1, UINT64_MAX, 0, 0), WH_E_FORMAT);
    CHECK_EQ(place(to, UINT64_MAX, 2, 0, 0), WH_E_FORMAT);
    CHECK_EQ(place(to, 1, 1, 100, 0), WH_E_FORMAT);
    CHECK_EQ(place(to, 1, 1, BLOCK, 1), WH_E_FORMAT);
    wh_disk_info info;
    uint8_t random[200];
    uint32_t seed = 77;
    for (unsigned i = 0; i < 20000; i++) {
        for (unsigned b = 0; b < sizeof random; b++)
            random[b] = (uint8_t)draw(&seed, 256);
        random[0] = 0x91;
        random[1] = 0x93;
        (void)wh_diskview_unpack(to, random, 1 + draw(&seed, sizeof random - 1), &info, NULL);
    }
    CHECK_EQ(lseek(copy, 0, SEEK_END), (off_t)BYTES);
    wh_diskview_close(to);

    wh_disktrack track;
    CHECK_EQ(wh_disktrack_new(BYTES * 9, &track, NULL), WH_OK); /* of another disk */
    CHECK_EQ(wh_diskview_open(copy, track.fd, -1, &to, NULL), WH_E_FORMAT);
    CHECK(to == NULL);
    wh_disktrack_free(&track);
    close(copy);
}

int main(void)
{
    holes();
    what_the_base_has();
    followed_while_written();
    refused();
    return failures != 0;
}
