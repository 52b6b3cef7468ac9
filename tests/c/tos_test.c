/* Traffic classes: RFC 6040's table of what arrives, for IPv4 and IPv6, with and without VLAN tags; hostile frames. */
#include "switch/tos.h"
#include "switch_check.h"

static uint16_t sum_of(const uint8_t *ip)
{
    uint32_t sum = 0;
    for (unsigned i = 0; i < 20; i += 2)
        sum += (uint32_t)ip[i] << 8 | ip[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* A frame with `tags` VLAN tags; its length. */
static uint32_t make(uint8_t *frame, unsigned ip, unsigned tags, uint8_t tos, uint64_t *state)
{
    uint32_t at = 12;
    for (unsigned i = 0; i < 100; i++)
        frame[i] = (uint8_t)next_random(state);
    for (unsigned i = 0; i < tags; i++, at += 4)
        memcpy(frame + at, i + 1 < tags ? (uint8_t[]){0x88, 0xa8} : (uint8_t[]){0x81, 0}, 2);
    memcpy(frame + at, ip == 4 ? (uint8_t[]){8, 0} : (uint8_t[]){0x86, 0xdd}, 2);
    at += 2;
    if (ip == 4) {
        frame[at] = 0x45;
        frame[at + 1] = tos;
        memset(frame + at + 10, 0, 2);
        uint16_t sum = sum_of(frame + at);
        frame[at + 10] = (uint8_t)(sum >> 8), frame[at + 11] = (uint8_t)sum;
    } else {
        frame[at] = (uint8_t)(0x60 | tos >> 4);
        frame[at + 1] = (uint8_t)((tos << 4) | (frame[at + 1] & 15));
    }
    return at;
}

/* RFC 6040, figure 4: row inner, column outer, both as Not-ECT, ECT(1), ECT(0), CE. -1: drop. */
static const int arrives[4][4] = {{0, 0, 0, -1}, {1, 1, 1, 3}, {2, 1, 2, 3}, {3, 3, 3, 3}};

static void table(unsigned ip, unsigned tags)
{
    uint64_t state = 40 + ip + tags;
    for (unsigned round = 0; round < 200; round++)
        for (unsigned inner = 0; inner < 4; inner++)
            for (unsigned outer = 0; outer < 4; outer++) {
                uint8_t frame[100], before[100];
                uint8_t dscp = (uint8_t)(next_random(&state) % 64 << 2);
                uint32_t at = make(frame, ip, tags, (uint8_t)(dscp | inner), &state);
                memcpy(before, frame, 100);
                CHECK(wh_tos_outer(frame, 100) == (dscp >= 0xc0 ? inner : (dscp | inner)));
                bool taken = wh_tos_arrived(frame, 100, (uint8_t)(0x20 | outer));
                CHECK(taken == (arrives[inner][outer] >= 0));
                if (!taken)
                    continue;
                uint8_t tos = ip == 4 ? frame[at + 1] : (uint8_t)(frame[at] << 4 | frame[at + 1] >> 4);
                CHECK(tos == (dscp | arrives[inner][outer]));
                CHECK(ip == 6 || sum_of(frame + at) == 0);
                memcpy(before + at, frame + at, ip == 4 ? 12 : 2);
                CHECK(!memcmp(before, frame, 100)); /* nothing else has changed */
            }
}

static void no_ip(void)
{
    uint64_t state = 3;
    uint8_t frame[100];
    for (unsigned round = 0; round < 20000; round++) {
        uint32_t at = make(frame, round % 2 ? 4 : 6, round % 4, (uint8_t)round, &state);
        uint32_t len =
            (uint32_t)(next_random(&state) % (at + 1)); /* cut before or in the header, at the sanitizer's edge */
        uint8_t *copy = (uint8_t *)memcpy(__builtin_malloc(len ? len : 1), frame, len);
        CHECK(wh_tos_outer(copy, len) == 0);
        CHECK(wh_tos_arrived(copy, len, 2) && !wh_tos_arrived(copy, len, 3));
        CHECK(!memcmp(copy, frame, len));
        __builtin_free(copy);
    }
}

int main(void)
{
    for (unsigned tags = 0; tags < 3; tags++)
        table(4, tags), table(6, tags);
    no_ip();
    return finish("tos");
}
