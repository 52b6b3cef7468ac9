#include "switch/idmap.h"

#include <stdlib.h>

static uint32_t home(const struct wh_idmap *m, uint32_t key)
{
    return (uint32_t)(((uint64_t)key * 0x9e3779b97f4a7c15ull) >> 32) & (m->cap - 1);
}

static uint32_t find(const struct wh_idmap *m, uint32_t key)
{
    uint32_t i = home(m, key);
    while (m->slots[i].value && m->slots[i].key != key)
        i = (i + 1) & (m->cap - 1);
    return i;
}

static int grow(struct wh_idmap *m)
{
    struct wh_idmap bigger = {.cap = m->cap ? m->cap * 2 : 16, .count = m->count};
    bigger.slots = calloc(bigger.cap, sizeof(*bigger.slots));
    if (!bigger.slots)
        return WH_E_NOMEM;
    for (uint32_t i = 0; i < m->cap; i++)
        if (m->slots[i].value)
            bigger.slots[find(&bigger, m->slots[i].key)] = m->slots[i];
    free(m->slots);
    *m = bigger;
    return WH_OK;
}

void wh_idmap_free(struct wh_idmap *m)
{
    free(m->slots);
    *m = (struct wh_idmap){0};
}

void *wh_idmap_get(const struct wh_idmap *m, uint32_t key)
{
    return m->cap ? m->slots[find(m, key)].value : NULL;
}

int wh_idmap_put(struct wh_idmap *m, uint32_t key, void *value)
{
    if (wh_idmap_get(m, key))
        return WH_E_EXISTS;
    if (m->count + 1 > m->cap / 2) {
        int status = grow(m);
        if (status)
            return status;
    }
    m->slots[find(m, key)] = (struct wh_idslot){key, value};
    m->count++;
    return WH_OK;
}

void *wh_idmap_take(struct wh_idmap *m, uint32_t key)
{
    if (!m->cap)
        return NULL;
    uint32_t hole = find(m, key), mask = m->cap - 1;
    void *value = m->slots[hole].value;
    if (!value)
        return NULL;
    for (uint32_t i = (hole + 1) & mask; m->slots[i].value; i = (i + 1) & mask) {
        if (((i - home(m, m->slots[i].key)) & mask) >= ((i - hole) & mask)) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    m->slots[hole] = (struct wh_idslot){0};
    m->count--;
    return value;
}

void *wh_idmap_next(const struct wh_idmap *m, uint32_t *at)
{
    while (*at < m->cap) {
        void *value = m->slots[(*at)++].value;
        if (value)
            return value;
    }
    return NULL;
}
