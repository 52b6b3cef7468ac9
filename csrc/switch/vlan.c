#include "switch/vlan.h"

#include "base/ring.h"
#include "switch/layers.h"
#include "switch/wire.h"

#include <stdlib.h>
#include <string.h>

enum { TYPE_AT = 12, CTAG = 0x8100, STAG = 0x88a8, VID = 0xfff };

/* ---- settings ---- */

void wh_vlan_clear(struct wh_vlan *v)
{
    free(v->set);
    *v = (struct wh_vlan){0};
}

static bool is_vid(uint32_t vid)
{
    return vid >= 1 && vid <= WH_VLAN_MAX;
}

int wh_vlan_set(struct wh_vlan *v, int mode, uint32_t vid, const uint16_t *allowed, uint32_t count, wh_error *err)
{
    struct wh_vlan made = {.mode = (uint8_t)mode, .vid = (uint16_t)vid};
    if (mode < WH_VLAN_TRANSPARENT || mode > WH_VLAN_TRUNK)
        return wh_fail(err, WH_E_INVAL, "mode", "%d is none of 0..2", mode);
    if (mode == WH_VLAN_ACCESS ? !is_vid(vid) : vid != 0 && (mode != WH_VLAN_TRUNK || !is_vid(vid)))
        return wh_fail(err, WH_E_INVAL, "vid", "%u is not in 1..%u", vid, WH_VLAN_MAX);
    if (mode != WH_VLAN_TRUNK && count)
        return wh_fail(err, WH_E_INVAL, "allowed", "only a trunk has a set of VLANs");
    if (mode == WH_VLAN_TRUNK && !(made.set = calloc((VID + 1) / 64, sizeof(*made.set))))
        return wh_fail(err, WH_E_NOMEM, "allowed", "out of memory");
    for (uint32_t i = 0; i < count; i++) {
        if (!is_vid(allowed[i])) {
            wh_vlan_clear(&made);
            return wh_fail(err, WH_E_INVAL, "allowed", "%u is not in 1..%u", allowed[i], WH_VLAN_MAX);
        }
        made.set[allowed[i] / 64] |= 1ull << allowed[i] % 64;
    }
    if (made.set && vid)
        made.set[vid / 64] |= 1ull << vid % 64;
    wh_vlan_clear(v);
    *v = made;
    return WH_OK;
}

/* ---- tags ---- */

static bool is_tag(uint16_t type)
{
    return type == CTAG || type == STAG;
}

uint32_t wh_vlan_tags(const struct wh_frame *f)
{
    uint32_t n = 0;
    while (n < 2 && f->len >= WH_ETH_HEADER + (n + 1) * WH_VLAN_TAG && is_tag(wh_get16(f->data + TYPE_AT + n * 4)))
        n++;
    return n;
}

uint16_t wh_vlan_tci(const struct wh_frame *f)
{
    return wh_get16(f->data + TYPE_AT + 2);
}

uint16_t wh_vlan_of(const struct wh_frame *f)
{
    return wh_vlan_tags(f) ? wh_vlan_tci(f) & VID : 0;
}

/* Offsets of a frame that has grown or shrunk in front by `by`. */
static void shift(struct wh_frame *f, int by)
{
    f->data -= by;
    f->len = (uint32_t)((int)f->len + by);
    if (f->csum == WH_CSUM_PARTIAL)
        f->csum_start = (uint16_t)(f->csum_start + by);
    if (f->gso != WH_GSO_NONE)
        f->hdr_len = (uint16_t)(f->hdr_len + by);
}

static void put_tag(uint8_t *frame, uint16_t tci)
{
    wh_set16(frame + TYPE_AT, CTAG);
    wh_set16(frame + TYPE_AT + 2, tci);
}

static bool enter(struct wh_frame *f, uint16_t vid)
{
    if (wh_vlan_tags(f)) { /* with a priority only */
        put_tag(f->data, (uint16_t)((wh_vlan_tci(f) & ~VID) | vid));
        return true;
    }
    if (f->len + WH_VLAN_TAG > WH_RING_MAX_FRAME)
        return false;
    shift(f, WH_VLAN_TAG);
    memmove(f->data, f->data + WH_VLAN_TAG, TYPE_AT);
    put_tag(f->data, vid);
    return true;
}

bool wh_vlan_in(const struct wh_vlan *v, struct wh_frame *f)
{
    if (v->mode == WH_VLAN_TRANSPARENT)
        return true;
    uint16_t vid = wh_vlan_of(f);
    if (vid == 0 && (!wh_vlan_tags(f) || wh_get16(f->data + TYPE_AT) == CTAG))
        return v->vid && enter(f, v->vid);
    return v->mode == WH_VLAN_TRUNK && v->set[vid / 64] >> vid % 64 & 1;
}

bool wh_vlan_out(const struct wh_vlan *v, const struct wh_frame *f, struct wh_frame *out)
{
    uint16_t vid = wh_vlan_of(f);
    bool bare = vid && vid == v->vid && wh_vlan_tags(f) == 1 && wh_get16(f->data + TYPE_AT) == CTAG;
    *out = *f;
    if (!bare)
        return v->mode == WH_VLAN_TRANSPARENT || (v->mode == WH_VLAN_TRUNK && v->set[vid / 64] >> vid % 64 & 1);
    if (f->csum == WH_CSUM_PARTIAL && f->csum_start < WH_ETH_HEADER + WH_VLAN_TAG)
        return false; /* a sum over the tag itself: nobody's packet */
    shift(out, -(int)WH_VLAN_TAG);
    memmove(out->data, f->data, TYPE_AT);
    return true;
}

void wh_vlan_back(struct wh_frame *f, const struct wh_frame *out, uint16_t tci)
{
    f->csum = out->csum; /* it may have been completed on the way */
    if (out->data == f->data)
        return;
    memmove(f->data, out->data, TYPE_AT);
    put_tag(f->data, tci);
}
