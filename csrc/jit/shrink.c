/* shrink: an idle machine's arena made small again.
 *
 * Host pages that lie between code and records hold nothing, but have been written if the arena was fuller before it
 * was emptied: they are given back. If what is in use is more than an idle machine shall keep, everything is dropped
 * first and the newest blocks are made again, from their heads, as a warm start does. What is lost is made when it is
 * reached hot again; the newest are what ran last. All of it is done in small steps, by a hart that would sleep: so a
 * guest that wakes waits for one of them at most. */
#include "jit/cache.h"

#include <stdlib.h>

enum { PIECE = 256u << 10 };

void wh_jit_shrink(wh_jit *j, uint32_t limit, uint32_t keep)
{
    struct wh_jit_shrinking *s = &j->shrink;
    const unsigned most = WH_JIT_BYTES / sizeof(wh_jit_block); /* more blocks than can be */
    wh_jit_shrink_end(j);
    s->keep = keep;
    if (wh_jit_used(j) <= limit || (s->heads = malloc(most * sizeof(*s->heads))) == NULL)
        return;
    s->count = wh_jit_heads(j, s->heads, most);
    if (!wh_jit_drop_all(j))
        s->count = 0; /* someone else has, and nobody knows them any more */
}

bool wh_jit_shrink_step(wh_jit *j, wh_hart *h)
{
    struct wh_jit_shrinking *s = &j->shrink;
    if (s->next < s->count && wh_jit_used(j) < s->keep) {
        (void)wh_jit_warm_one(h, s->heads[s->next++]);
        return true;
    }
    s->next = s->count;
    s->punched += PIECE;
    if (wh_jit_punch(j, s->punched - PIECE, PIECE))
        return true;
    wh_jit_shrink_end(j);
    return false;
}

void wh_jit_shrink_end(wh_jit *j)
{
    free(j->shrink.heads);
    j->shrink = (struct wh_jit_shrinking){.heads = NULL};
}
