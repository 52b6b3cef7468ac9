/* Sites: what translated code looks into first (jit/x86/site.c fills it, from the TLB).
 *
 * Two kinds of look. A place in code that goes to the same page most times has a slot of its own, at a constant
 * address: the guest's address takes part in nothing but a comparison, and the access does not wait for it. Other
 * places, and all of the kernel, find entries by the number of the page.
 *
 * Neither has context numbers in its tags, so that a look is short. Instead a set of entries belongs to an address
 * space and a mode: it is emptied when it gets another one, and with every entry that is taken out of the TLB. User
 * mode has a few sets, so that processes that take turns keep theirs; S without SUM has one number for all address
 * spaces, mostly (tlb.c). What is to be emptied, or searched for a page, is known by chunks: bits that are set when
 * something is put there, and cleared when it is looked through. */
#include "mmu/mmu.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CHUNKS = 2 * WH_SITES / WH_SITE_CHUNK, PAGE_CHUNKS = 2 * WH_TLB_ENTRIES / WH_SITE_PAGE_CHUNK };
_Static_assert(CHUNKS == 64 && PAGE_CHUNKS == 64, "a bit each");

/* A place is watched for so many looks; if more than MOVES of them are to another page than the one before, it is
 * restless: filling a slot, and the branch that is mispredicted then, cost some ten times what a hit saves. Quiet ones
 * are left alone, each time for twice as many fills. */
enum { LOOKS = 32, MOVES = 10, GRADES = 6 };

static unsigned bucket_of(uint64_t va)
{
    return (unsigned)(va >> WH_PAGE_SHIFT) % WH_SITE_BUCKETS;
}

static void clear_slots(wh_tlb_entry *e, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        e[i].tag = WH_SITE_NONE;
}

static void clear_pages(uint64_t *tag, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        tag[i] = WH_SITE_NONE;
}

/* From this chunk on, of both kinds. */
static void empty_from(wh_sites *s, unsigned first)
{
    const uint64_t these = UINT64_MAX << first;
    uint64_t slots = 0;
    for (uint64_t left = s->pages_used & these; left != 0; left &= left - 1)
        clear_pages(&s->page_tag[(unsigned)__builtin_ctzll(left) * WH_SITE_PAGE_CHUNK], WH_SITE_PAGE_CHUNK);
    s->pages_used &= ~these;
    for (unsigned i = 0; i < WH_SITE_BUCKETS; i++) {
        slots |= s->holders[i] & these;
        s->holders[i] &= ~these;
    }
    for (; slots != 0; slots &= slots - 1)
        clear_slots(&s->slot[(unsigned)__builtin_ctzll(slots) * WH_SITE_CHUNK], WH_SITE_CHUNK);
}

static void empty(wh_sites *s)
{
    empty_from(s, 0);
    s->context = 0;
}

/* A set's memory is touched when it is used first. */
static void make_ready(wh_sites *s)
{
    clear_pages(s->page_tag, 2 * WH_TLB_ENTRIES);
    clear_slots(s->slot, 2 * WH_SITES);
    for (unsigned slot = 0; slot < 2 * WH_SITES; slot++)
        s->left[slot] = WH_SITE_PATIENCE;
    s->ready = true;
}

bool wh_sites_open(wh_mmu *m)
{
    m->site_sets = calloc(WH_SITE_SETS, sizeof(*m->site_sets));
    if (m->site_sets == NULL)
        return false;
    if (m->load != NULL)
        wh_sites_select(m);
    return true;
}

void wh_sites_close(wh_mmu *m)
{
    free(m->site_sets);
    m->site_sets = m->sites = NULL;
}

/* The one that is of this address space, or the one that was taken longest ago. */
static wh_sites *user_set(wh_mmu *m)
{
    for (unsigned i = 0; i < WH_SITE_USER_SETS; i++) {
        unsigned at = (m->user_set + i) % WH_SITE_USER_SETS;
        if (m->site_sets[at].context == m->data_context) {
            m->user_set = at;
            return &m->site_sets[at];
        }
    }
    m->user_set = (m->user_set + 1) % WH_SITE_USER_SETS;
    return &m->site_sets[m->user_set];
}

void wh_sites_select(wh_mmu *m)
{
    if (m->site_sets == NULL)
        return;
    size_t mode = (size_t)(m->load - m->loads[0]) / WH_TLB_ENTRIES;
    m->sites = mode == WH_TLB_U ? user_set(m) : &m->site_sets[WH_SITE_USER_SETS - 1 + mode];
    if (m->sites->context == m->data_context)
        return;
    if (m->sites->ready)
        empty(m->sites);
    else
        make_ready(m->sites);
    m->sites->context = m->data_context;
}

/* Whether the page is in the chunk or not: afterwards it is not, and the bucket says what else is. */
static void drop_from_chunk(wh_sites *s, unsigned chunk, uint64_t page)
{
    const unsigned bucket = bucket_of(page);
    wh_tlb_entry *slot = &s->slot[chunk * WH_SITE_CHUNK];
    bool others = false;
    for (unsigned i = 0; i < WH_SITE_CHUNK; i++) {
        if (slot[i].tag == page)
            slot[i].tag = WH_SITE_NONE;
        others |= slot[i].tag != WH_SITE_NONE && bucket_of(slot[i].tag) == bucket;
    }
    if (!others)
        s->holders[bucket] &= ~(1ull << chunk);
}

void wh_sites_drop_page(wh_mmu *m, uint64_t va)
{
    const uint64_t page = va & ~(uint64_t)(WH_PAGE_SIZE - 1);
    for (unsigned i = 0; m->site_sets != NULL && i < WH_SITE_SETS; i++) {
        wh_sites *s = &m->site_sets[i];
        uint64_t *load = &s->page_tag[(page >> WH_PAGE_SHIFT) % WH_TLB_ENTRIES], *store = load + WH_TLB_ENTRIES;
        if (*load == page)
            *load = WH_SITE_NONE;
        if (*store == page)
            *store = WH_SITE_NONE;
        for (uint64_t left = s->holders[bucket_of(page)]; left != 0; left &= left - 1)
            drop_from_chunk(s, (unsigned)__builtin_ctzll(left), page);
    }
}

void wh_sites_drop_stores(wh_mmu *m)
{
    for (unsigned i = 0; m->site_sets != NULL && i < WH_SITE_SETS; i++)
        empty_from(&m->site_sets[i], CHUNKS / 2);
}

void wh_sites_drop_odd(wh_mmu *m)
{
    if (m->site_sets != NULL)
        empty(&m->site_sets[WH_SITE_USER_SETS - 1 + WH_TLB_ODD]);
}

void wh_sites_drop_all(wh_mmu *m)
{
    for (unsigned i = 0; m->site_sets != NULL && i < WH_SITE_SETS; i++)
        empty(&m->site_sets[i]);
}

static void give_back(wh_sites *first, const wh_sites *end)
{
    for (wh_sites *s = first; s < end; s++) {
        s->ready = false;
        s->context = s->pages_used = 0;
        memset(s->holders, 0, sizeof(s->holders));
    }
    const uintptr_t page = WH_PAGE_SIZE, from = ((uintptr_t)first + page - 1) & ~(page - 1),
                    to = (uintptr_t)end & ~(page - 1);
    if (from < to)
        (void)madvise((void *)from, to - from, MADV_DONTNEED); /* else it is there still, and as good */
}

void wh_sites_give_back(wh_mmu *m)
{
    if (m->site_sets == NULL)
        return;
    give_back(m->site_sets, m->sites);
    give_back(m->sites + 1, m->site_sets + WH_SITE_SETS);
}

bool wh_sites_watch(wh_mmu *m, uint64_t va)
{
    wh_sites *s = m->sites;
    const uint64_t page = va & ~(uint64_t)(WH_PAGE_SIZE - 1);
    const unsigned slot = m->tired - 1;
    m->tired = 0;
    s->slot[slot].tag = WH_SITE_NONE; /* so that each look comes here; its addend says where the last one was */
    s->moves[slot] += s->looks[slot] != 0 && s->slot[slot].addend != page;
    s->slot[slot].addend = page;
    s->left[slot] = 0;
    if (++s->looks[slot] < LOOKS)
        return false;
    bool restless = s->moves[slot] > MOVES;
    /* Who is restless has no slot from now on; what of it still runs shall not come again. */
    s->left[slot] = restless ? INT16_MAX : (int16_t)(WH_SITE_PATIENCE << s->grade[slot]);
    s->grade[slot] += s->grade[slot] < GRADES;
    s->looks[slot] = s->moves[slot] = 0;
    return restless;
}
