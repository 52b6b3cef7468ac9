/* idle: what a guest that has nothing to do gives back to its host.
 *
 * While it works, a guest's process keeps some 17 MiB only to be fast: decoded code, translated code, the second level
 * of the TLBs. An idle one needs little of that. A hart that is about to sleep in WFI looks at its last ten seconds, if
 * that long has passed since it looked last; if it executed for less than 1/32 of them, it is idle, and gives back what
 * is its own. Where all harts together were, the arena of the translator is made small, in steps between which the hart
 * looks whether it is wanted. An idle Debian takes 1/250 on our machine, and more on a slow or loaded one; a timer of
 * 250 Hz that does little is idle by that, too.
 *
 * A hart that has something to give back shortens its sleep so that it comes to the look: its WFI then ends without a
 * reason, which every guest has to bear. Once there is nothing left it sleeps as long as the guest says. */
#include "board/machine.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#define WINDOW_NS 10000000000ull
#define SHARE     32u
#define WORKED_NS 5000000u /* execution that may have left something worth looking at */
/* A booted Debian has 4 MiB of code and records in use, three quarters of them the kernel's. */
#define ARENA_MOST (5u << 19)
#define ARENA_KEEP (2u << 20)
#define ARENA_MORE (64u << 10) /* since it was looked through, to be worth it again */

/* Host ns that a hart has executed, the present stretch too. */
static uint64_t executed(const wh_board_hart *h)
{
    uint64_t since = atomic_load_explicit(&h->run_since, memory_order_relaxed), now = wh_now_ns();
    return atomic_load_explicit(&h->run_ns, memory_order_relaxed) + (since != 0 && now > since ? now - since : 0);
}

static uint64_t all_executed(const wh_machine *m)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < m->config.harts; i++)
        sum += executed(&m->hart[i]);
    return sum;
}

enum verdict { TOO_EARLY, WORKED, IDLE, NOT_KNOWN };

/* Ends the window if it is time, and begins the next. A hart that slept past its end has not been idle all the while:
 * what it did may have been done just now. */
static enum verdict judge(wh_idle_window *w, uint64_t now, uint64_t ran)
{
    if (now - w->begun < WINDOW_NS)
        return TOO_EARLY;
    uint64_t length = now - w->begun, worked = ran - w->ran;
    *w = (wh_idle_window){.begun = now, .ran = ran};
    if (worked < WORKED_NS || (length < 2 * WINDOW_NS && worked < length / SHARE))
        return IDLE;
    return length < 2 * WINDOW_NS ? WORKED : NOT_KNOWN;
}

/* shrink_lock held. */
static bool arena_grew(const wh_machine *m)
{
    uint32_t used = m->jit != NULL ? wh_jit_used(m->jit) : 0;
    return used > m->arena_left + ARENA_MORE || used + ARENA_MORE < m->arena_left;
}

/* shrink_lock held. Pages that are not there yet shall not be brought in for code. */
static void look_at_arena(wh_machine *m, uint64_t now)
{
    bool whole = atomic_load(&m->ram.share->absent_pages) == 0;
    if (judge(&m->idle, now, all_executed(m)) != IDLE || !whole || !arena_grew(m))
        return;
    wh_jit_shrink(m->jit, ARENA_MOST, ARENA_KEEP);
    atomic_store(&m->shrinking, true);
}

/* What making the machine and its process left free. */
static void trim_heap(void)
{
#ifdef __GLIBC__
    (void)malloc_trim(0);
#endif
}

static void look(wh_board_hart *h, uint64_t now)
{
    wh_machine *m = h->machine;
    enum verdict own = judge(&h->idle, now, executed(h));
    if (own == TOO_EARLY)
        return;
    if (own == IDLE && wh_hart_hoards(h->cpu)) {
        wh_hart_give_back(h->cpu);
        trim_heap();
    }
    h->idle_again = own != IDLE;
    if (m->jit == NULL || pthread_mutex_trylock(&m->shrink_lock) != 0)
        return;
    if (own == IDLE)
        look_at_arena(m, now);
    h->idle_again = h->idle_again || (arena_grew(m) && !atomic_load(&m->shrinking));
    pthread_mutex_unlock(&m->shrink_lock);
}

/* Until it is done or the hart has something better to do. */
static void go_on_shrinking(wh_board_hart *h, uint32_t seq)
{
    wh_machine *m = h->machine;
    if (!atomic_load(&m->shrinking) || pthread_mutex_trylock(&m->shrink_lock) != 0)
        return;
    while (atomic_load(&m->shrinking) && atomic_load(&m->go) && atomic_load(&h->wake) == seq &&
           !wh_hart_runnable(h->cpu)) {
        if (wh_jit_shrink_step(m->jit, h->cpu))
            continue;
        m->arena_left = wh_jit_used(m->jit);
        atomic_store(&m->shrinking, false);
    }
    pthread_mutex_unlock(&m->shrink_lock);
}

uint64_t wh_idle_rest(wh_board_hart *h, uint32_t seq)
{
    look(h, wh_now_ns());
    go_on_shrinking(h, seq);
    return h->idle_again || wh_hart_hoards(h->cpu) ? h->idle.begun + WINDOW_NS : UINT64_MAX;
}

void wh_machine_give_back(wh_machine *m)
{
    for (unsigned i = 0; i < m->config.harts; i++)
        wh_hart_give_back(m->hart[i].cpu);
    if (m->jit == NULL)
        return;
    pthread_mutex_lock(&m->shrink_lock);
    wh_jit_shrink(m->jit, 0, wh_jit_used(m->jit) / 2);
    while (wh_jit_shrink_step(m->jit, m->hart[0].cpu))
        continue;
    atomic_store(&m->shrinking, false);
    pthread_mutex_unlock(&m->shrink_lock);
}
