/* Pages that stand in a file of the guest's image: named, not sent.
 *
 * Both ends have the files, which are the same by their SHA-256 (the caller's word). Linux keeps its own code as the
 * kernel's file has it, page by page; what it unpacked of an initial RAM disk stands in the archive at any multiple of
 * four bytes. So the source looks once where its pages stand: a filter of two words out of the middle of each page, and
 * every such place of the files against it. That is a hint, nothing more: a page is named when the bytes that would
 * have gone are the file's at that moment, compared one by one. The name carries a check of them, which the target
 * compares with what it reads: a file that was damaged there is told, and never becomes memory. */
#include "memory/delta.h"
#include "memory/view.h"
#include "state/state.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MIDDLE = WH_PAGE_SIZE / 2, CHUNK = 1 << 20, FILTER_BITS = 1 << 20 };
#define FOUND(file, offset) (((uint64_t)(file) + 1) << 56 | (offset))

void wh_files_close(wh_ramview *v)
{
    for (uint32_t i = 0; i < v->file_count; i++)
        close(v->files[i].fd);
    v->file_count = 0;
    free(v->found);
    free(v->bounce);
    v->found = NULL;
    v->bounce = NULL;
}

int wh_ramview_files(wh_ramview *v, const int *fds, uint32_t count)
{
    wh_files_close(v);
    if (count > WH_FILES)
        return WH_E_INVAL;
    for (uint32_t i = 0; i < count; i++) {
        struct stat st;
        int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
        if (fd < 0 || fstat(fd, &st)) {
            if (fd >= 0)
                close(fd);
            wh_files_close(v);
            return WH_E_IO;
        }
        v->files[v->file_count++] = (struct wh_view_file){fd, (uint64_t)st.st_size};
    }
    return WH_OK;
}

static uint64_t check_of(const uint8_t *page)
{
    static const wh_delta_key key = {
        {0x9e3779b97f4a7c15ull, 0xc2b2ae3d27d4eb4full, 0x165667b19e3779f9ull, 0xd6e8feb86659fd93ull}};
    uint64_t marks[WH_MARKS], sum = 0;
    wh_delta_mark(&key, page, marks);
    for (unsigned i = 0; i < WH_MARKS; i++)
        sum = (sum << 9 | sum >> 55) + marks[i];
    return sum;
}

/* -- where the pages of a running guest stand */

struct search {
    uint64_t *filter;       /* a bit for each key, modulo FILTER_BITS */
    uint32_t *first, *next; /* chains of pages by key, + 1 */
    uint32_t chains;        /* a power of two */
};

static uint64_t key_at(const uint8_t *middle)
{
    uint64_t a, b;
    memcpy(&a, middle, 8);
    memcpy(&b, middle + 8, 8);
    a = (a ^ (b << 32 | b >> 32)) * 0x9e3779b97f4a7c15ull;
    return a ^ a >> 29;
}

static bool in_filter(const struct search *s, uint64_t key)
{
    return s->filter[key % FILTER_BITS / 64] >> key % 64 & 1;
}

static void add_page(wh_ramview *v, struct search *s, uint64_t pfn)
{
    const uint8_t *page = v->host + (pfn << WH_PAGE_SHIFT);
    if (memcmp(page + MIDDLE, page + MIDDLE + 8, 8) == 0)
        return; /* zeros, mostly: they are everywhere, and would be looked at everywhere */
    uint64_t key = key_at(page + MIDDLE);
    uint32_t *chain = &s->first[(key >> 32) & (s->chains - 1)];
    s->filter[key % FILTER_BITS / 64] |= 1ull << key % 64;
    s->next[pfn] = *chain;
    *chain = (uint32_t)pfn + 1;
}

/* Pages whose middle is this one. The guest may be writing: what is found is compared again when it is named. */
static void look(wh_ramview *v, const struct search *s, const uint8_t *at, uint64_t found)
{
    uint64_t key = key_at(at + MIDDLE);
    unsigned most = 16; /* pages that look alike in the middle are not worth more */
    for (uint32_t p = s->first[(key >> 32) & (s->chains - 1)]; p && most; p = s->next[p - 1], most--)
        if (!v->found[p - 1] && memcmp(v->host + ((uint64_t)(p - 1) << WH_PAGE_SHIFT), at, WH_PAGE_SIZE) == 0)
            v->found[p - 1] = found;
}

static uint64_t step_of(const uint8_t *start)
{
    static const char cpio[] = "070701"; /* its files begin at any multiple of four */
    return memcmp(start, cpio, sizeof cpio - 1) == 0 ? 4 : WH_PAGE_SIZE;
}

static int search_file(wh_ramview *v, const struct search *s, uint32_t file, uint8_t *buf)
{
    uint64_t base = 0, step = 0;
    for (;;) { /* chunks that overlap by a page */
        ssize_t got = pread(v->files[file].fd, buf, CHUNK, (off_t)base);
        if (got < 0)
            return WH_E_IO;
        if (got < WH_PAGE_SIZE)
            return WH_OK;
        step = step ? step : step_of(buf);
        uint64_t places = (uint64_t)got - WH_PAGE_SIZE + 1;
        for (uint64_t at = 0; at < places; at += step)
            if (WH_UNLIKELY(in_filter(s, key_at(buf + at + MIDDLE))))
                look(v, s, buf + at, FOUND(file, base + at));
        base += (places + step - 1) / step * step;
    }
}

static int search_all(wh_ramview *v, struct search *s, uint8_t *buf)
{
    uint64_t first, end;
    for (uint64_t pfn = 0; wh_extent_next(v->ram_fd, v->pages, pfn, &first, &end); pfn = end)
        for (uint64_t p = first; p < end; p++)
            add_page(v, s, p);
    int status = WH_OK;
    for (uint32_t i = 0; i < v->file_count && !status; i++)
        status = search_file(v, s, i, buf);
    return status;
}

int wh_ramview_find(wh_ramview *v, uint64_t *pages)
{
    *pages = 0;
    free(v->found);
    v->found = NULL;
    struct search s = {.chains = 1u << 16};
    s.filter = calloc(FILTER_BITS / 64, sizeof *s.filter);
    s.first = calloc(s.chains, sizeof *s.first);
    s.next = calloc(v->pages, sizeof *s.next);
    uint8_t *buf = malloc(CHUNK);
    v->found = calloc(v->pages, sizeof *v->found);
    int status = WH_E_NOMEM;
    if (s.filter && s.first && s.next && buf && v->found && v->pages < UINT32_MAX)
        status = wh_ramview_absent(v) ? WH_E_STATE : search_all(v, &s, buf);
    free(s.filter);
    free(s.first);
    free(s.next);
    free(buf);
    if (status) {
        free(v->found);
        v->found = NULL;
        return status;
    }
    for (uint64_t pfn = 0; pfn < v->pages; pfn++)
        *pages += v->found[pfn] != 0;
    return WH_OK;
}

/* -- names */

static bool read_page(const wh_ramview *v, uint64_t file, uint64_t offset, uint8_t page[WH_PAGE_SIZE])
{
    return pread(v->files[file].fd, page, WH_PAGE_SIZE, (off_t)offset) == WH_PAGE_SIZE;
}

bool wh_files_name(wh_ramview *v, wh_writer *w, uint64_t pfn, const uint8_t *page)
{
    if (!v->found || !v->found[pfn])
        return false;
    uint64_t file = (v->found[pfn] >> 56) - 1, offset = v->found[pfn] & ((1ull << 56) - 1);
    v->found[pfn] = 0; /* what is written from now on goes as a delta */
    uint8_t there[WH_PAGE_SIZE];
    if (!read_page(v, file, offset, there) || memcmp(there, page, WH_PAGE_SIZE) != 0)
        return false;
    wh_put_array(w, 3);
    wh_put_uint(w, pfn);
    wh_put_uint(w, 1);
    wh_put_array(w, 3);
    wh_put_uint(w, file);
    wh_put_uint(w, offset);
    wh_put_uint(w, check_of(page));
    return true;
}

int wh_files_read(const wh_ramview *v, const wh_page_entry *e, uint8_t page[WH_PAGE_SIZE])
{
    return read_page(v, e->file, e->offset, page) && check_of(page) == e->check ? WH_OK : WH_E_STATE;
}
