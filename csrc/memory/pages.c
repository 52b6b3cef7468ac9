/* Batches of pages: what the source of a migration packs and its target unpacks.
 *
 * A batch is a msgpack array of [first_pfn, count, nil] for runs of zero pages, [pfn, 1, bin(4096)] for one page of
 * data and [pfn, 1, bin(delta)] for what changed in a page that was sent before (delta.h). The array's header always
 * takes five bytes (array 32), so that its count is filled in at the end. */
#include "memory/delta.h"
#include "memory/extent.h"
#include "memory/view.h"
#include "state/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

bool wh_page_is_zero(const uint8_t *page)
{
    for (unsigned i = 0; i < WH_PAGE_SIZE; i += 256) {
        uint64_t w[32], any = 0;
        memcpy(w, page + i, sizeof w);
        for (unsigned k = 0; k < 32; k++)
            any |= w[k];
        if (any)
            return false;
    }
    return true;
}

uint64_t wh_view_next_set(const wh_ramview *v, uint64_t pfn)
{
    uint64_t word = pfn / 64;
    if (word >= v->words)
        return v->pages;
    uint64_t bits = v->set[word] & (~0ull << pfn % 64);
    while (!bits) {
        if (++word >= v->words)
            return v->pages;
        bits = v->set[word];
    }
    return word * 64 + (uint64_t)__builtin_ctzll(bits);
}

/* What is known of the file around the page that is looked at: [from, first) is a hole, [first, end) is there. */
struct extent {
    uint64_t from, first, end;
};

static bool is_hole(const wh_ramview *v, struct extent *x, uint64_t pfn)
{
    if (pfn < x->from || pfn >= x->end) {
        x->from = pfn;
        if (!wh_extent_next(v->ram_fd, v->pages, pfn, &x->first, &x->end))
            x->first = x->end = v->pages;
    }
    return pfn < x->first;
}

static bool reads_zero(const wh_ramview *v, struct extent *x, uint64_t pfn)
{
    return is_hole(v, x, pfn) || wh_page_is_zero(v->host + (pfn << WH_PAGE_SHIFT));
}

static void take_bit(wh_ramview *v, uint64_t pfn)
{
    v->set[pfn / 64] &= ~(1ull << pfn % 64);
    v->left--;
    v->cursor = pfn + 1;
}

void wh_batch_put(wh_writer *w, uint64_t pfn, uint64_t count, const uint8_t *page)
{
    wh_put_array(w, 3);
    wh_put_uint(w, pfn);
    wh_put_uint(w, count);
    if (page)
        wh_put_bin(w, page, WH_PAGE_SIZE);
    else
        wh_put_nil(w);
}

void wh_batch_put_count(uint8_t *header, uint32_t entries)
{
    header[0] = 0xdd;
    for (unsigned i = 0; i < 4; i++)
        header[1 + i] = (uint8_t)(entries >> (24 - 8 * i));
}

int wh_ramview_remember(wh_ramview *v, uint64_t pages)
{
    if (v->sent)
        munmap(v->sent, v->pages << WH_PAGE_SHIFT);
    free(v->known);
    v->sent = NULL;
    v->known = NULL;
    v->may_keep = pages;
    if (!pages)
        return WH_OK;
    void *sent = mmap(NULL, v->pages << WH_PAGE_SHIFT, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    v->sent = sent == MAP_FAILED ? NULL : sent;
    if (v->sent)
        (void)madvise(v->sent, v->pages << WH_PAGE_SHIFT, MADV_HUGEPAGE); /* most of it will be taken, in order */
    v->known = calloc(v->words, sizeof *v->known);
    if (v->sent && v->known)
        return WH_OK;
    (void)wh_ramview_remember(v, 0);
    return WH_E_NOMEM;
}

static void forget(wh_ramview *v, uint64_t pfn, uint64_t count)
{
    for (; v->known && count; count--, pfn++) {
        v->may_keep += v->known[pfn / 64] >> pfn % 64 & 1;
        v->known[pfn / 64] &= ~(1ull << pfn % 64);
    }
}

static void put_bytes(wh_writer *w, uint64_t pfn, const uint8_t *data, size_t len)
{
    wh_put_array(w, 3);
    wh_put_uint(w, pfn);
    wh_put_uint(w, 1);
    wh_put_bin(w, data, len);
}

/* The guest may be writing: what is remembered is what goes out, and only that is looked at. False: nothing changed. */
static bool put_page(wh_ramview *v, wh_writer *w, uint64_t pfn)
{
    const uint8_t *page = v->host + (pfn << WH_PAGE_SHIFT);
    uint8_t *sent = v->sent ? v->sent + (pfn << WH_PAGE_SHIFT) : NULL;
    if (sent && v->known[pfn / 64] >> pfn % 64 & 1) {
        uint8_t now[WH_PAGE_SIZE], delta[WH_DELTA_MAX];
        memcpy(now, page, sizeof now);
        size_t len = wh_delta_make(sent, now, delta);
        if (len == 0)
            return false;
        memcpy(sent, now, sizeof now);
        put_bytes(w, pfn, len == SIZE_MAX ? sent : delta, len == SIZE_MAX ? WH_PAGE_SIZE : len);
        return true;
    }
    if (sent && v->may_keep) {
        v->may_keep--;
        v->known[pfn / 64] |= 1ull << pfn % 64;
        memcpy(sent, page, WH_PAGE_SIZE);
        page = sent;
    }
    put_bytes(w, pfn, page, WH_PAGE_SIZE);
    return true;
}

int wh_ramview_pack(wh_ramview *v, uint8_t *buf, size_t cap, wh_batch_info *out)
{
    memset(out, 0, sizeof *out);
    if (cap < 8192)
        return WH_E_INVAL;
    int status = wh_view_wait_present(v); /* before extents are looked at: an absent page looks like a hole */
    if (status)
        return status;
    wh_writer w;
    wh_writer_fixed(&w, buf, cap);
    w.len = WH_BATCH_HEADER;
    struct extent x = {0, 0, 0};
    uint32_t entries = 0;
    uint64_t pfn = wh_view_next_set(v, v->cursor);
    while (pfn < v->pages && cap - w.len >= WH_ENTRY_MAX) {
        if (reads_zero(v, &x, pfn)) {
            uint64_t first = pfn;
            do
                take_bit(v, pfn++);
            while (pfn < v->pages && wh_view_next_set(v, pfn) == pfn && reads_zero(v, &x, pfn));
            wh_batch_put(&w, first, pfn - first, NULL);
            forget(v, first, pfn - first);
            out->zero_pages += pfn - first;
            entries++;
        } else {
            take_bit(v, pfn);
            bool put = put_page(v, &w, pfn);
            out->data_pages += put;
            entries += put;
        }
        pfn = wh_view_next_set(v, v->cursor);
    }
    wh_batch_put_count(buf, entries);
    out->bytes = w.len;
    out->more = pfn < v->pages;
    return w.status;
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

/* Writing a new page through the file is 1.3 to 2 times as fast as faulting it in, which would clear it first; a page
 * that is there takes a plain copy. The extent may be older than what this batch did: that costs time, never data. */
static int put_data(wh_ramview *v, struct extent *x, uint64_t pfn, const uint8_t *page)
{
    if (!is_hole(v, x, pfn))
        memcpy(v->host + (pfn << WH_PAGE_SHIFT), page, WH_PAGE_SIZE);
    else if (pwrite(v->ram_fd, page, WH_PAGE_SIZE, (off_t)(pfn << WH_PAGE_SHIFT)) != WH_PAGE_SIZE)
        return WH_E_IO;
    return WH_OK;
}

int wh_batch_get(const wh_ramview *v, wh_reader *r, wh_page_entry *e)
{
    if (wh_get_array(r) != 3)
        return WH_E_FORMAT;
    e->pfn = wh_get_uint(r);
    e->count = wh_get_uint(r);
    e->len = 0;
    bool zero = wh_get_nil(r);
    e->page = zero ? NULL : wh_get_bin(r, &e->len);
    if (r->status || !e->count || e->pfn >= v->pages || e->count > v->pages - e->pfn)
        return WH_E_FORMAT;
    if (zero)
        return WH_OK;
    return e->count == 1 && (e->len == WH_PAGE_SIZE || wh_delta_valid(e->page, e->len)) ? WH_OK : WH_E_FORMAT;
}

static int unpack_entry(wh_ramview *v, wh_reader *r, struct extent *x, bool apply, wh_batch_info *out)
{
    wh_page_entry e;
    int status = wh_batch_get(v, r, &e);
    if (status)
        return status;
    *(e.page ? &out->data_pages : &out->zero_pages) += e.count;
    if (!apply)
        return WH_OK;
    if (!e.page)
        return wh_page_put_zero(v, e.pfn, e.count);
    if (e.len == WH_PAGE_SIZE)
        return put_data(v, x, e.pfn, e.page);
    wh_delta_apply(v->host + (e.pfn << WH_PAGE_SHIFT), e.page, e.len);
    return WH_OK;
}

/* Twice over the batch: a damaged one must leave no page changed. */
int wh_ramview_unpack(wh_ramview *v, const uint8_t *buf, size_t len, wh_batch_info *out, wh_error *err)
{
    for (int apply = 0; apply < 2; apply++) {
        memset(out, 0, sizeof *out);
        out->bytes = len;
        struct extent x = {0, 0, 0};
        wh_reader r;
        wh_reader_init(&r, buf, len);
        uint32_t entries = wh_get_array(&r);
        int status = r.status;
        for (uint32_t i = 0; i < entries && !status; i++) {
            status = unpack_entry(v, &r, &x, apply != 0, out);
            if (status == WH_E_IO)
                return wh_fail(err, status, "pages", "the host refused: %s", strerror(errno));
        }
        if (status || r.p != r.end) {
            memset(out, 0, sizeof *out);
            return wh_fail(err, WH_E_FORMAT, "pages", "damaged batch of %zu bytes", len);
        }
    }
    return WH_OK;
}
