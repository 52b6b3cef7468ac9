/* run: the translator as an engine. Cold code runs in the interpreter that counts heat; what is hot is translated; what
 * is translated runs until it leaves. Between two such steps pc, budget and all registers are in the hart. */
#include "jit/cache.h"

#include <sched.h>
#include <stdlib.h>

/* Instructions between two looks at the world: some 10 us of translated code. */
enum { SLICE = 16384 };

static int attach(wh_hart *h, wh_error *err)
{
    h->mmu.jumps = calloc(WH_JUMPS, sizeof(wh_jump));
    if (h->mmu.jumps == NULL || !wh_sites_open(&h->mmu)) {
        free(h->mmu.jumps);
        h->mmu.jumps = NULL;
        return wh_fail(err, WH_E_NOMEM, "engine", "no memory for hart %u", h->id);
    }
    h->slice_length = SLICE;
    wh_jit *j = h->env.jit;
    pthread_mutex_lock(&j->lock);
    j->hart[h->id] = h;
    pthread_mutex_unlock(&j->lock);
    return WH_OK;
}

static void detach(wh_hart *h)
{
    wh_jit *j = h->env.jit;
    pthread_mutex_lock(&j->lock);
    j->hart[h->id] = NULL;
    pthread_mutex_unlock(&j->lock);
    free(h->mmu.jumps);
    wh_sites_close(&h->mmu);
}

static void code_changed(wh_hart *h)
{
    atomic_fetch_add(&h->env.jit->epoch, 1);
    wh_code_expire(h);
}

/* After a reset nothing that the hart remembers leads anywhere. */
static void follow_generation(wh_hart *h)
{
    uint32_t generation = atomic_load_explicit(&h->env.jit->generation, memory_order_acquire);
    if (WH_UNLIKELY(h->code_generation != generation)) {
        wh_mmu_drop_fetches(&h->mmu);
        h->code_generation = generation;
    }
}

/* Records and code may be used between these two: no reset happens. Neither is called with the other's lock held, and
 * nothing that waits for the guest or for a device is done in between. */
static void guard(wh_hart *h)
{
    atomic_store(&h->in_code, 1);
    while (WH_UNLIKELY(atomic_load(&h->env.jit->resetting) != 0)) {
        atomic_store(&h->in_code, 0);
        sched_yield();
        atomic_store(&h->in_code, 1);
    }
    follow_generation(h);
}

static void unguard(wh_hart *h)
{
    atomic_store_explicit(&h->in_code, 0, memory_order_release);
}

/* Where the interpreter counts heat for pc; NULL: it has not been in that page lately. */
static uint8_t *heat_at(wh_hart *h)
{
    const wh_tlb_entry *e = wh_mmu_fetch_slot(&h->mmu, h->pc);
    if (e->tag != ((h->pc >> WH_PAGE_SHIFT) | h->mmu.fetch_context))
        return NULL;
    return wh_code_heat(&h->code, (const wh_insn *)(uintptr_t)e->addend + (h->pc & (WH_PAGE_SIZE - 1)) / 2);
}

/* Count one arrival at pc from translated code; the interpreter counts its own. True: worth translating. */
static bool warm_up(wh_hart *h)
{
    uint8_t *heat = heat_at(h);
    if (heat == NULL || *heat >= WH_HEAT_HOT)
        return heat != NULL;
    ++*heat;
    return false;
}

struct place {
    wh_jit_page *page;
    wh_jit_block *block; /* NULL: nothing translated at pc */
};

/* Guarded. 0, or a trap cause. */
static int find(wh_hart *h, struct place *out)
{
    int status = 0;
    out->page = wh_jit_page_in_slot(h, h->pc);
    if (WH_UNLIKELY(out->page == NULL))
        out->page = wh_jit_enter_page(h, h->pc, &status);
    out->block = out->page ? wh_jit_find(h->env.jit, out->page, (uint32_t)h->pc & (WH_PAGE_SIZE - 1)) : NULL;
    return status;
}

/* Interpret, if only one instruction. Not guarded. 0: go on at pc; else enum wh_exit or wh_private_exit. */
static int run_cold(wh_hart *h, bool one)
{
    static const wh_insn decode_it = {.op = WH_OP_UNDECODED};
    int status = one ? wh_interp_one(h, &decode_it) : wh_interp_run_tier(h);
    return status == WH_EXIT_LOOKUP || status == WH_EXIT_HOT ? 0 : status;
}

/* Guarded. Links the exit that was taken last, if there was one, and runs. */
static int run_hot(wh_hart *h, const wh_jit_block *block, enum wh_leave *why, uint32_t *link_generation)
{
    const wh_jit_arena *arena = &h->env.jit->arena;
    if (*why == WH_LEAVE_LINK && *link_generation == h->code_generation)
        wh_jit_link(h, h->link_site, h->link_page, block);
    wh_mmu_fill_jump(&h->mmu, h->pc, (uint32_t)(uintptr_t)(arena->rx + block->code.entry));
    *link_generation = h->code_generation;
    h->vpage = h->pc & ~(uint64_t)(WH_PAGE_SIZE - 1);
    *why = arena->enter(h, arena->rx + block->code.entry);
    return *why == WH_LEAVE_HELPER ? h->leave_status : 0;
}

/* The page that an instruction at pc may go on in; NULL: it does not, or cannot be executed from there. */
static wh_jit_page *page_behind(wh_hart *h)
{
    if (~h->pc & (WH_PAGE_SIZE - 2))
        return NULL;
    int status;
    wh_jit_page *next = wh_jit_page_in_slot(h, h->pc + 2);
    return next != NULL ? next : wh_jit_enter_page(h, h->pc + 2, &status);
}

/* What to do with pc once it is known where it is. *one: nothing is to be had there but interpreting an instruction. */
static void translate(wh_hart *h, struct place *at, bool *one)
{
    *one = at->page == NULL;
    if (at->page == NULL || (!wh_hart_exact(h) && !warm_up(h)))
        return;
    at->block = wh_jit_make(h, at->page, page_behind(h), (uint32_t)h->pc & (WH_PAGE_SIZE - 1));
    if (at->block != NULL)
        return;
    *one = true;
    uint8_t *heat = heat_at(h);
    if (heat != NULL)
        *heat = 0; /* ask again after a while */
}

static int step(wh_hart *h, enum wh_leave *why, uint32_t *link_generation)
{
    struct place at;
    bool one = false;
    guard(h);
    int status = find(h, &at);
    if (WH_UNLIKELY(status != 0)) {
        unguard(h);
        *why = WH_LEAVE_LOOKUP;
        return wh_trap(h, (uint64_t)status, h->trap_value) ? (int)WH_EXIT_WEDGED : (int)WH_EXIT_SLICE;
    }
    if (at.block == NULL)
        translate(h, &at, &one);
    if (WH_LIKELY(at.block != NULL))
        status = run_hot(h, at.block, why, link_generation);
    unguard(h);
    if (WH_LIKELY(at.block != NULL)) {
        if (*why == WH_LEAVE_BUDGET)
            return wh_hart_exact(h) && h->budget > 0 ? wh_interp_run_exact(h) : (int)WH_EXIT_SLICE;
        return status;
    }
    *why = WH_LEAVE_LOOKUP;
    if (h->env.jit->full)
        wh_jit_reset(h->env.jit);
    return run_cold(h, one);
}

static int run_loop(wh_hart *h)
{
    enum wh_leave why = WH_LEAVE_LOOKUP;
    uint32_t link_generation = 0;
    for (int status = WH_EXIT_SLICE;;) {
        if (status == WH_EXIT_SLICE || (status == 0 && h->budget <= 0))
            status = wh_hart_poll(h);
        if (status != 0)
            return status;
        status = step(h, &why, &link_generation);
    }
}

static enum wh_exit run(wh_hart *h)
{
    wh_fp_enter(h);
    wh_hart_end_slice(h); /* so that it polls first */
    int status = run_loop(h);
    wh_fp_leave(h);
    return (enum wh_exit)status;
}

static const wh_engine engine = {.name = "jit",
                                 .run = run,
                                 .code_changed = code_changed,
                                 .attach = attach,
                                 .detach = detach,
                                 .page_decoded = wh_jit_heat_page};

const struct wh_engine *wh_jit_engine(void)
{
    return &engine;
}
