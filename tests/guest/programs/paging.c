/* Sv39: an identity gigapage, a page mapped twice, a page without write permission, and one that is not there. */
#include "rt.h"
FINISH_WITH_ZERO

static uint64_t root[512] __attribute__((aligned(4096)));
static uint64_t mid[512] __attribute__((aligned(4096)));
static uint64_t leaf[512] __attribute__((aligned(4096)));
static uint64_t page[512] __attribute__((aligned(4096)));
static volatile uint64_t last_cause, last_tval, faults;

enum { V = 1, R = 2, W = 4, X = 8, A = 64, D = 128 };
#define PTE(pa, flags) ((uint64_t)(pa) >> 12 << 10 | (flags))
#define BAD_VA 0x4000000000ul /* not canonical in Sv39: bit 38 alone */
#define VA     0x1000000000ul

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    last_cause = cause;
    last_tval = tval;
    faults++;
    return epc + 4;
}

static uint64_t load(uint64_t va)
{
    uint64_t v = 77;
    __asm__ volatile(".option push\n.option norvc\nld %0, 0(%1)\n.option pop" : "+r"(v) : "r"(va) : "memory");
    return v;
}

static void store(uint64_t va, uint64_t v)
{
    __asm__ volatile(".option push\n.option norvc\nsd %0, 0(%1)\n.option pop" ::"r"(v), "r"(va) : "memory");
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart, (void)opaque;
    root[0] = PTE(0, V | R | W | A | D);                   /* devices */
    root[2] = PTE(0x80000000ul, V | R | W | X | A | D);    /* RAM */
    root[VA >> 30 & 511] = PTE(mid, V);
    mid[0] = PTE(leaf, V);
    leaf[0] = PTE(page, V | R | W | A | D);
    leaf[1] = PTE(page, V | R | A);
    leaf[2] = PTE(page, V | R | W); /* A and D are set by the hart, or it faults */
    CSR_WRITE(satp, 8ul << 60 | (uint64_t)root >> 12);
    __asm__ volatile("sfence.vma");
    store(VA, 1234);
    tell("alias", (long)load(VA + PAGE));
    tell("physical", (long)page[0]);
    tell("faults", (long)faults);
    store(VA + PAGE + 8, 1);
    tell("read_only_cause", (long)last_cause);
    tell("read_only_tval", (long)(last_tval - VA));
    load(VA + 3 * PAGE);
    tell("absent_cause", (long)last_cause);
    load(BAD_VA);
    tell("not_canonical_cause", (long)last_cause);
    tell("three_faults", (long)faults);
    store(VA + 2 * PAGE, 5);
    tell("ad_bits", faults > 3 || (leaf[2] & (A | D)) == (A | D));
    leaf[1] = PTE(page, V | R | W | A | D);
    __asm__ volatile("sfence.vma");
    faults = 0;
    store(VA + PAGE, 4321);
    tell("after_fence", (long)(page[0] + faults));
    CSR_WRITE(satp, 0);
    load(0x40000000ul); /* nothing is there */
    tell("access_cause", (long)last_cause);
    return 0;
}
