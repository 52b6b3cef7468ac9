/* jit: translates guest code to the host's. One translator a machine, shared by its harts; the board makes it, gives it
 * to every hart by wh_cpu_env, and frees it after the last of them. Theory: docs/decisions/0011-jit.md; the parts: ir.h
 * (superblocks), backend.h (a host), cache.h (what is translated), run.c (the engine). */
#ifndef WH_JIT_H
#define WH_JIT_H

#include "base/base.h"

typedef struct wh_jit wh_jit;
struct wh_engine;

enum { WH_JIT_BYTES = 8 << 20 }; /* code and records of one machine, at most */

/* WH_E_UNSUPPORTED: this host or its kernel does not let us; err says why. Made before the sandbox is entered. */
int wh_jit_new(uint32_t bytes, wh_jit **out, wh_error *err);
void wh_jit_free(wh_jit *j);

typedef struct wh_jit_stats {
    uint64_t blocks, instructions; /* translated so far */
    uint64_t discarded;            /* blocks whose code had changed */
    uint64_t resets;               /* of the whole cache, because it was full */
} wh_jit_stats;
void wh_jit_get_stats(wh_jit *j, wh_jit_stats *out); /* any thread */
const struct wh_engine *wh_jit_engine(void);

#endif
