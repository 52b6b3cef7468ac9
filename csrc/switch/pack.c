#include "switch/pack.h"

#include "switch/tos.h"

#include <stdlib.h>

#define PACKS      8u /* nodes that get small frames in one turn; the oldest goes when another one comes */
#define HEAD       5u /* [1, [ with a 16-bit count: 0x92 0x01 0xdc count16 */
#define ENTRY      (WH_FRAME_PREFIX - 1u) /* [vni, frame: 0x92 0xce vni32 0xc5 len16 */
#define OPEN_ENTRY (WH_OPEN_PREFIX - 1u)  /* [vni, start, offset, frame */

struct pack {
    struct wh_peer *peer; /* NULL: free */
    uint32_t len;         /* of the entries */
    uint32_t count, bytes;
    uint8_t tos; /* of all of them */
    uint8_t room[HEAD + WH_PACK_BYTES];
};

struct wh_packs {
    uint32_t open, next; /* next to be given up */
    struct pack pack[PACKS];
};

int wh_packs_new(struct wh_packs **out)
{
    *out = calloc(1, sizeof(**out));
    return *out ? WH_OK : WH_E_NOMEM;
}

void wh_packs_free(struct wh_packs *packs)
{
    free(packs);
}

/* An entry is an ordinary frame's payload but for its first byte, so that one alone becomes one by two bytes. */
static void send_off(wh_switch *s, struct pack *k, uint32_t limit)
{
    uint8_t *plain = k->room;
    uint32_t len = HEAD + k->len;
    if (k->count == 1) {
        plain += HEAD - 1;
        len -= HEAD - 1;
        plain[1] = plain[1] == 0x92 ? WH_KIND_FRAME : WH_KIND_OPEN;
        plain[0] = plain[1] == WH_KIND_FRAME ? 0x93 : 0x95;
    } else {
        uint16_t count = htobe16((uint16_t)k->count);
        plain[0] = 0x92;
        plain[1] = WH_KIND_BATCH;
        plain[2] = 0xdc;
        memcpy(plain + 3, &count, sizeof(count));
        if (len < limit) { /* bytes behind the array mean nothing */
            memset(plain + len, 0, limit - len);
            len = limit;
        }
    }
    struct wh_peer *p = k->peer;
    k->peer = NULL;
    s->packs->open--;
    wh_peer_send_payload(s, p, plain, len, &(struct wh_content){k->count, k->bytes, k->tos});
}

static struct pack *find(struct wh_packs *packs, const struct wh_peer *p)
{
    for (uint32_t i = 0; packs->open && i < PACKS; i++)
        if (packs->pack[i].peer == p)
            return &packs->pack[i];
    return NULL;
}

static struct pack *begin(wh_switch *s, struct wh_peer *p, uint8_t tos)
{
    struct pack *k = find(s->packs, NULL);
    if (!s->packs->open)
        k = &s->packs->pack[0];
    if (!k) {
        k = &s->packs->pack[s->packs->next++ % PACKS];
        send_off(s, k, 0);
    }
    k->peer = p;
    k->tos = tos;
    k->len = k->count = k->bytes = 0;
    s->packs->open++;
    return k;
}

bool wh_pack_put(wh_switch *s, struct wh_peer *p, uint32_t vni, const struct wh_frame *f)
{
    uint32_t limit = wh_peer_payload_max(s, p);
    if (limit > WH_PACK_BYTES)
        limit = WH_PACK_BYTES;
    if (f->len > WH_PACK_FRAME_MAX || f->gso != WH_GSO_NONE || limit < WH_PACK_MIN)
        return false;
    bool open = f->csum == WH_CSUM_PARTIAL;
    uint32_t head = open ? OPEN_ENTRY : ENTRY;
    uint8_t tos = wh_tos_outer(f->data, f->len);
    struct pack *k = find(s->packs, p);
    bool full = k && HEAD + k->len + head + f->len > limit;
    if (full || (k && k->tos != tos)) {
        send_off(s, k, full ? limit : 0);
        k = NULL;
    }
    if (!k)
        k = begin(s, p, tos);
    uint8_t *at = k->room + HEAD + k->len, *frame = at + head;
    memcpy(frame, f->data, f->len);
    /* The prefix of a payload of its own starts one byte earlier: with the array's head and the kind. */
    uint8_t before = frame[-(int)head - 1];
    if (open)
        wh_open_prefix(frame, f->len, vni, f->csum_start, (uint8_t)f->csum_offset);
    else
        wh_frame_prefix(frame, f->len, vni);
    frame[-(int)head - 1] = before;
    at[0] = open ? 0x94 : 0x92;
    k->len += head + f->len;
    k->bytes += f->len;
    k->count++;
    return true;
}

void wh_pack_flush_peer(wh_switch *s, struct wh_peer *p)
{
    struct pack *k = find(s->packs, p);
    if (k)
        send_off(s, k, 0);
}

void wh_pack_flush(wh_switch *s)
{
    for (uint32_t i = 0; s->packs->open && i < PACKS; i++)
        if (s->packs->pack[i].peer)
            send_off(s, &s->packs->pack[i], 0);
}
