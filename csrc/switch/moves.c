#include "switch/moves.h"

#include <stdlib.h>
#include <string.h>

void wh_moves_init(struct wh_moves *m, uint64_t seed)
{
    *m = (struct wh_moves){.seed = seed};
}

void wh_moves_free(struct wh_moves *m)
{
    free(m->rows);
    m->rows = NULL;
}

/* All VLANs of a MAC share a set. */
static struct wh_move *set_of(const struct wh_moves *m, const uint8_t mac[6])
{
    uint64_t x = 0;
    memcpy(&x, mac, 6);
    x = (x ^ m->seed) * 0xff51afd7ed558ccdull;
    x = (x ^ (x >> 32)) * 0xc4ceb9fe1a85ec53ull;
    return m->rows + (x >> 40) % WH_MOVES_SETS * WH_MOVES_WAYS;
}

static bool is_over(const struct wh_move *row, uint64_t now_ns)
{
    return now_ns - row->since_ns >= WH_MOVES_FOR_NS;
}

static struct wh_move *find(const struct wh_moves *m, const uint8_t mac[6], uint16_t vid)
{
    struct wh_move *row = m->rows ? set_of(m, mac) : NULL;
    for (unsigned way = 0; row && way < WH_MOVES_WAYS; way++, row++)
        if (row->moves && row->vid == vid && memcmp(row->mac, mac, 6) == 0)
            return row;
    return NULL;
}

/* The best one to lose: free or over, else the oldest that is not held. */
static struct wh_move *room(const struct wh_moves *m, const uint8_t mac[6], uint64_t now_ns)
{
    struct wh_move *row = set_of(m, mac), *best = NULL;
    for (unsigned way = 0; way < WH_MOVES_WAYS; way++, row++) {
        if (!row->moves || is_over(row, now_ns))
            return row;
        if (!row->held && (!best || row->since_ns < best->since_ns))
            best = row;
    }
    return best;
}

enum wh_move_verdict wh_moves_note(struct wh_moves *m, const uint8_t mac[6], uint16_t vid, uint64_t now_ns)
{
    if (!m->rows && !(m->rows = calloc((size_t)WH_MOVES_SETS * WH_MOVES_WAYS, sizeof(*m->rows))))
        return WH_MOVE_GO;
    struct wh_move *row = find(m, mac, vid);
    if (!row || is_over(row, now_ns)) {
        row = row ? row : room(m, mac, now_ns);
        if (!row)
            return WH_MOVE_GO;
        *row = (struct wh_move){.vid = vid, .since_ns = now_ns};
        memcpy(row->mac, mac, 6);
    }
    if (row->held)
        return WH_MOVE_HELD;
    if (++row->moves < WH_MOVES_MAX)
        return WH_MOVE_GO;
    row->held = true;
    row->since_ns = now_ns;
    return WH_MOVE_HOLD;
}

bool wh_moves_held(const struct wh_moves *m, const uint8_t mac[6], uint16_t vid, uint64_t now_ns)
{
    const struct wh_move *row = find(m, mac, vid);
    return row && row->held && !is_over(row, now_ns);
}

bool wh_moves_may_flood(struct wh_moves *m, const uint8_t mac[6], uint16_t vid, uint64_t now_ns)
{
    struct wh_move *row = find(m, mac, vid);
    if (!row || !row->held)
        return true;
    if (now_ns - row->flood_ns >= 1000000000u) {
        row->flood_ns = now_ns;
        row->flooded = 0;
    }
    if (row->flooded >= WH_MOVES_FLOOD_A_S)
        return false;
    row->flooded++;
    return true;
}

bool wh_moves_forget(struct wh_moves *m, const uint8_t mac[6])
{
    bool held = false;
    struct wh_move *row = m->rows ? set_of(m, mac) : NULL;
    for (unsigned way = 0; row && way < WH_MOVES_WAYS; way++, row++) {
        if (row->moves && memcmp(row->mac, mac, 6) == 0) {
            held |= row->held;
            *row = (struct wh_move){0};
        }
    }
    return held;
}
