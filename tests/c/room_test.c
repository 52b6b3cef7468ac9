/* How much a full socket may hold, against a link that drains it, in virtual time. */
#include "switch/room.h"
#include "switch_check.h"

/* So many bytes a millisecond; after the socket is half empty we come back within so many microseconds. */
static uint32_t settle(uint32_t drain_per_ms, uint32_t late_us, double *used)
{
    struct wh_room r;
    uint64_t state = 99, sent = 0, us = 0;
    wh_room_begin(&r);
    for (unsigned i = 0; i < 4000; i++) {
        uint32_t holds = r.limit; /* filled up; then it drains to half and further until we are back */
        uint32_t wait = r.limit / 2 * 1000u / drain_per_ms + 1 + (uint32_t)(next_random(&state) >> 40) % late_us;
        uint64_t gone = (uint64_t)wait * drain_per_ms / 1000;
        uint32_t left = gone < holds ? holds - (uint32_t)gone : 0;
        if (i > 1000) {
            us += wait;
            sent += holds - left;
        }
        (void)wh_room_look(&r, left);
        CHECK(r.limit >= WH_ROOM_LEAST && r.limit <= WH_ROOM_MOST);
    }
    *used = (double)sent / ((double)us * drain_per_ms / 1000);
    return r.limit;
}

int main(void)
{
    double used;
    uint32_t slow = settle(2500, 200, &used); /* 20 Mbit/s: the least, which is 7 ms */
    CHECK(slow < 2 * WH_ROOM_LEAST && used > 0.95);
    uint32_t fast = settle(125000, 200, &used); /* 1 Gbit/s */
    CHECK(fast < 256u << 10 && used > 0.8);
    uint32_t late = settle(125000, 4000, &used); /* a busy host: more room, and the link is not idle for it */
    CHECK(late > 4 * fast && used > 0.8);
    settle(12500000, 4000, &used); /* 100 Gbit/s: as much as there may be */
    return finish("room");
}
