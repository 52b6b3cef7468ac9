#include "switch/ingress.h"

#include "switch/network.h"

bool wh_ingress_reserved(const struct wh_frame *f)
{
    static const uint8_t block[5] = {0x01, 0x80, 0xc2, 0, 0};
    return f->len >= WH_ETH_HEADER && memcmp(f->data, block, 5) == 0 && f->data[5] < 0x10;
}

/* Of customer and provider bridges, and of those that speak PVST+. */
static bool is_bpdu(const struct wh_frame *f)
{
    static const uint8_t pvst[6] = {0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd};
    return (wh_ingress_reserved(f) && (f->data[5] == 0 || f->data[5] == 8)) ||
           (f->len >= WH_ETH_HEADER && memcmp(f->data, pvst, 6) == 0);
}

bool wh_ingress_shuts(const struct wh_port *p, const struct wh_frame *f)
{
    return p->guard && p->enabled && !p->shut && is_bpdu(f);
}

static void shut(wh_switch *s, struct wh_port *p, const struct wh_frame *f)
{
    wh_switch_event event = {.kind = WH_SW_GUARD, .port = p->id, .vni = p->net->vni};
    memcpy(event.mac, f->data + 6, 6);
    p->shut = true;
    wh_switch_tell(s, &event);
}

bool wh_ingress(wh_switch *s, struct wh_port *p, struct wh_frame *f, uint16_t *vid)
{
    if (!p->enabled) {
        WH_COUNT(s, p, drop_disabled);
        return false;
    }
    if (wh_ingress_shuts(p, f))
        shut(s, p, f);
    if (p->shut) {
        WH_COUNT(s, p, drop_guard);
        return false;
    }
    if (wh_ingress_reserved(f)) {
        WH_COUNT(s, p, drop_reserved);
        return false;
    }
    if (f->len < WH_ETH_HEADER) {
        WH_COUNT(s, p, drop_invalid);
        return false;
    }
    if (!wh_vlan_in(&p->vlan, f)) {
        WH_COUNT(s, p, drop_vlan);
        return false;
    }
    *vid = wh_vlan_of(f);
    return true;
}
