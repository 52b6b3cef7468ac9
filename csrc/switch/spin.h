/* spin: shall the thread look again at once, or sleep? A sleeper is woken some 20 to 50 us late, which is most of the
 * round trip between two guests; a thread that never sleeps keeps a core hot for nothing.
 *
 * After a turn that moved little (a request, an answer) the next frame is often near: the thread looks again for up to
 * WH_SPIN_NS. After one that moved much it sleeps, and for a moment from then on: what gathers meanwhile goes through
 * the stack in one piece, and others may need the core. Looking in vain is paid from a credit that grows by a
 * hundredth of the time, so a quiet switch cannot use more than that, and by each look that found something. All of it
 * is lost when a look took long: others wanted the core, and a sleeper is served before who has used his share of it.
 * Pure: the caller brings the time. */
#ifndef WH_SWITCH_SPIN_H
#define WH_SWITCH_SPIN_H

#include "base/base.h"

#ifndef WH_SPIN_NS /* for measuring what it is worth; 0: never */
#define WH_SPIN_NS 100000u
#endif
#define WH_SPIN_STEP_NS   20000u   /* between two looks, if nobody wants the core */
#define WH_SPIN_SHARE     100u     /* of the time, for looking in vain */
#define WH_SPIN_CREDIT_NS 2000000u /* the most that is saved up */
#define WH_SPIN_BULK      16384u   /* bytes, or WH_SPIN_FRAMES frames, in one turn: much */
#define WH_SPIN_FRAMES    16u
#define WH_SPIN_BULK_NS   1000000u

struct wh_spin {
    bool never;          /* one core: who shall bring the frame while we look? */
    uint64_t since_ns;   /* looking since then; 0: not looking */
    uint64_t last_ns;    /* of the last look */
    uint64_t credit_ns;  /* left for looking in vain */
    uint64_t filled_ns;  /* when the credit was brought up to date */
    uint64_t bulk_until; /* no looking until then */
};

void wh_spin_init(struct wh_spin *p, uint64_t now_ns);
/* A turn is over that moved this much. True: look again without sleeping. */
bool wh_spin_after_turn(struct wh_spin *p, uint64_t now_ns, uint64_t frames, uint64_t bytes);
/* Nothing was there. True: look again. */
bool wh_spin_go_on(struct wh_spin *p, uint64_t now_ns);

#endif
