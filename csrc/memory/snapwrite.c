/* Writes a snapshot file (format: snapfile.h). */
#include "memory/extent.h"
#include "memory/snapformat.h"
#include "memory/view.h"
#include "state/state.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct out {
    int fd;
    const wh_ram *ram;
    uint64_t at;    /* where the next byte goes */
    uint64_t pages; /* stored so far */
    uint64_t words;
    uint64_t *index; /* bitmap, then sums of stored pages; little-endian */
    wh_error *err;
};

static int put(struct out *o, uint64_t at, const void *data, uint64_t len)
{
    const uint8_t *p = data;
    while (len) {
        ssize_t n = pwrite(o->fd, p, len < 1u << 30 ? len : 1u << 30, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return wh_fail(o->err, WH_E_IO, "snapshot", "writing it: %s", n < 0 ? strerror(errno) : "no room");
        p += n;
        at += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return WH_OK;
}

static void note_page(struct out *o, uint64_t pfn)
{
    uint64_t sum[2] = {0, 0};
    wh_sum_page(o->ram->host + (pfn << WH_PAGE_SHIFT), pfn, sum);
    o->index[pfn / 64] |= htole64(1ull << pfn % 64);
    o->index[o->words + o->pages++] = htole64(sum[0]);
}

/* The pages [first, end) of RAM: those that are not zero, in runs. */
static int put_extent(struct out *o, uint64_t first, uint64_t end)
{
    while (first < end) {
        uint64_t stop = first;
        while (stop < end && !wh_page_is_zero(o->ram->host + (stop << WH_PAGE_SHIFT)))
            note_page(o, stop++);
        uint64_t len = (stop - first) << WH_PAGE_SHIFT;
        int status = put(o, o->at, o->ram->host + (first << WH_PAGE_SHIFT), len);
        if (status)
            return status;
        o->at += len;
        first = stop + 1; /* stop is a zero page, or the end */
    }
    return WH_OK;
}

static int put_ram(struct out *o)
{
    uint64_t first, end, pages = o->ram->bytes >> WH_PAGE_SHIFT;
    int status = WH_OK;
    for (uint64_t pfn = 0; !status && wh_extent_next(o->ram->ram_fd, pages, pfn, &first, &end); pfn = end)
        status = put_extent(o, first, end);
    return status;
}

static int put_section(struct out *o, wh_writer *map, const char *name, const void *data, uint64_t len)
{
    uint8_t sum[16];
    wh_sum_bytes(data, len, sum);
    wh_put_map(map, 4);
    wh_put_str(map, "name");
    wh_put_str(map, name);
    wh_put_kuint(map, "offset", o->at);
    wh_put_kuint(map, "bytes", len);
    wh_put_kbin(map, "sum", sum, sizeof sum);
    int status = put(o, o->at, data, len);
    o->at += (len + WH_PAGE_SIZE - 1) & ~(uint64_t)(WH_PAGE_SIZE - 1);
    return status;
}

/* "bytes" stands before the sections in the map, so their total is told first. */
static uint64_t end_of(const struct out *o, const wh_section *s, unsigned count)
{
    uint64_t end = o->at + (((o->words + o->pages) * 8 + WH_PAGE_SIZE - 1) & ~(uint64_t)(WH_PAGE_SIZE - 1));
    for (unsigned i = 0; i < count; i++)
        end += (s[i].len + WH_PAGE_SIZE - 1) & ~(uint64_t)(WH_PAGE_SIZE - 1);
    return end;
}

static int put_sections(struct out *o, wh_writer *map, const wh_section *s, unsigned count)
{
    uint64_t total = end_of(o, s, count);
    wh_put_map(map, 6);
    wh_put_kuint(map, "page_bytes", WH_PAGE_SIZE);
    wh_put_kuint(map, "ram_bytes", o->ram->bytes);
    wh_put_kuint(map, "pages", o->pages);
    wh_put_kuint(map, "ram", WH_SNAPFILE_HEAD);
    wh_put_kuint(map, "bytes", total);
    wh_put_str(map, "sections");
    wh_put_array(map, count + 1);
    int status = put_section(o, map, "index", o->index, (o->words + o->pages) * 8);
    for (unsigned i = 0; i < count && !status; i++)
        status = put_section(o, map, s[i].name, s[i].data, s[i].len);
    if (!status && ftruncate(o->fd, (off_t)total))
        status = wh_fail(o->err, WH_E_IO, "snapshot", "writing it: %s", strerror(errno));
    return status;
}

static int sync_file(struct out *o)
{
    return fsync(o->fd) ? wh_fail(o->err, WH_E_IO, "snapshot", "writing it: %s", strerror(errno)) : WH_OK;
}

static int put_head(struct out *o, const wh_writer *map)
{
    uint8_t head[WH_SNAPFILE_HEAD] = {0};
    uint32_t version = htole32(WH_SNAPFILE_VERSION), length = htole32((uint32_t)map->len);
    if (map->status || map->len > sizeof head - WH_SNAPFILE_MAP)
        return wh_fail(o->err, WH_E_FULL, "snapshot", "its header does not fit");
    memcpy(head, wh_snapfile_magic, sizeof wh_snapfile_magic);
    memcpy(head + WH_SNAP_VERSION_AT, &version, 4);
    memcpy(head + WH_SNAP_LENGTH_AT, &length, 4);
    wh_sum_bytes(map->data, map->len, head + WH_SNAP_SUM_AT);
    memcpy(head + WH_SNAPFILE_MAP, map->data, map->len);
    int status = sync_file(o); /* what the head promises is there before it */
    if (!status)
        status = put(o, 0, head, sizeof head);
    return status ? status : sync_file(o);
}

int wh_snapfile_write(int fd, const wh_ram *ram, const wh_section *sections, unsigned count, wh_error *err)
{
    uint64_t pages = ram->bytes >> WH_PAGE_SHIFT;
    struct out o = {.fd = fd, .ram = ram, .at = WH_SNAPFILE_HEAD, .words = (pages + 63) / 64, .err = err};
    if (count >= WH_SNAPFILE_SECTIONS)
        return wh_fail(err, WH_E_INVAL, "sections", "%u, at most %u are allowed", count, WH_SNAPFILE_SECTIONS - 1);
    uint64_t *index = calloc(o.words + pages, sizeof *index);
    o.index = index;
    wh_writer map;
    wh_writer_init(&map);
    int status = index ? put_ram(&o) : wh_fail(err, WH_E_NOMEM, "snapshot", "no memory for its index");
    if (!status)
        status = put_sections(&o, &map, sections, count);
    if (!status)
        status = put_head(&o, &map);
    free(index);
    wh_writer_free(&map);
    return status;
}
