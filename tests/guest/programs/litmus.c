/* What harts may see of each other: atomics, locks, message passing and store buffering with fences, code and page
 * tables that another hart changes, interrupts and hart states. Hart 0 leads; the others do each part with it and meet
 * it at a barrier before and after. Prints "begin PART" and then "PART=errors" (0) plus what each part counted. */
#include "rt.h"

#include <stdbool.h>
FINISH_WITH_ZERO

#define MAX_HARTS 4
#define COUNTS    200000ul
#define CELLS     2048ul
#define ENOUGH    3000ul    /* instances in which both harts were at work at once */
#define LONGEST   7000000ul /* but no more of mtime than this, where the host has but one core for all */
#define REWRITES  200ul
#define MAPPINGS  160ul
#define IPIS      1500ul
#define RESTARTS  60ul
#define RESTARTED 0x5000ul

/* Spinning harts let others have the host's cores, of which there may be fewer. */
#define PAUSE() __asm__ volatile(".word 0x0100000f" ::: "memory")

static volatile uint64_t harts, arrived, generation;
static volatile uint64_t errors;
extern void enter(void);

static void fail(void)
{
    __atomic_fetch_add(&errors, 1, __ATOMIC_SEQ_CST);
}

static void barrier(void)
{
    uint64_t now = generation;
    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == harts) {
        arrived = 0;
        __atomic_store_n(&generation, now + 1, __ATOMIC_SEQ_CST);
    } else {
        /* At first without PAUSE, so that all go on within the same moment where the host has the cores. */
        for (uint64_t spins = 0; __atomic_load_n(&generation, __ATOMIC_SEQ_CST) == now; spins++)
            if (spins > 20000)
                PAUSE();
    }
}

static uint64_t me(void)
{
    return CSR_READ(sscratch);
}

/* ---- traps: mail that comes with IPIs, and faults that a part expects */
static struct {
    volatile uint64_t mail, drained, faults;
    uint64_t pad[5];
} per_hart[MAX_HARTS];

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    uint64_t hart = me();
    if (cause == (1ul << 63 | 1)) {
        CSR_CLEAR(sip, 2);
        per_hart[hart].drained += __atomic_exchange_n(&per_hart[hart].mail, 0, __ATOMIC_SEQ_CST);
        return epc;
    }
    if (cause == 13 || cause == 15) {
        per_hart[hart].faults++;
        return epc + 4; /* the accesses that may fault are 4 bytes long */
    }
    tell("cause", (long)cause);
    tell("epc", (long)epc);
    tell("tval", (long)tval);
    end(2);
}

/* ---- counters */
static volatile uint64_t sum64, locked_a, locked_b;
static volatile uint32_t sum32, lock;
static volatile uint64_t reserved64, failed_sc;
static volatile uint32_t reserved32;

static void amo(void)
{
    for (uint64_t i = 0; i < COUNTS; i++) {
        __atomic_fetch_add(&sum64, 0x100000001ul, __ATOMIC_RELAXED);
        __atomic_fetch_add(&sum32, 3, __ATOMIC_RELAXED);
    }
}

static void lrsc(void)
{
    uint64_t v, failed, missed = 0;
    for (uint64_t i = 0; i < COUNTS; i++) {
        for (failed = 1; failed; missed += failed)
            __asm__ volatile("lr.d %0, (%2)\naddi %0, %0, 1\nsc.d %1, %0, (%2)"
                             : "=&r"(v), "=&r"(failed)
                             : "r"(&reserved64)
                             : "memory");
        for (failed = 1; failed; missed += failed)
            __asm__ volatile("lr.w %0, (%2)\naddi %0, %0, 5\nsc.w %1, %0, (%2)"
                             : "=&r"(v), "=&r"(failed)
                             : "r"(&reserved32)
                             : "memory");
    }
    __atomic_fetch_add(&failed_sc, missed, __ATOMIC_RELAXED);
}

static void spinlock(void)
{
    for (uint64_t i = 0; i < COUNTS / 16; i++) {
        while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
            PAUSE();
        locked_a = locked_a + 1; /* no atomics: the lock alone makes these whole */
        if (locked_b + 1 != locked_a)
            fail();
        locked_b = locked_b + 1;
        __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
    }
}

/* ---- litmus tests, between harts 2n and 2n + 1, many instances a batch */
static struct {
    volatile uint64_t x;
    uint64_t pad[7];
    volatile uint64_t y;
    uint64_t pad2[7];
} cell[MAX_HARTS / 2][CELLS];
static volatile uint64_t result[MAX_HARTS][CELLS];
static volatile uint64_t mp_met, sb_met; /* instances in which the harts were seen at work at once */
static volatile bool more;

static void clear(uint64_t pair)
{
    for (uint64_t i = 0; i < CELLS; i++)
        cell[pair][i].x = cell[pair][i].y = 0;
}

/* Before each batch; hart 0 says whether there is another one. */
static bool next_batch(uint64_t hart, uint64_t end, volatile uint64_t *met)
{
    if (hart % 2 == 0)
        clear(hart / 2);
    if (hart == 0)
        more = *met < ENOUGH && CSR_READ(time) < end;
    barrier();
    return more;
}

static void mp(void)
{
    uint64_t hart = me(), pair = hart / 2, limit = CSR_READ(time) + LONGEST;
    while (next_batch(hart, limit, &mp_met)) {
        uint64_t met = 0;
        for (uint64_t i = 0; i < CELLS; i++) {
            if (hart % 2 == 0) {
                cell[pair][i].x = 1;
                __asm__ volatile("fence w, w" ::: "memory");
                cell[pair][i].y = 1;
            } else {
                uint64_t y = cell[pair][i].y;
                __asm__ volatile("fence r, r" ::: "memory");
                uint64_t x = cell[pair][i].x;
                if (y && !x)
                    fail();
                met += x && !y;
            }
        }
        __atomic_fetch_add(&mp_met, met, __ATOMIC_RELAXED);
        barrier();
    }
}

static void sb(void)
{
    uint64_t hart = me(), pair = hart / 2, limit = CSR_READ(time) + LONGEST;
    while (next_batch(hart, limit, &sb_met)) {
        uint64_t met = 0;
        for (uint64_t i = 0; i < CELLS; i++) {
            volatile uint64_t *mine = hart % 2 ? &cell[pair][i].y : &cell[pair][i].x;
            volatile uint64_t *other = hart % 2 ? &cell[pair][i].x : &cell[pair][i].y;
            *mine = 1;
#ifndef WITHOUT_FENCE
            __asm__ volatile("fence rw, rw" ::: "memory");
#endif
            result[hart][i] = *other;
        }
        barrier();
        if (hart % 2 == 0)
            for (uint64_t i = 0; i < CELLS; i++) {
                if (!result[hart][i] && !result[hart + 1][i])
                    fail();
                met += result[hart][i] && result[hart + 1][i];
            }
        __atomic_fetch_add(&sb_met, met, __ATOMIC_RELAXED);
    }
}

/* ---- code that hart 0 writes and the others run; only SBI's remote FENCE.I tells them */
static uint32_t code[2] __attribute__((aligned(8))) = {0x00000513, 0x00008067}; /* li a0, 0; ret */
static volatile uint64_t published, done, runs;

static void remote_fence_i(void)
{
    if (me() == 0) {
        for (uint64_t n = 1; n <= REWRITES; n++) {
            __atomic_store_n(&code[0], (uint32_t)(n << 20 | 0x513), __ATOMIC_RELEASE);
            if (sbi(EXT_RFENCE, 0, n & 1 ? 0 : (1ul << harts) - 1, n & 1 ? -1ul : 0, 0).error)
                fail();
            __atomic_store_n(&published, n, __ATOMIC_SEQ_CST);
            uint64_t seen = runs;
            while (runs == seen)
                PAUSE();
        }
        done = 1;
    } else {
        uint64_t (*run)(void) = (uint64_t (*)(void))(uintptr_t)code;
        while (!done) {
            uint64_t before = __atomic_load_n(&published, __ATOMIC_SEQ_CST), got = run();
            uint64_t after = __atomic_load_n(&published, __ATOMIC_SEQ_CST);
            if (got < before || got > after + 1)
                fail();
            if (__atomic_fetch_add(&runs, 1, __ATOMIC_RELAXED) % 64 == 0)
                PAUSE();
        }
    }
    barrier();
    if (me() == 0 && published != REWRITES)
        fail();
}

/* ---- a page that hart 0 maps, protects, moves and unmaps; only SBI's remote SFENCE.VMA tells the others */
static uint64_t root[512] __attribute__((aligned(4096)));
static uint64_t mid[512] __attribute__((aligned(4096)));
static uint64_t leaf[512] __attribute__((aligned(4096)));
static uint64_t page_a[512] __attribute__((aligned(4096)));
static uint64_t page_b[512] __attribute__((aligned(4096)));
static volatile uint64_t gate, looks[MAX_HARTS], mapping_faults;
enum { V = 1, R = 2, W = 4, X = 8, A = 64, D = 128 };
enum { MAP_A, PROTECT, MAP_B, UNMAP, PHASES };
#define PTE(pa, flags) ((uint64_t)(pa) >> 12 << 10 | (flags))
#define VA             0x1000000000ul

static uint64_t load4(uint64_t va)
{
    uint64_t v = 0;
    __asm__ volatile(".option push\n.option norvc\nld %0, 0(%1)\n.option pop" : "+r"(v) : "r"(va) : "memory");
    return v;
}

static void store4(uint64_t va, uint64_t v)
{
    __asm__ volatile(".option push\n.option norvc\nsd %0, 0(%1)\n.option pop" ::"r"(v), "r"(va) : "memory");
}

/* One look at the page; what it must show holds if the gate did not move meanwhile. A gate that is odd is moving. */
static void look(uint64_t hart)
{
    uint64_t before = __atomic_load_n(&gate, __ATOMIC_SEQ_CST), first = per_hart[hart].faults;
    uint64_t got = load4(VA), second = per_hart[hart].faults;
    store4(VA + 8 + 8 * hart, before);
    uint64_t third = per_hart[hart].faults;
    if (before % 2 || __atomic_load_n(&gate, __ATOMIC_SEQ_CST) != before)
        return;
    uint64_t phase = before / 2 % PHASES, want = phase == MAP_B ? 0xb : phase == UNMAP ? 0 : 0xa;
    if (got != want || (second != first) != (phase == UNMAP) ||
        (third != second) != (phase == UNMAP || phase == PROTECT))
        fail();
    looks[hart] = before;
}

static void all_looked(uint64_t at)
{
    for (uint64_t h = 1; h < harts; h++)
        while (looks[h] != at)
            PAUSE();
}

static void change_mapping(uint64_t at)
{
    static const uint64_t flags[PHASES] = {V | R | W | A | D, V | R | A | D, V | R | W | A | D, 0};
    uint64_t phase = at / 2 % PHASES;
    gate = at - 1;
    __atomic_store_n(&leaf[0], flags[phase] ? PTE(phase == MAP_B ? page_b : page_a, flags[phase]) : 0,
                     __ATOMIC_SEQ_CST);
    __asm__ volatile("sfence.vma");
    bool all = at / 2 % 3 == 0; /* else just the page */
    if (sbi4(EXT_RFENCE, 1, 0, -1ul, all ? 0 : VA, all ? -1ul : PAGE).error)
        fail();
    __atomic_store_n(&gate, at, __ATOMIC_SEQ_CST);
}

static void remote_sfence(void)
{
    uint64_t hart = me();
    if (hart == 0) {
        page_a[0] = 0xa;
        page_b[0] = 0xb;
        root[0] = PTE(0, V | R | W | A | D);
        root[2] = PTE(0x80000000ul, V | R | W | X | A | D);
        root[VA >> 30 & 511] = PTE(mid, V);
        mid[0] = PTE(leaf, V);
        gate = 1;
        done = 0;
    }
    barrier();
    CSR_WRITE(satp, 8ul << 60 | (uint64_t)root >> 12);
    __asm__ volatile("sfence.vma");
    if (hart == 0) {
        for (uint64_t i = 1; i <= MAPPINGS; i++) {
            change_mapping(2 * PHASES + 2 * i);
            all_looked(2 * PHASES + 2 * i);
        }
        done = 1;
    } else {
        while (!done) {
            look(hart);
            PAUSE();
        }
        __atomic_fetch_add(&mapping_faults, per_hart[hart].faults != 0, __ATOMIC_RELAXED);
    }
    CSR_WRITE(satp, 0);
    __asm__ volatile("sfence.vma");
}

/* ---- interrupts: every letter arrives, though interrupts coalesce */
static void ipi_storm(void)
{
    uint64_t hart = me();
    per_hart[hart].drained = 0;
    CSR_SET(sie, 2);
    barrier();
    CSR_SET(sstatus, 2);
    for (uint64_t i = 0; i < IPIS; i++) {
        uint64_t to = (hart + 1 + i % (harts - 1)) % harts;
        __atomic_fetch_add(&per_hart[to].mail, 1, __ATOMIC_SEQ_CST);
        sbi(EXT_IPI, 0, 1ul << to, 0, 0);
    }
    for (;;) { /* sleep until the last letter has come: a lost interrupt would be a sleep for ever */
        CSR_CLEAR(sstatus, 2);
        uint64_t total = 0;
        for (uint64_t h = 0; h < harts; h++)
            total += per_hart[h].drained;
        if (total == harts * IPIS)
            break;
        if (per_hart[hart].drained < IPIS)
            __asm__ volatile("wfi");
        CSR_SET(sstatus, 2);
    }
    barrier();
}

/* ---- hart states */
static volatile uint64_t restarted;

static void restarts(void)
{
    if (me() != 0) {
        barrier();
        sbi(EXT_HSM, 1, 0, 0, 0);
        end(4); /* a stopped hart does not come back */
    }
    barrier();
    for (uint64_t n = 0; n < RESTARTS; n++)
        for (uint64_t h = 1; h < harts; h++) {
            while (sbi(EXT_HSM, 2, h, 0, 0).value != 1)
                PAUSE();
            if (sbi(EXT_HSM, 0, h, (uint64_t)enter, RESTARTED + n).error)
                fail();
        }
    for (uint64_t h = 1; h < harts; h++)
        while (sbi(EXT_HSM, 2, h, 0, 0).value != 1)
            PAUSE();
    if (restarted != RESTARTS * (harts - 1))
        fail();
}

static const struct {
    const char *name;
    void (*run)(void);
} part[] = {{"amo", amo},
            {"lrsc", lrsc},
            {"spinlock", spinlock},
            {"mp", mp},
            {"sb", sb},
            {"fencei", remote_fence_i},
            {"sfence", remote_sfence},
            {"ipi", ipi_storm},
            {"hsm", restarts}};
#define PARTS (sizeof part / sizeof part[0])

static void check_counters(void)
{
    if (sum64 != harts * COUNTS * 0x100000001ul || sum32 != (uint32_t)(harts * COUNTS * 3))
        fail();
    if (reserved64 != harts * COUNTS || reserved32 != (uint32_t)(harts * COUNTS * 5))
        fail();
    if (locked_a != harts * (COUNTS / 16) || locked_b != locked_a)
        fail();
    tell("counters", (long)errors);
    tell("sc_failed", (long)failed_sc);
    tell("mp_met", (long)mp_met);
    tell("sb_met", (long)sb_met);
    tell("ran", (long)runs);
    tell("faulted", (long)mapping_faults);
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    CSR_WRITE(sscratch, hart);
    if (opaque >= RESTARTED && opaque < RESTARTED + RESTARTS) {
        if (CSR_READ(satp) || CSR_READ(sstatus) & 2)
            fail(); /* as SBI HSM promises */
        __atomic_fetch_add(&restarted, 1, __ATOMIC_SEQ_CST);
        sbi(EXT_HSM, 1, 0, 0, 0);
        end(4);
    }
    if (hart != 0 && opaque) { /* the firmware drew another hart to boot with: hart 0 leads all the same */
        if (sbi(EXT_HSM, 0, 0, (uint64_t)enter, 0).error)
            end(6);
        sbi(EXT_HSM, 1, 0, 0, 0);
        end(4);
    }
    if (hart == 0) {
        while (harts < MAX_HARTS && !sbi(EXT_HSM, 2, harts, 0, 0).error)
            harts++;
        for (uint64_t h = 1; h < harts; h++) {
            while (sbi(EXT_HSM, 2, h, 0, 0).value != 1) /* it has stopped, or does so now */
                PAUSE();
            if (sbi(EXT_HSM, 0, h, (uint64_t)enter, 0).error)
                end(5);
        }
    }
    for (uint64_t p = 0; p < PARTS; p++) {
        if (hart == 0) {
            put("begin ");
            put(part[p].name);
            put("\n");
        }
        barrier();
        part[p].run();
        if (p + 1 < PARTS) /* after the last one nobody else is left */
            barrier();
        if (hart == 0)
            tell(part[p].name, (long)errors);
    }
    check_counters();
    return 0;
}
