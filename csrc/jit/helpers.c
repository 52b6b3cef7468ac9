/* helpers: what translated code calls (backend.h). All guest state is in the hart then. */
#include "cpu/hostfp.h"
#include "jit/cache.h"

#include <string.h>

/* pc and budget as before this instruction, as the interpreter has them. */
static void settle(wh_hart *h, uint32_t packed)
{
    h->pc = h->vpage + WH_PACK_AT(packed);
    h->budget += WH_PACK_CHARGE(packed);
}

static int leave(wh_hart *h, int status)
{
    h->leave_status = status;
    return 1;
}

/* pc is somewhere else: there through the jump cache, if nothing else is due. */
static int go_on(wh_hart *h)
{
    return h->budget > 0 && !h->recheck ? 2 : leave(h, 0);
}

/* A trap was taken, or something else wants a look at the world. Most traps need none; but they cost budget, though
 * they retire nothing, so that a guest in a loop of traps is interruptible. An exact hart counts them elsewhere. */
static int after_trap(wh_hart *h)
{
    if (wh_hart_exact(h) || h->recheck || h->budget <= 1 || wh_pending(h) != 0)
        return leave(h, WH_EXIT_SLICE);
    h->budget--;
    h->slice--;
    return go_on(h);
}

static int trap(wh_hart *h)
{
    if (wh_trap(h, (uint64_t)h->trap_cause, h->trap_value))
        return leave(h, WH_EXIT_WEDGED);
    return after_trap(h);
}

struct kind {
    uint8_t size;
    bool store, is_signed, is_float;
};
static const struct kind kinds[] = {
    [WH_KIND_LB] = {1, false, true, false},   [WH_KIND_LH] = {2, false, true, false},
    [WH_KIND_LW] = {4, false, true, false},   [WH_KIND_LD] = {8, false, false, false},
    [WH_KIND_LBU] = {1, false, false, false}, [WH_KIND_LHU] = {2, false, false, false},
    [WH_KIND_LWU] = {4, false, false, false}, [WH_KIND_SB] = {1, true, false, false},
    [WH_KIND_SH] = {2, true, false, false},   [WH_KIND_SW] = {4, true, false, false},
    [WH_KIND_SD] = {8, true, false, false},   [WH_KIND_FLH] = {2, false, false, true},
    [WH_KIND_FLW] = {4, false, false, true},  [WH_KIND_FLD] = {8, false, false, true},
    [WH_KIND_FSW] = {4, true, false, true},   [WH_KIND_FSD] = {8, true, false, true},
};

static void put_loaded(wh_hart *h, const struct kind *k, unsigned reg, uint64_t v)
{
    unsigned unused = 64 - 8 * k->size;
    v = v << unused >> unused;
    if (k->is_float)
        h->f[reg] = k->size == 8 ? v : v | ~0ull << 8 * k->size; /* NaN-boxed */
    else
        h->x[reg] = k->is_signed ? (uint64_t)((int64_t)(v << unused) >> unused) : v;
}

int wh_jit_help_memory(wh_hart *h, uint64_t va, uint32_t packed)
{
    const struct kind *k = &kinds[WH_PACK_KIND(packed)];
    unsigned reg = WH_PACK_REG(packed);
    uint64_t value = 0;
    settle(h, packed);
    if (WH_UNLIKELY(h->mmu.tired != 0) && wh_sites_watch(&h->mmu, va))
        wh_jit_make_restless(h, h->pc);
    if (k->store) {
        if (wh_store(h, va, k->size, k->is_float ? h->f[reg] : h->x[reg]) != 0)
            return trap(h);
    } else {
        if (wh_load(h, va, k->size, &value) != 0)
            return trap(h);
        put_loaded(h, k, reg, value);
    }
    if (WH_LIKELY(!h->recheck))
        return 0;
    h->pc += WH_PACK_LENGTH(packed);
    h->budget--;
    return leave(h, WH_EXIT_SLICE);
}

int wh_jit_help_one(wh_hart *h, uint64_t insn, uint32_t packed)
{
    wh_insn one;
    memcpy(&one, &insn, sizeof(one));
    settle(h, packed);
    uint64_t next = h->pc + WH_PACK_LENGTH(packed);
    int status = wh_interp_one(h, &one);
    if (status == 0 && h->pc == next && (!h->fp_live || h->fp_state == WH_FP_FAST))
        return 0;
    if (status == WH_EXIT_SLICE)
        return after_trap(h);
    return status == 0 || status == WH_EXIT_LOOKUP ? go_on(h) : leave(h, status);
}

/* The next page is not the one that the block was made with, as far as this hart's slot knows: so that it knows next
 * time. */
int wh_jit_help_split(wh_hart *h, uint64_t unused, uint32_t packed)
{
    static const wh_insn fetch_it = {.op = WH_OP_SPLIT};
    uint64_t insn, behind = h->vpage + WH_PAGE_SIZE;
    int status;
    (void)unused;
    if (wh_jit_page_in_slot(h, behind) == NULL)
        (void)wh_jit_enter_page(h, behind, &status);
    memcpy(&insn, &fetch_it, sizeof(insn));
    status = wh_jit_help_one(h, insn, packed);
    return status == 0 ? go_on(h) : status;
}

/* Translated floating point works on host registers and in state FAST only. What makes FS dirty, or finds it off, is
 * the instruction itself, in C; the next try finds it dirty. */
int wh_jit_help_fp(wh_hart *h, uint64_t insn, uint32_t packed)
{
    if (h->fp_state != WH_FP_FAST) {
        int status = wh_jit_help_one(h, insn, packed);
        return status == 0 ? go_on(h) : status;
    }
    h->fp_live = true;
    return 0;
}
