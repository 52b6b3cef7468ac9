#include "switch/burst.h"

#include "switch/egress.h"
#include "switch/pack.h"
#include "switch/tos.h"

/* Does every full segment go straight into the socket, alone in its datagram? */
static bool may_burst(const wh_switch *s, const struct wh_peer *p, const struct wh_cut *cut)
{
    uint32_t len = (uint32_t)cut->whole.hdr_len + cut->whole.gso_size;
    return s->udp && !p->on_stream && p->via == p->node && p->addr.len && (p->takes & WH_TAKES_CSUM) &&
           len > WH_PACK_FRAME_MAX && WH_OPEN_PREFIX + len <= wh_peer_payload_max(s, p);
}

static bool is_full_next(const struct wh_cut *cut)
{
    return cut->whole.len - cut->at >= cut->whole.gso_size;
}

void wh_burst_send(wh_switch *s, struct wh_peer *p, uint32_t vni, struct wh_cut *cut)
{
    uint32_t done = 0, no_key = 0, no_room = 0;
    struct wh_frame f;
    if (!may_burst(s, p, cut))
        return;
    uint8_t tos = wh_tos_outer(cut->whole.data, cut->whole.len);
    wh_pack_flush_peer(s, p); /* what came before goes before */
    while (!s->egress.slow && is_full_next(cut) && wh_cut_next(cut, &f)) {
        wh_open_prefix(f.data, f.len, vni, f.csum_start, (uint8_t)f.csum_offset);
        enum wh_seal_verdict verdict =
            wh_peer_seal(s, p, WH_TUNNEL_DIRECT, &p->addr, f.data - WH_OPEN_PREFIX, WH_OPEN_PREFIX + f.len, tos);
        done += verdict == WH_SEAL_DONE;
        no_key += verdict == WH_SEAL_NO_KEY;
        no_room += verdict == WH_SEAL_NO_ROOM;
    }
    WH_COUNT_MANY(s, p, tx_frames, done);
    WH_COUNT_BYTES(s, p, tx_bytes, (uint64_t)done * (cut->whole.hdr_len + cut->whole.gso_size));
    WH_COUNT_MANY(s, p, drop_no_key, no_key);
    WH_COUNT_MANY(s, p, drop_queue, no_room);
}
