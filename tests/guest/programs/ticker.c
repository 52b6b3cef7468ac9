/* Counts aloud, twenty milliseconds apart, asleep in between: "t N\n". Each number is also written to one page of a pool,
 * and a page of an earlier number is checked, so that a copy that lost or mixed up memory says "bad". Beside it lies a
 * hoard that is filled at the start and forgotten by the TLBs; each number looks at a page of it, and 'c' at all of it
 * ("whole", or "bad"). 'q' powers off, 'f' fails with code 7, 'r' reboots. */
#include "rt.h"
NO_TRAPS
FINISH_WITH_ZERO

#define PAGES 256ul
#define STEP  200000ul /* of the 10 MHz time */
#define HOARD 1024ul
static volatile uint64_t pool[PAGES * 512], hoard[HOARD * 512];

static uint64_t kept(uint64_t page, uint64_t word)
{
    return (page + 1) * 0x9e3779b97f4a7c15ul ^ word;
}

/* The first and the last word of a page are as they were written. */
static int intact(uint64_t page)
{
    return hoard[page * 512] == kept(page, 0) && hoard[page * 512 + 511] == kept(page, 511);
}

static void fill_hoard(void)
{
    for (uint64_t page = 0; page < HOARD; page++)
        for (uint64_t word = 0; word < 512; word += 7)
            hoard[page * 512 + word] = kept(page, word);
    __asm__ volatile("sfence.vma" ::: "memory");
}

static void check_hoard(void)
{
    for (uint64_t page = 0; page < HOARD; page++)
        for (uint64_t word = 0; word < 512; word += 7)
            if (hoard[page * 512 + word] != kept(page, word)) {
                put("bad\n");
                return;
            }
    put("whole\n");
}

static uint64_t now(void)
{
    uint64_t t;
    __asm__ volatile("rdtime %0" : "=r"(t));
    return t;
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart, (void)opaque;
    put("ticker\n");
    CSR_SET(sie, 1 << 5);
    fill_hoard();
    uint64_t next = now();
    for (uint64_t n = 1;; n++) {
        put("t ");
        put_number((long)n);
        put("\n");
        pool[n % PAGES * 512] = n;
        uint64_t old = n > PAGES / 2 ? n - PAGES / 2 : 0;
        if (pool[old % PAGES * 512] != old)
            put("bad\n");
        if (!intact(n * 37 % HOARD))
            put("bad\n");
        int c = get();
        if (c == 'c')
            check_hoard();
        if (c == 'q')
            end(0);
        if (c == 'f')
            end(7);
        if (c == 'r')
            sbi(EXT_SRST, 0, 1, 0, 0);
        next += STEP;
        if (next < now()) /* a pause took its time: go on from here */
            next = now() + STEP;
        sbi(EXT_TIME, 0, next, 0, 0);
        while (now() < next)
            __asm__ volatile("wfi");
    }
}
