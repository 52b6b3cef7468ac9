#include "switch/replay.h"

static uint64_t *word_of(struct wh_replay *w, uint64_t counter)
{
    return &w->bits[(counter >> 6) & (WH_REPLAY_WORDS - 1)];
}

bool wh_replay_check(const struct wh_replay *w, uint64_t counter)
{
    if (counter == 0)
        return false;
    if (counter > w->top)
        return true;
    if (w->top - counter >= WH_REPLAY_WINDOW)
        return false;
    return !(*word_of((struct wh_replay *)w, counter) >> (counter & 63) & 1);
}

bool wh_replay_accept(struct wh_replay *w, uint64_t counter)
{
    if (!wh_replay_check(w, counter))
        return false;
    if (counter > w->top) {
        uint64_t fresh = (counter >> 6) - (w->top >> 6);
        if (fresh > WH_REPLAY_WORDS)
            fresh = WH_REPLAY_WORDS;
        for (uint64_t i = 0; i < fresh; i++)
            *word_of(w, counter - i * 64) = 0;
        w->top = counter;
    }
    *word_of(w, counter) |= 1ull << (counter & 63);
    return true;
}
