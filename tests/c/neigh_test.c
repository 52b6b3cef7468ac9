/* Which station has which address: what is believed, for how long, and what liars get. Virtual time. */
#include "switch/neigh.h"
#include "switch_check.h"

#define SECOND 1000000000ull

static struct wh_neigh_key v4(uint32_t address, uint16_t vid)
{
    struct wh_neigh_key k = {.ip = {[10] = 0xff, [11] = 0xff}, .vid = vid};
    for (unsigned i = 0; i < 4; i++)
        k.ip[12 + i] = (uint8_t)(address >> (24 - 8 * i));
    return k;
}

static const uint8_t a[6] = {2, 0, 0, 0, 0, 1}, b[6] = {2, 0, 0, 0, 0, 2};

/* Is this station told for the address? */
static bool told(struct wh_neighs *n, uint32_t address, const uint8_t *mac, uint64_t now)
{
    struct wh_neigh_key k = v4(address, 0);
    const struct wh_neigh *row = wh_neigh_look(n, &k);
    return row && memcmp(row->mac, mac, 6) == 0 && wh_neigh_good(n, row, now);
}

static void says(struct wh_neighs *n, uint32_t address, const uint8_t *mac, bool contested, uint64_t now)
{
    struct wh_neigh_key k = v4(address, 0);
    wh_neigh_learn(n, &k, mac, WH_NEIGH_HOST, contested, now);
}

static void ages(void)
{
    struct wh_neighs n;
    uint64_t now = 77 * SECOND;
    wh_neighs_init(&n, 5);
    CHECK(!told(&n, 1, a, now));
    says(&n, 1, a, false, now);
    CHECK(told(&n, 1, a, now) && !told(&n, 1, b, now) && !told(&n, 2, a, now));
    struct wh_neigh_key other = v4(1, 9);
    CHECK(wh_neigh_look(&n, &other) == NULL); /* another VLAN */
    CHECK(told(&n, 1, a, now + WH_NEIGH_AGE_NS) && !told(&n, 1, a, now + WH_NEIGH_AGE_NS + SECOND));
    says(&n, 1, a, false, now + 200 * SECOND);
    CHECK(told(&n, 1, a, now + 499 * SECOND));
    says(&n, 1, b, false, now + 500 * SECOND); /* who had it is gone: nothing to doubt */
    CHECK(told(&n, 1, b, now + 500 * SECOND));
    wh_neighs_clear(&n);
    CHECK(!told(&n, 1, b, now + 500 * SECOND));
}

static void contested(void)
{
    struct wh_neighs n;
    uint64_t now = SECOND;
    wh_neighs_init(&n, 5);
    says(&n, 1, a, false, now);
    says(&n, 1, b, true, now);
    CHECK(!told(&n, 1, b, now) && !told(&n, 1, a, now)); /* ask them yourself */
    CHECK(told(&n, 1, b, now + WH_NEIGH_DOUBT_NS + SECOND));
    says(&n, 1, a, true, now + SECOND); /* the one who had it contradicts: his again, doubted too */
    CHECK(!told(&n, 1, a, now + SECOND) && told(&n, 1, a, now + 2 * SECOND + WH_NEIGH_DOUBT_NS));
    for (unsigned i = 2; i < 12; i++) /* and so on: held, and nobody is told */
        says(&n, 1, i & 1 ? a : b, true, now + i * SECOND);
    CHECK(!told(&n, 1, a, now + 100 * SECOND) && !told(&n, 1, b, now + 100 * SECOND));
    uint64_t later = now + WH_MOVES_FOR_NS + 20 * SECOND; /* peace: whoever speaks then */
    says(&n, 1, a, true, later);
    says(&n, 1, a, false, later + WH_NEIGH_DOUBT_NS + SECOND);
    CHECK(told(&n, 1, a, later + WH_NEIGH_DOUBT_NS + SECOND));
    wh_neighs_clear(&n);
}

/* A host's solicitation says where it is, but not whether it is a router. */
static void routers(void)
{
    struct wh_neighs n;
    struct wh_neigh_key k = {.ip = {0xfe, 0x80, [15] = 1}};
    wh_neighs_init(&n, 5);
    wh_neigh_learn(&n, &k, a, WH_NEIGH_SAID, false, SECOND);
    CHECK(wh_neigh_look(&n, &k) && !wh_neigh_good(&n, wh_neigh_look(&n, &k), SECOND));
    wh_neigh_learn(&n, &k, a, WH_NEIGH_ROUTER, false, SECOND);
    wh_neigh_learn(&n, &k, a, WH_NEIGH_SAID, false, 2 * SECOND);
    const struct wh_neigh *row = wh_neigh_look(&n, &k);
    CHECK(wh_neigh_good(&n, row, 2 * SECOND) && row->is_router);
    wh_neigh_learn(&n, &k, a, WH_NEIGH_HOST, false, 3 * SECOND);
    CHECK(!wh_neigh_look(&n, &k)->is_router);
    wh_neigh_learn(&n, &k, b, WH_NEIGH_SAID, false, 4 * SECOND); /* another one now: unknown again */
    CHECK(!wh_neigh_good(&n, wh_neigh_look(&n, &k), 20 * SECOND));
    wh_neighs_clear(&n);
}

static void bounded(void)
{
    struct wh_neighs n;
    enum { HOSTS = 1000 };
    uint64_t now = SECOND;
    unsigned kept = 0;
    wh_neighs_init(&n, 0x1234567);
    for (uint32_t i = 0; i < HOSTS; i++) {
        uint8_t mac[6] = {2, 1, 0, 0, (uint8_t)(i >> 8), (uint8_t)i};
        says(&n, i, mac, false, now);
        CHECK(told(&n, i, mac, now));
    }
    for (uint32_t i = 0; i < 200000; i++) /* one station that says it has all addresses */
        says(&n, 100000 + i, b, false, now + i);
    CHECK(n.sets * WH_NEIGH_WAYS <= WH_NEIGH_MAX);
    for (uint32_t i = 0; i < HOSTS; i++) {
        uint8_t mac[6] = {2, 1, 0, 0, (uint8_t)(i >> 8), (uint8_t)i};
        kept += told(&n, i, mac, now + SECOND);
    }
    CHECK(kept > HOSTS * 95 / 100);
    wh_neighs_clear(&n);
}

int main(void)
{
    ages();
    contested();
    routers();
    bounded();
    return finish("neigh");
}
