/* The cache of decoded pages: bounded, hashed by physical page, second-chance eviction. Theory: hart.h. */
#include "cpu/hart.h"
#include "memory/live.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

_Static_assert(sizeof(wh_code_page) % sizeof(wh_insn) == 0, "heat has one byte for each 8 of the pages");
enum { HEAT_BYTES = sizeof(wh_code_page) / sizeof(wh_insn) };

static size_t map_bytes(unsigned pages)
{
    return pages * (sizeof(wh_code_page) + HEAT_BYTES);
}

int wh_code_init(wh_code *c, unsigned pages, wh_error *err)
{
    memset(c, 0, sizeof(*c));
    c->buckets = calloc(pages, sizeof(*c->buckets));
    if (c->buckets == NULL)
        return wh_fail(err, WH_E_NOMEM, "code", "no memory for the decode cache");
    void *map =
        mmap(NULL, map_bytes(pages), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        free(c->buckets);
        c->buckets = NULL;
        return wh_fail(err, WH_E_NOMEM, "code", "no memory for the decode cache: %s", strerror(errno));
    }
    c->pages = map;
    c->heat = (uint8_t *)map + pages * sizeof(wh_code_page);
    c->count = pages;
    c->epoch = 1;
    return WH_OK;
}

void wh_code_free(wh_code *c)
{
    if (c->pages != NULL)
        munmap(c->pages, map_bytes(c->count));
    free(c->buckets);
    memset(c, 0, sizeof(*c));
}

/* Anonymous memory that is given back reads as zeros, as at first: slots are filled from the beginning again. */
void wh_code_give_back(wh_hart *h)
{
    wh_code *c = &h->code;
    if (madvise(c->pages, map_bytes(c->count), MADV_DONTNEED) != 0)
        return;
    memset(c->buckets, 0, c->count * sizeof(*c->buckets));
    c->filled = c->hand = 0;
    wh_mmu_drop_decoded(&h->mmu);
}

static void unlink_page(wh_code *c, wh_code_page *page)
{
    uint32_t *at = &c->buckets[page->pfn % c->count], self = (uint32_t)(page - c->pages) + 1;
    while (*at != self)
        at = &c->pages[*at - 1].next;
    *at = page->next;
}

/* A fault for each host page of a slot costs more than all else about a new one; some slots at once, a third. Not for
 * the first ones: an idle guest touches little of each. */
static void populate(wh_code *c, unsigned first)
{
#ifdef MADV_POPULATE_WRITE
    const unsigned batch = c->count / 24;
    if (batch == 0 || first < wh_code_modest(c) || first % batch != 0 || first + batch > c->count)
        return;
    const uintptr_t page = WH_PAGE_SIZE, at = (uintptr_t)&c->pages[first] & ~(page - 1),
                    end = ((uintptr_t)&c->pages[first + batch]) & ~(page - 1);
    (void)madvise((void *)at, end - at, MADV_POPULATE_WRITE); /* as good as it goes */
#else
    (void)c, (void)first;
#endif
}

static wh_code_page *take_slot(wh_hart *h)
{
    wh_code *c = &h->code;
    if (c->filled < c->count) {
        populate(c, c->filled);
        return &c->pages[c->filled++];
    }
    while (c->pages[c->hand].used) {
        c->pages[c->hand].used = 0;
        c->hand = (c->hand + 1) % c->count;
    }
    wh_code_page *page = &c->pages[c->hand];
    c->hand = (c->hand + 1) % c->count;
    unlink_page(c, page);
    memset(page->insn, 0, sizeof(page->insn));
    memset(wh_code_heat(c, page->insn), 0, WH_PAGE_SLOTS);
    wh_mmu_drop_decoded(&h->mmu); /* one of them may lead to this page; and pages in use show themselves anew */
    return page;
}

/* Undecode what changed since the bytes were taken. A 4-byte instruction may begin 2 bytes before a changed word; one
 * or two slots before that may be the first of a pair with it. Those lose their operation only, and keep their
 * operands: their own bytes are unchanged, and they may be the second of a pair themselves. */
static void recheck(wh_code *c, wh_code_page *page, const uint8_t *host)
{
    if (wh_live_same(page->bytes, host, WH_PAGE_SIZE))
        return;
    for (unsigned at = 0; at < WH_PAGE_SIZE; at += 8) {
        if (wh_live_same(page->bytes + at, host + at, 8))
            continue;
        wh_live_copy(page->bytes + at, host + at, 8);
        unsigned slot = at / 2, first = slot == 0 ? 0 : slot - 1;
        memset(&page->insn[first], 0, (slot + 4 - first) * sizeof(wh_insn));
        memset(wh_code_heat(c, &page->insn[first]), 0, slot + 4 - first);
        if (slot != 0)
            page->insn[slot - 2].op = page->insn[slot - 3].op = WH_OP_UNDECODED;
    }
}

wh_code_page *wh_code_get(wh_hart *h, uint64_t pa, const uint8_t *host)
{
    wh_code *c = &h->code;
    uint64_t pfn = pa >> WH_PAGE_SHIFT;
    for (uint32_t at = c->buckets[pfn % c->count]; at != 0; at = c->pages[at - 1].next) {
        wh_code_page *page = &c->pages[at - 1];
        if (page->pfn != pfn)
            continue;
        page->used = 1;
        if (page->checked != c->epoch) {
            recheck(c, page, host);
            page->checked = c->epoch;
        }
        return page;
    }
    wh_code_page *page = take_slot(h);
    page->pfn = pfn;
    page->isa = h->isa;
    page->checked = c->epoch;
    page->used = 1;
    page->next = c->buckets[pfn % c->count];
    c->buckets[pfn % c->count] = (uint32_t)(page - c->pages) + 1;
    wh_live_copy(page->bytes, host, WH_PAGE_SIZE);
    page->insn[WH_PAGE_SLOTS].op = page->insn[WH_PAGE_SLOTS + 1].op = WH_OP_PAGE_END;
    if (h->engine->page_decoded != NULL)
        h->engine->page_decoded(h, page);
    return page;
}

/* Either order of decoding makes the pair. The second may be the first of a pair of its own already: then this one
 * stays single, for the pair's operation no longer says what the instruction alone is. */
static void pair_up(wh_code_page *page, unsigned first, unsigned second)
{
    if (page->insn[first].op == WH_OP_UNDECODED || page->insn[second].op == WH_OP_UNDECODED)
        return; /* most often */
    unsigned op = wh_pair(page->insn[first].op, page->insn[second].op, 2 * (second - first));
    if (op != 0)
        page->insn[first].op = (uint16_t)op;
}

void wh_code_decode(wh_code_page *page, unsigned slot)
{
    uint16_t low;
    uint32_t bits;
    memcpy(&low, page->bytes + 2 * slot, 2);
    if ((low & 3) == 3) {
        if (slot == WH_PAGE_SLOTS - 1) {
            page->insn[slot] = (wh_insn){.op = WH_OP_SPLIT};
            return;
        }
        memcpy(&bits, page->bytes + 2 * slot, 4);
    } else {
        bits = low;
    }
    unsigned length = wh_decode_for(page->isa, bits, 2 * slot, &page->insn[slot]);
    pair_up(page, slot, slot + length / 2);
    if (slot >= 1)
        pair_up(page, slot - 1, slot);
    if (slot >= 2)
        pair_up(page, slot - 2, slot);
}
