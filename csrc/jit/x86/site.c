/* site: the first look for a translation (mmu/sites.c), by slot or by page number.
 *
 * By slot only an aligned access can find something: what remains of its address without the offset in the page, but
 * with the bits that are not zero in a misaligned one, has to equal the slot's tag. By page number, what is compared is
 * the page of the access's last byte, in the entry for its first: an access that crosses a page never finds anything.
 *
 * Everything else comes to a thunk: it looks by page number, then in the TLB's second level, and fills what is
 * looked into next time. A slot that has been filled often is tired: then the thunk finds nothing, so that C makes the
 * access, and watches the place (helpers.c). */
#include "jit/x86/x86.h"

#define SITE(member)        x_at(SITES, offsetof(wh_sites, member))
#define ENTRY(base, member) x_at(base, offsetof(wh_tlb_entry, member))
#define PAGE_MASK           (-(int32_t)WH_PAGE_SIZE)
enum { BTS = X_0F(0xab) };
_Static_assert(sizeof(wh_tlb_entry) == 16 && WH_SITE_CHUNK == 64 && WH_SITE_PAGE_CHUNK == 16, "shifts");

uint32_t wh_x86_new_site(wh_x86 *e, bool store)
{
    uint32_t index = e->arena->site[store]++ % WH_SITES + (store ? WH_SITES : 0);
    return (uint32_t)(offsetof(wh_sites, slot) + index * sizeof(wh_tlb_entry));
}

/* Of the entry whose number is in rcx. */
static wh_mem page_tag(bool store)
{
    return x_indexed(SITES, RCX, 3, (int64_t)(offsetof(wh_sites, page_tag) + (store ? 8 * WH_TLB_ENTRIES : 0)));
}
static wh_mem page_addend(bool store)
{
    return x_indexed(SITES, RCX, 3, (int64_t)(offsetof(wh_sites, page_addend) + (store ? 8 * WH_TLB_ENTRIES : 0)));
}

/* rcx: the entry's number. A load whose address was loaded waits for this chain: bextr is one step of it. */
static void number_of(wh_asm *a, wh_mem address, int scratch)
{
    const uint64_t bits = WH_PAGE_SHIFT | (uint64_t)__builtin_ctz(WH_TLB_ENTRIES) << 8;
    if (address.disp == 0) {
        x_mov_ri(a, RCX, bits);
        x_bextr(a, false, RCX, address.base, RCX);
    } else {
        x_rm(a, X_LEA, false, RCX, address);
        x_mov_ri(a, scratch, bits);
        x_bextr(a, false, RCX, RCX, scratch);
    }
}

static uint8_t *look_by_page(wh_asm *a, wh_mem address, unsigned size, bool store)
{
    wh_mem last = address;
    last.disp += (int32_t)size - 1;
    number_of(a, address, RDX);
    if (last.disp == 0)
        x_mov_rr(a, RDX, last.base);
    else
        x_rm(a, X_LEA, true, RDX, last);
    x_alu_ri(a, X_AND, true, RDX, PAGE_MASK);
    x_rm(a, X_CMP, true, RDX, page_tag(store));
    uint8_t *miss = x_jcc(a, CC_NE);
    x_rm(a, X_MOV, true, RDX, page_addend(store));
    return miss;
}

uint8_t *wh_x86_site_look(wh_x86 *e, wh_mem address, struct wh_x86_site site)
{
    wh_asm *a = &e->a;
    if (site.slot == 0)
        return look_by_page(a, address, site.size, site.store);
    if (address.disp == 0)
        x_mov_rr(a, RDX, address.base);
    else
        x_rm(a, X_LEA, true, RDX, address);
    x_alu_ri(a, X_AND, true, RDX, PAGE_MASK | (int32_t)(site.size - 1));
    x_rm(a, X_CMP, true, RDX, x_at(SITES, site.slot));
    uint8_t *miss = x_jcc(a, CC_NE);
    x_rm(a, X_MOV, true, RDX, x_at(SITES, site.slot + offsetof(wh_tlb_entry, addend)));
    return miss;
}

static unsigned thunk_of(struct wh_x86_site site)
{
    return (site.slot == 0 ? THUNK_PAGE : THUNK_SITE) + (site.store ? 4 : 0) + (unsigned)__builtin_ctz(site.size);
}

void wh_x86_site_search(wh_x86 *e, struct wh_x86_site site)
{
    if (site.slot != 0)
        x_mov_ri(&e->a, RDX, (site.slot - offsetof(wh_sites, slot)) / sizeof(wh_tlb_entry));
    x_call_to(&e->a, wh_x86_thunk_at(e, thunk_of(site)));
}

/* [where] |= 1 << rcx. Clobbers `with`. */
static void set_bit(wh_asm *a, wh_mem where, int with)
{
    x_rm(a, X_MOV, true, with, where);
    x_rr(a, BTS, true, RCX, with);
    x_rm(a, X_MOV_STORE, true, with, where);
}

/* rax: address, rdx: page number of its last byte. Falls through with the entry by page number filled, and its addend
 * in rdx, if the second level of the TLB has it. */
static void emit_far(wh_asm *a, bool store, uint8_t *miss[2])
{
    x_rm(a, X_OR, true, RDX, H(mmu.data_context));
    x_rm(a, X_MOV, true, RCX, store ? H(mmu.far_store) : H(mmu.far_load));
    x_rr(a, X_TEST, true, RCX, RCX);
    miss[0] = x_jcc(a, CC_E);
    x_push(a, RAX);
    x_shift_ri(a, X_SHR, false, RAX, WH_PAGE_SHIFT - 4);
    x_alu_ri(a, X_AND, false, RAX, 16 * ((int32_t)WH_FAR_ENTRIES - 1));
    x_rr(a, X_ADD, true, RCX, RAX);
    x_pop(a, RAX);
    x_rm(a, X_CMP, true, RDX, ENTRY(RCX, tag));
    miss[1] = x_jcc(a, CC_NE);
    x_rm(a, X_MOV, true, RDX, ENTRY(RCX, addend));
    number_of(a, x_at(RAX, 0), RCX);
    x_push(a, RAX);
    x_alu_ri(a, X_AND, true, RAX, PAGE_MASK);
    x_rm(a, X_MOV_STORE, true, RAX, page_tag(store));
    x_rm(a, X_MOV_STORE, true, RDX, page_addend(store));
    x_shift_ri(a, X_SHR, false, RCX, 4);
    if (store)
        x_alu_ri(a, X_ADD, false, RCX, WH_TLB_ENTRIES / WH_SITE_PAGE_CHUNK);
    set_bit(a, SITE(pages_used), RAX);
    x_pop(a, RAX);
}

/* rax: address. Falls through with rdx = its addend; keeps rax. */
static void emit_find(wh_asm *a, unsigned size, bool store, uint8_t *miss[2])
{
    uint8_t *other = look_by_page(a, x_at(RAX, 0), size, store);
    uint8_t *found = x_jmp(a);
    x_bind(a, other, a->p);
    x_shift_ri(a, X_SHR, true, RDX, WH_PAGE_SHIFT);
    emit_far(a, store, miss);
    x_bind(a, found, a->p);
}

static void emit_result(wh_asm *a, bool found)
{
    x_rr(a, found ? X_CMP : X_TEST, true, RSP, RSP); /* rsp is not 0 */
    x_ret(a);
}

/* rax: address, rcx: the slot's number, rdx: addend. */
static void emit_fill(wh_asm *a)
{
    x_byte(a, 0x66);
    x_alu_mi(a, X_SUB, false, x_indexed(SITES, RCX, 1, offsetof(wh_sites, left)), 1);
    uint8_t *tired = x_jcc_short(a, CC_S);
    x_push(a, RAX);
    x_push(a, RCX);
    x_shift_ri(a, X_SHL, false, RCX, 4);
    x_rm(a, X_MOV_STORE, true, RDX,
         x_indexed(SITES, RCX, 0, offsetof(wh_sites, slot) + offsetof(wh_tlb_entry, addend)));
    x_alu_ri(a, X_AND, true, RAX, PAGE_MASK);
    x_rm(a, X_MOV_STORE, true, RAX, x_indexed(SITES, RCX, 0, offsetof(wh_sites, slot) + offsetof(wh_tlb_entry, tag)));
    x_shift_ri(a, X_SHR, true, RAX, WH_PAGE_SHIFT);
    x_alu_ri(a, X_AND, false, RAX, WH_SITE_BUCKETS - 1);
    x_pop(a, RCX);
    x_shift_ri(a, X_SHR, false, RCX, 6);
    x_push(a, RDX);
    set_bit(a, x_indexed(SITES, RAX, 3, offsetof(wh_sites, holders)), RDX);
    x_pop(a, RDX);
    x_pop(a, RAX);
    emit_result(a, true);
    x_bind_short(a, tired);
    x_alu_ri(a, X_ADD, false, RCX, 1);
    x_rm(a, X_MOV_STORE, false, RCX, H(mmu.tired));
    emit_result(a, false);
}

static void emit_thunk(wh_asm *a, unsigned size, bool store, bool slot)
{
    uint8_t *miss[2];
    if (slot)
        x_push(a, RDX);
    emit_find(a, size, store, miss);
    if (slot) {
        x_pop(a, RCX);
        emit_fill(a);
    } else {
        emit_result(a, true);
    }
    x_bind(a, miss[0], a->p);
    x_bind(a, miss[1], a->p);
    if (slot)
        x_pop(a, RDX);
    emit_result(a, false);
}

void wh_x86_site_thunks(wh_x86 *e)
{
    for (unsigned t = 0; t < 16; t++) {
        x_align(&e->a, 16, 0);
        e->arena->thunk[THUNK_PAGE + t] = (uint32_t)(e->a.p - e->arena->rw);
        emit_thunk(&e->a, 1u << t % 4, t / 4 % 2 != 0, t >= 8);
    }
}
