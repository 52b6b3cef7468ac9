/* Row `smc`: a page holds eight small functions; each time one of them is written anew, the instruction cache is
 * flushed as the architecture asks, all eight are called and the sum of what they return is compared with what was
 * written. */
#include "bench.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FUNCTIONS = 8, SLOT = 16 };

static unsigned char *page;
static uint32_t written[FUNCTIONS];
static uint64_t wrong;

#if defined(__riscv)
/* lui a0, high; addiw a0, a0, low; ret: gives the sign-extended 32-bit value. */
static void put(unsigned slot, uint32_t value)
{
    uint32_t code[3] = {((value + 0x800) & 0xfffff000) | 10 << 7 | 0x37,
                        (value & 0xfff) << 20 | 10 << 15 | 10 << 7 | 0x1b, 0x00008067};
    memcpy(page + slot * SLOT, code, sizeof code);
    syscall(SYS_riscv_flush_icache, page + slot * SLOT, page + (slot + 1) * SLOT, 0);
}
#elif defined(__x86_64__)
/* mov eax, value; ret. The host's caches see it by themselves. */
static void put(unsigned slot, uint32_t value)
{
    page[slot * SLOT] = 0xb8;
    memcpy(page + slot * SLOT + 1, &value, sizeof value);
    page[slot * SLOT + 5] = 0xc3;
}
#else
#define NO_CODE 1
static void put(unsigned slot, uint32_t value)
{
    (void)slot, (void)value;
}
#endif

static bool smc_prepare(void)
{
#ifdef NO_CODE
    return false;
#else
    if (page == NULL)
        page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        page = NULL;
        return false;
    }
    for (unsigned i = 0; i < FUNCTIONS; i++)
        put(i, written[i] = i);
    return true;
#endif
}

/* Its checksum is the sum of all calls while none was wrong; a wrong one is seen in any length of run. */
static uint64_t smc_run(uint64_t n)
{
    uint64_t sum = 0;
    uint32_t random = 7;
    for (uint64_t i = 0; i < n; i++) {
        random = random * 1664525 + 1013904223;
        unsigned slot = (unsigned)i % FUNCTIONS;
        put(slot, written[slot] = random);
        for (unsigned k = 0; k < FUNCTIONS; k++) {
            unsigned char *at = page + k * SLOT;
            uint32_t (*function)(void);
            memcpy(&function, &at, sizeof function);
            uint32_t got = function();
            if (got != written[k])
                wrong++;
            sum += got;
        }
    }
    return wrong != 0 ? wrong << 48 | 0xbad : sum;
}

bool bench_code_wrong(void)
{
    return wrong != 0;
}

const struct row rows_code[] = {
    {"smc", "us", smc_prepare, NULL, smc_run, 256, 1e-3, false},
    {0},
};
