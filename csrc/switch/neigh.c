#include "switch/neigh.h"

#include <stdlib.h>
#include <string.h>

#define SETS_MIN 16u
#define SETS_MAX (WH_NEIGH_MAX / WH_NEIGH_WAYS)

void wh_neighs_init(struct wh_neighs *n, uint64_t seed)
{
    *n = (struct wh_neighs){.seed = seed};
    wh_moves_init(&n->moves, seed ^ 0x6e65696768ull);
}

void wh_neighs_clear(struct wh_neighs *n)
{
    uint64_t seed = n->seed;
    free(n->rows);
    wh_moves_free(&n->moves);
    wh_neighs_init(n, seed);
}

static uint64_t hash(const struct wh_neighs *n, const uint8_t ip[16], uint16_t vid)
{
    uint64_t word[2], x = n->seed ^ vid;
    memcpy(word, ip, sizeof(word));
    for (unsigned i = 0; i < 2; i++) {
        x = (x ^ word[i]) * 0xff51afd7ed558ccdull;
        x = (x ^ x >> 32 ^ n->seed >> 11) * 0xc4ceb9fe1a85ec53ull;
    }
    return x ^ x >> 29;
}

static struct wh_neigh *set_of(const struct wh_neighs *n, const uint8_t ip[16], uint16_t vid)
{
    return &n->rows[(hash(n, ip, vid) & (n->sets - 1)) * WH_NEIGH_WAYS];
}

static struct wh_neigh *find(const struct wh_neighs *n, const struct wh_neigh_key *k)
{
    struct wh_neigh *row = n->rows ? set_of(n, k->ip, k->vid) : NULL;
    for (unsigned i = 0; row && i < WH_NEIGH_WAYS; i++)
        if (row[i].used && row[i].vid == k->vid && memcmp(row[i].ip, k->ip, 16) == 0)
            return &row[i];
    return NULL;
}

const struct wh_neigh *wh_neigh_look(const struct wh_neighs *n, const struct wh_neigh_key *k)
{
    return find(n, k);
}

/* Twice the sets: what was in one set is in two of the new ones at most, so all of it fits. No memory: as it was. */
static bool grow(struct wh_neighs *n)
{
    struct wh_neighs more = *n;
    more.sets = n->sets ? n->sets * 2 : SETS_MIN;
    more.rows = calloc((size_t)more.sets * WH_NEIGH_WAYS, sizeof(*more.rows));
    if (!more.rows)
        return false;
    for (uint32_t i = 0; i < n->sets * WH_NEIGH_WAYS; i++) {
        const struct wh_neigh *row = &n->rows[i];
        if (!row->used)
            continue;
        struct wh_neigh *to = set_of(&more, row->ip, row->vid);
        while (to->used)
            to++;
        *to = *row;
    }
    free(n->rows);
    *n = more;
    return true;
}

static uint32_t ticks(uint64_t now_ns)
{
    return (uint32_t)(now_ns / WH_NEIGH_TICK);
}

static uint32_t age(const struct wh_neigh *row, uint64_t now_ns)
{
    return ticks(now_ns) - row->seen;
}

/* A row of this set for a new entry of that station. */
static struct wh_neigh *victim(struct wh_neigh *set, const uint8_t mac[6], uint64_t now_ns)
{
    struct wh_neigh *worst = set;
    for (unsigned i = 0; i < WH_NEIGH_WAYS; i++) {
        if (!set[i].used || memcmp(set[i].mac, mac, 6) == 0)
            return &set[i];
        if (age(&set[i], now_ns) > age(worst, now_ns))
            worst = &set[i];
    }
    return worst;
}

static bool is_full(const struct wh_neigh *set)
{
    for (unsigned i = 0; i < WH_NEIGH_WAYS; i++)
        if (!set[i].used)
            return false;
    return true;
}

static struct wh_neigh *add(struct wh_neighs *n, const struct wh_neigh_key *k, const uint8_t mac[6], uint64_t now_ns)
{
    if (!n->rows && !grow(n))
        return NULL;
    while (is_full(set_of(n, k->ip, k->vid)) && n->sets < SETS_MAX && grow(n))
        ;
    struct wh_neigh *row = victim(set_of(n, k->ip, k->vid), mac, now_ns);
    *row = (struct wh_neigh){.used = 1, .vid = k->vid & 0xfffu};
    memcpy(row->ip, k->ip, 16);
    memcpy(row->mac, mac, 6);
    return row;
}

/* Addresses take the place of stations in the table of moves. */
static void move_key(const struct wh_neighs *n, const struct wh_neigh *row, uint8_t out[6])
{
    uint64_t h = hash(n, row->ip, row->vid);
    memcpy(out, &h, 6);
}

/* Another station has it, they say. False: it stays where it is. */
static bool move(struct wh_neighs *n, struct wh_neigh *row, const uint8_t mac[6], bool contested, uint64_t now_ns)
{
    uint8_t key[6];
    move_key(n, row, key);
    if (contested) {
        row->held = wh_moves_note(&n->moves, key, row->vid, now_ns) != WH_MOVE_GO;
        if (row->held)
            return false;
        row->doubt = ticks(now_ns + WH_NEIGH_DOUBT_NS) | 1u; /* 0 means none */
    }
    memcpy(row->mac, mac, 6);
    row->is_router = row->advertised = 0;
    return true;
}

void wh_neigh_learn(struct wh_neighs *n, const struct wh_neigh_key *k, const uint8_t mac[6], enum wh_neigh_source from,
                    bool contested, uint64_t now_ns)
{
    struct wh_neigh *row = find(n, k);
    if (!row)
        row = add(n, k, mac, now_ns);
    else if (memcmp(row->mac, mac, 6) != 0 && !move(n, row, mac, contested, now_ns))
        return;
    if (!row)
        return;
    row->seen = ticks(now_ns);
    if (from != WH_NEIGH_SAID) {
        row->advertised = 1;
        row->is_router = from == WH_NEIGH_ROUTER;
    }
}

bool wh_neigh_good(const struct wh_neighs *n, const struct wh_neigh *row, uint64_t now_ns)
{
    if (!row->advertised || age(row, now_ns) > WH_NEIGH_AGE_NS / WH_NEIGH_TICK)
        return false;
    if (row->doubt && (int32_t)(ticks(now_ns) - row->doubt) < 0)
        return false;
    if (row->held) {
        uint8_t key[6];
        move_key(n, row, key);
        return !wh_moves_held(&n->moves, key, row->vid, now_ns);
    }
    return true;
}
