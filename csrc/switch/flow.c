#include "switch/flow.h"

#include "switch/layers.h"

#include <string.h>

enum { MACS_AND_TYPE = 14, IPV4_ADDRESSES = 12, IPV6_ADDRESSES = 8 };

static uint64_t mix(uint64_t h, const uint8_t *bytes, size_t len)
{
    while (len) {
        uint64_t word = 0;
        size_t n = len < sizeof(word) ? len : sizeof(word);
        memcpy(&word, bytes, n);
        h = (h ^ word) * 0xff51afd7ed558ccdull;
        h ^= h >> 32;
        bytes += n;
        len -= n;
    }
    return h;
}

uint32_t wh_flow_hash(const uint8_t *frame, uint32_t len, uint64_t seed)
{
    struct wh_layers y;
    uint64_t h = seed;
    if (!wh_layers_of(frame, len, &y)) {
        h = mix(h, frame, MACS_AND_TYPE);
    } else {
        const uint8_t *ip = frame + y.l3;
        h = y.ip == 4 ? mix(h, ip + IPV4_ADDRESSES, 8) : mix(h, ip + IPV6_ADDRESSES, 32);
        h = mix(h, frame + y.l4, 4); /* both ports */
        h = mix(h, &y.proto, 1);
    }
    h *= 0xc4ceb9fe1a85ec53ull;
    return (uint32_t)(h >> 32);
}
