/* fdb: the forwarding table of one network: (MAC, VLAN) -> place, which is a port of this switch or another node.
 *
 * Static entries come from the control plane (wh_switch_mac_set) or from a port's locked MAC and bind their MAC: frames
 * from elsewhere are dropped. Learned entries come from source addresses, move and age. Learned entries are capped, for
 * the network and for each place, so that a station that invents addresses costs bounded memory and takes nobody else's
 * share of a port; the hash is keyed, so that it cannot choose collisions either.
 *
 * Nothing here takes long, however large the table is. A row has 16 bytes; the table is between 3/8 and 3/4 full (but
 * for the smallest), so an entry costs 21 to 43 bytes, and up to 64 while the table grows. It grows by a second table
 * beside the first, into which each put and each slice moves a few rows; look-ups ask both meanwhile. Ageing goes
 * through the table in slices. A place that is gone is only marked: its rows are absent to all from then on, and the
 * slices take them away. That is why rows name their place by number, and a number is used again only when no row has
 * it. */
#ifndef WH_SWITCH_FDB_H
#define WH_SWITCH_FDB_H

#include "switch/idmap.h"

struct wh_port;

#define WH_FDB_NOWHERE 0u           /* no place */
#define WH_FDB_SLICE   4096u        /* slots that one slice looks at */
#define WH_FDB_TICK    (1ull << 26) /* ns; what `seen` counts, modulo 2^31: 4.5 years */
#define WH_FDB_CAP_MIN 64u
#define WH_FDB_LIMIT   (1u << 20) /* the largest `max` */

struct wh_fdb_row {
    uint8_t mac[6];
    uint16_t vid : 12; /* 0: untagged, and of static rows: any */
    uint16_t used : 1;
    uint16_t is_static : 1;
    uint16_t was_here : 1; /* static, of another node: the station's guest moved there from a port of ours */
    uint16_t frozen : 1;   /* moved too often (moves.h) */
    uint32_t place;
    uint32_t seen : 31; /* WH_FDB_TICK */
    uint32_t told : 1;  /* the control plane knows that it is here */
};

struct wh_fdb_place {
    struct wh_port *port; /* local, else NULL */
    uint32_t node;        /* the other node; 0: local */
    uint32_t port_id;     /* also when the port is gone */
    uint32_t rows;        /* that name it */
    uint32_t learned, max;
    bool used, gone;
};

struct wh_fdb_table {
    struct wh_fdb_row *rows;
    uint32_t cap, count; /* cap: a power of two or 0 */
};

struct wh_fdb {
    struct wh_fdb_table now, old;    /* old: being emptied from `moving` on */
    uint32_t moving, cursor;         /* cursor: where the next slice begins */
    uint32_t learned, statics, lost; /* lost: rows of either kind whose place is gone */
    uint32_t max;                    /* of learned, and of static entries */
    uint64_t seed;
    uint64_t version;            /* another one whenever a row or a place has come, changed or gone */
    struct wh_fdb_place *places; /* [0] is nowhere */
    uint32_t place_cap, place_free;
    struct wh_idmap nodes; /* node -> number of its place, as a pointer */
};

void wh_fdb_init(struct wh_fdb *f, uint32_t max, uint64_t seed);
void wh_fdb_free(struct wh_fdb *f);

/* A place for a port, max bounds what is learned there. WH_FDB_NOWHERE: no memory. */
uint32_t wh_fdb_place_port(struct wh_fdb *f, struct wh_port *port, uint32_t id, uint32_t max);
/* The place of a node, made when it is not there yet; it goes with its last row. */
uint32_t wh_fdb_place_node(struct wh_fdb *f, uint32_t node);
/* The port is gone: its rows are not found any more. */
void wh_fdb_place_gone(struct wh_fdb *f, uint32_t place);
static inline struct wh_port *wh_fdb_port(const struct wh_fdb *f, const struct wh_fdb_row *row)
{
    return f->places[row->place].port;
}
static inline uint32_t wh_fdb_node(const struct wh_fdb *f, const struct wh_fdb_row *row)
{
    return f->places[row->place].node;
}

/* Exactly this key. Valid until the next put, remove or slice; `seen`, `told` and `frozen` may be written. */
struct wh_fdb_row *wh_fdb_find(const struct wh_fdb *f, const uint8_t mac[6], uint16_t vid);
/* Where frames for this station go: the static entry of any VLAN before what was learned in this one. */
struct wh_fdb_row *wh_fdb_resolve(const struct wh_fdb *f, const uint8_t mac[6], uint16_t vid);
/* Add or replace; used is set. WH_E_FULL at a cap, WH_E_NOMEM. */
int wh_fdb_put(struct wh_fdb *f, const struct wh_fdb_row *row);
bool wh_fdb_remove(struct wh_fdb *f, const uint8_t mac[6], uint16_t vid);

static inline uint32_t wh_fdb_ticks(uint64_t now_ns)
{
    return (uint32_t)(now_ns / WH_FDB_TICK) & 0x7fffffffu;
}
/* Modulo 2^31, as `seen` is. */
static inline uint32_t wh_fdb_age(const struct wh_fdb_row *row, uint32_t now_ticks)
{
    return (now_ticks - row->seen) & 0x7fffffffu;
}

/* let: may this row, which is too old or whose place is gone, go now? It is asked again in a later slice if not. */
struct wh_fdb_sweep {
    uint32_t now_ticks, age_ticks;
    bool (*let)(const struct wh_fdb_row *row, void *arg);
    void *arg;
};
/* The next WH_FDB_SLICE slots. True: that was the end of the table. Shrinks a table that is nearly empty. */
bool wh_fdb_slice(struct wh_fdb *f, const struct wh_fdb_sweep *sweep);
/* Walk without change: for (uint32_t at = 0; (row = wh_fdb_next(f, &at));) */
const struct wh_fdb_row *wh_fdb_next(const struct wh_fdb *f, uint32_t *at);
size_t wh_fdb_bytes(const struct wh_fdb *f); /* of its tables */

#endif
