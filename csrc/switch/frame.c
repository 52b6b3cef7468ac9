#include "switch/frame.h"

#include <endian.h>

bool wh_frame_from_vnet(struct wh_frame *f, const struct wh_vnet *v)
{
    (void)v;
    f->csum = WH_CSUM_COMPLETE;
    f->gso = WH_GSO_NONE;
    return v->gso_type == WH_VNET_GSO_NONE && !(v->flags & WH_VNET_NEEDS_CSUM);
}

void wh_frame_to_vnet(const struct wh_frame *f, struct wh_vnet *v)
{
    (void)f;
    *v = (struct wh_vnet){.num_buffers = htole16(1)};
}
