/* The forwarding table against a plain array under random operations, its limits, its growth, a flood; the id map. */
#include "switch/fdb.h"
#include "switch/idmap.h"
#include "switch_check.h"

#include <stdlib.h>

#define MACS  3000u
#define VIDS  3u
#define PORTS 6u
#define KEYS  (MACS * VIDS)

struct model {
    struct {
        uint32_t owner; /* a port's index + 1, or a node's number + 100; 0: no entry */
        bool is_static;
        uint32_t seen;
    } rows[KEYS];
    uint32_t place[PORTS];
    uint32_t gone; /* rows that slices took away, by the count of the table */
};

static void mac_of(unsigned i, uint8_t mac[6])
{
    uint8_t m[6] = {2, 0, 0, 0, (uint8_t)(i >> 8), (uint8_t)i};
    memcpy(mac, m, 6);
}

/* Ports are never looked into here: their addresses are their names. */
static struct wh_port *port_of(struct model *m, unsigned i)
{
    return (struct wh_port *)(void *)&m->place[i];
}

static bool let_all(const struct wh_fdb_row *row, void *arg)
{
    (void)row;
    ((struct model *)arg)->gone++;
    return true;
}

static bool let_none(const struct wh_fdb_row *row, void *arg)
{
    (void)row;
    (void)arg;
    return false;
}

static void put_one(struct wh_fdb *f, struct model *m, uint64_t r, uint32_t now)
{
    unsigned key = (unsigned)(r >> 16) % KEYS, port = (unsigned)(r >> 40) % PORTS;
    bool at_node = r >> 50 & 1;
    uint32_t node = 1 + (uint32_t)(r >> 52) % 5;
    struct wh_fdb_row row = {.is_static = r >> 60 & 1, .vid = key % VIDS, .seen = now};
    row.place = at_node ? wh_fdb_place_node(f, node) : m->place[port];
    mac_of(key / VIDS, row.mac);
    CHECK(row.place != WH_FDB_NOWHERE && wh_fdb_put(f, &row) == WH_OK);
    m->rows[key].owner = at_node ? node + 100 : port + 1;
    m->rows[key].is_static = row.is_static;
    m->rows[key].seen = now;
}

static void port_goes_and_comes(struct wh_fdb *f, struct model *m, unsigned port)
{
    wh_fdb_place_gone(f, m->place[port]);
    m->place[port] = wh_fdb_place_port(f, port_of(m, port), port, UINT32_MAX);
    for (unsigned i = 0; i < KEYS; i++)
        if (m->rows[i].owner == port + 1)
            m->rows[i].owner = 0;
}

/* Slices until they have been through the whole table: what is too old is gone then. */
static void age(struct wh_fdb *f, struct model *m, uint32_t now, uint32_t most)
{
    const struct wh_fdb_sweep sweep = {now, most, let_all, m};
    while (f->old.cap)
        wh_fdb_slice(f, &sweep);
    while (f->cursor)
        wh_fdb_slice(f, &sweep);
    while (!wh_fdb_slice(f, &sweep))
        ;
    for (unsigned i = 0; i < KEYS; i++)
        if (m->rows[i].owner && !m->rows[i].is_static && now - m->rows[i].seen > most)
            m->rows[i].owner = 0;
}

static void compare(const struct wh_fdb *f, struct model *m)
{
    uint32_t count = 0, walked = 0;
    for (unsigned i = 0; i < KEYS; i++) {
        uint8_t mac[6];
        uint32_t owner = m->rows[i].owner;
        mac_of(i / VIDS, mac);
        const struct wh_fdb_row *row = wh_fdb_find(f, mac, i % VIDS);
        CHECK((row != NULL) == (owner != 0));
        count += owner != 0;
        if (!row || !owner)
            continue;
        CHECK(row->is_static == m->rows[i].is_static && row->seen == m->rows[i].seen);
        CHECK(wh_fdb_port(f, row) == (owner > 100 ? NULL : port_of(m, owner - 1)));
        CHECK(wh_fdb_node(f, row) == (owner > 100 ? owner - 100 : 0));
    }
    for (uint32_t at = 0; wh_fdb_next(f, &at);)
        walked++;
    CHECK(walked == count && f->learned + f->statics == count + f->lost);
    CHECK(f->now.count + f->old.count == count + f->lost);
}

static void against_model(uint64_t seed)
{
    struct model *m = calloc(1, sizeof(*m));
    struct wh_fdb f;
    uint64_t state = seed;
    wh_fdb_init(&f, KEYS, seed * 31);
    for (unsigned i = 0; i < PORTS; i++)
        m->place[i] = wh_fdb_place_port(&f, port_of(m, i), i, UINT32_MAX);
    for (uint32_t step = 1; step < 12000; step++) {
        uint64_t r = next_random(&state);
        unsigned key = (unsigned)(r >> 16) % KEYS;
        uint8_t mac[6];
        mac_of(key / VIDS, mac);
        if (r % 1500 == 0) {
            age(&f, m, step, 2000);
        } else if (r % 900 == 1) {
            port_goes_and_comes(&f, m, (unsigned)(r >> 32) % PORTS);
        } else if (r % 50 == 2) {
            wh_fdb_slice(&f, &(struct wh_fdb_sweep){step, 0x7fffffff, let_none, NULL});
        } else if (r % 5 == 3) {
            CHECK(wh_fdb_remove(&f, mac, key % VIDS) == (m->rows[key].owner != 0));
            m->rows[key].owner = 0;
        } else {
            put_one(&f, m, r, step);
        }
        if (step % 1000 == 0)
            compare(&f, m);
    }
    age(&f, m, 12000, 0x7fffffff);
    compare(&f, m);
    CHECK(f.lost == 0);
    for (unsigned i = 0; i < 40; i++) /* of an empty table nothing is left */
        age(&f, m, 1u << 30, 0);
    for (unsigned i = 0; i < PORTS; i++)
        wh_fdb_place_gone(&f, m->place[i]);
    age(&f, m, 1u << 30, 0);
    CHECK(f.learned == 0);
    wh_fdb_free(&f);
    free(m);
}

/* Learned and static entries have a cap each, and so has what one port learned: none can push the others out. */
static void caps(void)
{
    struct wh_fdb f;
    wh_fdb_init(&f, 10, 1);
    struct wh_fdb_row row = {.place = wh_fdb_place_node(&f, 1)};
    CHECK(!wh_fdb_find(&f, row.mac, 0) && !wh_fdb_remove(&f, row.mac, 0));
    for (unsigned i = 0; i < 10; i++) {
        mac_of(i, row.mac);
        CHECK(wh_fdb_put(&f, &row) == WH_OK);
    }
    mac_of(10, row.mac);
    CHECK(wh_fdb_put(&f, &row) == WH_E_FULL && !wh_fdb_find(&f, row.mac, 0));
    row.is_static = true;
    CHECK(wh_fdb_put(&f, &row) == WH_OK);
    mac_of(0, row.mac);
    CHECK(wh_fdb_put(&f, &row) == WH_OK && f.learned == 9 && f.statics == 2);
    row.is_static = false;
    mac_of(11, row.mac);
    CHECK(wh_fdb_put(&f, &row) == WH_OK); /* room again */

    uint32_t small = wh_fdb_place_port(&f, NULL, 1, 2);
    struct wh_fdb_row other = {.place = small, .vid = 5};
    for (unsigned i = 0; i < 5; i++) { /* a station comes over from elsewhere, within the port's share only */
        mac_of(i + 1, other.mac);
        CHECK(wh_fdb_remove(&f, other.mac, 0));
        CHECK(wh_fdb_put(&f, &other) == (i < 2 ? WH_OK : WH_E_FULL));
    }
    wh_fdb_place_gone(&f, small);
    mac_of(1, other.mac);
    CHECK(!wh_fdb_find(&f, other.mac, 5) && !wh_fdb_remove(&f, other.mac, 5) && f.lost == 1);
    wh_fdb_free(&f);
}

/* What is static holds in every VLAN; what is learned, in its own. */
static void vlans(void)
{
    struct wh_fdb f;
    wh_fdb_init(&f, 10, 1);
    struct wh_fdb_row row = {.place = wh_fdb_place_node(&f, 1), .vid = 7};
    mac_of(1, row.mac);
    CHECK(wh_fdb_put(&f, &row) == WH_OK);
    CHECK(wh_fdb_resolve(&f, row.mac, 7) && !wh_fdb_resolve(&f, row.mac, 0) && !wh_fdb_resolve(&f, row.mac, 8));
    row.vid = 0;
    row.place = wh_fdb_place_node(&f, 2);
    CHECK(wh_fdb_put(&f, &row) == WH_OK && wh_fdb_node(&f, wh_fdb_resolve(&f, row.mac, 7)) == 1);
    row.is_static = 1;
    CHECK(wh_fdb_put(&f, &row) == WH_OK && wh_fdb_node(&f, wh_fdb_resolve(&f, row.mac, 7)) == 2);
    CHECK(wh_fdb_node(&f, wh_fdb_resolve(&f, row.mac, 8)) == 2);
    wh_fdb_free(&f);
}

/* Ten million invented addresses: the table stays within its bytes, and those that it knew before stay known. */
static void flood(void)
{
    enum { KNOWN = 1000, MAX = 1 << 20 };
    struct wh_fdb f;
    struct model *m = calloc(1, sizeof(*m));
    uint64_t state = 4711;
    uint32_t full = 0;
    wh_fdb_init(&f, MAX, 99);
    struct wh_fdb_row row = {.place = wh_fdb_place_node(&f, 1)};
    for (unsigned i = 0; i < KNOWN; i++) {
        mac_of(i, row.mac);
        CHECK(wh_fdb_put(&f, &row) == WH_OK);
    }
    row.place = wh_fdb_place_port(&f, port_of(m, 0), 1, UINT32_MAX);
    for (uint32_t i = 0; i < 10000000; i++) {
        uint64_t r = next_random(&state) | 4;
        memcpy(row.mac, &r, 6);
        full += wh_fdb_put(&f, &row) == WH_E_FULL;
    }
    while (f.old.cap)
        wh_fdb_slice(&f, &(struct wh_fdb_sweep){0, 1, let_none, NULL});
    CHECK(f.learned == MAX && full >= 10000000 - MAX && wh_fdb_bytes(&f) <= 64ull * MAX);
    for (unsigned i = 0; i < KNOWN; i++) {
        mac_of(i, row.mac);
        CHECK(wh_fdb_find(&f, row.mac, 0));
    }
    wh_fdb_place_gone(&f, row.place); /* and all of it goes, in slices, and the memory with it */
    for (uint32_t i = 0; (f.lost || f.old.cap) && i < 100000; i++)
        wh_fdb_slice(&f, &(struct wh_fdb_sweep){0, 1, let_all, m});
    CHECK(m->gone == MAX - KNOWN && f.learned == KNOWN);
    for (unsigned i = 0; i < 20000; i++)
        wh_fdb_slice(&f, &(struct wh_fdb_sweep){0, 1, let_none, NULL});
    CHECK(wh_fdb_bytes(&f) <= 16u * 16384);
    wh_fdb_free(&f);
    free(m);
}

static void ids(void)
{
    struct wh_idmap m = {0};
    static uint8_t things[3000];
    uint64_t state = 42;
    CHECK(!wh_idmap_get(&m, 5) && !wh_idmap_take(&m, 5));
    for (unsigned step = 0; step < 20000; step++) {
        uint64_t r = next_random(&state);
        uint32_t id = (uint32_t)(r >> 20) % WH_ARRAY_LEN(things);
        if (r % 2) {
            int status = wh_idmap_put(&m, id * 65536u, &things[id]);
            CHECK(status == (things[id] ? WH_E_EXISTS : WH_OK));
            things[id] = 1;
        } else {
            CHECK(wh_idmap_take(&m, id * 65536u) == (things[id] ? &things[id] : NULL));
            things[id] = 0;
        }
    }
    unsigned held = 0, walked = 0;
    for (unsigned i = 0; i < WH_ARRAY_LEN(things); i++) {
        CHECK(wh_idmap_get(&m, i * 65536u) == (things[i] ? &things[i] : NULL));
        held += things[i];
    }
    for (uint32_t at = 0; wh_idmap_next(&m, &at);)
        walked++;
    CHECK(held == walked && held == m.count);
    wh_idmap_free(&m);
}

int main(void)
{
    for (uint64_t seed = 1; seed <= 10; seed++)
        against_model(seed * 104729);
    caps();
    vlans();
    flood();
    ids();
    return finish("fdb");
}
