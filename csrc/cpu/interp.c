/* The interpreter as an engine, and how its loop (interp_run.h) comes to decoded code. */
#include "cpu/interp.h"

#define INTERP wh_interp_run
#include "cpu/interp_run.h"

static void code_changed(wh_hart *h)
{
    wh_code_expire(h);
}

int wh_enter_single(wh_hart *h)
{
    uint32_t bits;
    if (wh_fetch_bits(h, h->pc, &bits) != 0)
        return h->trap_cause;
    unsigned length = wh_decode_for(h->isa, bits, WH_NO_PAGE, &h->single[0]);
    h->single[length / 2].op = WH_OP_PAGE_END;
    return 0;
}

bool wh_enter_split(wh_hart *h, wh_insn *ip)
{
    uint64_t after = h->pc + 2;
    const wh_tlb_entry *e = wh_mmu_fetch_slot(&h->mmu, after);
    if (e->tag != ((after >> WH_PAGE_SHIFT) | h->mmu.fetch_context))
        return false;
    uint16_t low, high;
    memcpy(&low, wh_page_of(ip - (WH_PAGE_SLOTS - 1))->bytes + WH_PAGE_SIZE - 2, 2);
    memcpy(&high, wh_page_of((wh_insn *)(uintptr_t)e->addend)->bytes, 2);
    (void)wh_decode_for(h->isa, low | (uint32_t)high << 16, WH_NO_PAGE, &h->single[0]);
    h->single[2].op = WH_OP_PAGE_END;
    return true;
}

int wh_enter_page(wh_hart *h, wh_insn **first)
{
    uint64_t pa;
    uint8_t *host;
    bool whole;
    int cause = wh_mmu_fetch(&h->mmu, h->pc, 2, &pa, &host, &whole);
    *first = NULL;
    if (cause != 0) {
        h->trap_value = h->pc;
        return cause;
    }
    if (!whole)
        return wh_enter_single(h);
    wh_code_page *page = wh_code_get(h, pa, host - (pa & (WH_PAGE_SIZE - 1)));
    wh_mmu_fill_fetch(&h->mmu, h->pc, (uintptr_t)page->insn);
    *first = page->insn;
    return 0;
}

void wh_sfence_vma(wh_hart *h, const wh_insn *i)
{
    if (i->b != 0)
        wh_mmu_flush_page(&h->mmu, h->x[i->b]);
    else if (i->a != 0)
        wh_mmu_flush_asid(&h->mmu, (uint32_t)h->x[i->a]);
    else
        wh_mmu_flush_all(&h->mmu);
}

int wh_interp_step(wh_hart *h)
{
    h->retired = wh_hart_retired(h);
    h->budget = h->slice = 1;
    return wh_interp_run_exact(h);
}

/* An exact hart looks up at the end of every slice, and slices end exactly. */
static int run_exact(wh_hart *h)
{
    int status;
    do {
        status = wh_hart_poll(h);
        if (status == 0)
            status = wh_interp_run_exact(h);
    } while (status == WH_EXIT_SLICE);
    return status;
}

static enum wh_exit run(wh_hart *h)
{
    wh_fp_enter(h);
    wh_hart_end_slice(h); /* so that it polls first */
    int status = wh_hart_exact(h) ? run_exact(h) : wh_interp_run(h);
    wh_fp_leave(h);
    return (enum wh_exit)status;
}

const wh_engine wh_engine_interpreter = {.name = "interpreter", .run = run, .code_changed = code_changed};
