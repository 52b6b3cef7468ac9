#include "switch/csum.h"

#include <endian.h>
#include <string.h>

uint64_t wh_csum_add(uint64_t sum, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t a = 0, b = 0;
    /* Halves in sums of their own: 2^32 of them fit, and no carry has to be looked after. */
    for (; len >= 16; p += 16, len -= 16) {
        uint64_t w[2];
        memcpy(w, p, 16);
        a += (w[0] & 0xffffffffu) + (w[1] & 0xffffffffu);
        b += (w[0] >> 32) + (w[1] >> 32);
    }
    for (; len >= 2; p += 2, len -= 2) {
        uint16_t w;
        memcpy(&w, p, 2);
        a += w;
    }
    if (len) {
        uint8_t last[2] = {*p, 0};
        uint16_t w;
        memcpy(&w, last, 2);
        a += w;
    }
    /* Each below 2^45 for what a frame can be: their sum keeps its carries, too. */
    return sum + a + b;
}

uint16_t wh_csum_fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

uint64_t wh_csum_pseudo(const uint8_t *frame, const struct wh_layers *y, uint32_t length)
{
    const uint8_t *ip = frame + y->l3;
    uint64_t sum = y->ip == 4 ? wh_csum_add(0, ip + 12, 8) : wh_csum_add(0, ip + 8, 32);
    return sum + htobe16(y->proto) + htobe16((uint16_t)length);
}

void wh_csum_complete(struct wh_frame *f)
{
    if (f->csum != WH_CSUM_PARTIAL)
        return;
    uint8_t *from = f->data + f->csum_start;
    uint16_t sum = (uint16_t)~wh_csum_fold(wh_csum_add(0, from, f->len - f->csum_start));
    if (sum == 0 && f->csum_offset == WH_UDP_CSUM)
        sum = 0xffff; /* 0 says that there is none (RFC 768); for TCP both are the same number */
    memcpy(from + f->csum_offset, &sum, 2);
    f->csum = WH_CSUM_VERIFIED;
}
