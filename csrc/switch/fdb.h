/* fdb: the forwarding table of one network: MAC -> port or node.
 *
 * Static entries come from the control plane (wh_switch_mac_set) or from a port's locked MAC and bind their MAC: frames
 * from elsewhere are dropped. Learned entries come from source addresses, move freely and age. Learned entries are
 * capped, so that a station that invents addresses costs bounded memory; the hash is keyed, so that it cannot choose
 * collisions either. */
#ifndef WH_SWITCH_FDB_H
#define WH_SWITCH_FDB_H

#include "base/base.h"

struct wh_port;

struct wh_fdb_row {
    uint8_t mac[6];
    bool used, is_static;
    bool was_here;        /* static, of another node: the station's guest moved there from a port of ours */
    uint32_t node;        /* owner when port is NULL */
    struct wh_port *port; /* local */
    uint64_t seen_ns;
};

struct wh_fdb {
    struct wh_fdb_row *rows;
    uint32_t cap, learned, statics; /* cap: a power of two or 0 */
    uint32_t max;                   /* of learned, and of static entries */
    uint64_t seed;
};

void wh_fdb_init(struct wh_fdb *f, uint32_t max, uint64_t seed);
void wh_fdb_free(struct wh_fdb *f);
/* Valid until the next put or remove. */
struct wh_fdb_row *wh_fdb_find(const struct wh_fdb *f, const uint8_t mac[6]);
/* Add or replace. WH_E_FULL at the cap, WH_E_NOMEM. */
int wh_fdb_put(struct wh_fdb *f, const struct wh_fdb_row *row);
bool wh_fdb_remove(struct wh_fdb *f, const uint8_t mac[6]);
/* Remove every row for which test says so, calling gone (may be NULL) with each. */
void wh_fdb_sweep(struct wh_fdb *f, bool (*test)(const struct wh_fdb_row *row, const void *ctx), const void *ctx,
                  void (*gone)(const struct wh_fdb_row *row, void *arg), void *arg);

#endif
