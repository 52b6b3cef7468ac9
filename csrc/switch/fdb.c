#include "switch/fdb.h"

#include <stdlib.h>
#include <string.h>

void wh_fdb_init(struct wh_fdb *f, uint32_t max, uint64_t seed)
{
    *f = (struct wh_fdb){.max = max, .seed = seed};
}

void wh_fdb_free(struct wh_fdb *f)
{
    free(f->rows);
    f->rows = NULL;
    f->cap = f->learned = f->statics = 0;
}

static uint32_t home(const struct wh_fdb *f, const uint8_t mac[6])
{
    uint64_t x = 0;
    memcpy(&x, mac, 6);
    /* Two rounds of multiply and fold under a secret seed: the low bits depend on every bit of both. */
    x = (x ^ f->seed) * 0xff51afd7ed558ccdull;
    x = (x ^ (x >> 32) ^ (f->seed >> 7)) * 0xc4ceb9fe1a85ec53ull;
    return (uint32_t)(x >> 32) & (f->cap - 1);
}

static uint32_t slot(const struct wh_fdb *f, const uint8_t mac[6])
{
    uint32_t i = home(f, mac);
    while (f->rows[i].used && memcmp(f->rows[i].mac, mac, 6) != 0)
        i = (i + 1) & (f->cap - 1);
    return i;
}

static int grow(struct wh_fdb *f)
{
    struct wh_fdb bigger = *f;
    bigger.cap = f->cap ? f->cap * 2 : 64;
    bigger.rows = calloc(bigger.cap, sizeof(*bigger.rows));
    if (!bigger.rows)
        return WH_E_NOMEM;
    for (uint32_t i = 0; i < f->cap; i++)
        if (f->rows[i].used)
            bigger.rows[slot(&bigger, f->rows[i].mac)] = f->rows[i];
    free(f->rows);
    *f = bigger;
    return WH_OK;
}

struct wh_fdb_row *wh_fdb_find(const struct wh_fdb *f, const uint8_t mac[6])
{
    if (!f->cap)
        return NULL;
    struct wh_fdb_row *row = &f->rows[slot(f, mac)];
    return row->used ? row : NULL;
}

static uint32_t *tally(struct wh_fdb *f, bool is_static)
{
    return is_static ? &f->statics : &f->learned;
}

int wh_fdb_put(struct wh_fdb *f, const struct wh_fdb_row *row)
{
    struct wh_fdb_row *old = wh_fdb_find(f, row->mac);
    bool counted = old && old->is_static == row->is_static;
    if (!counted && *tally(f, row->is_static) >= f->max)
        return WH_E_FULL;
    if (!old && f->learned + f->statics + 1 > f->cap / 2) {
        int status = grow(f);
        if (status)
            return status;
    }
    if (!counted) {
        (*tally(f, row->is_static))++;
        if (old)
            (*tally(f, old->is_static))--;
    }
    struct wh_fdb_row *at = &f->rows[slot(f, row->mac)];
    *at = *row;
    at->used = true;
    return WH_OK;
}

static void remove_at(struct wh_fdb *f, uint32_t hole)
{
    uint32_t mask = f->cap - 1;
    (*tally(f, f->rows[hole].is_static))--;
    for (uint32_t i = (hole + 1) & mask; f->rows[i].used; i = (i + 1) & mask) {
        if (((i - home(f, f->rows[i].mac)) & mask) >= ((i - hole) & mask)) {
            f->rows[hole] = f->rows[i];
            hole = i;
        }
    }
    f->rows[hole] = (struct wh_fdb_row){0};
}

bool wh_fdb_remove(struct wh_fdb *f, const uint8_t mac[6])
{
    if (!wh_fdb_find(f, mac))
        return false;
    remove_at(f, slot(f, mac));
    return true;
}

void wh_fdb_sweep(struct wh_fdb *f, bool (*test)(const struct wh_fdb_row *row, const void *ctx), const void *ctx,
                  void (*gone)(const struct wh_fdb_row *row, void *arg), void *arg)
{
    /* A removal shifts later rows back into this slot, so the slot is looked at again. A row that wraps past the end is
     * seen twice at worst. */
    for (uint32_t i = 0; i < f->cap;) {
        if (!f->rows[i].used || !test(&f->rows[i], ctx)) {
            i++;
            continue;
        }
        struct wh_fdb_row row = f->rows[i];
        remove_at(f, i);
        if (gone)
            gone(&row, arg);
    }
}
