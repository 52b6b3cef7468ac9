/* Reads a snapshot file (format: snapfile.h). Nothing in it is believed before it was checked; page content is checked
 * when it is read. */
#include "memory/snapformat.h"
#include "state/state.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAM_MAX     (1ull << 40)
#define SECTION_MAX (64ull << 20) /* any but the index, whose length follows from RAM */

struct section {
    char name[32];
    uint64_t offset, bytes;
    uint8_t sum[16];
};

struct wh_snapfile {
    int fd;
    uint64_t size; /* of the file */
    uint64_t ram_bytes, pages, ram_at;
    unsigned count;
    struct section section[WH_SNAPFILE_SECTIONS];
    uint64_t words;
    uint64_t *bitmap; /* words; host order */
    uint64_t *before; /* words: stored pages before this word's first */
    uint64_t *sums;   /* pages; host order; one allocation with bitmap */
};

static int damaged(wh_error *err, const char *what)
{
    return wh_fail(err, WH_E_FORMAT, "snapshot", "%s", what);
}

static int read_at(int fd, uint64_t at, void *to, uint64_t len, wh_error *err)
{
    uint8_t *p = to;
    while (len) {
        ssize_t n = pread(fd, p, len < 1u << 30 ? len : 1u << 30, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return wh_fail(err, WH_E_IO, "snapshot", "reading it: %s", strerror(errno));
        if (!n)
            return damaged(err, "the file ends too early: it was cut");
        p += n;
        at += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return WH_OK;
}

static bool inside(const wh_snapfile *f, uint64_t at, uint64_t len)
{
    return at % WH_PAGE_SIZE == 0 && at >= WH_SNAPFILE_HEAD && at <= f->size && len <= f->size - at;
}

static int parse_section(wh_snapfile *f, const wh_reader *map, wh_error *err)
{
    struct section *s = &f->section[f->count];
    wh_reader fail = *map, name = wh_map_find(map, "name");
    size_t len = 0;
    const char *text = wh_get_str(&name, &len);
    s->offset = wh_map_uint(map, "offset", &fail);
    s->bytes = wh_map_uint(map, "bytes", &fail);
    wh_map_bin(map, "sum", s->sum, sizeof s->sum, &fail);
    if (fail.status || name.status || !inside(f, s->offset, s->bytes))
        return damaged(err, "its list of sections makes no sense");
    if (len >= sizeof s->name)
        return WH_OK; /* none of ours */
    memcpy(s->name, text, len);
    s->name[len] = 0;
    f->count++;
    return WH_OK;
}

static int parse_map(wh_snapfile *f, const wh_reader *map, wh_error *err)
{
    wh_reader fail = *map, list = wh_map_find(map, "sections");
    uint64_t page = wh_map_uint(map, "page_bytes", &fail), bytes = wh_map_uint(map, "bytes", &fail);
    f->ram_bytes = wh_map_uint(map, "ram_bytes", &fail);
    f->pages = wh_map_uint(map, "pages", &fail);
    f->ram_at = wh_map_uint(map, "ram", &fail);
    uint32_t count = wh_get_array(&list);
    if (fail.status || list.status || page != WH_PAGE_SIZE || !f->ram_bytes || f->ram_bytes > RAM_MAX ||
        f->ram_bytes % WH_PAGE_SIZE || f->pages > f->ram_bytes >> WH_PAGE_SHIFT || count > WH_SNAPFILE_SECTIONS)
        return damaged(err, "its header makes no sense");
    if (bytes > f->size)
        return wh_fail(err, WH_E_FORMAT, "snapshot", "the file was cut: %llu of %llu bytes are there",
                       (unsigned long long)f->size, (unsigned long long)bytes);
    if (!inside(f, f->ram_at, f->pages << WH_PAGE_SHIFT))
        return damaged(err, "its header makes no sense");
    for (uint32_t i = 0; i < count; i++) {
        wh_reader one = list;
        wh_get_skip(&list);
        int status = list.status ? damaged(err, "its list of sections makes no sense") : parse_section(f, &one, err);
        if (status)
            return status;
    }
    return WH_OK;
}

static int read_head(wh_snapfile *f, wh_error *err)
{
    uint8_t head[WH_SNAPFILE_HEAD], sum[16];
    uint32_t version, length;
    struct stat st;
    if (fstat(f->fd, &st))
        return wh_fail(err, WH_E_IO, "snapshot", "%s", strerror(errno));
    f->size = (uint64_t)st.st_size;
    if (!S_ISREG(st.st_mode))
        return wh_fail(err, WH_E_INVAL, "snapshot", "it is not a regular file");
    if (f->size < sizeof head)
        return damaged(err, f->size ? "no snapshot, or cut within its header" : "the file is empty");
    int status = read_at(f->fd, 0, head, sizeof head, err);
    if (status)
        return status;
    if (memcmp(head, wh_snapfile_magic, sizeof wh_snapfile_magic))
        return damaged(err, "not a snapshot, or its writing was never finished");
    memcpy(&version, head + WH_SNAP_VERSION_AT, 4);
    memcpy(&length, head + WH_SNAP_LENGTH_AT, 4);
    version = le32toh(version);
    length = le32toh(length);
    if (version != WH_SNAPFILE_VERSION)
        return wh_fail(err, WH_E_VERSION, "snapshot", "format %u%s; this version reads format %u", version,
                       version > WH_SNAPFILE_VERSION ? ", from a newer version" : "", WH_SNAPFILE_VERSION);
    if (length > sizeof head - WH_SNAPFILE_MAP)
        return damaged(err, "its header is damaged");
    wh_sum_bytes(head + WH_SNAPFILE_MAP, length, sum);
    if (memcmp(sum, head + WH_SNAP_SUM_AT, sizeof sum))
        return damaged(err, "its header is damaged");
    wh_reader map;
    wh_reader_init(&map, head + WH_SNAPFILE_MAP, length);
    return parse_map(f, &map, err);
}

static const struct section *find(const wh_snapfile *f, const char *name)
{
    for (unsigned i = 0; i < f->count; i++)
        if (!strcmp(f->section[i].name, name))
            return &f->section[i];
    return NULL;
}

static int read_section(const wh_snapfile *f, const struct section *s, void *to, wh_error *err)
{
    uint8_t sum[16];
    int status = read_at(f->fd, s->offset, to, s->bytes, err);
    if (status)
        return status;
    wh_sum_bytes(to, s->bytes, sum);
    if (memcmp(sum, s->sum, sizeof sum))
        return wh_fail(err, WH_E_FORMAT, "snapshot", "its section \"%s\" is damaged", s->name);
    return WH_OK;
}

static int read_index(wh_snapfile *f, wh_error *err)
{
    const struct section *s = find(f, "index");
    uint64_t ram_pages = f->ram_bytes >> WH_PAGE_SHIFT, stored = 0;
    f->words = (ram_pages + 63) / 64;
    if (!s || s->bytes != (f->words + f->pages) * 8)
        return damaged(err, "its index is missing or of a wrong length");
    f->bitmap = malloc(s->bytes);
    f->before = malloc(f->words * 8);
    if (!f->bitmap || !f->before)
        return wh_fail(err, WH_E_NOMEM, "snapshot", "no memory for its index");
    f->sums = f->bitmap + f->words;
    int status = read_section(f, s, f->bitmap, err);
    if (status)
        return status;
    for (uint64_t i = 0; i < f->words + f->pages; i++)
        f->bitmap[i] = le64toh(f->bitmap[i]);
    for (uint64_t i = 0; i < f->words; i++) {
        f->before[i] = stored;
        stored += (uint64_t)__builtin_popcountll(f->bitmap[i]);
    }
    if (stored != f->pages || (ram_pages % 64 && f->bitmap[f->words - 1] >> ram_pages % 64))
        return damaged(err, "its index makes no sense");
    return WH_OK;
}

int wh_snapfile_open(int fd, wh_snapfile **out, wh_error *err)
{
    *out = NULL;
    wh_snapfile *f = calloc(1, sizeof *f);
    if (!f)
        return wh_fail(err, WH_E_NOMEM, "snapshot", "no memory");
    f->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    int status = f->fd < 0 ? wh_fail(err, WH_E_IO, "snapshot", "%s", strerror(errno)) : read_head(f, err);
    if (!status)
        status = read_index(f, err);
    if (status) {
        wh_snapfile_close(f);
        return status;
    }
    *out = f;
    return WH_OK;
}

void wh_snapfile_close(wh_snapfile *f)
{
    if (!f)
        return;
    if (f->fd >= 0)
        close(f->fd);
    free(f->bitmap);
    free(f->before);
    free(f);
}

uint64_t wh_snapfile_ram_bytes(const wh_snapfile *f)
{
    return f->ram_bytes;
}

uint64_t wh_snapfile_pages(const wh_snapfile *f)
{
    return f->pages;
}

const uint64_t *wh_snapfile_bitmap(const wh_snapfile *f)
{
    return f->bitmap;
}

int wh_snapfile_section(const wh_snapfile *f, const char *name, uint8_t **data, size_t *len, wh_error *err)
{
    const struct section *s = find(f, name);
    *data = NULL;
    *len = 0;
    if (!s)
        return WH_OK;
    if (s->bytes > SECTION_MAX)
        return wh_fail(err, WH_E_FORMAT, "snapshot", "its section \"%s\" is too long", name);
    uint8_t *to = malloc(s->bytes ? s->bytes : 1);
    if (!to)
        return wh_fail(err, WH_E_NOMEM, "snapshot", "no memory for its section \"%s\"", name);
    int status = read_section(f, s, to, err);
    if (status) {
        free(to);
        return status;
    }
    *data = to;
    *len = s->bytes;
    return WH_OK;
}

/* Which stored page this is. */
static uint64_t rank_of(const wh_snapfile *f, uint64_t pfn)
{
    uint64_t below = f->bitmap[pfn / 64] & ((1ull << pfn % 64) - 1);
    return f->before[pfn / 64] + (uint64_t)__builtin_popcountll(below);
}

int wh_snapfile_fill(void *ctx, uint64_t first, uint64_t count, uint8_t *to, wh_error *err)
{
    const wh_snapfile *f = ctx;
    uint64_t rank = rank_of(f, first);
    int status = read_at(f->fd, f->ram_at + (rank << WH_PAGE_SHIFT), to, count << WH_PAGE_SHIFT, err);
    for (uint64_t i = 0; i < count && !status; i++) {
        uint64_t sum[2] = {0, 0};
        wh_sum_page(to + (i << WH_PAGE_SHIFT), first + i, sum);
        if (sum[0] != f->sums[rank + i])
            status = wh_fail(err, WH_E_FORMAT, "snapshot", "the page at 0x%llx is damaged",
                             (unsigned long long)(WH_RAM_BASE + ((first + i) << WH_PAGE_SHIFT)));
    }
    return status;
}
