#include "switch/aside.h"

#include "switch/forward.h"
#include "switch/peer.h"
#include "switch/port.h"
#include "switch/probe.h"
#include "switch/stream.h"

#include <stdlib.h>

bool wh_aside_put(wh_switch *s, const struct wh_aside_item *about, const struct wh_frame *f)
{
    struct wh_aside *a = &s->aside;
    size_t size = sizeof(*about) + (f ? WH_HEADROOM + f->len : 0);
    struct wh_aside_item *item = size <= WH_ASIDE_BYTES - a->bytes ? malloc(size) : NULL;
    if (!item)
        return false;
    *item = *about;
    item->next = NULL;
    if (f) {
        item->frame = *f;
        item->frame.data = item->room + WH_HEADROOM;
        memcpy(item->frame.data, f->data, f->len);
    }
    if (a->tail)
        a->tail->next = item;
    else
        a->head = item;
    a->tail = item;
    a->bytes += size;
    return true;
}

bool wh_aside_any(const wh_switch *s)
{
    return s->aside.head || s->aside.tick || s->aside.egress;
}

static void about_port(wh_switch *s, struct wh_aside_item *item)
{
    struct wh_port *p = wh_idmap_get(&s->all->ports, item->id);
    if (!p) {
        s->total.drop_disabled += item->kind != WH_ASIDE_PORT_FAIL;
        return;
    }
    if (item->kind == WH_ASIDE_FROM_PORT)
        wh_forward_from_port(s, p, &item->frame);
    else if (item->kind == WH_ASIDE_ADMITTED)
        wh_forward_admitted(s, p, &item->frame, item->vid);
    else
        wh_port_fail(s, p);
}

static void about_peer(wh_switch *s, struct wh_aside_item *item)
{
    struct wh_peer *p = wh_idmap_get(&s->all->peers, item->id);
    if (!p) {
        s->total.drop_no_peer += item->kind != WH_ASIDE_ROAM;
        return;
    }
    if (item->kind == WH_ASIDE_FROM_TUNNEL)
        wh_forward_from_tunnel(s, p, item->vni, &item->frame);
    else if (item->kind == WH_ASIDE_PAYLOAD)
        wh_peer_payload(s, p, item->frame.data, item->frame.len, item->direct, &item->addr);
    else
        wh_probe_roam(s, p, &item->addr);
}

static void do_one(wh_switch *s, struct wh_aside_item *item)
{
    switch (item->kind) {
    case WH_ASIDE_FROM_PORT:
    case WH_ASIDE_ADMITTED:
    case WH_ASIDE_PORT_FAIL:
        about_port(s, item);
        break;
    case WH_ASIDE_FROM_TUNNEL:
    case WH_ASIDE_PAYLOAD:
    case WH_ASIDE_ROAM:
        about_peer(s, item);
        break;
    case WH_ASIDE_DATAGRAM:
        wh_peer_input(s, item->frame.data, item->frame.len, &item->addr);
        break;
    case WH_ASIDE_TOO_BIG:
        wh_probe_too_big(s, &item->addr, item->number);
        break;
    case WH_ASIDE_STREAM:
        wh_stream_event(s, item->id, item->number);
        break;
    }
}

static struct wh_aside_item *take_all(wh_switch *s)
{
    struct wh_aside_item *items = s->aside.head;
    s->aside = (struct wh_aside){.tick = s->aside.tick, .egress = s->aside.egress};
    return items;
}

void wh_aside_run(wh_switch *s)
{
    struct wh_aside_item *item = take_all(s);
    while (item) {
        struct wh_aside_item *next = item->next;
        s->outer_tos = item->tos;
        do_one(s, item);
        /* The coalescer may hold frames of the tunnel, never their bytes. */
        free(item);
        item = next;
    }
    wh_coalesce_flush(s);
}

void wh_aside_clear(wh_switch *s)
{
    for (struct wh_aside_item *item = take_all(s), *next; item; item = next) {
        next = item->next;
        free(item);
    }
}
