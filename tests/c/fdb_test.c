/* The forwarding table and the id map against plain arrays under random operations, and their limits. */
#include "switch/fdb.h"
#include "switch/idmap.h"
#include "switch_check.h"

#define MACS 400u

static void mac_of(unsigned i, uint8_t mac[6])
{
    uint8_t m[6] = {2, 0, 0, 0, (uint8_t)(i >> 8), (uint8_t)i};
    memcpy(mac, m, 6);
}

static bool is_even(const struct wh_fdb_row *row, const void *ctx)
{
    (void)ctx;
    return row->mac[5] % 2 == 0 && !row->is_static;
}

static void gone(const struct wh_fdb_row *row, void *arg)
{
    unsigned *count = arg;
    CHECK(row->mac[5] % 2 == 0);
    (*count)++;
}

static void against_model(uint64_t seed)
{
    struct wh_fdb f;
    uint32_t node[MACS] = {0}, count = 0;
    bool is_static[MACS] = {0};
    uint64_t state = seed;
    wh_fdb_init(&f, MACS, seed * 31);
    for (unsigned step = 0; step < 6000; step++) {
        uint64_t r = next_random(&state);
        unsigned i = (unsigned)(r >> 16) % MACS;
        struct wh_fdb_row row = {.node = (uint32_t)(r >> 40 | 1), .is_static = r & 4};
        mac_of(i, row.mac);
        if (r % 500 == 0) {
            unsigned told = 0, want = 0;
            wh_fdb_sweep(&f, is_even, NULL, gone, &told);
            for (unsigned k = 0; k < MACS; k += 2)
                if (node[k] && !is_static[k])
                    node[k] = 0, want++;
            CHECK(told == want);
        } else if (r % 3) {
            CHECK(wh_fdb_put(&f, &row) == WH_OK);
            node[i] = row.node;
            is_static[i] = row.is_static;
        } else {
            CHECK(wh_fdb_remove(&f, row.mac) == (node[i] != 0));
            node[i] = 0;
        }
    }
    for (unsigned i = 0; i < MACS; i++) {
        uint8_t mac[6];
        mac_of(i, mac);
        const struct wh_fdb_row *row = wh_fdb_find(&f, mac);
        CHECK((row != NULL) == (node[i] != 0));
        CHECK(!row || (row->node == node[i] && row->is_static == is_static[i]));
        count += node[i] != 0;
    }
    CHECK(f.learned + f.statics == count);
    wh_fdb_free(&f);
}

/* Learned and static entries have a cap each: neither can push the other out. */
static void caps(void)
{
    struct wh_fdb f;
    struct wh_fdb_row row = {.node = 1};
    wh_fdb_init(&f, 10, 1);
    CHECK(!wh_fdb_find(&f, row.mac) && !wh_fdb_remove(&f, row.mac));
    for (unsigned i = 0; i < 10; i++) {
        mac_of(i, row.mac);
        CHECK(wh_fdb_put(&f, &row) == WH_OK);
    }
    mac_of(10, row.mac);
    CHECK(wh_fdb_put(&f, &row) == WH_E_FULL && !wh_fdb_find(&f, row.mac));
    row.is_static = true;
    CHECK(wh_fdb_put(&f, &row) == WH_OK);
    mac_of(0, row.mac);
    CHECK(wh_fdb_put(&f, &row) == WH_OK && f.learned == 9 && f.statics == 2);
    row.is_static = false;
    mac_of(11, row.mac);
    CHECK(wh_fdb_put(&f, &row) == WH_OK); /* room again */
    wh_fdb_free(&f);
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
    for (uint64_t seed = 1; seed <= 20; seed++)
        against_model(seed * 104729);
    caps();
    ids();
    return finish("fdb");
}
