/* The replay window against a plain record of every counter that was accepted. */
#include "switch/replay.h"
#include "switch_check.h"

#include <stdlib.h>

#define SPAN 60000u

static bool model_accept(uint8_t *seen, uint64_t *top, uint64_t c)
{
    if (c == 0 || seen[c] || (c <= *top && *top - c >= WH_REPLAY_WINDOW))
        return false;
    seen[c] = 1;
    if (c > *top)
        *top = c;
    return true;
}

static void edges(void)
{
    struct wh_replay w = {0};
    CHECK(!wh_replay_accept(&w, 0));
    CHECK(wh_replay_accept(&w, 1) && !wh_replay_accept(&w, 1));
    CHECK(wh_replay_accept(&w, WH_REPLAY_WINDOW + 1));
    CHECK(!wh_replay_accept(&w, 1)); /* exactly one too old */
    CHECK(wh_replay_accept(&w, 2));  /* exactly the last one inside */
    CHECK(!wh_replay_accept(&w, 2));
    CHECK(wh_replay_accept(&w, UINT64_MAX - 5) && wh_replay_accept(&w, UINT64_MAX));
    CHECK(!wh_replay_accept(&w, UINT64_MAX - 5) && wh_replay_accept(&w, UINT64_MAX - 4));
    CHECK(!wh_replay_accept(&w, 3) && w.top == UINT64_MAX);
}

static void check_changes_nothing(void)
{
    struct wh_replay w = {0}, before;
    wh_replay_accept(&w, 100);
    before = w;
    CHECK(wh_replay_check(&w, 99) && wh_replay_check(&w, 1000000) && !wh_replay_check(&w, 100));
    CHECK(memcmp(&before, &w, sizeof(w)) == 0);
}

/* Steps forward mostly, far jumps sometimes, old counters often. */
static void random_walk(uint64_t seed)
{
    struct wh_replay w = {0};
    uint8_t *seen = calloc(SPAN + 1, 1);
    uint64_t top = 0, state = seed;
    for (unsigned i = 0; i < 40000; i++) {
        uint64_t r = next_random(&state), c = top;
        if (r % 100 == 0)
            c += r >> 8 & 8191;
        else if (r % 3 == 0)
            c -= (r >> 8) % 5000 < c ? (r >> 8) % 5000 : 0;
        else
            c += r >> 8 & 3;
        if (c > SPAN)
            break;
        bool want = model_accept(seen, &top, c);
        if (wh_replay_accept(&w, c) != want || w.top != top) {
            printf("seed %llu step %u counter %llu: want %d\n", (unsigned long long)seed, i, (unsigned long long)c,
                   want);
            failures++;
            break;
        }
    }
    free(seen);
}

int main(void)
{
    edges();
    check_changes_nothing();
    for (uint64_t seed = 1; seed <= 50; seed++)
        random_walk(seed * 7919);
    return finish("replay");
}
