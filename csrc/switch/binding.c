#include "switch/binding.h"

#include "switch/layers.h"
#include "switch/port.h"
#include "switch/proxy.h"

#include <stdlib.h>

enum { IPV4_BYTES = 20, IPV4_SOURCE = 12, ARP_BYTES = 28, ARP_SENDER = 14 };

struct binding {
    uint8_t mac[6];
};

static uint32_t key_of(const uint8_t ip[4])
{
    uint32_t key;
    memcpy(&key, ip, sizeof(key));
    return key;
}

int wh_binding_set(struct wh_network *n, const uint8_t ip[4], const uint8_t mac[6])
{
    struct binding *b = wh_idmap_get(&n->bindings, key_of(ip));
    if (!b) {
        b = malloc(sizeof(*b));
        if (!b || wh_idmap_put(&n->bindings, key_of(ip), b)) {
            free(b);
            return WH_E_NOMEM;
        }
    }
    memcpy(b->mac, mac, sizeof(b->mac));
    return WH_OK;
}

bool wh_binding_del(struct wh_network *n, const uint8_t ip[4], const uint8_t mac[6])
{
    const struct binding *b = wh_idmap_get(&n->bindings, key_of(ip));
    if (!b || memcmp(b->mac, mac, sizeof(b->mac)) != 0)
        return false;
    free(wh_idmap_take(&n->bindings, key_of(ip)));
    return true;
}

void wh_bindings_free(struct wh_network *n)
{
    void *b;
    for (uint32_t i = 0; (b = wh_idmap_next(&n->bindings, &i));)
        free(b);
    wh_idmap_free(&n->bindings);
}

const uint8_t *wh_binding_of(const struct wh_network *n, const uint8_t ip[4])
{
    const struct binding *b = wh_idmap_get(&n->bindings, key_of(ip));
    return b ? b->mac : NULL;
}

/* The IPv4 address that the frame says is its sender's; NULL: it says none. */
static const uint8_t *sender_of(const struct wh_frame *f)
{
    uint32_t at = 12;
    uint16_t type = wh_get16(f->data + at);
    if (type == WH_TYPE_VLAN && f->len >= at + WH_VLAN_TAG + 2) {
        at += WH_VLAN_TAG;
        type = wh_get16(f->data + at);
    }
    at += 2;
    if (type == WH_TYPE_IPV4 && f->len >= at + IPV4_BYTES)
        return f->data + at + IPV4_SOURCE;
    if (type == WH_TYPE_ARP && f->len >= at + ARP_BYTES)
        return f->data + at + ARP_SENDER;
    return NULL;
}

bool wh_binding_allows(const struct wh_port *p, const struct wh_frame *f)
{
    static const uint8_t none[4];
    const uint8_t *ip = sender_of(f);
    if (!ip || memcmp(ip, none, sizeof(none)) == 0)
        return true;
    const uint8_t *mac = wh_binding_of(p->net, ip);
    return mac ? memcmp(mac, f->data + 6, 6) == 0 : !p->locked;
}
