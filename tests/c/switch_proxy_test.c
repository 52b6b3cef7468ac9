/* Address requests through two switches: who is asked, who answers, and what liars achieve. That a request did not
 * arrive is shown by a later frame, which comes first. */
#include "switch_rig.h"

#include "switch/csum.h"
#include "switch/layers.h"

enum { REQUEST = 1, REPLY = 2 };

static struct node one, two;
static struct nic s1, s3, s2; /* s1 and s3 at the first node, s2 at the second */
static const uint32_t ip1 = 0x0a000001, ip2 = 0x0a000002, ip3 = 0x0a000003, nobody = 0x0a000063;

static void put(struct nic *n, const uint8_t *frame, uint32_t len)
{
    bool kick = false;
    uint64_t bell = 1;
    CHECK(wh_ring_put(n->tx, frame, len, &kick) == WH_OK);
    if (kick)
        CHECK(write(n->to_switch, &bell, 8) == 8);
}

static void arp(struct nic *from, const uint8_t *dst, uint16_t op, uint32_t sender, uint32_t target)
{
    uint8_t frame[60] = {0};
    memcpy(frame, dst, 6), memcpy(frame + 6, from->mac, 6);
    memcpy(frame + 12, (uint8_t[]){8, 6, 0, 1, 8, 0, 6, 4, 0, (uint8_t)op}, 10);
    memcpy(frame + 22, from->mac, 6);
    wh_set32(frame + 28, sender);
    wh_set32(frame + 38, target);
    put(from, frame, sizeof(frame));
}

/* The next frame at a station is this ARP packet. */
static bool gets(struct nic *n, uint16_t op, const uint8_t *src, uint32_t sender, uint32_t target)
{
    uint8_t f[2000];
    uint32_t len = 0;
    nic_take(n, f, &len);
    return len >= 42 && wh_get16(f + 12) == 0x0806 && wh_get16(f + 20) == op && !memcmp(f + 6, src, 6) &&
           !memcmp(f + 22, src, 6) && wh_get32(f + 28) == sender && wh_get32(f + 38) == target;
}

static bool asks_all(struct nic *from, uint32_t sender, uint32_t target)
{
    struct nic *other = from == &s1 ? &s3 : &s1;
    arp(from, everybody, REQUEST, sender, target);
    return gets(&s2, REQUEST, from->mac, sender, target) && gets(other, REQUEST, from->mac, sender, target);
}

static bool is_answered(struct nic *from, uint32_t sender, uint32_t target, const uint8_t *mac)
{
    arp(from, everybody, REQUEST, sender, target);
    return gets(from, REPLY, mac, target, sender);
}

static void open_all(void)
{
    node_open(&one, 1), node_open(&two, 2);
    nic_open(&s1, 1), nic_open(&s2, 2), nic_open(&s3, 3);
    CHECK(nic_plug(&s1, one.sw, 1, s1.mac, 1) == WH_OK && nic_plug(&s3, one.sw, 3, s3.mac, 1) == WH_OK);
    CHECK(nic_plug(&s2, two.sw, 2, s2.mac, 1) == WH_OK);
    join(&one, &two, 0);
    uint32_t ids[] = {1, 2};
    CHECK(wh_switch_network_peers(one.sw, VNI, &ids[1], 1, NULL) == WH_OK);
    CHECK(wh_switch_network_peers(two.sw, VNI, &ids[0], 1, NULL) == WH_OK);
}

static void close_all(void)
{
    wh_switch_free(one.sw), wh_switch_free(two.sw);
    nic_close(&s1), nic_close(&s2), nic_close(&s3);
}

static void arp_requests(void)
{
    open_all();
    CHECK(asks_all(&s1, ip1, ip2)); /* unknown as yet */
    arp(&s2, s1.mac, REPLY, ip2, ip1);
    CHECK(gets(&s1, REPLY, s2.mac, ip2, ip1));
    CHECK(is_answered(&s3, ip3, ip2, s2.mac)); /* learned from the reply, which passed by */
    CHECK(is_answered(&s3, ip3, ip1, s1.mac)); /* and the asker has an address too */
    wh_counters c = port_counters(one.sw, 3);
    CHECK(c.answered == 2 && c.suppressed == 2 && c.flooded == 0);
    CHECK(asks_all(&s3, ip3, nobody));                              /* and none of the answered ones came before it */
    CHECK(asks_all(&s3, ip3, ip3));                                 /* an announcement goes to all */
    CHECK(asks_all(&s3, 0, ip2) && asks_all(&s3, 0, 0x0a000077));   /* and so do probes, known or not */
    CHECK(asks_all(&s3, ip3, 0xe0000001) && asks_all(&s3, ip3, 0)); /* nonsense is not ours */
    CHECK(is_answered(&s2, ip2, ip3, s3.mac));                      /* the other end knows as well */
    arp(&s3, s2.mac, REQUEST, ip3, ip2);                            /* is it still there? only itself can say */
    CHECK(gets(&s2, REQUEST, s3.mac, ip3, ip2));
    CHECK(wh_switch_network_proxy(one.sw, VNI, 0) == WH_OK);
    CHECK(asks_all(&s3, ip3, ip2));
    CHECK(wh_switch_network_proxy(one.sw, VNI, 1) == WH_OK);
    CHECK(asks_all(&s3, ip3, ip2)); /* it has to be learned again */
    CHECK(wh_switch_network_proxy(one.sw, 99, 1) == WH_E_NOTFOUND);
    close_all();
}

static void lies(void)
{
    open_all();
    CHECK(asks_all(&s1, ip1, nobody));
    arp(&s2, s1.mac, REPLY, ip2, ip1);
    CHECK(gets(&s1, REPLY, s2.mac, ip2, ip1));
    CHECK(is_answered(&s1, ip1, ip2, s2.mac));
    uint8_t frame[60] = {0}; /* in another's name: the sender inside is not the frame's */
    memcpy(frame, everybody, 6), memcpy(frame + 6, s3.mac, 6);
    memcpy(frame + 12, (uint8_t[]){8, 6, 0, 1, 8, 0, 6, 4, 0, REPLY}, 10);
    memcpy(frame + 22, (uint8_t[]){2, 66, 66, 66, 66, 66}, 6);
    wh_set32(frame + 28, ip2);
    put(&s3, frame, sizeof(frame));
    nic_take(&s1, NULL, NULL), nic_take(&s2, NULL, NULL);
    CHECK(is_answered(&s1, ip1, ip2, s2.mac));
    CHECK(asks_all(&s3, ip2, ip2)); /* takes the address of another one: from now on each is asked himself */
    CHECK(asks_all(&s1, ip1, ip2));
    for (unsigned i = 0; i < 4; i++) {
        arp(&s2, s1.mac, REPLY, ip2, ip1);
        CHECK(gets(&s1, REPLY, s2.mac, ip2, ip1));
        CHECK(asks_all(&s3, ip2, ip2) && asks_all(&s1, ip1, ip2));
    }
    CHECK(wh_switch_port_del(one.sw, 3) == WH_OK);
    nic_close(&s3), nic_open(&s3, 3);
    CHECK(nic_plug(&s3, one.sw, 3, s3.mac, 1) == WH_OK);
    CHECK(is_answered(&s3, ip3, ip1, s1.mac));
    CHECK(wh_switch_port_enable(one.sw, 1, 0) == WH_OK); /* who cannot be reached is not spoken for */
    arp(&s3, everybody, REQUEST, ip3, ip1);
    CHECK(gets(&s2, REQUEST, s3.mac, ip3, ip1));
    close_all();
}

static void vlans(void)
{
    open_all();
    CHECK(wh_switch_port_vlan(one.sw, 1, 1, 10, NULL, 0, NULL) == WH_OK);
    CHECK(wh_switch_port_vlan(one.sw, 3, 1, 10, NULL, 0, NULL) == WH_OK);
    CHECK(wh_switch_port_vlan(two.sw, 2, 1, 20, NULL, 0, NULL) == WH_OK);
    arp(&s1, everybody, REQUEST, ip1, ip1);
    CHECK(gets(&s3, REQUEST, s1.mac, ip1, ip1));
    CHECK(is_answered(&s3, ip3, ip1, s1.mac)); /* untagged, as everything is at its port */
    arp(&s2, everybody, REQUEST, ip2, ip1);    /* of another VLAN: nothing to do with this one */
    WAIT_FOR(port_counters(two.sw, 2).flooded == 1);
    CHECK(port_counters(two.sw, 2).answered == 0);
    close_all();
}

/* ---- neighbour discovery ---- */

static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};

struct nd {
    uint8_t src[16], dst[16], target[16], flags;
    uint8_t options[24];
    uint32_t option_bytes;
    const uint8_t *eth_dst;
    bool solicit, damaged;
};

static void fe80(uint8_t out[16], uint8_t last)
{
    memset(out, 0, 16);
    out[0] = 0xfe, out[1] = 0x80, out[15] = last;
}

static void send_nd(struct nic *from, const struct nd *d)
{
    uint8_t f[14 + 40 + 24 + 24] = {0}, *ip = f + 14, *icmp = ip + 40;
    uint32_t payload = 24 + d->option_bytes;
    memcpy(f, d->eth_dst, 6), memcpy(f + 6, from->mac, 6);
    f[12] = 0x86, f[13] = 0xdd, ip[0] = 0x60, ip[5] = (uint8_t)payload, ip[6] = 58, ip[7] = 255;
    memcpy(ip + 8, d->src, 16), memcpy(ip + 24, d->dst, 16);
    icmp[0] = d->solicit ? 135 : 136, icmp[4] = d->flags;
    memcpy(icmp + 8, d->target, 16), memcpy(icmp + 24, d->options, d->option_bytes);
    uint8_t rest[8] = {0, 0, 0, (uint8_t)payload, 0, 0, 0, 58};
    uint64_t sum = wh_csum_add(wh_csum_add(wh_csum_add(0, ip + 8, 32), rest, 8), icmp, payload);
    uint16_t folded = (uint16_t)~wh_csum_fold(sum);
    memcpy(icmp + 2, &folded, 2);
    icmp[2] ^= d->damaged;
    put(from, f, 14 + 40 + payload);
}

static struct nd solicitation(const struct nic *from, uint8_t last, uint8_t target)
{
    static const uint8_t group[6] = {0x33, 0x33, 0xff, 0, 0, 9};
    struct nd d = {.solicit = true, .eth_dst = group, .option_bytes = 8, .options = {1, 1}};
    fe80(d.src, last), fe80(d.target, target);
    memcpy(d.dst, (uint8_t[]){0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, target}, 16);
    memcpy(d.options + 2, from->mac, 6);
    return d;
}

static struct nd advert(const struct nic *from, uint8_t last, uint8_t flags)
{
    struct nd d = {.eth_dst = everybody, .option_bytes = 8, .options = {2, 1}, .flags = flags};
    fe80(d.src, last), fe80(d.target, last);
    memcpy(d.dst, all_nodes, 16);
    memcpy(d.options + 2, from->mac, 6);
    return d;
}

/* Type of the next ICMPv6 packet at a station; the packet goes to f. */
static int next_nd(struct nic *n, uint8_t f[2000])
{
    uint32_t len = 0;
    memset(f, 0, 2000);
    nic_take(n, f, &len);
    return len >= 78 ? f[54] : -1;
}

static void neighbours(void)
{
    uint8_t f[2000], want[16];
    open_all();
    struct nd d = solicitation(&s1, 1, 2);
    send_nd(&s1, &d);
    CHECK(next_nd(&s2, f) == 135 && next_nd(&s3, f) == 135);
    d = advert(&s2, 2, 0x80 | 0x20); /* a router */
    d.damaged = true;
    send_nd(&s2, &d); /* a wrong sum: nothing is learned */
    CHECK(next_nd(&s1, f) == 136 && next_nd(&s3, f) == 136);
    d = solicitation(&s3, 3, 2);
    send_nd(&s3, &d);
    CHECK(next_nd(&s2, f) == 135 && next_nd(&s1, f) == 135);
    d = advert(&s2, 2, 0x80 | 0x20);
    send_nd(&s2, &d);
    CHECK(next_nd(&s1, f) == 136 && next_nd(&s3, f) == 136);
    d = solicitation(&s3, 3, 2);
    send_nd(&s3, &d);
    CHECK(next_nd(&s3, f) == 136 && f[58] == 0xe0 && !memcmp(f, s3.mac, 6) && !memcmp(f + 6, s2.mac, 6));
    fe80(want, 2);
    CHECK(!memcmp(f + 22, want, 16) && !memcmp(f + 62, want, 16) && f[78] == 2 && !memcmp(f + 80, s2.mac, 6));
    uint8_t rest[8] = {0, 0, 0, 32, 0, 0, 0, 58};
    CHECK(f[21] == 255 &&
          wh_csum_fold(wh_csum_add(wh_csum_add(wh_csum_add(0, f + 22, 32), rest, 8), f + 54, 32)) == 0xffff);
    fe80(want, 3);
    CHECK(!memcmp(f + 38, want, 16) && port_counters(one.sw, 3).answered == 1);
    d = solicitation(&s3, 3, 1); /* who has asked only is known, but not whether it is a router */
    send_nd(&s3, &d);
    CHECK(next_nd(&s2, f) == 135 && f[77] == 1 && next_nd(&s1, f) == 135);
    d = solicitation(&s3, 3, 2); /* duplicate address detection: no source, no option */
    memset(d.src, 0, 16);
    d.option_bytes = 0;
    send_nd(&s3, &d);
    CHECK(next_nd(&s2, f) == 135 && next_nd(&s1, f) == 135);
    d = solicitation(&s3, 3, 2); /* an option for somebody else: a nonce */
    d.option_bytes = 16, d.options[8] = 14, d.options[9] = 1;
    send_nd(&s3, &d);
    CHECK(next_nd(&s2, f) == 135 && next_nd(&s1, f) == 135);
    d = advert(&s3, 9, 0); /* no override: others may have it too */
    send_nd(&s3, &d);
    CHECK(next_nd(&s2, f) == 136 && next_nd(&s1, f) == 136);
    d = solicitation(&s1, 1, 9);
    send_nd(&s1, &d);
    CHECK(next_nd(&s2, f) == 135 && next_nd(&s3, f) == 135);
    close_all();
}

static void ipv4(struct nic *from, const uint8_t *dst, uint32_t source)
{
    uint8_t frame[60] = {0};
    memcpy(frame, dst, 6), memcpy(frame + 6, from->mac, 6);
    memcpy(frame + 12, (uint8_t[]){8, 0, 0x45}, 3);
    wh_set32(frame + 26, source);
    put(from, frame, sizeof(frame));
}

static bool gets_ipv4(struct nic *n, uint32_t source)
{
    uint8_t f[2000];
    uint32_t len = 0;
    nic_take(n, f, &len);
    return len == 60 && wh_get16(f + 12) == 0x0800 && wh_get32(f + 26) == source;
}

static void bind_all(uint32_t ip, const uint8_t mac[6])
{
    uint8_t at[4];
    wh_set32(at, ip);
    CHECK(wh_switch_bind(one.sw, VNI, mac, at, NULL) == WH_OK && wh_switch_bind(two.sw, VNI, mac, at, NULL) == WH_OK);
}

static void enforce(int on)
{
    CHECK(wh_switch_network_bound(one.sw, VNI, on) == WH_OK && wh_switch_network_bound(two.sw, VNI, on) == WH_OK);
}

/* The control plane's word: enough for an answer, the last one where addresses are bound. */
static void bound(void)
{
    uint8_t at[4];
    wh_set32(at, ip2);
    open_all();
    bind_all(ip2, s2.mac);
    CHECK(wh_switch_mac_set(one.sw, VNI, s2.mac, 2, NULL) == WH_OK);
    CHECK(is_answered(&s1, ip1, ip2, s2.mac)); /* which has never spoken */
    arp(&s3, everybody, REQUEST, ip2, nobody); /* the address was given to another, as far as anybody says */
    CHECK(gets(&s1, REQUEST, s3.mac, ip2, nobody) && gets(&s2, REQUEST, s3.mac, ip2, nobody));
    enforce(1);
    bind_all(ip1, s1.mac), bind_all(ip3, s3.mac);
    uint64_t before = port_counters(one.sw, 3).drop_spoofed;
    arp(&s3, everybody, REQUEST, ip2, nobody); /* not any more */
    ipv4(&s3, s1.mac, ip2);
    ipv4(&s3, s1.mac, nobody);
    ipv4(&s3, s1.mac, 0); /* no address yet */
    ipv4(&s3, s1.mac, ip3);
    CHECK(gets_ipv4(&s1, 0) && gets_ipv4(&s1, ip3));
    CHECK(port_counters(one.sw, 3).drop_spoofed == before + 3);
    CHECK(is_answered(&s1, ip1, ip2, s2.mac));
    CHECK(wh_switch_unbind(one.sw, VNI, s1.mac, at) == WH_E_NOTFOUND);
    CHECK(wh_switch_unbind(one.sw, VNI, s2.mac, at) == WH_OK);
    CHECK(wh_switch_unbind(one.sw, VNI, s2.mac, at) == WH_E_NOTFOUND);
    CHECK(wh_switch_network_bound(one.sw, VNI + 1, 1) == WH_E_NOTFOUND);
    CHECK(wh_switch_bind(one.sw, VNI + 1, s1.mac, at, NULL) == WH_E_NOTFOUND);
    close_all();
}

/* A port of any stations: what is bound is not theirs, all else is. */
static void bound_at_open_ports(void)
{
    struct nic tap;
    open_all();
    nic_open(&tap, 9);
    CHECK(nic_plug(&tap, one.sw, 9, any, 1) == WH_OK);
    bind_all(ip1, s1.mac);
    enforce(1);
    ipv4(&tap, s1.mac, ip1);
    ipv4(&tap, s1.mac, nobody);
    CHECK(gets_ipv4(&s1, nobody));
    CHECK(port_counters(one.sw, 9).drop_spoofed == 1);
    close_all();
    nic_close(&tap);
}

int main(void)
{
    bound();
    bound_at_open_ports();
    arp_requests();
    lies();
    vlans();
    neighbours();
    return finish("switch_proxy");
}
