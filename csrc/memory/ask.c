/* The source's questions: which pages has the target already?
 *
 * Behind the beginning of a round pages of its set are named (pagehash.h), some or all, and the names sent. A page that
 * the target says to have goes as the number of its question. Its content counts as that of the moment when it was
 * named: what is written later makes the page dirty, for its round had begun. So it is looked at once only, and its
 * marks (delta.h) are made there. Whatever was asked ends with the next round. */
#include "memory/live.h"
#include "memory/pagehash.h"
#include "memory/view.h"
#include "state/state.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct wh_asker {
    wh_page_key key;
    uint64_t pages;
    uint64_t asked;     /* questions so far, in all rounds */
    uint32_t *question; /* of each page, + 1; 0: none, or the target has no such page */
    uint64_t *seen;     /* pages of this round that were asked for, one bit each */
    uint32_t *waiting;  /* the pages of the questions that are not answered */
    uint32_t waiting_count;
    uint64_t cursor;
    bool used; /* in this round */
};

static uint64_t table_bytes(const struct wh_asker *a)
{
    return a->pages * sizeof *a->question;
}

void wh_asker_free(struct wh_asker *a)
{
    if (!a)
        return;
    if (a->question)
        munmap(a->question, table_bytes(a));
    free(a->seen);
    free(a->waiting);
    free(a);
}

int wh_ramview_ask_begin(wh_ramview *v, const uint8_t *key)
{
    wh_asker_free(v->asker);
    struct wh_asker *a = v->asker = calloc(1, sizeof *a);
    if (!a)
        return WH_E_NOMEM;
    wh_page_key_set(&a->key, key);
    a->pages = v->pages;
    void *table =
        mmap(NULL, table_bytes(a), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    a->question = table == MAP_FAILED ? NULL : table;
    a->seen = calloc(v->words, sizeof *a->seen);
    a->waiting = malloc(WH_ASK_MOST * sizeof *a->waiting);
    if (a->question && a->seen && a->waiting)
        return WH_OK;
    wh_asker_free(a);
    v->asker = NULL;
    return WH_E_NOMEM;
}

void wh_asker_forget(wh_ramview *v)
{
    struct wh_asker *a = v->asker;
    if (!a || !a->used)
        return;
    a->used = false;
    memset(a->seen, 0, v->words * sizeof *a->seen);
    memset(a->question, 0, table_bytes(a));
    a->waiting_count = 0;
    a->cursor = 0;
}

/* Name the page as it is now. */
static void ask(wh_ramview *v, uint64_t pfn, uint8_t *name)
{
    struct wh_asker *a = v->asker;
    uint8_t now[WH_PAGE_SIZE];
    wh_live_copy(now, v->host + (pfn << WH_PAGE_SHIFT), sizeof now);
    wh_page_name(&a->key, now, name, WH_PAGE_NAME);
    if (v->marks && !wh_view_knows(v, pfn))
        wh_delta_mark(&v->key, now, v->marks + pfn * WH_MARKS); /* not known before they count: see wh_ask_put */
    a->seen[pfn / 64] |= 1ull << pfn % 64;
    a->question[pfn] = (uint32_t)++a->asked;
    a->waiting[a->waiting_count++] = (uint32_t)pfn;
    a->used = true;
}

/* One that the other end needs no content of, or of which it has an older one, is not worth a question. */
static bool worth_asking(wh_ramview *v, uint64_t pfn)
{
    return !(v->asker->seen[pfn / 64] >> pfn % 64 & 1) && !(v->found && v->found[pfn]) && !wh_view_knows(v, pfn) &&
           !wh_view_is_filled(v, pfn);
}

int wh_ramview_ask(wh_ramview *v, uint32_t step, uint32_t most, uint8_t *names, uint8_t *pages, uint32_t *count)
{
    struct wh_asker *a = v->asker;
    *count = 0;
    if (!a || a->waiting_count)
        return WH_E_STATE;
    if (!step || !most || most > WH_ASK_MOST)
        return WH_E_INVAL;
    int status = wh_view_wait_present(v);
    if (status)
        return status;
    v->extent = (wh_extent){0, 0, 0};
    uint64_t pfn = wh_view_next_set(v, a->cursor);
    while (pfn < v->pages && *count < most && a->asked < UINT32_MAX) {
        if (worth_asking(v, pfn)) {
            uint32_t number = htole32((uint32_t)pfn);
            ask(v, pfn, names + (size_t)*count * WH_PAGE_NAME);
            memcpy(pages + (size_t)(*count)++ * sizeof number, &number, sizeof number);
        }
        a->cursor = pfn + step;
        pfn = wh_view_next_set(v, a->cursor);
    }
    if (!*count)
        a->cursor = 0; /* once through: another step may begin */
    v->extent = (wh_extent){0, 0, 0};
    return WH_OK;
}

int wh_ramview_answer(wh_ramview *v, const uint8_t *bitmap, size_t len)
{
    struct wh_asker *a = v->asker;
    if (!a || len != (a->waiting_count + 7u) / 8)
        return WH_E_FORMAT;
    for (uint32_t i = 0; i < a->waiting_count; i++)
        if (!(bitmap[i / 8] >> i % 8 & 1))
            a->question[a->waiting[i]] = 0;
    a->waiting_count = 0;
    return WH_OK;
}

bool wh_ask_put(wh_ramview *v, wh_writer *w, uint64_t pfn)
{
    struct wh_asker *a = v->asker;
    if (!a || a->waiting_count || !a->question[pfn])
        return false;
    wh_put_array(w, 3);
    wh_put_uint(w, pfn);
    wh_put_uint(w, 1);
    wh_put_array(w, 1);
    wh_put_uint(w, a->question[pfn] - 1);
    a->question[pfn] = 0;
    return true;
}

int wh_ramview_resend(wh_ramview *v, const uint8_t *pages, size_t len)
{
    if (len % 4)
        return WH_E_FORMAT;
    for (size_t i = 0; i < len; i += 4) {
        uint32_t pfn = (uint32_t)pages[i] | (uint32_t)pages[i + 1] << 8 | (uint32_t)pages[i + 2] << 16 |
                       (uint32_t)pages[i + 3] << 24;
        if (pfn >= v->pages)
            return WH_E_FORMAT;
        wh_view_forget(v, pfn, 1);
        atomic_fetch_or_explicit(&v->share->dirty[pfn / 64], 1ull << pfn % 64, memory_order_release);
    }
    return WH_OK;
}
