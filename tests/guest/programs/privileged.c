/* Runs the cases of tests/isa/privileged.py, which writes them over `cases`: each sets up CSRs, PMP, page tables and
 * interrupts, leaves by mret to two instructions and an ecall, and tells on the UART (raw bytes) what it came back
 * with. The same file runs on another emulator; equal bytes are the test. */
#include "rt.h"
FINISH_WITH_ZERO

enum { CASES = 224, OUT_WORDS = 20 };
struct probe {
    uint64_t sp; /* the assembly below knows these offsets */
    uint64_t mstatus, mepc, a0, a1;
    uint64_t out_a0, out_a1;
};
struct one_case {
    uint64_t mstatus, medeleg, mideleg, mie, mip, menvcfg, senvcfg, mcounteren, scounteren;
    uint64_t mode, va, leaf_level, leaf_pte, noise_level, noise;
    uint64_t where, code, a0, a1, clint, vectored, pmpcfg, pmpaddr[7], data, asid, used;
};
_Static_assert(sizeof(struct one_case) == 256, "as the generator packs it");
__attribute__((section(".data"), aligned(4096))) volatile struct one_case cases[CASES] = {
    {.mstatus = 0x1122334455667788}};

#define TABLES  0x80400000ul
#define DATA    0x80600000ul
#define GIB     (1ul << 30)
#define PTE(pa) ((uint64_t)(pa) >> 12 << 10)
enum { V = 1, R = 2, W = 4, X = 8, U = 16, A = 64, D = 128 };
enum { IN_PLACE = 0, USER_ALIAS = 1, AT_VA = 2 };

void probe(struct probe *p);
void probe_return(void);
extern uint32_t probe_slot[], probe_vectors[];
__asm__(".text\n.balign 8\n.globl probe\nprobe:\n"
        "addi sp, sp, -128\n"
        "sd ra, 0(sp)\n sd s0, 8(sp)\n sd s1, 16(sp)\n sd s2, 24(sp)\n sd s3, 32(sp)\n sd s4, 40(sp)\n sd s5, 48(sp)\n"
        "sd s6, 56(sp)\n sd s7, 64(sp)\n sd s8, 72(sp)\n sd s9, 80(sp)\n sd s10, 88(sp)\n sd s11, 96(sp)\n"
        "sd sp, 0(a0)\n csrw mscratch, a0\n"
        "ld t0, 8(a0)\n csrw mstatus, t0\n ld t0, 16(a0)\n csrw mepc, t0\n ld a1, 32(a0)\n ld a0, 24(a0)\n mret\n"
        ".balign 4\n.globl probe_return\nprobe_return:\n"
        "csrrw a0, mscratch, a0\n sd a1, 48(a0)\n csrr t0, mscratch\n sd t0, 40(a0)\n ld sp, 0(a0)\n"
        "ld ra, 0(sp)\n ld s0, 8(sp)\n ld s1, 16(sp)\n ld s2, 24(sp)\n ld s3, 32(sp)\n ld s4, 40(sp)\n ld s5, 48(sp)\n"
        "ld s6, 56(sp)\n ld s7, 64(sp)\n ld s8, 72(sp)\n ld s9, 80(sp)\n ld s10, 88(sp)\n ld s11, 96(sp)\n"
        "addi sp, sp, 128\n ret\n"
        ".balign 256\n.globl probe_vectors\nprobe_vectors:\n.option push\n.option norvc\n.rept 64\n ecall\n.endr\n"
        ".globl probe_slot\nprobe_slot:\n ecall\n ecall\n ecall\n ecall\n.option pop\n");

static uint64_t next_table;

static volatile uint64_t *entry(uint64_t table, uint64_t va, int level)
{
    return (volatile uint64_t *)(table + (va >> (12 + 9 * level) & 511) * 8);
}

static uint64_t new_table(void)
{
    uint64_t table = next_table;
    next_table += PAGE;
    for (uint64_t i = 0; i < 512; i++)
        ((volatile uint64_t *)table)[i] = 0;
    return table;
}

/* The place of va's PTE at `leaf`, with the tables on the way to it. */
static volatile uint64_t *path(uint64_t root, uint64_t va, int levels, int leaf)
{
    uint64_t table = root;
    for (int level = levels - 1; level > leaf; level--) {
        volatile uint64_t *at = entry(table, va, level);
        if (*at == 0)
            *at = PTE(new_table()) | V;
        table = *at >> 10 << 12;
    }
    return entry(table, va, leaf);
}

static volatile uint64_t *leaf_at, *noise_at;

static uint64_t page_tables(const volatile struct one_case *c)
{
    int levels = (int)c->mode - 5;
    next_table = TABLES;
    uint64_t root = new_table();
    for (uint64_t i = 0; i < 2; i++) /* this program for S at its own address, and for U a GiB above */
        *path(root, 2 * GIB + i * GIB, levels, 2) = PTE(2 * GIB) | V | R | W | X | A | D | (i ? U : 0);
    leaf_at = path(root, c->va, levels, (int)c->leaf_level);
    *leaf_at = c->leaf_pte;
    noise_at = leaf_at;
    if (c->noise_level > c->leaf_level && (int)c->noise_level < levels) {
        noise_at = path(root, c->va, levels, (int)c->noise_level);
        *noise_at ^= c->noise;
    }
    return c->mode << 60 | c->asid << 44 | root >> 12;
}

static void pmp(const volatile struct one_case *c)
{
    CSR_WRITE(pmpcfg0, 0);
    CSR_WRITE(pmpaddr0, 0x80000000ul >> 2 | (0x200000 / 8 - 1)); /* this program */
    CSR_WRITE(pmpaddr1, c->pmpaddr[0]);
    CSR_WRITE(pmpaddr2, c->pmpaddr[1]);
    CSR_WRITE(pmpaddr3, c->pmpaddr[2]);
    CSR_WRITE(pmpaddr4, c->pmpaddr[3]);
    CSR_WRITE(pmpaddr5, c->pmpaddr[4]);
    CSR_WRITE(pmpaddr6, c->pmpaddr[5]);
    CSR_WRITE(pmpaddr7, c->pmpaddr[6]);
    CSR_WRITE(pmpcfg0, (c->pmpcfg & ~0xfful) | 0x1f);
}

static void quiet(void)
{
    CSR_WRITE(mstatus, 0);
    CSR_WRITE(mie, 0);
    CSR_WRITE(0x14d, -1ul); /* stimecmp: its value after reset is anyone's */
    write32(ACLINT, 0);
    *(volatile uint64_t *)(ACLINT + 0x4000) = -1ul;
    CSR_WRITE(mip, 0);
    CSR_WRITE(mideleg, 0);
    CSR_WRITE(satp, 0);
    CSR_WRITE(medeleg, 0);
    CSR_WRITE(pmpcfg0, 0); /* a region that holds half of an access refuses it even to M */
}

static void set_up(const volatile struct one_case *c)
{
    uint64_t satp = c->mode ? page_tables(c) : 0;
    pmp(c);
    CSR_WRITE(stvec, (uint64_t)(uintptr_t)probe_vectors | c->vectored);
    CSR_WRITE(mtvec, (uint64_t)(uintptr_t)probe_return);
    CSR_WRITE(scause, 0);
    CSR_WRITE(stval, 0);
    CSR_WRITE(sepc, 0);
    CSR_WRITE(medeleg, c->medeleg);
    CSR_WRITE(mideleg, c->mideleg);
    CSR_WRITE(menvcfg, c->menvcfg);
    CSR_WRITE(senvcfg, c->senvcfg);
    CSR_WRITE(mcounteren, c->mcounteren);
    CSR_WRITE(scounteren, c->scounteren);
    CSR_WRITE(satp, satp);
    __asm__ volatile("sfence.vma\nfence.i" ::: "memory");
    if (c->clint & 1)
        write32(ACLINT, 1);
    if (c->clint & 2)
        *(volatile uint64_t *)(ACLINT + 0x4000) = 0;
    CSR_WRITE(mip, c->mip);
    CSR_WRITE(mie, c->mie);
}

static void put_words(const uint64_t *v, unsigned count)
{
    for (unsigned i = 0; i < 8 * count; i++)
        UART[0] = (uint8_t)(v[i / 8] >> (i % 8 * 8));
}

static void run(const volatile struct one_case *c)
{
    volatile uint64_t *data = (volatile uint64_t *)(DATA + (c->data & 0xfff0));
    for (int i = -4; i < 8; i++) /* an ecall in every low half, so that it may be fetched */
        data[i] = 0x1234567800000073ul + ((uint64_t)(c->data + (uint64_t)i) << 32);
    probe_slot[0] = (uint32_t)c->code;
    probe_slot[1] = (uint32_t)(c->code >> 32);
    leaf_at = noise_at = data;
    quiet();
    set_up(c);
    uint64_t slot = (uint64_t)(uintptr_t)probe_slot;
    struct probe p = {.mstatus = c->mstatus,
                      .mepc = c->where == AT_VA        ? c->va
                              : c->where == USER_ALIAS ? slot + GIB
                                                       : slot,
                      .a0 = c->a0,
                      .a1 = c->a1};
    probe(&p);
    uint64_t mstatus = CSR_READ(mstatus);
    CSR_WRITE(mstatus, 0);
    CSR_WRITE(pmpcfg0, 0);
    uint64_t out[OUT_WORDS] = {CSR_READ(mcause), CSR_READ(mtval), CSR_READ(mepc), mstatus,       CSR_READ(scause),
                               CSR_READ(stval),  CSR_READ(sepc),  CSR_READ(mip),  CSR_READ(mie), CSR_READ(satp),
                               p.out_a0,         p.out_a1,        *leaf_at,       *noise_at,     CSR_READ(mcounteren),
                               data[0],          data[1],         data[2],        data[-1],      c->used};
    quiet();
    put_words(out, OUT_WORDS);
}

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    (void)cause;
    (void)epc;
    (void)tval;
    end(2);
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart;
    (void)opaque;
    for (unsigned i = 0; i < CASES && cases[i].used; i++)
        run(&cases[i]);
    end(0);
}
