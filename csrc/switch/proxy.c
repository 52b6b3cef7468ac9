#include "switch/proxy.h"

#include "switch/binding.h"
#include "switch/csum.h"
#include "switch/network.h"

enum { ARP_BYTES = 28, ARP_REQUEST = 1, ARP_REPLY = 2 };
enum { ARP_OP = 6, ARP_SHA = 8, ARP_SPA = 14, ARP_THA = 18, ARP_TPA = 24 };
enum { ND_SOLICIT = 135, ND_ADVERTISE = 136, ND_BYTES = 24, ND_TARGET = 8, ND_HOPS = 255 };
enum { OPTION_SOURCE = 1, OPTION_TARGET = 2, FLAG_ROUTER = 0x80, FLAG_SOLICITED = 0x40, FLAG_OVERRIDE = 0x20 };
enum { IPV6_SOURCE = 8, IPV6_DEST = 24 };
#define REPLY_MAX (WH_ETH_HEADER + WH_VLAN_TAG + WH_IPV6_HEADER + ND_BYTES + 8u)

/* What a packet says, and asks. Pointers into the frame, NULL: nothing of the kind. */
struct talk {
    bool is_arp;
    uint32_t l3;              /* offset of the ARP packet or the IPv6 header */
    const uint8_t *has;       /* the address that the frame's source has; 4 or 16 bytes */
    enum wh_neigh_source how; /* it says so */
    const uint8_t *wants;     /* the address that is asked for, and not its own */
    const uint8_t *back;      /* the IP address of the asker */
};

static struct wh_neigh_key key_of(const struct talk *t, const uint8_t *ip, uint16_t vid)
{
    struct wh_neigh_key k = {.vid = vid};
    if (t->is_arp) {
        k.ip[10] = k.ip[11] = 0xff;
        memcpy(k.ip + 12, ip, 4);
    } else {
        memcpy(k.ip, ip, 16);
    }
    return k;
}

/* ---- reading ---- */

/* A station's own address: not nothing, loopback, multicast or broadcast. */
static bool is_unicast4(const uint8_t ip[4])
{
    return ip[0] != 0 && ip[0] != 127 && ip[0] < 224;
}

static bool read_arp(const struct wh_frame *f, struct talk *t)
{
    static const uint8_t ethernet_ipv4[] = {0, 1, 8, 0, 6, 4};
    const uint8_t *a = f->data + t->l3;
    if (f->len < t->l3 + ARP_BYTES || memcmp(a, ethernet_ipv4, sizeof(ethernet_ipv4)) != 0)
        return false;
    uint16_t op = wh_get16(a + ARP_OP);
    if ((op != ARP_REQUEST && op != ARP_REPLY) || memcmp(a + ARP_SHA, f->data + 6, 6) != 0 || !is_unicast4(a + ARP_SPA))
        return false; /* for others to understand, or a probe */
    t->has = a + ARP_SPA;
    t->how = WH_NEIGH_HOST;
    if (op == ARP_REQUEST && (f->data[0] & 1) && is_unicast4(a + ARP_TPA) && memcmp(a + ARP_SPA, a + ARP_TPA, 4) != 0) {
        t->wants = a + ARP_TPA;
        t->back = a + ARP_SPA;
    }
    return true;
}

static bool is_unicast6(const uint8_t ip[16])
{
    static const uint8_t none[16];
    return ip[0] != 0xff && memcmp(ip, none, 15) != 0; /* neither :: nor ::1 */
}

/* The link-layer address in the one option of this kind; NULL: there is none. *strange: there are others. False: they
 * are malformed. */
static bool read_options(const uint8_t *o, uint32_t len, uint8_t kind, const uint8_t **address, bool *strange)
{
    *address = NULL;
    *strange = false;
    while (len) {
        if (len < 8 || o[1] == 0 || o[1] * 8u > len)
            return false;
        if (o[0] == kind && o[1] == 1 && !*address)
            *address = o + 2;
        else
            *strange = true;
        len -= o[1] * 8u;
        o += o[1] * 8u;
    }
    return true;
}

static bool sum_is_right(const uint8_t *ip, uint32_t payload)
{
    uint8_t rest[8] = {0, 0, (uint8_t)(payload >> 8), (uint8_t)payload, 0, 0, 0, WH_PROTO_ICMPV6};
    uint64_t sum = wh_csum_add(0, ip + IPV6_SOURCE, 32);
    sum = wh_csum_add(sum, rest, sizeof(rest));
    return wh_csum_fold(wh_csum_add(sum, ip + WH_IPV6_HEADER, payload)) == 0xffff;
}

/* The group of those whose address ends as the target does (RFC 4291, 2.7.1). */
static bool is_solicited_node(const uint8_t dest[16], const uint8_t target[16])
{
    static const uint8_t prefix[13] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};
    return memcmp(dest, prefix, 13) == 0 && memcmp(dest + 13, target + 13, 3) == 0;
}

static bool read_nd(const struct wh_frame *f, struct talk *t)
{
    const uint8_t *ip = f->data + t->l3, *icmp = ip + WH_IPV6_HEADER, *address;
    bool strange;
    if (f->csum == WH_CSUM_PARTIAL || f->len < t->l3 + WH_IPV6_HEADER + ND_BYTES)
        return false;
    uint32_t payload = wh_get16(ip + 4);
    bool asks = icmp[0] == ND_SOLICIT;
    if ((!asks && icmp[0] != ND_ADVERTISE) || icmp[1] != 0 || ip[7] != ND_HOPS || payload < ND_BYTES ||
        payload > f->len - t->l3 - WH_IPV6_HEADER || !is_unicast6(icmp + ND_TARGET) ||
        !read_options(icmp + ND_BYTES, payload - ND_BYTES, asks ? OPTION_SOURCE : OPTION_TARGET, &address, &strange))
        return false;
    if (!address || memcmp(address, f->data + 6, 6) != 0 || !is_unicast6(ip + IPV6_SOURCE) ||
        !sum_is_right(ip, payload))
        return false; /* duplicate address detection has no source */
    if (asks) {
        t->has = ip + IPV6_SOURCE;
        t->how = WH_NEIGH_SAID;
        if (!strange && (f->data[0] & 1) && is_solicited_node(ip + IPV6_DEST, icmp + ND_TARGET) &&
            memcmp(ip + IPV6_SOURCE, icmp + ND_TARGET, 16) != 0) {
            t->wants = icmp + ND_TARGET;
            t->back = ip + IPV6_SOURCE;
        }
        return true;
    }
    if (!(icmp[4] & FLAG_OVERRIDE)) /* an anycast address, or a proxy's: there are others who have it */
        return false;
    t->has = icmp + ND_TARGET;
    t->how = icmp[4] & FLAG_ROUTER ? WH_NEIGH_ROUTER : WH_NEIGH_HOST;
    return true;
}

/* False: nothing that concerns us. */
static bool read_talk(const struct wh_frame *f, struct talk *t)
{
    uint32_t at = 12;
    uint16_t type = wh_get16(f->data + at);
    if (type == WH_TYPE_VLAN && f->len >= at + WH_VLAN_TAG + 2) {
        at += WH_VLAN_TAG;
        type = wh_get16(f->data + at);
    }
    *t = (struct talk){.is_arp = type == WH_TYPE_ARP, .l3 = at + 2};
    return t->is_arp ? read_arp(f, t) : type == WH_TYPE_IPV6 && read_nd(f, t);
}

/* ---- learning ---- */

static void learn(wh_switch *s, struct wh_network *net, const struct wh_frame *f, const struct talk *t, uint16_t vid)
{
    struct wh_neigh_key k = key_of(t, t->has, vid);
    const uint8_t *bound = net->bound && t->is_arp ? wh_binding_of(net, t->has) : NULL;
    if (bound && memcmp(bound, f->data + 6, 6) != 0)
        return; /* whatever it says */
    const struct wh_neigh *had = wh_neigh_look(&net->neighs, &k);
    bool contested = had && memcmp(had->mac, f->data + 6, 6) != 0 && wh_fdb_resolve(&net->fdb, had->mac, vid);
    wh_neigh_learn(&net->neighs, &k, f->data + 6, t->how, contested, s->now_ns);
}

void wh_proxy_learn(wh_switch *s, struct wh_network *net, const struct wh_frame *f, uint16_t vid)
{
    struct talk t;
    if (!net->no_proxy && read_talk(f, &t))
        learn(s, net, f, &t, vid);
}

/* ---- answering ---- */

/* Would a frame for it arrive, and by another way than back? */
static bool is_reachable(const wh_switch *s, const struct wh_port *asker, const uint8_t mac[6], uint16_t vid)
{
    const struct wh_fdb *fdb = &asker->net->fdb;
    const struct wh_fdb_row *row = wh_fdb_resolve(fdb, mac, vid);
    if (!row || row->frozen)
        return false;
    const struct wh_port *at = wh_fdb_port(fdb, row);
    if (at)
        return at != asker && at->enabled && !at->down && !at->shut;
    return wh_idmap_get(&s->all->peers, wh_fdb_node(fdb, row)) != NULL;
}

static uint32_t arp_reply(uint8_t *a, const struct talk *t, const uint8_t asker[6], const uint8_t mac[6])
{
    static const uint8_t fixed[] = {0, 1, 8, 0, 6, 4, 0, ARP_REPLY};
    memcpy(a, fixed, sizeof(fixed));
    memcpy(a + ARP_SHA, mac, 6);
    memcpy(a + ARP_SPA, t->wants, 4);
    memcpy(a + ARP_THA, asker, 6);
    memcpy(a + ARP_TPA, t->back, 4);
    return ARP_BYTES;
}

static uint32_t advertisement(uint8_t *ip, const struct talk *t, const uint8_t mac[6], bool is_router)
{
    const uint32_t payload = ND_BYTES + 8;
    uint8_t *icmp = ip + WH_IPV6_HEADER, rest[8] = {0, 0, 0, payload, 0, 0, 0, WH_PROTO_ICMPV6};
    memset(ip, 0, WH_IPV6_HEADER + payload);
    ip[0] = 0x60;
    ip[5] = payload;
    ip[6] = WH_PROTO_ICMPV6;
    ip[7] = ND_HOPS;
    memcpy(ip + IPV6_SOURCE, t->wants, 16);
    memcpy(ip + IPV6_DEST, t->back, 16);
    icmp[0] = ND_ADVERTISE;
    icmp[4] = (uint8_t)(FLAG_SOLICITED | FLAG_OVERRIDE | (is_router ? FLAG_ROUTER : 0));
    memcpy(icmp + ND_TARGET, t->wants, 16);
    icmp[ND_BYTES] = OPTION_TARGET;
    icmp[ND_BYTES + 1] = 1;
    memcpy(icmp + ND_BYTES + 2, mac, 6);
    uint64_t sum = wh_csum_add(wh_csum_add(0, ip + IPV6_SOURCE, 32), rest, sizeof(rest));
    uint16_t folded = (uint16_t)~wh_csum_fold(wh_csum_add(sum, icmp, payload));
    memcpy(icmp + 2, &folded, 2);
    return WH_IPV6_HEADER + payload;
}

static void answer(wh_switch *s, struct wh_port *p, const struct wh_frame *f, const struct talk *t, const uint8_t *mac,
                   bool is_router)
{
    uint8_t room[WH_HEADROOM + REPLY_MAX] = {0}, *eth = room + WH_HEADROOM, *l3 = eth + t->l3;
    memcpy(eth, f->data + 6, 6);
    memcpy(eth + 6, mac, 6);
    memcpy(eth + 12, f->data + 12, t->l3 - 12); /* the tag, and what it is */
    uint32_t len = t->is_arp ? arp_reply(l3, t, f->data + 6, mac) : advertisement(l3, t, mac, is_router);
    struct wh_frame reply = wh_frame_plain(eth, t->l3 + len);
    wh_port_deliver(s, p, &reply);
}

/* Whose the address is that is asked for; NULL: nobody's that could be told. What stations have said comes first where
 * addresses are not bound: they may have been given to others since. */
static const uint8_t *owner_of(wh_switch *s, const struct wh_network *net, const struct talk *t, uint16_t vid,
                               bool *is_router)
{
    struct wh_neigh_key k = key_of(t, t->wants, vid);
    const struct wh_neigh *said = wh_neigh_look(&net->neighs, &k);
    const uint8_t *bound = t->is_arp && vid == 0 ? wh_binding_of(net, t->wants) : NULL;
    *is_router = false;
    if (bound && (net->bound || !said))
        return bound;
    if (!said || !wh_neigh_good(&net->neighs, said, s->now_ns))
        return NULL;
    *is_router = said->is_router;
    return said->mac;
}

bool wh_proxy_at_port(wh_switch *s, struct wh_port *p, const struct wh_frame *f, uint16_t vid)
{
    struct talk t;
    struct wh_network *net = p->net;
    if (net->no_proxy || !read_talk(f, &t))
        return false;
    learn(s, net, f, &t, vid);
    if (!t.wants)
        return false;
    bool is_router;
    const uint8_t *owner = owner_of(s, net, &t, vid, &is_router);
    if (!owner || !is_reachable(s, p, owner, vid))
        return false;
    WH_COUNT(s, p, answered);
    WH_COUNT_MANY(s, p, suppressed, net->peer_count);
    answer(s, p, f, &t, owner, is_router);
    return true;
}
