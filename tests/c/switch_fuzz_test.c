/* Hostile datagrams, under the sanitizers: random ones, and what a peer with a good key seals. WHERRY_FUZZ_ROUNDS and
 * WHERRY_FUZZ_SEED change how many and which. */
#include "switch_rig.h"

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
    return finish("switch_fuzz");
}
