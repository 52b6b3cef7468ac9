/* mmu: address translation of one hart - page walk (Sv39, Sv48, Sv57, Bare), PMP, and the TLBs that the engine reads
 * inline. It knows no hart: the CPU tells it privilege, satp and the mstatus bits by wh_mmu_context and gets a trap
 * cause back.
 *
 * The TLBs never have to be flushed for a change of privilege, SUM or ASID:
 *  - each access mode (U, S, S with SUM, M) has arrays of its own; a switch changes pointers;
 *  - a tag is the 52-bit page number with a 12-bit context number above it. An address space gets a fresh number when
 * it is first used, so that "flush this ASID" or "flush all" is forgetting numbers. Only when they run out are arrays
 * cleared. S without SUM has one number for all address spaces as long as it meets only pages that are global (G). A
 * load or store of `size` bytes hits when tag == ((va + size - 1) >> 12 | context) in the slot of va's own page: an
 * access that crosses a page compares the next page's number with a slot that can't hold it, and so takes the slow way.
 * A write translation exists only for RAM pages whose dirty bit was set when it was made (memory/memory.h).
 */
#ifndef WH_MMU_H
#define WH_MMU_H

#include "base/base.h"
#include "memory/memory.h"

#define WH_TLB_ENTRIES  512u
#define WH_FTLB_ENTRIES 256u
#define WH_PMP_ENTRIES  16u

enum wh_priv { WH_PRIV_U = 0, WH_PRIV_S = 1, WH_PRIV_M = 3 };
enum wh_access { WH_LOAD = 0, WH_STORE = 1, WH_FETCH = 2 };

/* Exception causes that translation can end in (privileged spec, table of mcause). */
enum { WH_CAUSE_FETCH_ACCESS = 1, WH_CAUSE_LOAD_ACCESS = 5, WH_CAUSE_STORE_ACCESS = 7 };
enum { WH_CAUSE_FETCH_PAGE = 12, WH_CAUSE_LOAD_PAGE = 13, WH_CAUSE_STORE_PAGE = 15 };
/* No trap of the guest's: the page behind the address is lost (memory.h), the access can't be made, and the guest ends
 * before it sees anything. Travels as a cause; wh_trap answers it with "wedged" and changes nothing. */
enum { WH_CAUSE_LOST = 63 };
static inline int wh_access_fault(enum wh_access access)
{
    return access == WH_LOAD    ? WH_CAUSE_LOAD_ACCESS
           : access == WH_STORE ? WH_CAUSE_STORE_ACCESS
                                : WH_CAUSE_FETCH_ACCESS;
}
static inline int wh_page_fault(enum wh_access access)
{
    return access == WH_LOAD ? WH_CAUSE_LOAD_PAGE : access == WH_STORE ? WH_CAUSE_STORE_PAGE : WH_CAUSE_FETCH_PAGE;
}

/* What it means that wh_ram_at gave NULL for an address that translation needs. */
static inline int wh_no_ram(const wh_ram *ram, enum wh_access access)
{
    return wh_ram_lost(ram) ? WH_CAUSE_LOST : wh_access_fault(access);
}

typedef struct wh_pmp {
    uint8_t cfg[WH_PMP_ENTRIES];
    uint64_t addr[WH_PMP_ENTRIES];
    bool open;       /* the first region is all of memory, and allows everything: no more to check */
    unsigned active; /* regions below, in order of priority */
    struct {
        uint64_t first, last; /* inclusive */
        uint8_t cfg;
    } region[WH_PMP_ENTRIES];
} wh_pmp;

/* CSR writes with the lock rules; both rebuild the region list. entry < WH_PMP_ENTRIES. */
void wh_pmp_set_cfg(wh_pmp *p, unsigned entry, uint8_t cfg);
void wh_pmp_set_addr(wh_pmp *p, unsigned entry, uint64_t value);
void wh_pmp_rebuild(wh_pmp *p);
bool wh_pmp_allows_slow(const wh_pmp *p, uint64_t pa, uint64_t size, enum wh_access access, enum wh_priv priv);
static inline bool wh_pmp_allows(const wh_pmp *p, uint64_t pa, uint64_t size, enum wh_access access, enum wh_priv priv)
{
    return WH_LIKELY(p->open) || wh_pmp_allows_slow(p, pa, size, access, priv);
}
/* No region border lies within the page of pa, so that one answer holds for all of it. */
bool wh_pmp_page_uniform(const wh_pmp *p, uint64_t pa);

/* Where translated code for a virtual pc is. Valid only in its fetch context (a number that no two address spaces or
 * privileges share at a time), so that switching needs no flush. */
typedef struct wh_jump {
    uint64_t va;
    uint32_t context; /* wh_mmu.code_context; 0: free */
    uint32_t code;    /* host address, below 4 GiB */
} wh_jump;
#define WH_JUMPS    4096u
#define WH_JUMP_MIX 9 /* entry: (va ^ va >> WH_JUMP_MIX) >> 1, modulo WH_JUMPS */

typedef struct wh_tlb_entry {
    uint64_t tag;
    uint64_t addend; /* load, store: host address - va; fetch: whatever the engine put there */
} wh_tlb_entry;

enum wh_tlb_mode { WH_TLB_U, WH_TLB_S, WH_TLB_SUM, WH_TLB_M, WH_TLB_ODD, WH_TLB_MODES };
enum { WH_FTLB_MODES = 3 };

/* far.c: a second level behind load and store, read by wh_mmu_data only. */
#define WH_FAR_ENTRIES 16384u
typedef struct wh_far_tlb wh_far_tlb;

/* sites.c: what translated code looks into before the TLB: translations by page, and slots that belong to places in the
 * code. A set holds for one mode in one address space, so that tags need no context number: whatever else would make it
 * wrong takes it out. */
#define WH_SITES          2048u  /* slots for loads, and as many for stores */
#define WH_SITE_NONE      0x800u /* a tag that no access asks for */
#define WH_SITE_USER_SETS 4u
#define WH_SITE_SETS      (WH_SITE_USER_SETS + WH_TLB_MODES - 1)
enum { WH_SITE_PATIENCE = 32, WH_SITE_CHUNK = 64, WH_SITE_BUCKETS = 64, WH_SITE_PAGE_CHUNK = 16 };
typedef struct wh_sites {
    /* By page number: loads, then stores; tag: the page's virtual address. */
    uint64_t page_tag[2 * WH_TLB_ENTRIES], page_addend[2 * WH_TLB_ENTRIES];
    wh_tlb_entry slot[2 * WH_SITES];   /* the same, by place */
    uint64_t pages_used;               /* bit a chunk of page_tag that may hold something */
    uint64_t holders[WH_SITE_BUCKETS]; /* page number modulo this: bit a chunk of slots that may hold such a page */
    uint64_t context;                  /* wh_mmu.data_context of what is held */
    bool ready;
    int16_t left[2 * WH_SITES];                       /* fills until a slot's place is watched; negative: it is */
    uint8_t looks[2 * WH_SITES], moves[2 * WH_SITES]; /* of a watched one: how many, how many to another page */
    uint8_t grade[2 * WH_SITES];                      /* how often it was found to be quiet */
} wh_sites;

typedef struct wh_mmu {
    /* What the engine's inline paths read. */
    wh_tlb_entry *load, *store, *fetch; /* arrays of the current mode */
    uint64_t data_context, fetch_context;
    wh_jump *jumps;                     /* of the translator, WH_JUMPS of them; NULL without one */
    uint32_t code_context;              /* context number and privilege of fetches, and jump_generation */
    wh_tlb_entry *code;                 /* of the translator, as fetch: addend is its page record */
    wh_sites *sites;                    /* of the translator, the current mode's; NULL without one */
    uint32_t tired;                     /* 1 + the slot whose next look is to be watched; 0: none */
    wh_tlb_entry *far_load, *far_store; /* the current mode's arrays of the second level, NULL: none */

    wh_sites *site_sets; /* WH_SITE_SETS of them, first those of mode U; NULL: none */
    unsigned user_set;   /* the one in use */
    wh_far_tlb *far;     /* NULL: none */
    wh_ram *ram;
    uint64_t satp;
    enum wh_priv priv, data_priv;
    bool sum, mxr;
    bool pbmte, napot; /* Svpbmt is on (menvcfg.PBMTE); Svnapot is there */
    bool local;        /* the kernel has met a page in this address space that is not global (tlb.c) */
    bool adue;         /* the walker sets A and D itself; else a page fault asks software to */
    wh_pmp pmp;
    uint64_t misses;

    uint32_t next_context; /* 1..4095; 0 is in no valid tag */
    struct {
        uint32_t key; /* of tlb.c: an ASID, or one that is none */
        uint32_t number;
    } contexts[64 + 2];                     /* ASIDs by hash, and two that are none */
    uint64_t super_first[2], super_last[2]; /* span of superpages cached, low and high half; empty: first > last */

    wh_tlb_entry loads[WH_TLB_MODES][WH_TLB_ENTRIES];
    wh_tlb_entry stores[WH_TLB_MODES][WH_TLB_ENTRIES];
    wh_tlb_entry fetches[WH_FTLB_MODES][WH_FTLB_ENTRIES];
    wh_tlb_entry codes[WH_FTLB_MODES][WH_FTLB_ENTRIES];
    wh_tlb_entry executables[WH_FTLB_MODES][WH_FTLB_ENTRIES]; /* behind both: where pages are; FENCE.I leaves it */
    uint32_t jump_generation;                                 /* jumps of an older one are forgotten */
    uint64_t jump_pages[WH_JUMPS / 64];                       /* bit page modulo WH_JUMPS: jumps may lead there */
} wh_mmu;

void wh_mmu_init(wh_mmu *m, wh_ram *ram); /* again and again; the first time *m is zeros, or opened */
void wh_mmu_open(wh_mmu *m);              /* with a second level, if there is memory for it */
void wh_mmu_close(wh_mmu *m);
/* Select arrays and context numbers for this privilege (fetch), effective data privilege and satp. */
void wh_mmu_context(wh_mmu *m, enum wh_priv priv, enum wh_priv data_priv, bool sum, bool mxr, uint64_t satp);

void wh_mmu_flush_all(wh_mmu *m);
void wh_mmu_flush_asid(wh_mmu *m, uint32_t asid);
void wh_mmu_flush_page(wh_mmu *m, uint64_t va); /* every ASID; a superpage's span flushes all */
void wh_mmu_flush_range(wh_mmu *m, uint64_t va, uint64_t pages);
void wh_mmu_drop_stores(wh_mmu *m);  /* a new dirty round */
void wh_mmu_drop_fetches(wh_mmu *m); /* FENCE.I */
void wh_mmu_drop_decoded(wh_mmu *m); /* only what leads to the interpreter's decoded pages */
void wh_mmu_drop_jumps(wh_mmu *m);

/* sites.c */
bool wh_sites_open(wh_mmu *m); /* for a translator; false: no memory */
void wh_sites_close(wh_mmu *m);
void wh_sites_select(wh_mmu *m); /* after the mode or the data context may have changed */
void wh_sites_drop_page(wh_mmu *m, uint64_t va);
void wh_sites_drop_stores(wh_mmu *m);
void wh_sites_drop_odd(wh_mmu *m); /* of mode WH_TLB_ODD */
void wh_sites_drop_all(wh_mmu *m);
void wh_sites_give_back(wh_mmu *m); /* the memory of all sets but the current one's */
/* Translated code came for a look of m->tired, at va. True: its place goes to another page too often for a slot. */
bool wh_sites_watch(wh_mmu *m, uint64_t va);

/* far.c. The arrays of the current mode into far_load and far_store. */
void wh_far_select(wh_mmu *m);
/* Where va's page would be in the second level; NULL: nowhere. */
static inline wh_tlb_entry *wh_far_slot(const wh_mmu *m, uint64_t va, enum wh_access access)
{
    wh_tlb_entry *array = access == WH_STORE ? m->far_store : m->far_load;
    return array != NULL ? &array[(va >> WH_PAGE_SHIFT) % WH_FAR_ENTRIES] : NULL;
}
void wh_far_drop_page(wh_mmu *m, uint64_t page, uint64_t mask); /* mask: the page number's bits of a tag */
void wh_far_drop_stores(wh_mmu *m);
void wh_far_drop_all(wh_mmu *m);

/* recent.c: set a bit (page of RAM) for each page that the TLBs hold, and for the tables that lead there now; far: of
 * the second level only. The hart may run: a hint. Bits for all of RAM. */
void wh_mmu_recent_pages(const wh_mmu *m, bool far, uint64_t *bitmap);
void wh_mmu_add_entries(const wh_mmu *m, const wh_tlb_entry *entries, size_t count, uint64_t *bitmap);
void wh_far_recent_pages(const wh_mmu *m, uint64_t *bitmap);

typedef struct wh_translation {
    uint64_t pa;
    unsigned shift; /* log2 of the mapping's size */
    bool global;    /* in every address space (G) */
} wh_translation;
/* Walk only; 0 or a cause. Sets A and D as the access needs. No PMP check of the final address. */
int wh_mmu_walk(wh_mmu *m, uint64_t va, enum wh_access access, enum wh_priv priv, wh_translation *out);
/* Where va leads at the current privilege and satp, whatever the rights; changes nothing (probe.c, for debuggers). */
bool wh_mmu_probe(const wh_mmu *m, uint64_t va, uint64_t *pa);

/* Translate one access that lies within a page, PMP included; 0 or a cause. *host is NULL outside RAM. A RAM page goes
 * into the TLB (load and store) and its dirty bit is set (store). */
int wh_mmu_data(wh_mmu *m, uint64_t va, unsigned size, enum wh_access access, uint64_t *pa, uint8_t **host);
/* The same for a fetch; *whole: the page is RAM and wholly executable, so that the engine may call wh_mmu_fill_fetch.
 */
int wh_mmu_fetch(wh_mmu *m, uint64_t va, unsigned size, uint64_t *pa, uint8_t **host, bool *whole);

static inline wh_tlb_entry *wh_mmu_fetch_slot(const wh_mmu *m, uint64_t va)
{
    return &m->fetch[(va >> WH_PAGE_SHIFT) % WH_FTLB_ENTRIES];
}
static inline wh_tlb_entry *wh_mmu_code_slot(const wh_mmu *m, uint64_t va)
{
    return &m->code[(va >> WH_PAGE_SHIFT) % WH_FTLB_ENTRIES];
}
static inline wh_jump *wh_mmu_jump_slot(const wh_mmu *m, uint64_t va)
{
    return &m->jumps[((uint32_t)va ^ (uint32_t)va >> WH_JUMP_MIX) / 2 % WH_JUMPS];
}
static inline void wh_mmu_fill_jump(wh_mmu *m, uint64_t va, uint32_t code)
{
    uint64_t page = (va >> WH_PAGE_SHIFT) % WH_JUMPS;
    m->jump_pages[page / 64] |= 1ull << page % 64;
    *wh_mmu_jump_slot(m, va) = (wh_jump){.va = va, .context = m->code_context, .code = code};
}
static inline void wh_mmu_fill_fetch(wh_mmu *m, uint64_t va, uint64_t value)
{
    wh_tlb_entry *e = wh_mmu_fetch_slot(m, va);
    e->tag = (va >> WH_PAGE_SHIFT) | m->fetch_context;
    e->addend = value;
}

#endif
