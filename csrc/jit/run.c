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
    if (h->mmu.jumps == NULL)
        return wh_fail(err, WH_E_NOMEM, "engine", "no memory for hart %u", h->id);
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

/* Count one arrival at pc from translated code; the interpreter counts its own. True: worth translating. */
static bool warm_up(wh_hart *h)
{
    const wh_tlb_entry *e = wh_mmu_fetch_slot(&h->mmu, h->pc);
    if (e->tag != ((h->pc >> WH_PAGE_SHIFT) | h->mmu.fetch_context))
        return false;
    uint8_t *heat = wh_code_heat(&h->code, (const wh_insn *)(uintptr_t)e->addend + (h->pc & (WH_PAGE_SIZE - 1)) / 2);
    if (*heat >= WH_HEAT_HOT)
        return true;
    ++*heat;
    return false;
}

struct place {
    wh_jit_page *page;
    wh_jit_block *block; /* NULL: nothing translated at pc */
};

/* 0, or a trap cause. */
static int find(wh_hart *h, struct place *out)
{
    int status = 0;
    follow_generation(h);
    const wh_tlb_entry *e = wh_mmu_code_slot(&h->mmu, h->pc);
    if (WH_LIKELY(e->tag == ((h->pc >> WH_PAGE_SHIFT) | h->mmu.fetch_context)))
        out->page = (wh_jit_page *)(uintptr_t)e->addend;
    else
        out->page = wh_jit_enter_page(h, &status);
    out->block = out->page ? wh_jit_find(h->env.jit, out->page, (uint32_t)h->pc & (WH_PAGE_SIZE - 1)) : NULL;
    return status;
}

static void make(wh_hart *h, struct place *at)
{
    wh_jit *j = h->env.jit;
    if (at->page != NULL)
        at->block = wh_jit_make(h, at->page, (uint32_t)h->pc & (WH_PAGE_SIZE - 1));
    if (at->block == NULL && j->full) {
        wh_jit_reset(j);
        at->page = NULL;
    }
}

static int interpret_one(wh_hart *h)
{
    static const wh_insn decode_it = {.op = WH_OP_UNDECODED};
    int status = wh_interp_one(h, &decode_it);
    return status == WH_EXIT_LOOKUP ? 0 : status;
}

/* What is not translated. 0: go on at pc; else enum wh_exit or wh_private_exit. */
static int run_cold(wh_hart *h, struct place *at, bool arrived)
{
    if (at->page == NULL)
        return interpret_one(h);
    if (wh_hart_exact(h) || (arrived && warm_up(h))) {
        make(h, at);
        return at->block != NULL ? 0 : interpret_one(h);
    }
    int status = wh_interp_run_tier(h);
    if (status != WH_EXIT_HOT)
        return status;
    status = find(h, at);
    if (status != 0 || at->block != NULL)
        return 0; /* a trap is found again by the caller */
    make(h, at);
    return at->block != NULL ? 0 : interpret_one(h);
}

/* Into translated code and back. */
static enum wh_leave execute(wh_hart *h, const wh_jit_block *block)
{
    wh_jit *j = h->env.jit;
    enum wh_leave why = WH_LEAVE_LOOKUP;
    atomic_store(&h->in_code, 1);
    if (WH_LIKELY(atomic_load(&j->resetting) == 0 && h->code_generation == atomic_load(&j->generation))) {
        h->vpage = h->pc & ~(uint64_t)(WH_PAGE_SIZE - 1);
        why = j->arena.enter(h, j->arena.rx + block->code.entry);
    }
    atomic_store_explicit(&h->in_code, 0, memory_order_release);
    return why;
}

static int poll_or_finish(wh_hart *h, bool exact_rest)
{
    if (exact_rest && h->budget > 0)
        return wh_interp_run_exact(h);
    return wh_hart_poll(h);
}

static int run_loop(wh_hart *h)
{
    struct place at;
    enum wh_leave why = WH_LEAVE_LOOKUP;
    uint32_t link_generation = 0;
    for (int status = WH_EXIT_SLICE;;) {
        if (status == WH_EXIT_SLICE || (status == 0 && h->budget <= 0))
            status = wh_hart_poll(h);
        if (status != 0)
            return status;
        int cause = find(h, &at);
        if (cause != 0) {
            if (wh_trap(h, (uint64_t)cause, h->trap_value))
                return WH_EXIT_WEDGED;
            why = WH_LEAVE_LOOKUP;
            status = WH_EXIT_SLICE;
            continue;
        }
        if (at.block == NULL) {
            uint64_t pc = h->pc;
            status = run_cold(h, &at, true);
            if (h->pc != pc)
                why = WH_LEAVE_LOOKUP; /* somewhere else by now */
            continue;
        }
        if (why == WH_LEAVE_LINK && link_generation == h->code_generation)
            wh_jit_link(h, h->link_site, h->link_page, at.block);
        wh_mmu_fill_jump(&h->mmu, h->pc, (uint32_t)(uintptr_t)(h->env.jit->arena.rx + at.block->code.entry));
        link_generation = h->code_generation;
        why = execute(h, at.block);
        status = 0;
        if (why == WH_LEAVE_HELPER)
            status = h->leave_status;
        else if (why == WH_LEAVE_BUDGET)
            status = poll_or_finish(h, wh_hart_exact(h));
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

static const wh_engine engine = {
    .name = "jit", .run = run, .code_changed = code_changed, .attach = attach, .detach = detach};

const struct wh_engine *wh_jit_engine(void)
{
    return &engine;
}
