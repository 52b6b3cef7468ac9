/* replay: the anti-replay window of RFC 6479: a ring of bit words with one spare, so that the window moves without
 * shifting bits. Counter 0 is never valid. */
#ifndef WH_SWITCH_REPLAY_H
#define WH_SWITCH_REPLAY_H

#include "base/base.h"

#define WH_REPLAY_WORDS  64u /* a power of two */
#define WH_REPLAY_WINDOW ((WH_REPLAY_WORDS - 1) * 64u)

struct wh_replay {
    uint64_t top; /* highest counter accepted */
    uint64_t bits[WH_REPLAY_WORDS];
};

/* Would it be accepted? Cheap; asked before the AEAD so that a flood of replays costs no cryptography. */
bool wh_replay_check(const struct wh_replay *w, uint64_t counter);
/* Only for a counter whose datagram authenticated. False: a replay or older than the window; nothing changed. */
bool wh_replay_accept(struct wh_replay *w, uint64_t counter);

#endif
