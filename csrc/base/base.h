/* base: status codes, error text, small helpers. Everything in csrc/ may include this and nothing here includes
 * anything of ours but api.cdef.
 *
 * Three classes of failure (docs/architecture.md): what a guest does wrong becomes a guest trap or NEEDS_RESET; what
 * the host refuses becomes a negative wh_status and a filled wh_error; what we do wrong is an assert. */
#ifndef WH_BASE_H
#define WH_BASE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* api.cdef is the one text of the Python-visible surface; cffi and this header both read it. Functions declared there
 * are the only exported symbols. */
#pragma GCC visibility push(default)
#include "api.cdef"
#pragma GCC visibility pop

#define WH_PAGE_SHIFT   12
#define WH_PAGE_SIZE    4096u
#define WH_CACHE_LINE   64
#define WH_LIKELY(x)    __builtin_expect(!!(x), 1)
#define WH_UNLIKELY(x)  __builtin_expect(!!(x), 0)
#define WH_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Fill *err (NULL is allowed) and return status. field: what was wrong ("kernel", "memory"); the text says the value
 * and what is allowed. */
int wh_fail(wh_error *err, int status, const char *field, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* Monotonic host time in nanoseconds. */
uint64_t wh_now_ns(void);

#endif
