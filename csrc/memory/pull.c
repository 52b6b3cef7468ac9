/* Post-copy seen from the agents: the source hands out pages of a guest that stands still, the target places them under
 * a guest that runs. How the guest's threads wait: memory.h.
 *
 * Source: the round set is what the other end lacks. What is asked for goes first, with the pages behind it, and what
 * nobody asked for goes on from there: guests touch neighbours next. Sent pages leave the set; when a connection broke,
 * the target says anew what it lacks (wh_ramview_owe), for what was on the way is gone.
 *
 * Target: a page is placed only while it is absent, for the guest may have written it since. One process brings pages
 * at a time; one that died in the middle has left the page absent or the count too high, which wh_ramview_pull_begin
 * puts right. */
#include "memory/view.h"
#include "state/state.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t last_word_mask(const wh_ramview *v)
{
    return v->pages % 64 ? (1ull << v->pages % 64) - 1 : ~0ull;
}

/* ---- source */

int wh_ramview_left(wh_ramview *v, uint8_t *bitmap, size_t len)
{
    if (len != v->words * sizeof *v->set)
        return WH_E_INVAL;
    memcpy(bitmap, v->set, len);
    return WH_OK;
}

int wh_ramview_owe(wh_ramview *v, const uint8_t *bitmap, size_t len, wh_error *err)
{
    if (len != v->words * sizeof *v->set)
        return wh_fail(err, WH_E_FORMAT, "bitmap", "%zu bytes, memory has %zu", len, v->words * sizeof *v->set);
    memcpy(v->set, bitmap, len);
    v->set[v->words - 1] &= last_word_mask(v);
    v->left = v->cursor = v->push = 0;
    for (uint64_t i = 0; i < v->words; i++)
        v->left += (uint64_t)__builtin_popcountll(v->set[i]);
    return WH_OK;
}

int wh_ramview_first(wh_ramview *v, uint32_t class, const uint8_t *bitmap, size_t len, wh_error *err)
{
    if (class >= WH_FIRSTS || len != v->words * sizeof *v->set)
        return wh_fail(err, WH_E_FORMAT, "bitmap", "class %u, %zu bytes", class, len);
    if (!v->likely[class] && !(v->likely[class] = malloc(len)))
        return wh_fail(err, WH_E_NOMEM, "bitmap", "no memory for %zu bytes", len);
    memcpy(v->likely[class], bitmap, len);
    return WH_OK;
}

struct serving {
    wh_ramview *v;
    wh_writer w;
    uint32_t entries;
    size_t cap;
    wh_batch_info *out;
};

static bool in_set(const wh_ramview *v, uint64_t pfn)
{
    return pfn < v->pages && (v->set[pfn / 64] >> pfn % 64 & 1);
}

/* A run from pfn on, most pages at most; returns where it ends. Zeros cost nothing, so that they end no run. Holes of
 * the file are not looked for, which takes long: the set had none when it was made. */
static uint64_t serve_run(struct serving *s, uint64_t pfn, uint64_t most)
{
    wh_ramview *v = s->v;
    while (most && in_set(v, pfn) && s->cap - s->w.len >= WH_ENTRY_MAX) {
        uint64_t first = pfn;
        while (in_set(v, pfn) && wh_page_is_zero(v->host + (pfn << WH_PAGE_SHIFT))) {
            v->set[pfn / 64] &= ~(1ull << pfn % 64);
            pfn++;
        }
        if (pfn > first) {
            wh_batch_put(&s->w, first, pfn - first, NULL);
            s->out->zero_pages += pfn - first;
            v->left -= pfn - first;
        } else {
            v->set[pfn / 64] &= ~(1ull << pfn % 64);
            wh_batch_put(&s->w, pfn, 1, v->host + (pfn << WH_PAGE_SHIFT));
            s->out->data_pages++;
            v->left--;
            pfn++;
            most--;
        }
        s->entries++;
    }
    return pfn;
}

/* Each is looked at once: its bit goes, whether it is still owed or not. */
static void serve_first(struct serving *s, uint64_t *first, uint64_t most)
{
    wh_ramview *v = s->v;
    for (uint64_t i = 0; i < v->words && s->out->data_pages < most; i++)
        for (; first[i] && s->out->data_pages < most && s->cap - s->w.len >= WH_ENTRY_MAX; first[i] &= first[i] - 1)
            (void)serve_run(s, i * 64 + (uint64_t)__builtin_ctzll(first[i]), 1);
}

/* Pages that a running guest has written are there, whatever else is not. */
static bool lacks_of_set(const wh_ramview *v)
{
    const _Atomic uint64_t *absent = wh_share_absent(v->share, v->pages);
    if (!atomic_load_explicit(&v->share->absent_pages, memory_order_acquire))
        return false;
    for (uint64_t i = 0; i < v->words; i++)
        if (atomic_load_explicit(&absent[i], memory_order_acquire) & v->set[i])
            return true;
    return false;
}

int wh_ramview_serve(wh_ramview *v, const uint64_t *wanted, uint32_t count, uint32_t most, uint32_t classes,
                     uint8_t *buf, size_t cap, wh_batch_info *out)
{
    memset(out, 0, sizeof *out);
    if (cap < 8192 || !most)
        return WH_E_INVAL;
    int status = lacks_of_set(v) ? wh_view_wait_present(v) : WH_OK;
    if (status)
        return status;
    struct serving s = {.v = v, .cap = cap, .out = out};
    wh_writer_fixed(&s.w, buf, cap);
    s.w.len = WH_BATCH_HEADER;
    for (uint32_t i = 0; i < count; i++)
        if (in_set(v, wanted[i]))
            v->push = serve_run(&s, wanted[i], most);
    for (unsigned c = 0; !count && c < WH_FIRSTS && c < classes; c++)
        if (v->likely[c])
            serve_first(&s, v->likely[c], most);
    while (!count && classes > WH_FIRSTS && v->left && out->data_pages < most && cap - s.w.len >= WH_ENTRY_MAX) {
        uint64_t pfn = wh_view_next_set(v, v->push);
        v->push = pfn < v->pages ? serve_run(&s, pfn, most - out->data_pages) : 0;
    }
    wh_batch_put_count(buf, s.entries);
    out->bytes = s.w.len;
    out->more = v->left != 0;
    return s.w.status;
}

/* ---- target */

int wh_ramview_pull_begin(wh_ramview *v, uint8_t *bitmap, size_t len, uint64_t *absent)
{
    const _Atomic uint64_t *bits = wh_share_absent(v->share, v->pages);
    if (len != v->words * sizeof *v->set)
        return WH_E_INVAL;
    if (!v->asked && !(v->asked = calloc(v->words, sizeof *v->asked)))
        return WH_E_NOMEM;
    memset(v->asked, 0, v->words * sizeof *v->asked);
    *absent = 0;
    for (uint64_t i = 0; i < v->words; i++) {
        uint64_t word = atomic_load_explicit(&bits[i], memory_order_relaxed);
        word &= i + 1 == v->words ? last_word_mask(v) : ~0ull;
        memcpy(bitmap + i * sizeof word, &word, sizeof word);
        *absent += (uint64_t)__builtin_popcountll(word);
    }
    atomic_store(&v->share->absent_pages, *absent);
    return WH_OK;
}

int wh_ramview_wanted(wh_ramview *v, uint64_t *pages, uint32_t cap, uint32_t *count)
{
    const _Atomic uint64_t *absent = wh_share_absent(v->share, v->pages), *wanted = wh_share_wanted(v->share, v->pages);
    *count = 0;
    if (!v->asked)
        return WH_E_STATE;
    for (uint64_t i = 0; i < v->words; i++) {
        uint64_t bits = atomic_load(&wanted[i]) & ~v->asked[i];
        if (!bits)
            continue;
        bits &= atomic_load(&absent[i]) & (i + 1 == v->words ? last_word_mask(v) : ~0ull);
        for (; bits && *count < cap; bits &= bits - 1) {
            pages[(*count)++] = i * 64 + (uint64_t)__builtin_ctzll(bits);
            v->asked[i] |= bits & -bits;
        }
    }
    return WH_OK;
}

static bool is_absent(_Atomic uint64_t *absent, uint64_t pfn)
{
    return atomic_load_explicit(&absent[pfn / 64], memory_order_relaxed) >> pfn % 64 & 1;
}

static void now_present(_Atomic uint64_t *absent, uint64_t pfn)
{
    atomic_fetch_and_explicit(&absent[pfn / 64], ~(1ull << pfn % 64), memory_order_release);
}

static int place(wh_ramview *v, const wh_page_entry *e, uint64_t *placed)
{
    _Atomic uint64_t *absent = wh_share_absent(v->share, v->pages);
    for (uint64_t pfn = e->pfn; pfn < e->pfn + e->count; pfn++) {
        if (!is_absent(absent, pfn))
            continue;
        /* Through the file: a page that an earlier round had brought is overwritten, a new one is made. */
        if (!e->page && wh_page_put_zero(v, pfn, 1))
            return WH_E_IO;
        if (e->page && pwrite(v->ram_fd, e->page, WH_PAGE_SIZE, (off_t)(pfn << WH_PAGE_SHIFT)) != WH_PAGE_SIZE)
            return WH_E_IO;
        now_present(absent, pfn);
        ++*placed;
    }
    return WH_OK;
}

static void tell(struct wh_share *s, uint64_t placed)
{
    if (!placed)
        return;
    atomic_fetch_sub(&s->absent_pages, placed);
    atomic_fetch_add(&s->arrived, 1);
    if (atomic_load(&s->waiting))
        syscall(SYS_futex, &s->arrived, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

int wh_ramview_place(wh_ramview *v, const uint8_t *buf, size_t len, wh_batch_info *out, wh_error *err)
{
    memset(out, 0, sizeof *out);
    out->bytes = len;
    int status = WH_OK;
    for (int apply = 0; apply < 2 && !status; apply++) { /* as wh_ramview_unpack: a damaged batch changes nothing */
        wh_reader r;
        wh_reader_init(&r, buf, len);
        uint32_t entries = wh_get_array(&r);
        uint64_t placed = 0;
        status = r.status;
        for (uint32_t i = 0; i < entries && !status; i++) {
            wh_page_entry e;
            status = wh_batch_get(v, &r, &e);
            if (!status && (e.fill || e.from_file || e.asked || (e.page && e.len != WH_PAGE_SIZE)))
                status = WH_E_FORMAT; /* nothing is here that it could change, and no fills are sent here */
            if (status || !apply)
                continue;
            *(e.page ? &out->data_pages : &out->zero_pages) += e.count;
            status = place(v, &e, &placed);
        }
        tell(v->share, placed);
        if (!status && r.p != r.end)
            status = WH_E_FORMAT;
    }
    out->more = atomic_load(&v->share->absent_pages) != 0;
    if (status == WH_E_IO)
        return wh_fail(err, status, "pages", "the host refused: %s", strerror(errno));
    return status ? wh_fail(err, WH_E_FORMAT, "pages", "damaged batch of %zu bytes", len) : WH_OK;
}
