/* jit: translates guest code to the host's. One translator a machine, shared by its harts; the board makes it, gives it
 * to every hart by wh_cpu_env, and frees it after the last of them. Theory: docs/decisions/0011-jit.md; the parts: ir.h
 * (superblocks), backend.h (a host), cache.h (what is translated), run.c (the engine). */
#ifndef WH_JIT_H
#define WH_JIT_H

#include "base/base.h"

typedef struct wh_jit wh_jit;
struct wh_engine;
struct wh_hart;

enum { WH_JIT_BYTES = 8 << 20 }; /* code and records of one machine, at most */

/* WH_E_UNSUPPORTED: this host or its kernel does not let us; err says why. Made before the sandbox is entered. */
int wh_jit_new(uint32_t bytes, wh_jit **out, wh_error *err);
void wh_jit_free(wh_jit *j);

/* Make the arena small again (shrink.c): give back host pages that hold nothing; if more than `limit` bytes are in use,
 * keep only the newest blocks, about `keep` bytes of them. Begin, then steps until one gives false; each is well below
 * a millisecond, and others may use the translator all the while. One thread at a time, which is in no hart's run; h
 * tells RAM and ISA only. */
void wh_jit_shrink(wh_jit *j, uint32_t limit, uint32_t keep);
bool wh_jit_shrink_step(wh_jit *j, struct wh_hart *h);
uint32_t wh_jit_used(wh_jit *j); /* bytes of the arena; any thread */

typedef struct wh_jit_stats {
    uint64_t blocks, instructions; /* translated so far */
    uint64_t discarded;            /* blocks whose code had changed */
    uint64_t resets;               /* of the whole cache, because it was full */
} wh_jit_stats;
void wh_jit_get_stats(wh_jit *j, wh_jit_stats *out); /* any thread */
const struct wh_engine *wh_jit_engine(void);

#endif
