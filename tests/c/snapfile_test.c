/* Snapshot files: what is written comes back, and nothing that was cut, damaged, newer or made up is taken. */
#include "memory/snapformat.h"
#include "switch_check.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGES 300u

static wh_ram new_ram(void)
{
    wh_ram ram;
    wh_error err;
    CHECK(!wh_ram_new((uint64_t)PAGES * WH_PAGE_SIZE, 1, &ram, &err));
    return ram;
}

static uint8_t *page(const wh_ram *ram, unsigned pfn)
{
    return ram->host + ((uint64_t)pfn << WH_PAGE_SHIFT);
}

/* Pages with content: 0, 5..20, 64, 70, 299; 100 is there, but zero. */
static void put_content(wh_ram *ram)
{
    uint64_t seed = 4711;
    for (unsigned p = 0; p < PAGES; p++)
        if (p == 0 || (p >= 5 && p <= 20) || p == 64 || p == 70 || p == 299)
            for (unsigned i = 0; i < WH_PAGE_SIZE; i += 8)
                *(uint64_t *)(void *)(page(ram, p) + i) = next_random(&seed);
    page(ram, 100)[0] = 0;
}
#define STORED 20u

static int empty_file(void)
{
    int fd = memfd_create("snapshot", MFD_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static int written(wh_ram *ram)
{
    static const uint8_t state[5000] = {1, 2, 3};
    const wh_section sections[] = {{"state", state, sizeof state}, {"extra", "hello", 5}, {"none", NULL, 0}};
    wh_error err;
    int fd = empty_file();
    CHECK(!wh_snapfile_write(fd, ram, sections, 3, &err));
    return fd;
}

static uint64_t size_of(int fd)
{
    struct stat st;
    CHECK(!fstat(fd, &st));
    return (uint64_t)st.st_size;
}

static void test_round_trip(void)
{
    wh_ram ram = new_ram(), back = new_ram();
    put_content(&ram);
    int fd = written(&ram);
    CHECK(size_of(fd) == (1 + STORED + 1 + 2 + 1) * WH_PAGE_SIZE); /* head, pages, index, state, extra */
    wh_snapfile *f;
    wh_error err;
    CHECK(!wh_snapfile_open(fd, &f, &err));
    close(fd);
    CHECK(wh_snapfile_ram_bytes(f) == ram.bytes && wh_snapfile_pages(f) == STORED);
    const uint64_t *bits = wh_snapfile_bitmap(f);
    for (unsigned p = 0; p < PAGES; p++)
        if (bits[p / 64] >> p % 64 & 1)
            CHECK(!wh_snapfile_fill(f, p, 1, page(&back, p), &err));
    CHECK(!memcmp(ram.host, back.host, ram.bytes));
    memset(page(&back, 5), 0, 16 * WH_PAGE_SIZE);
    CHECK(!wh_snapfile_fill(f, 5, 16, page(&back, 5), &err)); /* a run */
    CHECK(!memcmp(ram.host, back.host, ram.bytes));
    uint8_t *data;
    size_t len;
    CHECK(!wh_snapfile_section(f, "extra", &data, &len, &err) && len == 5 && !memcmp(data, "hello", 5));
    wh_buf_free(data);
    CHECK(!wh_snapfile_section(f, "state", &data, &len, &err) && len == 5000 && data[2] == 3 && data[4999] == 0);
    wh_buf_free(data);
    CHECK(!wh_snapfile_section(f, "none", &data, &len, &err) && len == 0 && data);
    wh_buf_free(data);
    CHECK(!wh_snapfile_section(f, "other", &data, &len, &err) && len == 0 && !data);
    wh_snapfile_close(f);
    wh_ram_free(&ram);
    wh_ram_free(&back);
}

static void test_empty_ram(void)
{
    wh_ram ram = new_ram();
    wh_error err;
    int fd = empty_file();
    CHECK(!wh_snapfile_write(fd, &ram, NULL, 0, &err));
    wh_snapfile *f;
    CHECK(!wh_snapfile_open(fd, &f, &err) && wh_snapfile_pages(f) == 0);
    wh_snapfile_close(f);
    close(fd);
    wh_ram_free(&ram);
}

/* Tries every way in; true when nothing was refused. A file that is taken must give exactly what was written. */
static bool usable(int fd, const wh_ram *ram, wh_error *err)
{
    wh_snapfile *f;
    static uint8_t buf[WH_PAGE_SIZE];
    err->message[0] = 0;
    if (wh_snapfile_open(fd, &f, err)) {
        CHECK(!f && err->message[0]);
        return false;
    }
    bool fine = wh_snapfile_ram_bytes(f) == ram->bytes;
    for (unsigned p = 0; p < PAGES && fine; p++)
        if (wh_snapfile_bitmap(f)[p / 64] >> p % 64 & 1) {
            fine = !wh_snapfile_fill(f, p, 1, buf, err);
            CHECK(!fine || !memcmp(buf, page(ram, p), sizeof buf));
        }
    static const char *const names[] = {"state", "extra", "none"};
    for (unsigned i = 0; i < 3 && fine; i++) {
        uint8_t *data;
        size_t len;
        fine = !wh_snapfile_section(f, names[i], &data, &len, err) && data;
        wh_buf_free(data);
    }
    wh_snapfile_close(f);
    return fine;
}

static void test_cut(void)
{
    wh_ram ram = new_ram();
    put_content(&ram);
    int fd = written(&ram);
    wh_error err;
    CHECK(usable(fd, &ram, &err));
    uint64_t size = size_of(fd);
    for (uint64_t len = size - 1;; len = len > 1000 ? len - 997 : len - 1) {
        CHECK(!ftruncate(fd, (off_t)len));
        CHECK(!usable(fd, &ram, &err) && err.status == WH_E_FORMAT);
        if (len >= WH_PAGE_SIZE)
            CHECK(strstr(err.message, "cut"));
        if (len == 0)
            break;
    }
    CHECK(strstr(err.message, "empty"));
    close(fd);
    wh_ram_free(&ram);
}

static void flip(int fd, uint64_t at, uint8_t bits)
{
    uint8_t b;
    CHECK(pread(fd, &b, 1, (off_t)at) == 1);
    b ^= bits;
    CHECK(pwrite(fd, &b, 1, (off_t)at) == 1);
}

/* Any changed bit of what the file says is found; what is only padding may change. */
static void test_damaged(void)
{
    wh_ram ram = new_ram();
    put_content(&ram);
    int fd = written(&ram);
    wh_error err;
    const uint64_t pages_at = WH_PAGE_SIZE, index_at = (1 + STORED) * WH_PAGE_SIZE, state_at = index_at + WH_PAGE_SIZE;
    for (uint64_t at = 0; at < 200; at++) {
        flip(fd, at, 0x10);
        CHECK(!usable(fd, &ram, &err));
        flip(fd, at, 0x10);
    }
    for (uint64_t at = index_at; at < index_at + (5 + STORED) * 8; at++) {
        flip(fd, at, 1);
        CHECK(!usable(fd, &ram, &err) && strstr(err.message, "index"));
        flip(fd, at, 1);
    }
    for (uint64_t at = state_at; at < state_at + 5000; at += 37) {
        flip(fd, at, 0x80);
        CHECK(!usable(fd, &ram, &err) && strstr(err.message, "state"));
        flip(fd, at, 0x80);
    }
    for (uint64_t at = pages_at; at < index_at; at += 1009) {
        flip(fd, at, 2);
        CHECK(!usable(fd, &ram, &err) && strstr(err.message, "page at 0x"));
        flip(fd, at, 2);
    }
    CHECK(usable(fd, &ram, &err));
    const uint32_t newer = 2;
    CHECK(pwrite(fd, &newer, 4, 8) == 4);
    CHECK(!usable(fd, &ram, &err) && err.status == WH_E_VERSION && strstr(err.message, "newer"));
    close(fd);
    wh_ram_free(&ram);
}

/* A writer that died left no head. */
static void test_unfinished(void)
{
    wh_ram ram = new_ram();
    put_content(&ram);
    int fd = written(&ram);
    static const uint8_t zeros[WH_PAGE_SIZE];
    CHECK(pwrite(fd, zeros, sizeof zeros, 0) == (ssize_t)sizeof zeros);
    wh_error err;
    CHECK(!usable(fd, &ram, &err) && strstr(err.message, "never finished"));
    close(fd);
    int pipes[2];
    CHECK(!pipe(pipes));
    wh_snapfile *f;
    CHECK(wh_snapfile_open(pipes[0], &f, &err) == WH_E_INVAL);
    close(pipes[0]);
    close(pipes[1]);
    CHECK(wh_snapfile_open(-1, &f, &err) == WH_E_IO);
    wh_ram_free(&ram);
}

/* Heads whose checksum is right and whose numbers lie: refused, or harmless (for the sanitizers). */
static void test_lying_heads(void)
{
    wh_ram ram = new_ram();
    put_content(&ram);
    int fd = written(&ram);
    uint8_t head[WH_SNAPFILE_HEAD], changed[WH_SNAPFILE_HEAD];
    uint32_t length;
    uint64_t seed = 99;
    unsigned refused = 0, turns = 3000;
    CHECK(pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head);
    memcpy(&length, head + WH_SNAP_LENGTH_AT, 4);
    for (unsigned i = 0; i < turns; i++) {
        memcpy(changed, head, sizeof head);
        for (unsigned k = next_random(&seed) % 3 + 1; k; k--)
            changed[WH_SNAPFILE_MAP + next_random(&seed) % length] = (uint8_t)next_random(&seed);
        wh_sum_bytes(changed + WH_SNAPFILE_MAP, length, changed + WH_SNAP_SUM_AT);
        CHECK(pwrite(fd, changed, sizeof changed, 0) == (ssize_t)sizeof changed);
        wh_error err;
        refused += !usable(fd, &ram, &err);
    }
    CHECK(refused > turns * 8 / 10);
    close(fd);
    wh_ram_free(&ram);
}

static void test_full_disk(void)
{
    wh_ram ram = new_ram();
    put_content(&ram);
    int fd = open("/dev/full", O_RDWR | O_CLOEXEC);
    wh_error err;
    if (fd >= 0) {
        CHECK(wh_snapfile_write(fd, &ram, NULL, 0, &err) == WH_E_IO && err.message[0]);
        close(fd);
    }
    wh_section many[WH_SNAPFILE_SECTIONS];
    for (unsigned i = 0; i < WH_SNAPFILE_SECTIONS; i++)
        many[i] = (wh_section){"x", "y", 1};
    fd = empty_file();
    CHECK(wh_snapfile_write(fd, &ram, many, WH_SNAPFILE_SECTIONS, &err) == WH_E_INVAL);
    close(fd);
    wh_ram_free(&ram);
}

int main(void)
{
    test_round_trip();
    test_empty_ram();
    test_cut();
    test_damaged();
    test_unfinished();
    test_lying_heads();
    test_full_disk();
    return finish("snapfile");
}
