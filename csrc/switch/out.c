#include "switch/out.h"

#include "switch/stream.h"

uint8_t *wh_out_slot(wh_switch *s, const struct wh_addr *to, uint8_t tos)
{
    s->out_stream = NULL;
    if (!wh_addr_is_stream(to))
        return wh_udp_slot(s, to, tos);
    struct wh_peer *p = wh_idmap_get(&s->all->peers, wh_stream_node(to));
    uint8_t *slot = p ? wh_stream_slot(s, p, tos) : NULL;
    if (slot)
        s->out_stream = p->stream;
    return slot;
}

void wh_out_commit(wh_switch *s, size_t len)
{
    if (s->out_stream)
        wh_stream_commit(s->out_stream, len);
    else
        wh_udp_commit(s, len);
}

void wh_out_flush(wh_switch *s)
{
    wh_udp_flush(s);
    if (s->alone) /* nobody else has put anything into one */
        wh_stream_flush(s);
}
