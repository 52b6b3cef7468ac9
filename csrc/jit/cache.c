/* cache: records of pages and blocks, and making them. Theory: cache.h. */
#include "jit/cache.h"

#include "memory/live.h"

#include <string.h>

/* A page whose code changes at each look is better interpreted for a while. Every look that finds a change counts one
 * up, every other one down; from MAX_CHANGES on nothing is translated, for as many looks. */
enum { MAX_CHANGES = 32 };

static uint32_t hash_of(uint64_t pa)
{
    return (uint32_t)((pa * 0x9e3779b97f4a7c15ull) >> 48);
}

static uint32_t bucket_of(uint64_t pa)
{
    return hash_of(pa) % WH_JIT_BUCKETS;
}

wh_jit_block *wh_jit_find(wh_jit *j, const wh_jit_page *page, uint32_t offset)
{
    uint64_t pa = page->pfn << WH_PAGE_SHIFT | offset;
    uint32_t ref = atomic_load_explicit(&j->bucket[bucket_of(pa)], memory_order_acquire);
    while (ref != 0) {
        wh_jit_block *b = wh_jit_at(j, ref);
        if (b->pa == pa && !atomic_load_explicit(&b->dead, memory_order_acquire))
            return b;
        ref = atomic_load_explicit(&b->next, memory_order_acquire);
    }
    return NULL;
}

static bool unchanged(const wh_jit_block *b, const uint8_t *host)
{
    const uint8_t *bytes = (const uint8_t *)&b->segment[b->segments];
    for (unsigned i = 0; i < b->segments; i++) {
        if (!wh_live_same(bytes, host + b->segment[i].at, b->segment[i].length))
            return false;
        bytes += b->segment[i].length;
    }
    return true;
}

/* Lock held. The block is not found any more, and what jumps to it looks its head up again. */
static void retire(wh_jit *j, wh_jit_block *b)
{
    atomic_store_explicit(&b->dead, true, memory_order_release);
    wh_backend_divert(&j->arena, b->code.entry, b->code.stale);
}

/* Lock held. */
static void recheck(wh_jit *j, wh_jit_page *page, const uint8_t *host)
{
    bool changed = false;
    for (uint32_t ref = page->blocks; ref != 0;) {
        wh_jit_block *b = wh_jit_at(j, ref);
        ref = b->page_next;
        if (atomic_load_explicit(&b->dead, memory_order_relaxed) || unchanged(b, host))
            continue;
        retire(j, b);
        j->discarded++;
        changed = true;
    }
    for (uint32_t ref = page->tails; ref != 0;) {
        wh_jit_block *b = wh_jit_at(j, ref);
        ref = b->tail_next;
        if (atomic_load_explicit(&b->dead, memory_order_relaxed) || wh_live_same(b->tail, host, sizeof(b->tail)))
            continue;
        retire(j, b);
        j->discarded++;
    }
    if (changed)
        page->changes = page->changes + 1 < MAX_CHANGES ? page->changes + 1 : 2 * MAX_CHANGES;
    else if (page->changes != 0)
        page->changes--;
}

/* Lock held. A new one counts as looked at in this epoch. */
static wh_jit_page *page_record(wh_jit *j, uint64_t pfn, uint64_t epoch)
{
    uint32_t *head = &j->page_bucket[pfn % WH_JIT_PAGE_BUCKETS];
    for (uint32_t ref = *head; ref != 0;) {
        wh_jit_page *page = wh_jit_at(j, ref);
        if (page->pfn == pfn)
            return page;
        ref = page->next;
    }
    wh_jit_page *page = wh_jit_record(j, sizeof(*page));
    if (page == NULL)
        return NULL;
    *page = (wh_jit_page){.pfn = pfn, .checked = epoch, .next = *head};
    *head = wh_jit_ref(j, page);
    return page;
}

wh_jit_page *wh_jit_page_in_slot(const wh_hart *h, uint64_t va)
{
    const wh_tlb_entry *e = wh_mmu_code_slot(&h->mmu, va);
    bool here = e->tag == ((va >> WH_PAGE_SHIFT) | h->mmu.fetch_context);
    return here ? (wh_jit_page *)(uintptr_t)e->addend : NULL;
}

wh_jit_page *wh_jit_enter_page(wh_hart *h, uint64_t va, int *status)
{
    wh_jit *j = h->env.jit;
    uint64_t pa;
    uint8_t *host;
    bool whole;
    *status = wh_mmu_fetch(&h->mmu, va, 2, &pa, &host, &whole);
    if (*status != 0) {
        h->trap_value = va;
        return NULL;
    }
    if (!whole)
        return NULL;
    pthread_mutex_lock(&j->lock);
    uint64_t epoch = atomic_load(&j->epoch);
    wh_jit_page *page = page_record(j, pa >> WH_PAGE_SHIFT, epoch);
    if (page != NULL && page->checked != epoch) {
        recheck(j, page, host - (pa & (WH_PAGE_SIZE - 1)));
        page->checked = epoch;
    }
    pthread_mutex_unlock(&j->lock);
    if (page != NULL)
        *wh_mmu_code_slot(&h->mmu, va) =
            (wh_tlb_entry){.tag = (va >> WH_PAGE_SHIFT) | h->mmu.fetch_context, .addend = (uintptr_t)page};
    return page;
}

struct site {
    wh_jit *jit;
    wh_jit_page *page;
    uint32_t older; /* than this reference; 0: any (records grow downward) */
};
static bool known(void *ctx, uint32_t offset)
{
    const struct site *s = ctx;
    const wh_jit_block *b = wh_jit_find(s->jit, s->page, offset);
    return b != NULL && wh_jit_ref(s->jit, b) > s->older;
}

/* The guest bytes of a block in its head's page as runs, in trace order. */
static unsigned find_segments(const wh_jit_ir *ir, wh_jit_segment *out)
{
    unsigned n = 0;
    for (unsigned i = 0; i < ir->count; i++) {
        const wh_jit_op *o = &ir->op[i];
        uint16_t length = o->flags & WH_JIT_SPLIT ? 2 : o->length;
        if (n != 0 && out[n - 1].at + out[n - 1].length == o->at)
            out[n - 1].length = (uint16_t)(out[n - 1].length + length);
        else
            out[n++] = (wh_jit_segment){.at = o->at, .length = length};
    }
    return n;
}

static wh_jit_block *new_block(wh_jit *j, wh_jit_page *page, const wh_jit_ir *ir, const uint8_t *bytes)
{
    wh_jit_segment segments[WH_JIT_MAX_OPS];
    unsigned n = find_segments(ir, segments);
    size_t length = 0;
    for (unsigned i = 0; i < n; i++)
        length += segments[i].length;
    wh_jit_block *b = wh_jit_record(j, sizeof(*b) + n * sizeof(*segments) + length);
    if (b == NULL)
        return NULL;
    memset(b, 0, sizeof(*b));
    b->pa = page->pfn << WH_PAGE_SHIFT | ir->op[0].at;
    b->segments = (uint16_t)n;
    memcpy(b->segment, segments, n * sizeof(*segments));
    uint8_t *to = (uint8_t *)&b->segment[n];
    for (unsigned i = 0; i < n; i++) {
        memcpy(to, bytes + segments[i].at, segments[i].length);
        to += segments[i].length;
    }
    return b;
}

/* Lock held: b takes the place of dead blocks with the same head. */
static void publish(wh_jit *j, wh_jit_page *page, wh_jit_block *b)
{
    for (uint32_t *at = &page->blocks; *at != 0;) {
        wh_jit_block *old = wh_jit_at(j, *at);
        if (old->pa == b->pa) {
            wh_backend_divert(&j->arena, old->code.entry, b->code.entry);
            *at = old->page_next;
        } else {
            at = &old->page_next;
        }
    }
    b->page_next = page->blocks;
    page->blocks = wh_jit_ref(j, b);
    _Atomic uint32_t *head = &j->bucket[bucket_of(b->pa)];
    atomic_store_explicit(&b->next, atomic_load_explicit(head, memory_order_relaxed), memory_order_relaxed);
    atomic_store_explicit(head, wh_jit_ref(j, b), memory_order_release);
}

/* Lock held. Of the address of an instruction. */
static bool is_restless(const wh_jit *j, uint64_t pa)
{
    const uint32_t bit = hash_of(pa) % WH_JIT_RESTLESS;
    return j->restless[bit / 64] >> bit % 64 & 1;
}

/* Lock held. */
static void choose_looks(const wh_jit *j, const wh_jit_page *page, wh_jit_ir *ir, bool user)
{
    for (unsigned i = 0; i < ir->count; i++)
        if (!user || is_restless(j, page->pfn << WH_PAGE_SHIFT | ir->op[i].at))
            ir->op[i].flags |= WH_JIT_BY_PAGE;
}

/* Lock held. */
static void add_tail(wh_jit *j, wh_jit_page *next, wh_jit_block *b, const uint8_t *bytes)
{
    memcpy(b->tail, bytes + WH_PAGE_SIZE, sizeof(b->tail));
    b->tail_next = next->tails;
    next->tails = wh_jit_ref(j, b);
}

/* What to translate: the head, the virtual page behind its own (NULL: not to be had), for user mode or not; a block
 * whose place it takes, for a reason that does not change its shape (0: none). */
struct wanted {
    wh_jit_page *page, *next;
    uint32_t offset;
    bool user;
    uint32_t again;
};

/* Lock held. */
static wh_jit_block *make(const wh_hart *h, const struct wanted *w, const uint8_t *bytes)
{
    wh_jit *j = h->env.jit;
    wh_jit_ir ir;
    wh_jit_page *page = w->page;
    struct site site = {j, page, w->again};
    wh_jit_block *b = wh_jit_find(j, page, w->offset);
    bool split = wh_jit_is_split(bytes, w->offset);
    if (b != NULL || page->changes >= MAX_CHANGES || (split && w->next == NULL))
        return b;
    wh_jit_form(&ir, h->isa, bytes, w->offset, known, &site);
    ir.plain_atomics = h->env.ram->plain_atomics;
    choose_looks(j, page, &ir, w->user);
    ir.next_page = (uintptr_t)w->next;
    b = new_block(j, page, &ir, bytes);
    if (b == NULL)
        return NULL;
    b->user = w->user;
    if (!wh_backend_translate(&j->arena, &ir, wh_jit_ref(j, page), &b->code)) {
        atomic_store(&j->full, true);
        return NULL;
    }
    publish(j, page, b);
    if (split)
        add_tail(j, w->next, b, bytes);
    j->blocks++;
    j->instructions += ir.count;
    return b;
}

wh_jit_block *wh_jit_make(wh_hart *h, wh_jit_page *page, wh_jit_page *next, uint32_t offset)
{
    wh_jit *j = h->env.jit;
    uint8_t bytes[WH_JIT_LOOK] = {0}; /* the guest may be writing: one look for everything */
    const uint8_t *host = wh_ram_at(h->env.ram, page->pfn << WH_PAGE_SHIFT, WH_PAGE_SIZE);
    const uint8_t *behind = next != NULL ? wh_ram_at(h->env.ram, next->pfn << WH_PAGE_SHIFT, WH_PAGE_SIZE) : NULL;
    if (host == NULL)
        return NULL;
    pthread_mutex_lock(&j->lock); /* before the look: whoever fences after it finds the block and compares */
    wh_live_copy(bytes, host, WH_PAGE_SIZE);
    if (behind != NULL)
        wh_live_copy(bytes + WH_PAGE_SIZE, behind, 2);
    struct wanted w = {page, behind != NULL ? next : NULL, offset, h->priv == WH_PRIV_U || j->slots_everywhere, 0};
    wh_jit_block *b = j->full ? NULL : make(h, &w, bytes);
    pthread_mutex_unlock(&j->lock);
    return b;
}

/* No hart stands at pa, so nobody's FENCE.I orders this look at the bytes: a block of a page that was fenced since is
 * not published. One that is published before the fence is compared at the fetch after it. */
bool wh_jit_warm_one(wh_hart *h, uint64_t head)
{
    wh_jit *j = h->env.jit;
    const uint64_t pa = head & ~1ull;
    uint8_t bytes[WH_JIT_LOOK] = {0};
    uint64_t epoch = atomic_load(&j->epoch);
    const uint8_t *host = wh_ram_at(h->env.ram, pa & ~(uint64_t)(WH_PAGE_SIZE - 1), WH_PAGE_SIZE);
    if (host == NULL)
        return true;
    wh_live_copy(bytes, host, WH_PAGE_SIZE);
    pthread_mutex_lock(&j->lock);
    wh_jit_page *page = j->full || epoch != atomic_load(&j->epoch) ? NULL : page_record(j, pa >> WH_PAGE_SHIFT, epoch);
    if (page != NULL)
        (void)make(h, &(struct wanted){page, NULL, (uint32_t)pa & (WH_PAGE_SIZE - 1), head & 1, 0}, bytes);
    bool room = !j->full;
    pthread_mutex_unlock(&j->lock);
    return room;
}

static bool covers(const wh_jit_block *b, uint32_t offset)
{
    for (unsigned i = 0; i < b->segments; i++)
        if (offset >= b->segment[i].at && offset - b->segment[i].at < b->segment[i].length)
            return true;
    return false;
}

/* Lock held. As many as are likely; others are made when they are reached. */
static void remake(wh_hart *h, wh_jit_page *page, uint32_t offset, const uint8_t *bytes)
{
    wh_jit *j = h->env.jit;
    uint32_t old[8];
    unsigned count = 0;
    for (uint32_t ref = page->blocks; ref != 0;) {
        wh_jit_block *b = wh_jit_at(j, ref);
        ref = b->page_next;
        if (atomic_load_explicit(&b->dead, memory_order_relaxed) || !b->user || !covers(b, offset))
            continue;
        retire(j, b);
        if (count < WH_ARRAY_LEN(old))
            old[count++] = wh_jit_ref(j, b);
    }
    for (unsigned i = 0; i < count && !j->full; i++) {
        const wh_jit_block *b = wh_jit_at(j, old[i]);
        j->remade +=
            make(h, &(struct wanted){page, NULL, (uint32_t)b->pa & (WH_PAGE_SIZE - 1), true, old[i]}, bytes) != NULL;
    }
}

/* A place becomes restless once: what is made of it from then on has no slot there, so that nobody asks again. */
void wh_jit_make_restless(wh_hart *h, uint64_t pc)
{
    wh_jit *j = h->env.jit;
    uint8_t bytes[WH_JIT_LOOK] = {0};
    wh_jit_page *page = wh_jit_page_in_slot(h, pc);
    const uint8_t *host = page != NULL ? wh_ram_at(h->env.ram, page->pfn << WH_PAGE_SHIFT, WH_PAGE_SIZE) : NULL;
    if (host == NULL)
        return;
    pthread_mutex_lock(&j->lock);
    wh_live_copy(bytes, host, WH_PAGE_SIZE);
    const uint32_t bit = hash_of(page->pfn << WH_PAGE_SHIFT | (pc & (WH_PAGE_SIZE - 1))) % WH_JIT_RESTLESS;
    j->restless[bit / 64] |= 1ull << bit % 64;
    if (!j->full)
        remake(h, page, (uint32_t)pc & (WH_PAGE_SIZE - 1), bytes);
    pthread_mutex_unlock(&j->lock);
}

void wh_jit_link(wh_hart *h, uint32_t site, uint32_t page_ref, const wh_jit_block *to)
{
    wh_jit *j = h->env.jit;
    pthread_mutex_lock(&j->lock);
    const wh_jit_page *page = wh_jit_at(j, page_ref);
    if (h->code_generation == atomic_load(&j->generation) && to->pa >> WH_PAGE_SHIFT == page->pfn)
        wh_backend_link(&j->arena, site, to->code.entry);
    pthread_mutex_unlock(&j->lock);
}
