#include "switch/cut.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

void wh_cut_begin(struct wh_cut *c, const struct wh_frame *whole)
{
    bool good = wh_layers_of(whole->data, whole->len, &c->y);
    assert(good && whole->gso != WH_GSO_NONE && c->y.data == whole->hdr_len && whole->hdr_len <= sizeof(c->head));
    (void)good;
    c->whole = *whole;
    c->at = whole->hdr_len;
    memcpy(c->head, whole->data, whole->hdr_len);
    uint8_t *ip = c->head + c->y.l3, *l4 = c->head + c->y.l4;
    if (c->y.ip == 4) {
        c->id = wh_get16(ip + 4);
        memset(ip + 2, 0, 4);
        memset(ip + 10, 0, 2);
        c->ip_sum = wh_csum_add(0, ip, (size_t)(c->y.l4 - c->y.l3));
    }
    c->pseudo = wh_csum_pseudo(c->head, &c->y, 0);
    if (c->y.proto == WH_PROTO_TCP) {
        c->seq = wh_get32(l4 + 4);
        c->flags = l4[13];
    }
}

static void write_ip(const struct wh_cut *c, uint8_t *ip, uint32_t length)
{
    if (c->y.ip == 6) {
        wh_set16(ip + 4, (uint16_t)(length - WH_IPV6_HEADER));
        return;
    }
    uint32_t segment = (c->at - c->whole.hdr_len) / c->whole.gso_size;
    wh_set16(ip + 2, (uint16_t)length);
    wh_set16(ip + 4, (uint16_t)(c->id + segment));
    uint16_t sum = (uint16_t)~wh_csum_fold(wh_csum_add(c->ip_sum, ip + 2, 4));
    memcpy(ip + 10, &sum, 2);
}

static void write_transport(const struct wh_cut *c, uint8_t *l4, uint32_t length, bool last)
{
    uint16_t sum = wh_csum_fold(c->pseudo + htobe16((uint16_t)length));
    if (c->y.proto == WH_PROTO_UDP) {
        wh_set16(l4 + 4, (uint16_t)length);
        memcpy(l4 + WH_UDP_CSUM, &sum, 2);
        return;
    }
    bool first = c->at == c->whole.hdr_len;
    uint8_t flags = c->flags;
    if (!last)
        flags &= (uint8_t)~(WH_TCP_FIN | WH_TCP_PSH);
    if (!first)
        flags &= (uint8_t)~WH_TCP_CWR;
    wh_set32(l4 + 4, c->seq + (c->at - c->whole.hdr_len));
    l4[13] = flags;
    memcpy(l4 + WH_TCP_CSUM, &sum, 2);
}

bool wh_cut_next(struct wh_cut *c, struct wh_frame *segment)
{
    const uint32_t head = c->whole.hdr_len;
    uint32_t left = c->whole.len - c->at;
    if (left == 0)
        return false;
    bool last = left <= c->whole.gso_size;
    uint32_t payload = last ? left : c->whole.gso_size;
    uint8_t *at = c->whole.data + c->at - head;
    memcpy(at, c->head, head);
    write_ip(c, at + c->y.l3, head - c->y.l3 + payload);
    write_transport(c, at + c->y.l4, head - c->y.l4 + payload, last);
    *segment = (struct wh_frame){.data = at,
                                 .len = head + payload,
                                 .csum = WH_CSUM_PARTIAL,
                                 .csum_start = c->y.l4,
                                 .csum_offset = c->whole.csum_offset};
    c->at += payload;
    return true;
}
