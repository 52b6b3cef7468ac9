#include "switch/fq.h"

#include "switch/codel.h"

#include <stdlib.h>

struct flow {
    struct wh_fq_item *head, *tail;
    size_t bytes; /* of its items, without their cost */
    int32_t deficit;
    bool listed;
    struct wh_codel codel;
    struct flow *next;
};

struct list {
    struct flow *head, *tail;
};

struct wh_fq {
    size_t bytes, max;
    struct list fresh, old; /* flows that have just begun, and the others */
    struct flow flow[WH_FQ_FLOWS];
};

int wh_fq_new(size_t max_bytes, struct wh_fq **out)
{
    *out = calloc(1, sizeof(**out));
    if (!*out)
        return WH_E_NOMEM;
    (*out)->max = max_bytes;
    return WH_OK;
}

void wh_fq_free(struct wh_fq *q)
{
    free(q);
}

size_t wh_fq_bytes(const struct wh_fq *q)
{
    return q->bytes;
}

static void append(struct list *l, struct flow *f)
{
    f->next = NULL;
    if (l->tail)
        l->tail->next = f;
    else
        l->head = f;
    l->tail = f;
}

static void behead(struct list *l)
{
    l->head = l->head->next;
    if (!l->head)
        l->tail = NULL;
}

static struct wh_fq_item *pop(struct wh_fq *q, struct flow *f)
{
    struct wh_fq_item *item = f->head;
    if (!item)
        return NULL;
    f->head = item->next;
    if (!f->head)
        f->tail = NULL;
    f->bytes -= item->bytes;
    q->bytes -= item->bytes + WH_FQ_COST;
    item->next = NULL;
    return item;
}

static void push_list(struct wh_fq_item **list, struct wh_fq_item *item)
{
    item->next = *list;
    *list = item;
}

/* The oldest of the fattest flow, until half of it is gone or WH_FQ_BATCH of them. Its flow is not unlisted here: it is
 * when its turn comes and it is empty. */
static void lose_fattest(struct wh_fq *q, struct wh_fq_item **lost)
{
    struct flow *fat = &q->flow[0];
    for (unsigned i = 1; i < WH_FQ_FLOWS; i++)
        if (q->flow[i].bytes > fat->bytes)
            fat = &q->flow[i];
    size_t keep = fat->bytes / 2;
    for (unsigned n = 0; n < WH_FQ_BATCH && fat->head && (n == 0 || fat->bytes > keep); n++) {
        push_list(lost, pop(q, fat));
        fat->codel.count++; /* the more it has lost, the faster it is hit */
    }
}

struct wh_fq_item *wh_fq_put(struct wh_fq *q, struct wh_fq_item *item, uint32_t hash, uint64_t now_ns)
{
    struct flow *f = &q->flow[hash % WH_FQ_FLOWS];
    struct wh_fq_item *lost = NULL;
    item->next = NULL;
    item->since_ns = now_ns;
    if (f->tail)
        f->tail->next = item;
    else
        f->head = item;
    f->tail = item;
    f->bytes += item->bytes;
    q->bytes += item->bytes + WH_FQ_COST;
    if (!f->listed) {
        f->listed = true;
        f->deficit = WH_FQ_QUANTUM;
        append(&q->fresh, f);
    }
    while (q->bytes > q->max)
        lose_fattest(q, &lost);
    return lost;
}

/* The next of this flow that its CoDel lets through. */
static struct wh_fq_item *pick(struct wh_fq *q, struct flow *f, uint64_t now_ns, bool *mark, struct wh_fq_item **lost)
{
    struct wh_fq_item *item;
    while ((item = pop(q, f))) {
        bool hit = wh_codel_hit(&f->codel, now_ns - item->since_ns, f->bytes, now_ns);
        *mark = hit;
        if (!hit || item->takes_mark)
            return item;
        push_list(lost, item);
    }
    wh_codel_empty(&f->codel);
    return NULL;
}

struct wh_fq_item *wh_fq_take(struct wh_fq *q, uint64_t now_ns, bool *mark, struct wh_fq_item **lost)
{
    *lost = NULL;
    *mark = false;
    for (;;) {
        struct list *from = q->fresh.head ? &q->fresh : &q->old;
        struct flow *f = from->head;
        if (!f)
            return NULL;
        if (f->deficit <= 0) {
            f->deficit += WH_FQ_QUANTUM;
            behead(from);
            append(&q->old, f);
            continue;
        }
        struct wh_fq_item *item = pick(q, f, now_ns, mark, lost);
        if (item) {
            f->deficit -= (int32_t)item->bytes;
            return item;
        }
        behead(from);
        /* A fresh flow that ran dry waits behind the old ones, or it would be fresh again with its next packet and
         * starve them. */
        if (from == &q->fresh && q->old.head)
            append(&q->old, f);
        else
            f->listed = false;
    }
}

struct wh_fq_item *wh_fq_clear(struct wh_fq *q)
{
    struct wh_fq_item *all = NULL, *item;
    for (unsigned i = 0; i < WH_FQ_FLOWS; i++) {
        while ((item = pop(q, &q->flow[i])))
            push_list(&all, item);
        q->flow[i] = (struct flow){0};
    }
    q->fresh = q->old = (struct list){0};
    return all;
}
