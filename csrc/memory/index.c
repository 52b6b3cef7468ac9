/* The target's index of pages (index.h): filled by one thread, then asked by one and read by another. */
#include "memory/index.h"
#include "memory/extent.h"
#include "memory/pagehash.h"

#include <endian.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READ_PAGES = 64, OWN = WH_INDEX_FILES, NOWHERE };

struct entry { /* a page of a file; its number + 1 stands in `slots` */
    uint8_t name[WH_PAGE_NAME];
    uint32_t file, pfn;
};

struct wh_index {
    wh_page_key key;
    int files[WH_INDEX_FILES];
    uint32_t file_count;
    struct entry *entries;
    uint32_t *slots; /* open addressing by the first bytes of the name, 0: free */
    uint32_t slot_mask;
    uint32_t count, most;
    int own;                 /* the guest's earlier memory; -1: none */
    struct entry *questions; /* what was found for each */
    uint64_t most_asked;
    _Atomic uint64_t asked; /* release behind the questions below it */
};

static void *zeros(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

int wh_index_new(const uint8_t *key, uint64_t most, uint64_t most_asked, wh_index **out)
{
    *out = NULL;
    if (!most || !most_asked || most > WH_INDEX_MOST)
        return WH_E_INVAL;
    wh_index *ix = calloc(1, sizeof *ix);
    if (!ix)
        return WH_E_NOMEM;
    wh_page_key_set(&ix->key, key);
    ix->own = -1;
    ix->most = (uint32_t)most;
    ix->most_asked = most_asked;
    ix->slot_mask = 1;
    while (ix->slot_mask < 2 * most)
        ix->slot_mask <<= 1;
    ix->slot_mask--;
    ix->entries = zeros(most * sizeof *ix->entries);
    ix->slots = zeros(((uint64_t)ix->slot_mask + 1) * sizeof *ix->slots);
    ix->questions = zeros(most_asked * sizeof *ix->questions);
    if (!ix->entries || !ix->slots || !ix->questions) {
        wh_index_free(ix);
        return WH_E_NOMEM;
    }
    *out = ix;
    return WH_OK;
}

void wh_index_free(wh_index *ix)
{
    if (!ix)
        return;
    for (uint32_t i = 0; i < ix->file_count; i++)
        close(ix->files[i]);
    if (ix->own >= 0)
        close(ix->own);
    if (ix->entries)
        munmap(ix->entries, ix->most * sizeof *ix->entries);
    if (ix->slots)
        munmap(ix->slots, ((uint64_t)ix->slot_mask + 1) * sizeof *ix->slots);
    if (ix->questions)
        munmap(ix->questions, ix->most_asked * sizeof *ix->questions);
    free(ix);
}

/* Where the entry of that name is, or would be: never full, there are twice as many slots as entries. */
static uint32_t *slot_of(const wh_index *ix, const uint8_t *name)
{
    uint32_t at;
    memcpy(&at, name, sizeof at); /* as random as the key */
    for (;; at++) {
        uint32_t *slot = &ix->slots[at & ix->slot_mask];
        if (!*slot || memcmp(ix->entries[*slot - 1].name, name, WH_PAGE_NAME) == 0)
            return slot;
    }
}

static void add_page(wh_index *ix, const uint8_t *page, uint64_t pfn)
{
    if (memcmp(page, page + 8, WH_PAGE_SIZE - 8) == 0)
        return; /* zeros and other fills cost less than a question */
    struct entry *e = &ix->entries[ix->count];
    wh_page_name(&ix->key, page, e->name, sizeof e->name);
    uint32_t *slot = slot_of(ix, e->name);
    if (*slot)
        return;
    e->file = ix->file_count - 1;
    e->pfn = (uint32_t)pfn;
    *slot = ++ix->count;
}

/* By reading the file, never through a mapping: a mapped read of a hole would make a page of another guest's memory. */
int wh_index_add(wh_index *ix, int fd, uint64_t *pages)
{
    struct stat st;
    *pages = 0;
    if (ix->file_count == WH_INDEX_FILES || ix->count == ix->most)
        return WH_E_FULL;
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    uint8_t *buf = malloc((size_t)READ_PAGES * WH_PAGE_SIZE);
    if (own < 0 || !buf || fstat(own, &st)) {
        if (own >= 0)
            close(own);
        free(buf);
        return buf ? WH_E_IO : WH_E_NOMEM;
    }
    ix->files[ix->file_count++] = own;
    uint32_t before = ix->count;
    uint64_t all = (uint64_t)st.st_size >> WH_PAGE_SHIFT, first, end;
    for (uint64_t pfn = 0; ix->count < ix->most && wh_extent_next(own, all, pfn, &first, &end);) {
        uint64_t run = end - first < READ_PAGES ? end - first : READ_PAGES;
        ssize_t got = pread(own, buf, (size_t)run << WH_PAGE_SHIFT, (off_t)(first << WH_PAGE_SHIFT));
        if (got < WH_PAGE_SIZE)
            break; /* it was truncated, or the host cannot read it: what was found stays */
        uint64_t have = (uint64_t)got >> WH_PAGE_SHIFT;
        for (uint64_t i = 0; i < have && ix->count < ix->most; i++)
            add_page(ix, buf + (i << WH_PAGE_SHIFT), first + i);
        pfn = first + have;
    }
    free(buf);
    *pages = ix->count - before;
    return WH_OK;
}

uint64_t wh_index_pages(const wh_index *ix)
{
    return ix->count;
}

int wh_index_own(wh_index *ix, int fd)
{
    if (ix->own >= 0)
        return WH_E_STATE;
    ix->own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return ix->own >= 0 ? WH_OK : WH_E_IO;
}

static bool read_as(const wh_index *ix, int fd, const struct entry *e, uint8_t page[WH_PAGE_SIZE])
{
    uint8_t name[WH_PAGE_NAME];
    if (pread(fd, page, WH_PAGE_SIZE, (off_t)((uint64_t)e->pfn << WH_PAGE_SHIFT)) != WH_PAGE_SIZE)
        return false;
    wh_page_name(&ix->key, page, name, sizeof name);
    return memcmp(name, e->name, sizeof name) == 0;
}

/* First where the page would be if the guest had not touched it since. */
static struct entry look(const wh_index *ix, const uint8_t *name, uint32_t pfn)
{
    struct entry e = {.file = OWN, .pfn = pfn};
    uint8_t page[WH_PAGE_SIZE];
    memcpy(e.name, name, sizeof e.name);
    if (ix->own >= 0 && read_as(ix, ix->own, &e, page))
        return e;
    uint32_t found = *slot_of(ix, name);
    e.file = NOWHERE;
    return found ? ix->entries[found - 1] : e;
}

int wh_index_ask(wh_index *ix, const uint8_t *names, const uint8_t *pages, uint64_t count, uint8_t *bitmap,
                 uint64_t *found)
{
    uint64_t asked = atomic_load_explicit(&ix->asked, memory_order_relaxed);
    *found = 0;
    if (count > ix->most_asked - asked)
        return WH_E_INVAL;
    memset(bitmap, 0, (count + 7) / 8);
    for (uint64_t i = 0; i < count; i++) {
        uint32_t pfn;
        memcpy(&pfn, pages + i * sizeof pfn, sizeof pfn);
        struct entry e = ix->questions[asked + i] = look(ix, names + i * WH_PAGE_NAME, le32toh(pfn));
        bitmap[i / 8] |= (uint8_t)((e.file != NOWHERE) << i % 8);
        *found += e.file != NOWHERE;
    }
    atomic_store_explicit(&ix->asked, asked + count, memory_order_release);
    return WH_OK;
}

uint64_t wh_index_asked(const wh_index *ix)
{
    return atomic_load_explicit(&ix->asked, memory_order_acquire);
}

int wh_index_read(const wh_index *ix, uint64_t question, uint8_t page[WH_PAGE_SIZE])
{
    if (question >= wh_index_asked(ix) || ix->questions[question].file == NOWHERE)
        return WH_E_STATE;
    const struct entry *e = &ix->questions[question];
    return read_as(ix, e->file == OWN ? ix->own : ix->files[e->file], e, page) ? WH_OK : WH_E_STATE;
}
