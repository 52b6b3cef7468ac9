/* site: the first look for a translation (mmu/sites.c). Each load and store has a slot that it looks into; the address
 * takes part in nothing but a comparison, so that a load does not wait for a hash of it.
 *
 * Inline only an aligned access can find something: what remains of its address without the offset in the page, but
 * with the bits that are not zero in a misaligned one, has to equal the slot's tag. Everything else comes to a thunk:
 * it looks in both levels of the TLB as C would, fills the slot, and knows whether an access crosses a page.
 *
 * Patience: a place that finds another page almost each time would mispredict a branch each time and fill its slot in
 * vain. Having filled it WH_SITE_PATIENCE times within 256 instructions of the budget it gets an empty slot, and thus
 * always comes here, the next WH_SITE_RESTLESS times; then it may try again. */
#include "jit/x86/x86.h"

#define SITE(member)        x_at(SITES, offsetof(wh_sites, member))
#define ENTRY(base, member) x_at(base, offsetof(wh_tlb_entry, member))
#define PAGE_MASK           (-(int32_t)WH_PAGE_SIZE)
#define HASH(entries)       (((entries) - 1) * (int32_t)sizeof(wh_tlb_entry))
#define HASH_SHIFT          (WH_PAGE_SHIFT - 4)
#define FILLS               x_indexed(SITES, RDX, 1, offsetof(wh_sites, fills))
enum { CMP8 = 0x3a }; /* cmp r8, r/m8 */

uint32_t wh_x86_new_site(wh_x86 *e, bool store)
{
    uint32_t index = e->arena->site[store]++ % WH_SITES + (store ? WH_SITES : 0);
    return (uint32_t)(offsetof(wh_sites, slot) + index * sizeof(wh_tlb_entry));
}

uint8_t *wh_x86_site_check(wh_x86 *e, wh_mem address, unsigned size, uint32_t slot)
{
    wh_asm *a = &e->a;
    if (address.disp == 0 && address.index == X_NO_REG)
        x_mov_rr(a, RDX, address.base);
    else
        x_rm(a, X_LEA, true, RDX, address);
    x_alu_ri(a, X_AND, true, RDX, PAGE_MASK | (int32_t)(size - 1));
    x_rm(a, X_CMP, true, RDX, x_at(SITES, slot));
    return x_jcc(a, CC_NE);
}

static unsigned thunk_of(struct wh_x86_site site)
{
    return THUNK_SITE + (site.store ? 4 : 0) + (unsigned)__builtin_ctz(site.size);
}

void wh_x86_site_search(wh_x86 *e, struct wh_x86_site site)
{
    x_mov_ri(&e->a, RDX, site.slot / sizeof(wh_tlb_entry));
    x_call_to(&e->a, wh_x86_thunk_at(e, thunk_of(site)));
}

/* rcx: entry of the first level, where the wanted tag (rdx) is not. Falls through when the second level has it. */
static void emit_far(wh_asm *a, bool store, uint8_t *miss[2])
{
    x_alu_mi(a, X_CMP, true, store ? H(mmu.far_store) : H(mmu.far_load), 0);
    miss[0] = x_jcc(a, CC_E);
    x_push(a, RAX);
    x_shift_ri(a, X_SHR, false, RAX, HASH_SHIFT);
    x_alu_ri(a, X_AND, false, RAX, HASH((int32_t)WH_FAR_ENTRIES));
    x_rm(a, X_ADD, true, RAX, store ? H(mmu.far_store) : H(mmu.far_load));
    x_rm(a, X_CMP, true, RDX, ENTRY(RAX, tag));
    x_rm(a, X_MOV, true, RAX, ENTRY(RAX, addend));
    uint8_t *other = x_jcc_short(a, CC_NE);
    x_rm(a, X_MOV_STORE, true, RDX, ENTRY(RCX, tag));
    x_rm(a, X_MOV_STORE, true, RAX, ENTRY(RCX, addend));
    x_bind_short(a, other);
    x_pop(a, RAX); /* changes no flags */
    miss[1] = x_jcc(a, CC_NE);
}

/* Equal, with rdx = the addend of the entry in rcx. */
static void emit_found(wh_asm *a)
{
    x_rm(a, X_MOV, true, RDX, ENTRY(RCX, addend));
    x_rr(a, X_CMP, false, RCX, RCX);
    x_ret(a);
}

/* rax: address, rcx: its entry, rdx: the slot's number; its count is not negative. */
static void emit_fill(wh_asm *a)
{
    wh_mem fills = FILLS;
    wh_mem when = x_indexed(SITES, RDX, 0, offsetof(wh_sites, when));
    x_push(a, RAX);
    x_rr(a, X_MOV, false, RAX, BUDGET);
    x_shift_ri(a, X_SHR, false, RAX, 8);
    x_rm(a, CMP8, false, RAX, when);
    x_rm(a, X_MOV_STORE8, false, RAX, when);
    uint8_t *lately = x_jcc_short(a, CC_E);
    x_mov_mi8(a, fills, 1); /* of a count below 256: the low half is all of it */
    x_bind_short(a, lately);
    x_cmp8_mi(a, fills, WH_SITE_PATIENCE);
    x_pop(a, RAX);
    uint8_t *restless = x_jcc_short(a, CC_A);
    x_push(a, RAX);
    x_push(a, RDX);
    x_shift_ri(a, X_SHR, false, RDX, 6);
    x_rm(a, X_MOV, true, RAX, SITE(used));
    x_rr(a, X_0F(0xab), true, RDX, RAX); /* bts */
    x_rm(a, X_MOV_STORE, true, RAX, SITE(used));
    x_pop(a, RDX);
    x_pop(a, RAX);
    x_shift_ri(a, X_SHL, false, RDX, 4);
    x_push(a, RAX);
    x_alu_ri(a, X_AND, true, RAX, PAGE_MASK);
    x_rm(a, X_MOV_STORE, true, RAX, x_indexed(SITES, RDX, 0, offsetof(wh_tlb_entry, tag)));
    x_rm(a, X_MOV, true, RAX, ENTRY(RCX, addend));
    x_rm(a, X_MOV_STORE, true, RAX, x_indexed(SITES, RDX, 0, offsetof(wh_tlb_entry, addend)));
    x_pop(a, RAX);
    emit_found(a);
    x_bind_short(a, restless);
    x_mov_mi8(a, fills, (uint8_t)-WH_SITE_RESTLESS);
    fills.disp++;
    x_mov_mi8(a, fills, (uint8_t)(-WH_SITE_RESTLESS >> 8));
    x_shift_ri(a, X_SHL, false, RDX, 4);
    x_mov_mi(a, true, x_indexed(SITES, RDX, 0, offsetof(wh_tlb_entry, tag)), WH_SITE_NONE);
    emit_found(a);
}
_Static_assert(offsetof(wh_sites, slot) == 0 && sizeof(wh_tlb_entry) == 16 && WH_SITE_CHUNK == 64, "shifts");

static void emit_search(wh_asm *a, unsigned size, bool store)
{
    uint8_t *miss[2];
    x_rr(a, X_MOV, false, RCX, RAX);
    x_shift_ri(a, X_SHR, false, RCX, HASH_SHIFT);
    x_alu_ri(a, X_AND, false, RCX, HASH((int32_t)WH_TLB_ENTRIES));
    x_rm(a, X_ADD, true, RCX, store ? H(mmu.store) : H(mmu.load));
    x_push(a, RDX);
    x_rm(a, X_LEA, true, RDX, x_at(RAX, (int64_t)size - 1));
    x_shift_ri(a, X_SHR, true, RDX, WH_PAGE_SHIFT);
    x_rm(a, X_OR, true, RDX, H(mmu.data_context));
    x_rm(a, X_CMP, true, RDX, ENTRY(RCX, tag));
    uint8_t *far = x_jcc(a, CC_NE);
    const uint8_t *found = a->p;
    x_pop(a, RDX);
    x_byte(a, 0x66);
    x_alu_mi(a, X_ADD, false, FILLS, 1);
    uint8_t *fill = x_jcc(a, CC_NS);
    emit_found(a);
    x_bind(a, fill, a->p);
    emit_fill(a);
    x_bind(a, far, a->p);
    emit_far(a, store, miss);
    x_jmp_to(a, found);
    x_bind(a, miss[0], a->p);
    x_bind(a, miss[1], a->p);
    x_pop(a, RDX);
    x_rr(a, X_TEST, true, RSP, RSP); /* not zero */
    x_ret(a);
}

void wh_x86_site_thunks(wh_x86 *e)
{
    for (unsigned t = 0; t < 8; t++) {
        x_align(&e->a, 16, 0);
        e->arena->thunk[THUNK_SITE + t] = (uint32_t)(e->a.p - e->arena->rw);
        emit_search(&e->a, 1u << t % 4, t >= 4);
    }
}
