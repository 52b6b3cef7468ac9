/* Physical memory protection (privileged spec 3.7): 16 entries, grain 4 bytes. CSR state is kept as written; a list of
 * inclusive byte ranges is derived from it so that a check is a short scan. */
#include "mmu/mmu.h"

enum { PMP_R = 1, PMP_W = 2, PMP_X = 4, PMP_A = 0x18, PMP_TOR = 0x08, PMP_NA4 = 0x10, PMP_NAPOT = 0x18, PMP_L = 0x80 };

void wh_pmp_rebuild(wh_pmp *p)
{
    p->active = 0;
    for (unsigned i = 0; i < WH_PMP_ENTRIES; i++) {
        uint8_t cfg = p->cfg[i];
        uint64_t first, last;
        if ((cfg & PMP_A) == 0)
            continue;
        if ((cfg & PMP_A) == PMP_TOR) {
            uint64_t low = i > 0 ? p->addr[i - 1] : 0;
            if (low >= p->addr[i])
                continue;
            first = low << 2;
            last = (p->addr[i] << 2) - 1;
        } else if ((cfg & PMP_A) == PMP_NA4) {
            first = p->addr[i] << 2;
            last = first + 3;
        } else {
            uint64_t ones = p->addr[i] ^ (p->addr[i] + 1); /* trailing ones and the zero above them */
            first = (p->addr[i] & ~ones) << 2;
            last = first + (ones << 2) + 3;
        }
        p->region[p->active].first = first;
        p->region[p->active].last = last;
        p->region[p->active].cfg = cfg;
        p->active++;
    }
    p->open = p->active != 0 && p->region[0].first == 0 && p->region[0].last >= (1ull << 56) - 1 &&
              (p->region[0].cfg & (PMP_R | PMP_W | PMP_X)) == (PMP_R | PMP_W | PMP_X);
}

void wh_pmp_set_cfg(wh_pmp *p, unsigned entry, uint8_t cfg)
{
    if (p->cfg[entry] & PMP_L)
        return;
    if ((cfg & (PMP_R | PMP_W)) == PMP_W) /* reserved combination: WARL, keep the old permissions */
        cfg = (uint8_t)((cfg & ~7) | (p->cfg[entry] & 7));
    p->cfg[entry] = cfg & (PMP_R | PMP_W | PMP_X | PMP_A | PMP_L);
    wh_pmp_rebuild(p);
}

void wh_pmp_set_addr(wh_pmp *p, unsigned entry, uint64_t value)
{
    if (p->cfg[entry] & PMP_L)
        return;
    /* A locked TOR entry also locks the address below it. */
    if (entry + 1 < WH_PMP_ENTRIES && (p->cfg[entry + 1] & PMP_L) && (p->cfg[entry + 1] & PMP_A) == PMP_TOR)
        return;
    p->addr[entry] = value & 0x3fffffffffffffull;
    wh_pmp_rebuild(p);
}

bool wh_pmp_allows_slow(const wh_pmp *p, uint64_t pa, uint64_t size, enum wh_access access, enum wh_priv priv)
{
    static const uint8_t need[3] = {[WH_LOAD] = PMP_R, [WH_STORE] = PMP_W, [WH_FETCH] = PMP_X};
    uint64_t last = pa + size - 1;
    for (unsigned i = 0; i < p->active; i++) {
        if (last < p->region[i].first || pa > p->region[i].last)
            continue;
        if (pa < p->region[i].first || last > p->region[i].last)
            return false; /* the lowest-numbered match must cover every byte */
        if (priv == WH_PRIV_M && !(p->region[i].cfg & PMP_L))
            return true;
        return (p->region[i].cfg & need[access]) != 0;
    }
    return priv == WH_PRIV_M;
}

bool wh_pmp_page_uniform(const wh_pmp *p, uint64_t pa)
{
    uint64_t first = pa & ~(uint64_t)(WH_PAGE_SIZE - 1), last = first + WH_PAGE_SIZE - 1;
    for (unsigned i = 0; i < p->active; i++) {
        if (last < p->region[i].first || first > p->region[i].last)
            continue;
        return first >= p->region[i].first && last <= p->region[i].last;
    }
    return true;
}
