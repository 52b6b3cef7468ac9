/* Instructions whose work is too long for the interpreter's loop: cache-block management (CMO spec 1.0: Zicbom,
 * Zicboz) and the 128-bit compare-and-swap (Zacas). */
#include "cpu/hart.h"

static int fault(wh_hart *h, int cause, uint64_t va)
{
    h->trap_cause = cause;
    h->trap_value = va;
    return -1;
}

/* menvcfg decides for S, both registers decide for U. CBIE allows with either of its values 01 and 11: a block that is
 * flushed where it might be dropped makes no difference to a coherent memory. */
bool wh_cbo_allowed(const wh_hart *h, unsigned kind)
{
    uint64_t need = WH_ENVCFG_CBCFE;
    if (kind == WH_CBO_ZERO)
        need = WH_ENVCFG_CBZE;
    else if (kind == WH_CBO_INVAL)
        need = WH_ENVCFG_CBIE;
    if (h->priv == WH_PRIV_M)
        return true;
    return (h->csr.menvcfg & need) && (h->priv == WH_PRIV_S || (h->csr.senvcfg & need));
}

/* The block's host address if the TLB has its page for this access. A kernel zeroes whole pages by blocks, and a walk
 * for each would cost more than the zeroing. */
static uint8_t *cached(const wh_hart *h, uint64_t block, enum wh_access access)
{
    const wh_tlb_entry *e = access == WH_STORE ? h->mmu.store : h->mmu.load;
    e += (block >> WH_PAGE_SHIFT) % WH_TLB_ENTRIES;
    return e->tag == ((block >> WH_PAGE_SHIFT) | h->mmu.data_context) ? (uint8_t *)(uintptr_t)(block + e->addend)
                                                                      : NULL;
}

/* Faults are store faults and name the address as it is in rs1. Management needs the right to load or to store, and
 * what may be stored to may always be loaded. */
int wh_cbo(wh_hart *h, unsigned kind, uint64_t va)
{
    uint64_t pa, block = va & ~(uint64_t)(WH_CACHE_BLOCK - 1);
    if (!wh_cbo_allowed(h, kind))
        return 1;
    enum wh_access access = kind == WH_CBO_ZERO ? WH_STORE : WH_LOAD;
    uint8_t *host = cached(h, block, access);
    int cause = host != NULL ? 0 : wh_mmu_data(&h->mmu, block, WH_CACHE_BLOCK, access, &pa, &host);
    if (cause == WH_CAUSE_LOAD_PAGE || cause == WH_CAUSE_LOAD_ACCESS)
        cause += 2; /* the store fault of the same kind */
    if (cause != 0)
        return fault(h, cause, va);
    if (kind != WH_CBO_ZERO)
        return 0;
    if (host == NULL)
        return fault(h, WH_CAUSE_STORE_ACCESS, va);
    for (unsigned i = 0; i < WH_CACHE_BLOCK / 8; i++)
        __atomic_store_n((uint64_t *)(void *)host + i, 0, __ATOMIC_RELAXED);
    return 0;
}

/* If the 16 bytes at `at` are *expected then desired goes there; *expected becomes what was there. */
static void swap_if_equal(uint8_t *at, uint64_t expected[2], const uint64_t desired[2])
{
#if defined(__x86_64__)
    __asm__ volatile("lock cmpxchg16b %0"
                     : "+m"(*(unsigned __int128 *)(void *)at), "+a"(expected[0]), "+d"(expected[1])
                     : "b"(desired[0]), "c"(desired[1])
                     : "memory", "cc");
#else
    unsigned __int128 was = (unsigned __int128)expected[1] << 64 | expected[0];
    unsigned __int128 to = (unsigned __int128)desired[1] << 64 | desired[0];
    (void)__atomic_compare_exchange_n((unsigned __int128 *)(void *)at, &was, to, false, __ATOMIC_SEQ_CST,
                                      __ATOMIC_SEQ_CST);
    expected[0] = (uint64_t)was;
    expected[1] = (uint64_t)(was >> 64);
#endif
}

/* rd and rs2 name pairs of registers; a pair that begins with x0 reads as zero and is not written. */
int wh_amocas_q(wh_hart *h, const wh_insn *i)
{
    uint8_t *host;
    if (wh_atomic_address(h, h->x[i->b], 16, WH_STORE, &host) != 0)
        return -1;
    bool sink = i->a == WH_SINK;
    unsigned source = (unsigned)i->imm;
    uint64_t expected[2] = {sink ? 0 : h->x[i->a], sink ? 0 : h->x[i->a + 1]};
    uint64_t desired[2] = {h->x[source], source == 0 ? 0 : h->x[source + 1]};
    swap_if_equal(host, expected, desired);
    if (!sink) {
        h->x[i->a] = expected[0];
        h->x[i->a + 1] = expected[1];
    }
    return 0;
}
