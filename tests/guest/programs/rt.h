/* What guest programs share: registers of the board, SBI calls, a UART printer. Freestanding. */
#ifndef RT_H
#define RT_H

#include <stddef.h>
#include <stdint.h>

#define UART     ((volatile uint8_t *)0x10000000)
#define PLIC     0x0c000000ul
#define ACLINT   0x02000000ul
#define FINISHER ((volatile uint32_t *)0x100000)
#define PAGE     4096ul

#define CSR_READ(name)                                                                                                 \
    ({                                                                                                                 \
        uint64_t v_;                                                                                                   \
        __asm__ volatile("csrr %0, " #name : "=r"(v_)::"memory");                                                      \
        v_;                                                                                                            \
    })
#define CSR_WRITE(name, v) __asm__ volatile("csrw " #name ", %0" ::"r"((uint64_t)(v)) : "memory")
#define CSR_SET(name, v)   __asm__ volatile("csrs " #name ", %0" ::"r"((uint64_t)(v)) : "memory")
#define CSR_CLEAR(name, v) __asm__ volatile("csrc " #name ", %0" ::"r"((uint64_t)(v)) : "memory")

static inline uint32_t read32(uint64_t pa)
{
    return *(volatile uint32_t *)pa;
}

static inline void write32(uint64_t pa, uint32_t v)
{
    *(volatile uint32_t *)pa = v;
}

struct sbiret {
    long error, value;
};

static inline struct sbiret sbi4(uint64_t ext, uint64_t fid, uint64_t x0, uint64_t x1, uint64_t x2, uint64_t x3)
{
    register uint64_t a0 __asm__("a0") = x0;
    register uint64_t a1 __asm__("a1") = x1;
    register uint64_t a2 __asm__("a2") = x2;
    register uint64_t a3 __asm__("a3") = x3;
    register uint64_t a6 __asm__("a6") = fid;
    register uint64_t a7 __asm__("a7") = ext;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a2), "r"(a3), "r"(a6), "r"(a7) : "memory");
    return (struct sbiret){(long)a0, (long)a1};
}

static inline struct sbiret sbi(uint64_t ext, uint64_t fid, uint64_t x0, uint64_t x1, uint64_t x2)
{
    return sbi4(ext, fid, x0, x1, x2, 0);
}

#define EXT_BASE   0x10
#define EXT_TIME   0x54494d45
#define EXT_IPI    0x735049
#define EXT_RFENCE 0x52464e43
#define EXT_HSM    0x48534d
#define EXT_SRST   0x53525354
#define EXT_DBCN   0x4442434e

static inline void put(const char *text)
{
    for (; *text; text++)
        UART[0] = (uint8_t)*text;
}

static inline void put_number(long v)
{
    char digits[24];
    unsigned n = 0;
    unsigned long u = v < 0 ? 0ul - (unsigned long)v : (unsigned long)v;
    if (v < 0)
        UART[0] = '-';
    do
        digits[n++] = (char)('0' + u % 10);
    while (u /= 10);
    while (n)
        UART[0] = (uint8_t)digits[--n];
}

/* "name=value\n" */
static inline void tell(const char *name, long v)
{
    put(name);
    put("=");
    put_number(v);
    put("\n");
}

static inline int get(void)
{
    return UART[5] & 1 ? UART[0] : -1;
}

static inline int get_wait(void)
{
    int c;
    while ((c = get()) < 0)
        ;
    return c;
}

/* PASS or a failure code, by the test finisher; never returns. */
__attribute__((noreturn)) static inline void end(unsigned code)
{
    *FINISHER = code ? code << 16 | 0x3333 : 0x5555;
    for (;;)
        ;
}

uint64_t main(uint64_t hart, uint64_t opaque);
uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval);

#define FINISH_WITH_ZERO                                                                                               \
    __attribute__((noreturn)) void finish(void);                                                                       \
    void finish(void)                                                                                                  \
    {                                                                                                                  \
        end(0);                                                                                                        \
    }
#define NO_TRAPS                                                                                                       \
    uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval)                                                         \
    {                                                                                                                  \
        put("unexpected trap\n");                                                                                      \
        tell("cause", (long)cause);                                                                                    \
        tell("epc", (long)epc);                                                                                        \
        tell("tval", (long)tval);                                                                                      \
        end(99);                                                                                                       \
    }

#endif
