/* fq: one queue that is shared fairly by flows and kept short: FQ-CoDel (RFC 8290).
 *
 * Each flow has a queue of its own, found by a hash, and a CoDel of its own (codel.h). Flows take turns by deficit
 * round robin: so many bytes each. A flow that has just begun to send goes first, once, so that a question and its
 * answer do not stand behind a transfer. What a full queue loses is the oldest of the flow that holds most of it, many
 * at once, so that a flood pays for itself. Pure: knows nothing of frames, times are the caller's, memory of items is
 * the caller's too: the queue only links them. */
#ifndef WH_SWITCH_FQ_H
#define WH_SWITCH_FQ_H

#include "base/base.h"

#define WH_FQ_FLOWS   1024u
#define WH_FQ_QUANTUM 1514u
#define WH_FQ_COST    192u /* of an item beside its bytes, for the bound */
#define WH_FQ_BATCH   64u  /* most that one loss takes, or half of the flow */

struct wh_fq_item {
    struct wh_fq_item *next;
    uint64_t since_ns;
    uint32_t bytes;
    bool takes_mark; /* else it is dropped when it is hit */
};

struct wh_fq;

int wh_fq_new(size_t max_bytes, struct wh_fq **out);
void wh_fq_free(struct wh_fq *q); /* it is empty (wh_fq_clear) */
/* Takes the item, whose bytes and takes_mark are set. What is lost for it, maybe itself, is a list, now the caller's;
 * NULL: nothing. */
struct wh_fq_item *wh_fq_put(struct wh_fq *q, struct wh_fq_item *item, uint32_t hash, uint64_t now_ns);
/* The next one that may go, and whether it is to be marked; NULL: empty. Those that were hit and take no mark come as a
 * list in *lost. */
struct wh_fq_item *wh_fq_take(struct wh_fq *q, uint64_t now_ns, bool *mark, struct wh_fq_item **lost);
struct wh_fq_item *wh_fq_clear(struct wh_fq *q); /* all of it, as a list */
size_t wh_fq_bytes(const struct wh_fq *q);       /* with WH_FQ_COST for each item; 0: empty */

#endif
