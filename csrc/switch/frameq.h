/* frameq: frames that have to wait: for a guest that stands still on its way to another node (a held port), or for the
 * control plane's word on whose a source address is. Bounded in bytes; each frame has its own allocation, for the queue
 * is empty nearly always. */
#ifndef WH_SWITCH_FRAMEQ_H
#define WH_SWITCH_FRAMEQ_H

#include "switch/frame.h"

struct wh_waiting {
    struct wh_waiting *next;
    uint64_t since_ns;
    uint32_t vni, node;    /* where it came from; the queue's owner gives them a meaning */
    struct wh_frame frame; /* its bytes stand behind headroom in room */
    uint8_t room[];
};

struct wh_frameq {
    struct wh_waiting *head, *tail;
    size_t bytes, max;
};

/* Copies the frame. False: the bound is reached, or there is no memory. */
bool wh_frameq_put(struct wh_frameq *q, const struct wh_waiting *about, const struct wh_frame *f);
struct wh_waiting *wh_frameq_take(struct wh_frameq *q); /* the oldest, the caller frees it; NULL: empty */
/* Everything, as a list; the queue is empty then. So frames that come to wait again are not met twice. */
struct wh_waiting *wh_frameq_take_all(struct wh_frameq *q);
void wh_frameq_clear(struct wh_frameq *q);

#endif
