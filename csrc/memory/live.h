/* live: guest memory that harts may be writing. What they read and write at the same time is the guest's own affair, so
 * ThreadSanitizer shall not look at it; it looks at all else. Whoever copies live bytes looks at each of them once, and
 * works on the copy. */
#ifndef WH_LIVE_H
#define WH_LIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SANITIZE_THREAD__)
#define WH_LIVE static __attribute__((noinline, unused, no_sanitize("thread")))
#else
#define WH_LIVE static inline
#endif

/* A guest access of any alignment is one host access. */
#define WH_LIVE_ACCESSES(width)                                                                                        \
    struct __attribute__((packed, may_alias)) wh_any_##width {                                                         \
        uint##width##_t v;                                                                                             \
    };                                                                                                                 \
    WH_LIVE uint##width##_t guest_read_##width(uint64_t at)                                                            \
    {                                                                                                                  \
        return ((const volatile struct wh_any_##width *)(uintptr_t)at)->v;                                             \
    }                                                                                                                  \
    WH_LIVE void guest_write_##width(uint64_t at, uint##width##_t value)                                               \
    {                                                                                                                  \
        ((volatile struct wh_any_##width *)(uintptr_t)at)->v = value;                                                  \
    }
WH_LIVE_ACCESSES(8)
WH_LIVE_ACCESSES(16)
WH_LIVE_ACCESSES(32)
WH_LIVE_ACCESSES(64)

#if defined(__SANITIZE_THREAD__)
/* Byte by byte, and volatile: the library's functions are looked at, whoever calls them. */
WH_LIVE void wh_live_copy(void *to, const void *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((volatile uint8_t *)to)[i] = ((const volatile uint8_t *)from)[i];
}
WH_LIVE bool wh_live_same(const void *a, const void *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (((const volatile uint8_t *)a)[i] != ((const volatile uint8_t *)b)[i])
            return false;
    return true;
}
#else
static inline void wh_live_copy(void *to, const void *from, size_t n)
{
    memcpy(to, from, n);
}
static inline bool wh_live_same(const void *a, const void *b, size_t n)
{
    return memcmp(a, b, n) == 0;
}
#endif

#endif
