/* interp: what the interpreter's variants share (interp_run.h is their loop). Private to cpu/. */
#ifndef WH_INTERP_H
#define WH_INTERP_H

#include "cpu/alu.h"
#include "cpu/hart.h"
#include "cpu/hostfp.h"
#include "cpu/softfp.h"

#include <string.h>

/* A guest access of any alignment is one host access. */
struct wh_any_8 {
    uint8_t v;
};
struct __attribute__((packed, may_alias)) wh_any_16 {
    uint16_t v;
};
struct __attribute__((packed, may_alias)) wh_any_32 {
    uint32_t v;
};
struct __attribute__((packed, may_alias)) wh_any_64 {
    uint64_t v;
};

/* What harts read and write at the same time is the guest's own affair, so ThreadSanitizer shall not look at it; it
 * looks at all else. */
#if defined(__SANITIZE_THREAD__)
#define GUEST_ACCESS static __attribute__((noinline, no_sanitize("thread")))
#else
#define GUEST_ACCESS static inline
#endif
#define GUEST_ACCESSES(width)                                                                                          \
    GUEST_ACCESS uint##width##_t guest_read_##width(uint64_t at)                                                       \
    {                                                                                                                  \
        return ((const volatile struct wh_any_##width *)(uintptr_t)at)->v;                                             \
    }                                                                                                                  \
    GUEST_ACCESS void guest_write_##width(uint64_t at, uint##width##_t value)                                          \
    {                                                                                                                  \
        ((volatile struct wh_any_##width *)(uintptr_t)at)->v = value;                                                  \
    }
GUEST_ACCESSES(8)
GUEST_ACCESSES(16)
GUEST_ACCESSES(32)
GUEST_ACCESSES(64)

static inline wh_code_page *wh_page_of(wh_insn *first)
{
    return (wh_code_page *)(void *)((char *)first - offsetof(wh_code_page, insn));
}

/* interp.c */
/* Decode the one instruction at pc into h->single. 0, or a trap cause with trap_value set. */
int wh_enter_single(wh_hart *h);
/* The usual case of an instruction across two pages: both have their code page at hand. */
bool wh_enter_split(wh_hart *h, wh_insn *ip);
/* Find pc's code page after a miss of the fetch TLB. 0 with *first (NULL: h->single was filled), or a trap cause. */
int wh_enter_page(wh_hart *h, wh_insn **first);
void wh_sfence_vma(wh_hart *h, const wh_insn *i);

#endif
