#include "switch/frameq.h"

#include <stdlib.h>
#include <string.h>

bool wh_frameq_put(struct wh_frameq *q, const struct wh_waiting *about, const struct wh_frame *f)
{
    size_t size = sizeof(struct wh_waiting) + WH_HEADROOM + f->len;
    if (size > q->max - q->bytes)
        return false;
    struct wh_waiting *w = malloc(size);
    if (!w)
        return false;
    *w = *about;
    w->next = NULL;
    w->frame = *f;
    w->frame.data = w->room + WH_HEADROOM;
    memcpy(w->frame.data, f->data, f->len);
    if (q->tail)
        q->tail->next = w;
    else
        q->head = w;
    q->tail = w;
    q->bytes += size;
    return true;
}

struct wh_waiting *wh_frameq_take(struct wh_frameq *q)
{
    struct wh_waiting *w = q->head;
    if (!w)
        return NULL;
    q->head = w->next;
    if (!q->head)
        q->tail = NULL;
    q->bytes -= sizeof(*w) + WH_HEADROOM + w->frame.len;
    return w;
}

struct wh_waiting *wh_frameq_take_all(struct wh_frameq *q)
{
    struct wh_waiting *all = q->head;
    q->head = q->tail = NULL;
    q->bytes = 0;
    return all;
}

void wh_frameq_clear(struct wh_frameq *q)
{
    for (struct wh_waiting *w; (w = wh_frameq_take(q));)
        free(w);
}
