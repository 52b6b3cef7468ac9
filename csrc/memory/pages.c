/* Batches of pages: what the source of a migration packs.
 *
 * A batch is a msgpack array of [first_pfn, count, nil] for runs of zero pages, [first_pfn, count, word] for runs of
 * pages that are one 64-bit word over and over (what Linux leaves of its initial RAM disk is), [pfn, 1, bin(4096)] for
 * one page of data, [pfn, 1, [file, offset, check]] for one that stands in a file (files.c), [pfn, 1, [question]] for
 * one that the other end said it has (ask.c) and [pfn, 1, bin(delta)] for what changed in a page that was sent before
 * (delta.h). The array's header always takes five bytes (array 32), so that its count is filled in at the end. */
#include "memory/extent.h"
#include "memory/view.h"
#include "state/state.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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

/* The page is one word over and over. */
static bool is_filled(const uint8_t *page, uint64_t *word)
{
    uint64_t first;
    memcpy(&first, page, sizeof first);
    if (memcmp(page, page + sizeof first, sizeof first) != 0)
        return false; /* nearly all end here */
    for (unsigned i = 0; i < WH_PAGE_SIZE; i += 256) {
        uint64_t w[32], other = 0;
        memcpy(w, page + i, sizeof w);
        for (unsigned k = 0; k < 32; k++)
            other |= w[k] ^ first;
        if (other)
            return false;
    }
    *word = first;
    return true;
}

/* The page needs no data of its own: zeros, or a fill where the other end knows those. */
static bool reads_filled(wh_ramview *v, uint64_t pfn, uint64_t *word)
{
    *word = 0;
    return wh_extent_hole(&v->extent, v->ram_fd, v->pages, pfn) ||
           (is_filled(v->host + (pfn << WH_PAGE_SHIFT), word) && (v->fills || !*word));
}

bool wh_view_is_filled(wh_ramview *v, uint64_t pfn)
{
    uint64_t word;
    return reads_filled(v, pfn, &word);
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

static uint64_t marks_bytes(const wh_ramview *v)
{
    return v->pages * WH_MARKS * sizeof *v->marks;
}

int wh_ramview_fills(wh_ramview *v, int on)
{
    v->fills = on != 0;
    return WH_OK;
}

int wh_ramview_remember(wh_ramview *v, uint64_t pages)
{
    if (v->marks)
        munmap(v->marks, marks_bytes(v));
    free(v->known);
    v->marks = NULL;
    v->known = NULL;
    v->may_keep = pages;
    if (!pages)
        return WH_OK;
    if (wh_delta_key_draw(&v->key))
        return WH_E_IO;
    void *marks =
        mmap(NULL, marks_bytes(v), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    v->marks = marks == MAP_FAILED ? NULL : marks;
    if (v->marks)
        (void)madvise(v->marks, marks_bytes(v), MADV_HUGEPAGE); /* most of it will be taken, in order */
    v->known = calloc(v->words, sizeof *v->known);
    if (v->marks && v->known)
        return WH_OK;
    (void)wh_ramview_remember(v, 0);
    return WH_E_NOMEM;
}

bool wh_view_knows(const wh_ramview *v, uint64_t pfn)
{
    return v->known && v->known[pfn / 64] >> pfn % 64 & 1;
}

void wh_view_forget(wh_ramview *v, uint64_t pfn, uint64_t count)
{
    for (; v->known && count; count--, pfn++) {
        v->may_keep += v->known[pfn / 64] >> pfn % 64 & 1;
        v->known[pfn / 64] &= ~(1ull << pfn % 64);
    }
}

static void put_fill(wh_writer *w, uint64_t pfn, uint64_t count, uint64_t word)
{
    if (!word) {
        wh_batch_put(w, pfn, count, NULL);
        return;
    }
    wh_put_array(w, 3);
    wh_put_uint(w, pfn);
    wh_put_uint(w, count);
    wh_put_uint(w, word);
}

static void put_bytes(wh_writer *w, uint64_t pfn, const uint8_t *data, size_t len)
{
    wh_put_array(w, 3);
    wh_put_uint(w, pfn);
    wh_put_uint(w, 1);
    wh_put_bin(w, data, len);
}

/* The guest may be writing: what goes out is what is marked, never the page itself. False: nothing changed. */
static bool put_page(wh_ramview *v, wh_writer *w, uint64_t pfn)
{
    const uint8_t *page = v->host + (pfn << WH_PAGE_SHIFT);
    uint64_t *marks = v->marks ? v->marks + pfn * WH_MARKS : NULL, bit = 1ull << pfn % 64;
    if (marks && v->known[pfn / 64] & bit) {
        uint8_t now[WH_PAGE_SIZE], delta[WH_DELTA_MAX];
        memcpy(now, page, sizeof now);
        size_t len = wh_delta_make(&v->key, marks, now, delta);
        if (len)
            put_bytes(w, pfn, len == SIZE_MAX ? now : delta, len == SIZE_MAX ? WH_PAGE_SIZE : len);
        return len != 0;
    }
    if (wh_ask_put(v, w, pfn)) {
        if (marks && v->may_keep) { /* they were made when it was asked for */
            v->may_keep--;
            v->known[pfn / 64] |= bit;
        }
        return true;
    }
    if (v->found && v->found[pfn]) {
        uint8_t now[WH_PAGE_SIZE];
        memcpy(now, page, sizeof now);
        if (wh_files_name(v, w, pfn, now)) {
            if (marks && v->may_keep) {
                v->may_keep--;
                v->known[pfn / 64] |= bit;
                wh_delta_mark(&v->key, now, marks);
            }
            return true;
        }
    }
    put_bytes(w, pfn, page, WH_PAGE_SIZE);
    if (marks && v->may_keep && !w->status) {
        v->may_keep--;
        v->known[pfn / 64] |= bit;
        wh_delta_mark(&v->key, w->data + w->len - WH_PAGE_SIZE, marks);
    }
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
    uint32_t entries = 0;
    uint64_t pfn = wh_view_next_set(v, v->cursor);
    while (pfn < v->pages && cap - w.len >= WH_ENTRY_MAX) {
        uint64_t word, next;
        if (reads_filled(v, pfn, &word)) {
            uint64_t first = pfn;
            do
                take_bit(v, pfn++);
            while (pfn < v->pages && wh_view_next_set(v, pfn) == pfn && reads_filled(v, pfn, &next) && next == word);
            put_fill(&w, first, pfn - first, word);
            wh_view_forget(v, first, pfn - first);
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
