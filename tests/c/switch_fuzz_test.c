/* Hostile datagrams, under the sanitizers: random ones, and what a peer with a good key seals. WHERRY_FUZZ_ROUNDS and
 * WHERRY_FUZZ_SEED change how many and which. */
#include "switch_rig.h"

#include "switch/csum.h"
#include "switch/proxy.h"
#include "switch/switch.h"

static void send_raw(int fd, const struct node *to, const uint8_t *data, size_t len)
{
    CHECK(sendto(fd, data, len, 0, (const struct sockaddr *)&to->addr, sizeof(to->addr)) == (ssize_t)len);
}

static uint64_t dropped(wh_switch *sw)
{
    wh_counters c = all_counters(sw);
    return c.drop_invalid + c.drop_no_peer + c.drop_no_key + c.drop_auth + c.drop_replay + c.drop_ttl + c.drop_fenced;
}

/* Random datagrams from nobody, then random and mutated payloads that a peer with a good key has sealed. */
static void random_datagrams(unsigned rounds, uint64_t seed)
{
    static const uint8_t seeds[][64] = {
        {0x93, 0, 7, 0xc4, 20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 8},
        {0x92, 1, 0x91, 0x92, 7, 0xc4, 20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9},
        {0x94, 4, 7, 0xc4, 20, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, [25] = 0xc0},
        {0x94, 4, 7, 0xc4, 20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 8, [25] = 0xc4, 6, 2, [32] = 1},
        {0x93, 2, 5, 6},
        {0x93, 3, 1, 0xcf, 1}};
    struct node n;
    struct nic a;
    struct sockaddr_in from;
    uint8_t key[32], data[256], plain[200];
    int fd = udp_socket(&from);
    uint64_t state = seed, counter = 0;
    node_open(&n, 1);
    nic_open(&a, 1);
    struct node peer = {.id = 2, .addr = from};
    CHECK(nic_plug(&a, n.sw, 1, a.mac, 1) == WH_OK);
    CHECK(wh_switch_peer_set(n.sw, 2, 2, &from, sizeof(from), NULL) == WH_OK);
    /* The port's MAC came from the peer, so that its moved frames are taken. */
    CHECK(wh_switch_mac_set(n.sw, VNI, a.mac, 2, NULL) == WH_OK);
    CHECK(wh_switch_port_enable(n.sw, 1, 0) == WH_OK && wh_switch_port_enable(n.sw, 1, 1) == WH_OK);
    accept_epoch(&n, &peer, 1, 0);
    use_epoch(&n, &peer, 1, 0);
    direction_key(2, 1, 1, key);
    for (unsigned i = 0; i < rounds; i++) {
        size_t len = next_random(&state) % sizeof(data);
        for (size_t k = 0; k < len; k++)
            data[k] = (uint8_t)next_random(&state);
        if (len > 12 && i % 2) /* past the first checks */
            memcpy(data, (uint8_t[]){1, 1 + i % 4 / 2, (uint8_t)i, 0, 0, 0, 0, 1, 0, 0, 0, 2}, 12);
        if (len > 16 && i % 4 == 1)
            memcpy(data + 12, (uint8_t[]){0, 0, 0, 1}, 4);
        if (len > WH_TUNNEL_OVERHEAD && i % 8 == 1) /* a counter that was used, unless it is the first round's */
            memcpy(data + 16, (uint8_t[]){0, 0, 0, 0, 0, 0, 0, 1}, 8);
        send_raw(fd, &n, data, len);
        struct wh_header h = {
            .version = 1, .type = 1, .hops = 1, .epoch = 1, .sender = 2, .dest = 1, .counter = ++counter};
        uint8_t header[WH_TUNNEL_HEADER], sealed[300];
        size_t n_plain = next_random(&state) % 64 + 1, n_sealed = sizeof(sealed);
        memcpy(plain, seeds[next_random(&state) % WH_ARRAY_LEN(seeds)], 64);
        for (unsigned k = 0; k < i % 4; k++)
            plain[next_random(&state) % n_plain] = (uint8_t)next_random(&state);
        wh_header_encode(&h, header);
        CHECK(wh_tunnel_seal(0, key, header, sizeof(header), plain, n_plain, sealed, &n_sealed) == WH_OK);
        send_raw(fd, &n, sealed, n_sealed);
        if (i % 256 == 255) { /* no faster than it reads: a datagram that the kernel drops tests nothing */
            struct wh_header last = h;
            last.counter = ++counter;
            uint64_t before = peer_counters(n.sw, 2).drop_auth;
            wh_header_encode(&last, header);
            n_sealed = sizeof(sealed);
            CHECK(wh_tunnel_seal(0, key, header, sizeof(header), plain, n_plain, sealed, &n_sealed) == WH_OK);
            sealed[n_sealed - 1] ^= 1;
            send_raw(fd, &n, sealed, n_sealed);
            WAIT_FOR(peer_counters(n.sw, 2).drop_auth > before);
        }
    }
    CHECK(dropped(n.sw) > rounds);
    CHECK(peer_counters(n.sw, 2).rx_frames > rounds / 20);
    wh_counters c = peer_counters(n.sw, 2);
    CHECK(c.drop_auth > 0 && c.drop_invalid > 0 && c.drop_replay > 0);
    wh_switch_free(n.sw);
    nic_close(&a);
    close(fd);
}

/* A right ICMPv6 checksum, if there is one to set right. */
static void complete_nd(uint8_t *frame, uint32_t len, uint32_t l3)
{
    if (len < l3 + 64)
        return;
    uint8_t *ip = frame + l3;
    uint32_t payload = wh_get16(ip + 4) & 0xfffeu;
    if (payload > len - l3 - 40)
        return;
    uint8_t rest[8] = {0, 0, (uint8_t)(payload >> 8), (uint8_t)payload, 0, 0, 0, 58};
    memset(ip + 42, 0, 2);
    uint16_t sum = (uint16_t)~wh_csum_fold(
        wh_csum_add(wh_csum_add(wh_csum_add(0, ip + 8, 32), rest, sizeof(rest)), ip + 40, payload));
    memcpy(ip + 42, &sum, 2);
}

/* Mutated and cut address requests, in buffers that end where they end. */
static void random_talk(unsigned rounds, uint64_t seed)
{
    static const uint8_t seeds[][86] = {
        {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0,  0, 0, 0, 1, 8, 6, 0, 1, 8, 0,  6, 4, 0,
         1,    2,    0,    0,    0,    0,    1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2},
        {2, 0, 0, 0, 0, 1, 2, 0,  0, 0, 0, 2, 8, 6, 0, 1, 8, 0,  6, 4, 0,
         2, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1},
        {0x33, 0x33, 0xff, 0,           0,    2,        2,   0,    0,    0,        0,    1, 0x86,     0xdd, 0x60,
         0,    0,    0,    0,           32,   58,       255, 0xfe, 0x80, [37] = 1, 0xff, 2, [49] = 1, 0xff, 0,
         0,    2,    135,  [62] = 0xfe, 0x80, [77] = 2, 1,   1,    2,    0,        0,    0, 0,        1},
        {0x33, 0x33,        0,           0,    0,        1,  2,  0,   0,    0,    0,        2,    0x86, 0xdd,
         0x60, 0,           0,           0,    0,        32, 58, 255, 0xfe, 0x80, [37] = 2, 0xff, 2,    [53] = 1,
         136,  [58] = 0x20, [62] = 0xfe, 0x80, [77] = 2, 2,  1,  2,   0,    0,    0,        0,    2}};
    struct node n;
    struct nic a, b;
    uint64_t state = seed;
    node_open(&n, 1);
    nic_open(&a, 1), nic_open(&b, 2);
    CHECK(nic_plug(&a, n.sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, n.sw, 2, b.mac, 1) == WH_OK);
    wh_switch_lock(n.sw);
    for (unsigned i = 0; i < rounds; i++) {
        uint8_t frame[128] = {0};
        unsigned which = next_random(&state) % WH_ARRAY_LEN(seeds);
        bool tagged = next_random(&state) % 4 == 0;
        uint32_t tag = tagged ? WH_VLAN_TAG : 0, len = (which < 2 ? 42 : 86) + tag;
        memcpy(frame, seeds[which], 12);
        memcpy(frame + 12 + tag, seeds[which] + 12, 74);
        if (tagged)
            memcpy(frame + 12, (uint8_t[]){0x81, 0, 0, 5}, 4);
        for (uint64_t k = next_random(&state) % 4; k > 0; k--)
            frame[12 + (next_random(&state) >> 8) % (len - 12)] = (uint8_t)(next_random(&state) >> 16);
        if (next_random(&state) % 4 == 0)
            len = 14 + (uint32_t)(next_random(&state) >> 8) % (len - 14);
        if (i % 2)
            complete_nd(frame, len, 14 + tag);
        uint8_t *exact = malloc(WH_HEADROOM + len);
        memcpy(exact + WH_HEADROOM, frame, len);
        struct wh_frame f = wh_frame_plain(exact + WH_HEADROOM, len);
        struct wh_port *p = wh_idmap_get(&n.sw->all->ports, frame[11] == 1 ? 1 : 2);
        if (wh_proxy_cares(&f))
            (void)wh_proxy_at_port(n.sw, p, &f, tagged ? 5 : 0);
        free(exact);
    }
    wh_switch_unlock(n.sw);
    CHECK(port_counters(n.sw, 1).answered > rounds / 40 && port_counters(n.sw, 2).answered == 0);
    wh_switch_free(n.sw);
    nic_close(&a), nic_close(&b);
}

static uint64_t number_from(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

int main(void)
{
    uint64_t seed = number_from("WHERRY_FUZZ_SEED", 0x9e3779b9);
    printf("seed %#llx\n", (unsigned long long)seed);
    random_datagrams((unsigned)number_from("WHERRY_FUZZ_ROUNDS", 4000), seed | 1);
    random_talk((unsigned)number_from("WHERRY_FUZZ_ROUNDS", 4000) * 10, seed | 1);
    return finish("switch_fuzz");
}
