/* Making, resetting and questioning a hart: the functions of cpu.h that are not execution or state files. */
#include "cpu/hart.h"

#include <stdlib.h>
#include <string.h>

/* All harts of a guest together keep about 6 MiB of decoded code; a hart alone never less than 1 MiB. */
enum { CODE_PAGES_ALL = 300, CODE_PAGES_MIN = 48 };

int wh_hart_new(const wh_cpu_env *env, unsigned id, wh_hart **out, wh_error *err)
{
    *out = NULL;
    if (id >= WH_MAX_HARTS)
        return wh_fail(err, WH_E_INVAL, "harts", "hart id %u is above %u", id, WH_MAX_HARTS - 1);
    wh_hart *h = NULL;
    if (posix_memalign((void **)&h, WH_CACHE_LINE, sizeof(*h)) != 0)
        return wh_fail(err, WH_E_NOMEM, "harts", "no memory for hart %u", id);
    memset(h, 0, sizeof(*h));
    pthread_mutex_init(&h->fence_list.lock, NULL);
    h->env = *env;
    h->id = id;
    h->isa = wh_cpu_model_isa(env->model);
    h->engine = env->engine != NULL ? env->engine : &wh_engine_interpreter;
    h->slice_length = WH_SLICE;
    wh_mmu_open(&h->mmu);
#if defined(__x86_64__)
    h->has_fma = __builtin_cpu_supports("fma") != 0;
#endif
    unsigned pages = CODE_PAGES_ALL / (env->hart_count ? env->hart_count : 1);
    int status = wh_code_init(&h->code, pages < CODE_PAGES_MIN ? CODE_PAGES_MIN : pages, err);
    if (status != WH_OK) {
        wh_mmu_close(&h->mmu);
        free(h);
        return status;
    }
    if (h->engine->attach != NULL && (status = h->engine->attach(h, err)) != WH_OK) {
        wh_mmu_close(&h->mmu);
        wh_code_free(&h->code);
        free(h);
        return status;
    }
    wh_hart_reset(h, 0);
    *out = h;
    return WH_OK;
}

void wh_hart_free(wh_hart *h)
{
    if (h == NULL)
        return;
    if (h->engine->detach != NULL)
        h->engine->detach(h);
    wh_code_free(&h->code);
    wh_mmu_close(&h->mmu);
    pthread_mutex_destroy(&h->fence_list.lock);
    free(h);
}

bool wh_hart_hoards(const wh_hart *h)
{
    return h->code.filled > wh_code_modest(&h->code);
}

void wh_hart_give_back(wh_hart *h)
{
    wh_code_give_back(h);
    wh_far_drop_all(&h->mmu);
    wh_sites_give_back(&h->mmu);
}

unsigned wh_hart_id(const wh_hart *h)
{
    return h->id;
}

void wh_hart_reset(wh_hart *h, uint64_t pc)
{
    memset(h->x, 0, sizeof(h->x));
    memset(h->f, 0, sizeof(h->f));
    memset(&h->csr, 0, sizeof(h->csr));
    h->csr.stimecmp = UINT64_MAX;
    h->fflags = h->frm = 0;
    h->priv = WH_PRIV_M;
    h->pc = pc;
    h->reservation = 0;
    h->single_pc = 1;
    h->retired = wh_hart_retired(h);
    h->budget = h->slice = 0;
    wh_mmu_init(&h->mmu, h->env.ram);
    h->engine->code_changed(h);
    wh_fp_update(h);
    wh_hart_update_mode(h);
}

void wh_hart_enter_supervisor(wh_hart *h, uint64_t pc, uint64_t opaque)
{
    wh_hart_reset(h, pc);
    h->priv = WH_PRIV_S;
    h->csr.medeleg = WH_MEDELEG_MASK;
    h->csr.mideleg = WH_IRQ_S_MASK;
    h->csr.mcounteren = 0xffffffff;
    h->csr.scounteren = 7;
    h->csr.menvcfg = wh_menvcfg_mask(h) & ~WH_ENVCFG_FIOM;
    wh_pmp_set_addr(&h->mmu.pmp, 0, UINT64_MAX);
    wh_pmp_set_cfg(&h->mmu.pmp, 0, 0x1f); /* NAPOT over everything, RWX */
    h->x[10] = h->id;
    h->x[11] = opaque;
    wh_hart_update_mode(h);
}

void wh_hart_set_limit(wh_hart *h, uint64_t steps)
{
    h->limit = steps;
}

uint64_t wh_hart_next_timer(wh_hart *h)
{
    bool armed = wh_timer_used(h) && (h->csr.mie & WH_MIP(STI));
    return armed ? h->csr.stimecmp : UINT64_MAX;
}

void wh_hart_attention(wh_hart *h)
{
    atomic_store(&h->attention, 1);
}

void wh_hart_irq(wh_hart *h, unsigned bit, bool level)
{
    if (level)
        atomic_fetch_or(&h->lines, 1ull << bit);
    else
        atomic_fetch_and(&h->lines, ~(1ull << bit));
}

uint64_t wh_hart_get_x(const wh_hart *h, unsigned reg)
{
    return reg == 0 || reg > 31 ? 0 : h->x[reg];
}

void wh_hart_set_x(wh_hart *h, unsigned reg, uint64_t value)
{
    if (reg != 0 && reg < 32)
        h->x[reg] = value;
}

uint64_t wh_hart_get_pc(const wh_hart *h)
{
    return h->pc;
}

void wh_hart_set_stimecmp(wh_hart *h, uint64_t value)
{
    h->csr.stimecmp = value;
    wh_timer_check(h);
}

/* A debugger's view: no A/D side effects are wanted, but the walker's are harmless and keep one walker. */
int wh_hart_read_virtual(wh_hart *h, uint64_t va, void *out, size_t len)
{
    uint8_t *to = out;
    while (len > 0) {
        size_t room = WH_PAGE_SIZE - (va & (WH_PAGE_SIZE - 1)), part = len < room ? len : room;
        wh_translation t;
        if (wh_mmu_walk(&h->mmu, va, WH_LOAD, h->mmu.data_priv, &t) != 0)
            return WH_E_NOTFOUND;
        const uint8_t *host = wh_ram_at(h->env.ram, t.pa, part);
        if (host == NULL)
            return WH_E_NOTFOUND;
        memcpy(to, host, part);
        to += part;
        va += part;
        len -= part;
    }
    return WH_OK;
}

void wh_hart_get_stats(const wh_hart *h, wh_hart_stats *out)
{
    out->instructions = atomic_load_explicit(&h->stat_instructions, memory_order_relaxed);
    out->traps = atomic_load_explicit(&h->stat_traps, memory_order_relaxed);
    out->interrupts = atomic_load_explicit(&h->stat_interrupts, memory_order_relaxed);
    out->mmio = atomic_load_explicit(&h->stat_mmio, memory_order_relaxed);
    out->tlb_misses = atomic_load_explicit(&h->stat_misses, memory_order_relaxed);
}

enum wh_exit wh_hart_run(wh_hart *h)
{
    if (WH_UNLIKELY(h->debug.on))
        return wh_debug_run(h);
    return h->engine->run(h);
}
