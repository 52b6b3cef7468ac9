/* moves: stations that are seen here and there (RFC 7432, section 15.1).
 *
 * A station that moves WH_MOVES_MAX times in WH_MOVES_FOR_NS is held for a duplicate: two hosts with one address, or a
 * loop. It stays where it is; frames with its address from elsewhere are dropped, and of its own broadcasts a few a
 * second go on, so that what runs round in a loop dies out. That ends after WH_MOVES_FOR_NS, or when the control plane
 * says so.
 *
 * The table is a cache of a fixed size, made at the first move: who moves many addresses at once pushes the oldest ones
 * out, of which no duplicate is known then. Those that are held stay. Times are the caller's. */
#ifndef WH_SWITCH_MOVES_H
#define WH_SWITCH_MOVES_H

#include "base/base.h"

#define WH_MOVES_MAX       5u
#define WH_MOVES_FOR_NS    180000000000ull
#define WH_MOVES_FLOOD_A_S 10u /* broadcasts of a held station */
#define WH_MOVES_SETS      256u
#define WH_MOVES_WAYS      4u

struct wh_move {
    uint8_t mac[6];
    uint16_t vid;
    uint16_t moves; /* 0: free */
    bool held;
    uint8_t flooded;   /* in the second that began at flood_ns */
    uint64_t since_ns; /* the first of the moves; of one that is held: when that began */
    uint64_t flood_ns;
};

struct wh_moves {
    struct wh_move *rows; /* NULL: nothing has moved yet */
    uint64_t seed;
};

enum wh_move_verdict {
    WH_MOVE_GO,   /* it may */
    WH_MOVE_HOLD, /* no more, from this move on: say so */
    WH_MOVE_HELD  /* it is held already */
};

void wh_moves_init(struct wh_moves *m, uint64_t seed);
void wh_moves_free(struct wh_moves *m);
/* This station wants to move. */
enum wh_move_verdict wh_moves_note(struct wh_moves *m, const uint8_t mac[6], uint16_t vid, uint64_t now_ns);
/* It is still held. */
bool wh_moves_held(const struct wh_moves *m, const uint8_t mac[6], uint16_t vid, uint64_t now_ns);
/* A held station broadcasts: may this frame go on? */
bool wh_moves_may_flood(struct wh_moves *m, const uint8_t mac[6], uint16_t vid, uint64_t now_ns);
/* In every VLAN. True: it was held. */
bool wh_moves_forget(struct wh_moves *m, const uint8_t mac[6]);

#endif
