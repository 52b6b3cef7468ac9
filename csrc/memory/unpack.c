/* Batches of pages: what the target of a migration places (their format: pages.c).
 *
 * Making a page of a memfd is what costs most, whoever does it. Writing through the file does not clear the page first,
 * as a fault would, and pages in a row take one call. */
#include "memory/extent.h"
#include "memory/view.h"
#include "state/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define RUN_MOST 64u /* pages of one call */

/* Pages in a row that are not there yet and have not been written. */
struct run {
    uint64_t first;
    int count, bounced; /* pages of the view's bounce buffer that are in it */
    struct iovec page[RUN_MOST];
};

static int write_run(const wh_ramview *v, struct run *run)
{
    ssize_t bytes = (ssize_t)run->count << WH_PAGE_SHIFT;
    int count = run->count;
    run->count = run->bounced = 0;
    if (count && pwritev(v->ram_fd, run->page, count, (off_t)(run->first << WH_PAGE_SHIFT)) != bytes)
        return WH_E_IO;
    return WH_OK;
}

/* The data must stay until the run is written. */
static int put_data(wh_ramview *v, wh_extent *x, struct run *run, uint64_t pfn, const uint8_t *page)
{
    int status = WH_OK;
    if (run->count && (run->count == RUN_MOST || run->first + (uint64_t)run->count != pfn))
        status = write_run(v, run);
    if (!wh_extent_hole(x, v->ram_fd, v->pages, pfn)) {
        status = status ? status : write_run(v, run); /* in order: a batch may have a page twice */
        memcpy(v->host + (pfn << WH_PAGE_SHIFT), page, WH_PAGE_SIZE);
        return status;
    }
    if (!run->count)
        run->first = pfn;
    run->page[run->count++] = (struct iovec){(void *)(uintptr_t)page, WH_PAGE_SIZE};
    return status;
}

static int put_fill(wh_ramview *v, wh_extent *x, struct run *run, const wh_page_entry *e)
{
    uint64_t page[WH_PAGE_SIZE / sizeof(uint64_t)];
    for (unsigned i = 0; i < sizeof page / sizeof *page; i++)
        page[i] = e->fill;
    int status = write_run(v, run);
    for (uint64_t i = 0; i < e->count && !status; i++)
        status = put_data(v, x, run, e->pfn + i, (const uint8_t *)page);
    return status ? status : write_run(v, run);
}

/* Named and not there: the source is told at the round's end, and sends it. */
static int miss(wh_ramview *v, uint64_t pfn)
{
    if (!v->missed && !(v->missed = calloc(v->words, sizeof *v->missed)))
        return WH_E_NOMEM;
    uint64_t bit = 1ull << pfn % 64;
    v->missed_count += !(v->missed[pfn / 64] & bit);
    v->missed[pfn / 64] |= bit;
    return WH_OK;
}

int wh_ramview_missed(wh_ramview *v, uint8_t *pages, size_t cap, uint64_t *count)
{
    *count = 0;
    if (cap / 4 < v->missed_count)
        return WH_E_INVAL;
    for (uint64_t i = 0; v->missed_count && i < v->words; i++)
        for (; v->missed[i]; v->missed[i] &= v->missed[i] - 1, v->missed_count--) {
            uint64_t pfn = 64 * i + (uint64_t)__builtin_ctzll(v->missed[i]);
            for (unsigned k = 0; k < 4; k++)
                pages[4 * *count + k] = (uint8_t)(pfn >> 8 * k);
            ++*count;
        }
    return WH_OK;
}

uint64_t wh_ramview_missing(wh_ramview *v)
{
    return v->missed_count;
}

int wh_ramview_use_index(wh_ramview *v, const wh_index *ix)
{
    v->index = ix;
    return WH_OK;
}

/* A page that is read out of something, by way of the bounce buffer. */
static int put_read(wh_ramview *v, wh_extent *x, struct run *run, const wh_page_entry *e)
{
    if (!v->bounce && !(v->bounce = malloc((size_t)RUN_MOST * WH_PAGE_SIZE)))
        return WH_E_NOMEM;
    int status = run->bounced == RUN_MOST ? write_run(v, run) : WH_OK;
    uint8_t *page = v->bounce + (size_t)run->bounced * WH_PAGE_SIZE;
    if (!status)
        status = e->asked ? wh_index_read(v->index, e->offset, page) : wh_files_read(v, e, page);
    if (e->asked && status == WH_E_STATE)
        return miss(v, e->pfn);
    if (status)
        return status;
    bool waits = wh_extent_hole(x, v->ram_fd, v->pages, e->pfn);
    if (waits && run->count && (run->count == RUN_MOST || run->first + (uint64_t)run->count != e->pfn)) {
        status = write_run(v, run); /* which gives all of the buffer back but this page: it moves to its front */
        memmove(v->bounce, page, WH_PAGE_SIZE);
        page = v->bounce;
    }
    run->bounced += waits;
    return status ? status : put_data(v, x, run, e->pfn, page);
}

int wh_page_put_zero(wh_ramview *v, uint64_t pfn, uint64_t count)
{
    uint64_t end = pfn + count, first, stop;
    while (pfn < end && wh_extent_next(v->ram_fd, v->pages, pfn, &first, &stop) && first < end) {
        stop = stop < end ? stop : end;
        if (fallocate(v->ram_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(first << WH_PAGE_SHIFT),
                      (off_t)((stop - first) << WH_PAGE_SHIFT)))
            return WH_E_IO;
        pfn = stop;
    }
    return WH_OK;
}

int wh_batch_get(const wh_ramview *v, wh_reader *r, wh_page_entry *e)
{
    if (wh_get_array(r) != 3)
        return WH_E_FORMAT;
    memset(e, 0, sizeof *e);
    e->pfn = wh_get_uint(r);
    e->count = wh_get_uint(r);
    bool filled = wh_get_nil(r);
    if (!filled && r->p < r->end && (*r->p < 0x80 || (*r->p >= 0xcc && *r->p <= 0xcf))) {
        e->fill = wh_get_uint(r);
        filled = true;
    }
    e->from_file = !filled && r->p < r->end && *r->p == 0x93;
    e->asked = !filled && r->p < r->end && *r->p == 0x91;
    if (e->asked) {
        (void)wh_get_array(r);
        e->offset = wh_get_uint(r);
        if (!v->index || e->offset >= wh_index_asked(v->index))
            return WH_E_FORMAT;
    } else if (e->from_file) {
        (void)wh_get_array(r);
        e->file = wh_get_uint(r);
        e->offset = wh_get_uint(r);
        e->check = wh_get_uint(r);
        if (e->file >= v->file_count || v->files[e->file].bytes < WH_PAGE_SIZE ||
            e->offset > v->files[e->file].bytes - WH_PAGE_SIZE)
            return WH_E_FORMAT;
    } else if (!filled) {
        e->page = wh_get_bin(r, &e->len);
    }
    if (r->status || !e->count || e->pfn >= v->pages || e->count > v->pages - e->pfn)
        return WH_E_FORMAT;
    if (filled)
        return WH_OK;
    if (e->from_file || e->asked)
        return e->count == 1 ? WH_OK : WH_E_FORMAT;
    return e->count == 1 && (e->len == WH_PAGE_SIZE || wh_delta_valid(e->page, e->len)) ? WH_OK : WH_E_FORMAT;
}

static int apply(wh_ramview *v, wh_extent *x, struct run *run, const wh_page_entry *e)
{
    if (e->page && e->len == WH_PAGE_SIZE)
        return put_data(v, x, run, e->pfn, e->page);
    if (e->from_file || e->asked)
        return put_read(v, x, run, e);
    if (!e->page && e->fill)
        return put_fill(v, x, run, e);
    int status = write_run(v, run);
    if (status)
        return status;
    if (e->page)
        wh_delta_apply(v->host + (e->pfn << WH_PAGE_SHIFT), e->page, e->len);
    else
        status = wh_page_put_zero(v, e->pfn, e->count);
    return status;
}

/* Once over the batch. A page that was written in this batch may still count as a hole: it is written again. */
static int walk(wh_ramview *v, const uint8_t *buf, size_t len, bool applies, wh_batch_info *out)
{
    memset(out, 0, sizeof *out);
    out->bytes = len;
    wh_extent x = {0, 0, 0};
    struct run run;
    run.count = run.bounced = 0;
    wh_reader r;
    wh_reader_init(&r, buf, len);
    uint32_t entries = wh_get_array(&r);
    int status = r.status;
    for (uint32_t i = 0; i < entries && !status; i++) {
        wh_page_entry e;
        status = wh_batch_get(v, &r, &e);
        if (status)
            break;
        *(e.page || e.from_file || e.asked ? &out->data_pages : &out->zero_pages) += e.count;
        if (applies)
            status = apply(v, &x, &run, &e);
    }
    if (!status)
        status = write_run(v, &run);
    return status || r.p == r.end ? status : WH_E_FORMAT;
}

/* Twice: a damaged batch must leave no page changed. */
int wh_ramview_unpack(wh_ramview *v, const uint8_t *buf, size_t len, wh_batch_info *out, wh_error *err)
{
    int status = walk(v, buf, len, false, out);
    if (!status)
        status = walk(v, buf, len, true, out);
    if (!status)
        return WH_OK;
    int e = errno;
    memset(out, 0, sizeof *out);
    if (status == WH_E_IO || status == WH_E_NOMEM)
        return wh_fail(err, status, "pages", "the host refused: %s", strerror(e));
    if (status == WH_E_STATE)
        return wh_fail(err, WH_E_FORMAT, "pages", "a file of the image has another content here");
    return wh_fail(err, WH_E_FORMAT, "pages", "damaged batch of %zu bytes", len);
}
