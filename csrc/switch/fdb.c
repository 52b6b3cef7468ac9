#include "switch/fdb.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAPPED_BYTES (1u << 17) /* tables from here on are mapped, so that zeroing them is spread over their use */
#define MOVE_SLOTS   16u        /* of the old table, with each put */

void wh_fdb_init(struct wh_fdb *f, uint32_t max, uint64_t seed)
{
    *f = (struct wh_fdb){.max = max, .seed = seed, .version = 1};
}

/* ---- one table: linear probing with backward-shift deletion ---- */

static size_t table_bytes(const struct wh_fdb_table *t)
{
    return (size_t)t->cap * sizeof(*t->rows);
}

static int table_new(struct wh_fdb_table *t, uint32_t cap)
{
    *t = (struct wh_fdb_table){.cap = cap};
    if (table_bytes(t) < MAPPED_BYTES) {
        t->rows = calloc(cap, sizeof(*t->rows));
        return t->rows ? WH_OK : WH_E_NOMEM;
    }
    t->rows = mmap(NULL, table_bytes(t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return t->rows == MAP_FAILED ? WH_E_NOMEM : WH_OK;
}

static void table_free(struct wh_fdb_table *t)
{
    if (table_bytes(t) < MAPPED_BYTES)
        free(t->rows);
    else
        munmap(t->rows, table_bytes(t));
    *t = (struct wh_fdb_table){0};
}

void wh_fdb_free(struct wh_fdb *f)
{
    table_free(&f->now);
    table_free(&f->old);
    free(f->places);
    wh_idmap_free(&f->nodes);
    *f = (struct wh_fdb){0};
}

static uint32_t home(const struct wh_fdb *f, const struct wh_fdb_table *t, const uint8_t mac[6], uint16_t vid)
{
    /* In two loads: six bytes copied into a word of memory would have to be there before the word can be read. */
    uint32_t low;
    uint16_t high;
    memcpy(&low, mac, sizeof(low));
    memcpy(&high, mac + 4, sizeof(high));
    uint64_t x = (uint64_t)vid << 48, m = low | (uint64_t)high << 32;
    /* Two rounds of multiply and fold under a secret seed: the low bits depend on every bit of both. */
    x = (x ^ m ^ f->seed) * 0xff51afd7ed558ccdull;
    x = (x ^ (x >> 32) ^ (f->seed >> 7)) * 0xc4ceb9fe1a85ec53ull;
    return (uint32_t)(x >> 32) & (t->cap - 1);
}

static struct wh_fdb_row *slot(const struct wh_fdb *f, const struct wh_fdb_table *t, const uint8_t mac[6], uint16_t vid)
{
    uint32_t i = home(f, t, mac, vid);
    while (t->rows[i].used && (memcmp(t->rows[i].mac, mac, 6) != 0 || t->rows[i].vid != vid))
        i = (i + 1) & (t->cap - 1);
    return &t->rows[i];
}

static void table_take(const struct wh_fdb *f, struct wh_fdb_table *t, uint32_t hole)
{
    uint32_t mask = t->cap - 1;
    for (uint32_t i = (hole + 1) & mask; t->rows[i].used; i = (i + 1) & mask) {
        uint32_t at_home = home(f, t, t->rows[i].mac, t->rows[i].vid);
        if (((i - at_home) & mask) >= ((i - hole) & mask)) {
            t->rows[hole] = t->rows[i];
            hole = i;
        }
    }
    t->rows[hole] = (struct wh_fdb_row){0};
    t->count--;
}

/* ---- from one table into the next ---- */

/* Moves what `slots` slots of the old table hold. All slots before `moving` are empty, and stay so. */
static void move_some(struct wh_fdb *f, uint32_t slots)
{
    if (!f->old.cap)
        return;
    for (uint32_t n = 0; n < slots && f->old.count; n++) {
        struct wh_fdb_row row = f->old.rows[f->moving];
        if (!row.used) {
            f->moving++;
            continue;
        }
        table_take(f, &f->old, f->moving);
        *slot(f, &f->now, row.mac, row.vid) = row;
        f->now.count++;
    }
    if (!f->old.count)
        table_free(&f->old);
}

static int resize(struct wh_fdb *f, uint32_t cap)
{
    struct wh_fdb_table next;
    int status = table_new(&next, cap);
    if (status)
        return status;
    f->old = f->now;
    f->now = next;
    f->moving = f->cursor = 0;
    move_some(f, MOVE_SLOTS);
    return WH_OK;
}

/* Room for one more row. */
static int make_room(struct wh_fdb *f)
{
    move_some(f, MOVE_SLOTS);
    if (f->now.cap && f->now.count + f->old.count + 1 <= f->now.cap / 4 * 3)
        return WH_OK;
    /* A table doubles and is empty when a sixteenth of its slots in puts has come, so the old one is gone long since.
     */
    move_some(f, UINT32_MAX);
    return resize(f, f->now.cap ? f->now.cap * 2 : WH_FDB_CAP_MIN);
}

/* ---- rows ---- */

/* Also rows whose place is gone. */
static struct wh_fdb_row *find_any(const struct wh_fdb *f, const uint8_t mac[6], uint16_t vid)
{
    if (!f->now.cap)
        return NULL;
    struct wh_fdb_row *row = slot(f, &f->now, mac, vid);
    if (!row->used && f->old.cap)
        row = slot(f, &f->old, mac, vid);
    return row->used ? row : NULL;
}

struct wh_fdb_row *wh_fdb_find(const struct wh_fdb *f, const uint8_t mac[6], uint16_t vid)
{
    struct wh_fdb_row *row = find_any(f, mac, vid);
    return row && !f->places[row->place].gone ? row : NULL;
}

struct wh_fdb_row *wh_fdb_resolve(const struct wh_fdb *f, const uint8_t mac[6], uint16_t vid)
{
    struct wh_fdb_row *row = wh_fdb_find(f, mac, 0);
    return vid == 0 || (row && row->is_static) ? row : wh_fdb_find(f, mac, vid);
}

static void tally(struct wh_fdb *f, const struct wh_fdb_row *row, uint32_t by)
{
    struct wh_fdb_place *place = &f->places[row->place];
    f->version++;
    place->rows += by;
    if (place->gone)
        f->lost += by;
    if (row->is_static) {
        f->statics += by;
    } else {
        f->learned += by;
        place->learned += by;
    }
}

static void drop_if_empty(struct wh_fdb *f, uint32_t number)
{
    struct wh_fdb_place *place = &f->places[number];
    if (!place->used || place->rows || !(place->node || place->gone))
        return;
    if (place->node)
        wh_idmap_take(&f->nodes, place->node);
    *place = (struct wh_fdb_place){.rows = f->place_free}; /* the list of free ones goes through here */
    f->place_free = number;
}

static bool fits(const struct wh_fdb *f, const struct wh_fdb_row *row, const struct wh_fdb_row *old)
{
    bool same_kind = old && old->is_static == row->is_static;
    const struct wh_fdb_place *place = &f->places[row->place];
    if (!same_kind && (row->is_static ? f->statics : f->learned) >= f->max)
        return false;
    return row->is_static || (same_kind && old->place == row->place) || place->learned < place->max;
}

int wh_fdb_put(struct wh_fdb *f, const struct wh_fdb_row *row)
{
    struct wh_fdb_row *at = find_any(f, row->mac, row->vid);
    int status = fits(f, row, at) ? WH_OK : WH_E_FULL;
    if (!status && !at) {
        status = make_room(f);
        if (!status) {
            at = slot(f, &f->now, row->mac, row->vid);
            f->now.count++;
        }
    }
    if (!status) {
        uint32_t before = at->used ? at->place : row->place;
        if (at->used)
            tally(f, at, UINT32_MAX); /* one less */
        *at = *row;
        at->used = 1;
        tally(f, at, 1);
        if (before != row->place)
            drop_if_empty(f, before);
    }
    drop_if_empty(f, row->place);
    return status;
}

static void remove_at(struct wh_fdb *f, struct wh_fdb_table *t, uint32_t i)
{
    uint32_t place = t->rows[i].place;
    tally(f, &t->rows[i], UINT32_MAX);
    table_take(f, t, i);
    drop_if_empty(f, place);
}

bool wh_fdb_remove(struct wh_fdb *f, const uint8_t mac[6], uint16_t vid)
{
    struct wh_fdb_row *row = find_any(f, mac, vid);
    if (!row)
        return false;
    bool there = !f->places[row->place].gone;
    struct wh_fdb_table *t = row >= f->now.rows && row < f->now.rows + f->now.cap ? &f->now : &f->old;
    remove_at(f, t, (uint32_t)(row - t->rows));
    return there;
}

/* ---- slices, walks ---- */

static bool must_go(const struct wh_fdb *f, const struct wh_fdb_row *row, const struct wh_fdb_sweep *sweep)
{
    if (f->places[row->place].gone)
        return true;
    return !row->is_static && wh_fdb_age(row, sweep->now_ticks) > sweep->age_ticks;
}

bool wh_fdb_slice(struct wh_fdb *f, const struct wh_fdb_sweep *sweep)
{
    struct wh_fdb_table *t = &f->now;
    if (f->old.cap) {
        move_some(f, WH_FDB_SLICE);
        return false;
    }
    /* A removal shifts later rows back into this slot, so the slot is looked at again. A row that is shifted to in
     * front of the cursor between two slices is met in the next round. */
    for (uint32_t n = 0; n < WH_FDB_SLICE && f->cursor < t->cap; n++) {
        const struct wh_fdb_row *row = &t->rows[f->cursor];
        if (row->used && must_go(f, row, sweep) && sweep->let(row, sweep->arg))
            remove_at(f, t, f->cursor);
        else
            f->cursor++;
    }
    if (f->cursor < t->cap)
        return false;
    f->cursor = 0;
    /* Half the size leaves it a quarter full at most: no put needs more room before all rows have moved. */
    if (t->cap > WH_FDB_CAP_MIN && t->count < t->cap / 8)
        (void)resize(f, t->cap / 2); /* no memory: it stays as it is */
    return true;
}

const struct wh_fdb_row *wh_fdb_next(const struct wh_fdb *f, uint32_t *at)
{
    while (*at < f->now.cap + f->old.cap) {
        uint32_t i = (*at)++;
        const struct wh_fdb_row *row = i < f->now.cap ? &f->now.rows[i] : &f->old.rows[i - f->now.cap];
        if (row->used && !f->places[row->place].gone)
            return row;
    }
    return NULL;
}

size_t wh_fdb_bytes(const struct wh_fdb *f)
{
    return table_bytes(&f->now) + table_bytes(&f->old);
}

/* ---- places ---- */

static uint32_t place_new(struct wh_fdb *f)
{
    if (!f->place_free) {
        uint32_t cap = f->place_cap ? f->place_cap * 2 : 8;
        struct wh_fdb_place *more = reallocarray(f->places, cap, sizeof(*more));
        if (!more)
            return WH_FDB_NOWHERE;
        memset(more + f->place_cap, 0, (cap - f->place_cap) * sizeof(*more));
        for (uint32_t i = cap - 1; i >= f->place_cap && i != WH_FDB_NOWHERE; i--) {
            more[i].rows = f->place_free;
            f->place_free = i;
        }
        f->places = more;
        f->place_cap = cap;
    }
    uint32_t number = f->place_free;
    f->place_free = f->places[number].rows;
    f->places[number] = (struct wh_fdb_place){.used = true};
    return number;
}

uint32_t wh_fdb_place_port(struct wh_fdb *f, struct wh_port *port, uint32_t id, uint32_t max)
{
    uint32_t number = place_new(f);
    if (number != WH_FDB_NOWHERE) {
        f->places[number].port = port;
        f->places[number].port_id = id;
        f->places[number].max = max;
    }
    return number;
}

uint32_t wh_fdb_place_node(struct wh_fdb *f, uint32_t node)
{
    uint32_t number = (uint32_t)(uintptr_t)wh_idmap_get(&f->nodes, node);
    if (number)
        return number;
    number = place_new(f);
    if (number == WH_FDB_NOWHERE)
        return number;
    f->places[number].node = node;
    f->places[number].max = f->max;
    if (wh_idmap_put(&f->nodes, node, (void *)(uintptr_t)number) == WH_OK)
        return number;
    f->places[number].node = 0;
    f->places[number].gone = true;
    drop_if_empty(f, number);
    return WH_FDB_NOWHERE;
}

void wh_fdb_place_gone(struct wh_fdb *f, uint32_t number)
{
    struct wh_fdb_place *place = &f->places[number];
    f->version++;
    place->port = NULL;
    place->gone = true;
    f->lost += place->rows;
    drop_if_empty(f, number);
}
