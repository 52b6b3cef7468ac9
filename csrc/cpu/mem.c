/* Memory accesses that miss the TLB: first touches, device registers, and accesses across a page. */
#include "cpu/hart.h"
#include "memory/live.h"

#include <string.h>

static int fault(wh_hart *h, int cause, uint64_t va)
{
    h->trap_cause = cause;
    h->trap_value = va;
    return -1;
}

/* Guest memory is shared with other harts: every aligned access is one host access. */
static uint64_t read_host(const uint8_t *p, unsigned size)
{
    uint16_t v2;
    uint32_t v4;
    uint64_t v8;
    if (((uintptr_t)p & (size - 1)) == 0) {
        switch (size) {
        case 1:
            return __atomic_load_n(p, __ATOMIC_RELAXED);
        case 2:
            return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_RELAXED);
        case 4:
            return __atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_RELAXED);
        default:
            return __atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_RELAXED);
        }
    }
    switch (size) {
    case 2:
        wh_live_copy(&v2, p, 2);
        return v2;
    case 4:
        wh_live_copy(&v4, p, 4);
        return v4;
    default:
        wh_live_copy(&v8, p, 8);
        return v8;
    }
}

static void write_host(uint8_t *p, unsigned size, uint64_t value)
{
    if (((uintptr_t)p & (size - 1)) != 0) {
        wh_live_copy(p, &value, size); /* little-endian host */
        return;
    }
    switch (size) {
    case 1:
        __atomic_store_n(p, (uint8_t)value, __ATOMIC_RELAXED);
        break;
    case 2:
        __atomic_store_n((uint16_t *)(void *)p, (uint16_t)value, __ATOMIC_RELAXED);
        break;
    case 4:
        __atomic_store_n((uint32_t *)(void *)p, (uint32_t)value, __ATOMIC_RELAXED);
        break;
    default:
        __atomic_store_n((uint64_t *)(void *)p, value, __ATOMIC_RELAXED);
        break;
    }
}

/* A device sees only accesses of natural alignment; the host's floating-point control is its own meanwhile. */
static int device(wh_hart *h, uint64_t va, uint64_t pa, unsigned size, enum wh_access access, uint64_t *value)
{
    if (pa & (size - 1))
        return fault(h, access == WH_STORE ? WH_CAUSE_STORE_MISALIGNED : WH_CAUSE_LOAD_MISALIGNED, va);
    bool entered = h->fp_entered;
    if (entered)
        wh_fp_leave(h);
    int status = access == WH_STORE ? h->env.mmio_write(h->env.ctx, h, pa, size, *value)
                                    : h->env.mmio_read(h->env.ctx, h, pa, size, value);
    if (entered)
        wh_fp_enter(h);
    wh_count(&h->stat_mmio);
    h->recheck = true; /* the device may have raised or lowered a line of ours */
    return status == 0 ? 0 : fault(h, wh_access_fault(access), va);
}

static unsigned in_first_page(uint64_t va, unsigned size)
{
    unsigned room = WH_PAGE_SIZE - (unsigned)(va & (WH_PAGE_SIZE - 1));
    return size < room ? size : room;
}

int wh_load(wh_hart *h, uint64_t va, unsigned size, uint64_t *value)
{
    uint64_t pa, pa2;
    uint8_t *host, *host2;
    unsigned first = in_first_page(va, size);
    int cause = wh_mmu_data(&h->mmu, va, first, WH_LOAD, &pa, &host);
    if (cause != 0)
        return fault(h, cause, va);
    if (first == size) {
        if (host == NULL)
            return device(h, va, pa, size, WH_LOAD, value);
        *value = read_host(host, size);
        return 0;
    }
    cause = wh_mmu_data(&h->mmu, va + first, size - first, WH_LOAD, &pa2, &host2);
    if (cause != 0)
        return fault(h, cause, va + first);
    if (host == NULL || host2 == NULL)
        return fault(h, WH_CAUSE_LOAD_MISALIGNED, va);
    uint8_t bytes[8] = {0};
    wh_live_copy(bytes, host, first);
    wh_live_copy(bytes + first, host2, size - first);
    memcpy(value, bytes, 8);
    return 0;
}

int wh_store(wh_hart *h, uint64_t va, unsigned size, uint64_t value)
{
    uint64_t pa, pa2;
    uint8_t *host, *host2;
    unsigned first = in_first_page(va, size);
    int cause = wh_mmu_data(&h->mmu, va, first, WH_STORE, &pa, &host);
    if (cause != 0)
        return fault(h, cause, va);
    if (first == size) {
        if (host == NULL)
            return device(h, va, pa, size, WH_STORE, &value);
        write_host(host, size, value);
        return 0;
    }
    /* Both pages first: a store that faults on the second must not have written the first. */
    cause = wh_mmu_data(&h->mmu, va + first, size - first, WH_STORE, &pa2, &host2);
    if (cause != 0)
        return fault(h, cause, va + first);
    if (host == NULL || host2 == NULL)
        return fault(h, WH_CAUSE_STORE_MISALIGNED, va);
    uint8_t bytes[8];
    memcpy(bytes, &value, 8);
    wh_live_copy(host, bytes, first);
    wh_live_copy(host2, bytes + first, size - first);
    return 0;
}

int wh_atomic_address(wh_hart *h, uint64_t va, unsigned size, enum wh_access access, uint8_t **host)
{
    const wh_tlb_entry *e = access == WH_STORE ? h->mmu.store : h->mmu.load;
    uint64_t pa;
    if (va & (size - 1))
        return fault(h, access == WH_STORE ? WH_CAUSE_STORE_MISALIGNED : WH_CAUSE_LOAD_MISALIGNED, va);
    e += (va >> WH_PAGE_SHIFT) % WH_TLB_ENTRIES;
    if (e->tag == ((va >> WH_PAGE_SHIFT) | h->mmu.data_context)) {
        *host = (uint8_t *)(uintptr_t)(va + e->addend);
        return 0;
    }
    int cause = wh_mmu_data(&h->mmu, va, size, access, &pa, host);
    if (cause != 0)
        return fault(h, cause, va);
    return *host == NULL ? fault(h, wh_access_fault(access), va) : 0;
}

static int fetch_half(wh_hart *h, uint64_t va, uint16_t *half)
{
    uint64_t pa, value = 0;
    uint8_t *host;
    bool whole;
    int cause = wh_mmu_fetch(&h->mmu, va, 2, &pa, &host, &whole);
    if (cause != 0)
        return fault(h, cause, va);
    if (host != NULL) {
        wh_live_copy(half, host, 2);
        return 0;
    }
    if (h->env.mmio_read == NULL || device(h, va, pa, 2, WH_LOAD, &value) != 0)
        return fault(h, WH_CAUSE_FETCH_ACCESS, va);
    *half = (uint16_t)value;
    return 0;
}

int wh_fetch_bits(wh_hart *h, uint64_t va, uint32_t *bits)
{
    uint16_t low, high = 0;
    if (fetch_half(h, va, &low) != 0)
        return -1;
    if ((low & 3) == 3 && fetch_half(h, va + 2, &high) != 0)
        return -1;
    *bits = low | (uint32_t)high << 16;
    return 0;
}
