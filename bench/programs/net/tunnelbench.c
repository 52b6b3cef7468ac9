/* tunnelbench: what a tunnel costs, in processor time. Linked with the switch's own objects.
 *
 *   tunnelbench aead ours|openssl LEN   one key, one datagram after the other: "aead NAME_OF_LIBRARY|SEAL_NS|OPEN_NS"
 *   tunnelbench frames LEN COUNT        ring, switch, UDP over loopback, switch, ring: "frames TX_NS RX_NS", the
 * processor time of each switch's thread for a frame, its share of the kernel's work included
 *
 * Both count processor time of the thread and not the clock, so that others on the machine disturb little. At most 500
 * frames are under way, so that no ring is full. */
#include "base/ring.h"
#include "switch/aead.h"
#include "switch/switch.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define VNI       7u
#define UNDER_WAY 500u
#define REPEATS   100000u

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "tunnelbench: %s\n", what);
        exit(1);
    }
}

static double nanoseconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void aead(bool ours, size_t len)
{
    static uint8_t key[32] = {1}, plain[WH_DATAGRAM_MAX], sealed[WH_DATAGRAM_MAX], opened[WH_DATAGRAM_MAX];
    wh_crypto *crypto = NULL;
    wh_aead *seal, *open;
    must(len <= WH_DATAGRAM_MAX - WH_TUNNEL_OVERHEAD, "that is longer than a datagram");
    must(wh_crypto_new(&crypto) == WH_OK, "no memory");
    wh_crypto *used = ours ? crypto : NULL;
    must(wh_aead_new(used, WH_CIPHER_AES256_GCM, key, true, &seal) == WH_OK, "no key");
    must(wh_aead_new(used, WH_CIPHER_AES256_GCM, key, false, &open) == WH_OK, "no key");
    struct wh_header h = {.version = 1, .type = 1, .hops = 1};
    uint8_t header[WH_TUNNEL_HEADER];
    double start = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    for (h.counter = 1; h.counter <= REPEATS; h.counter++) {
        wh_header_encode(&h, header);
        must(wh_aead_seal(seal, header, plain, len, sealed) == WH_OK, "seal");
    }
    double middle = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    for (unsigned i = 0; i < REPEATS; i++)
        must(wh_aead_open(open, sealed, len + WH_TUNNEL_OVERHEAD, opened) == WH_OK, "open");
    double end = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    printf("aead %s|%.1f|%.1f\n", wh_crypto_name(used), (middle - start) / REPEATS, (end - middle) / REPEATS);
    wh_aead_free(seal), wh_aead_free(open);
    wh_crypto_free(crypto);
}

struct side {
    wh_switch *sw;
    struct sockaddr_in addr;
    wh_ring *in, *out; /* as the guest sees them: it writes in */
    int in_event;
    uint8_t mac[6];
    clockid_t clock;
};

static void open_side(struct side *s, uint32_t id)
{
    socklen_t len = sizeof(s->addr);
    int fd = socket(AF_INET, SOCK_DGRAM, 0), file = wh_ring_file_new(NULL), out_event = eventfd(0, EFD_NONBLOCK);
    s->addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    must(bind(fd, (struct sockaddr *)&s->addr, len) == 0 && getsockname(fd, (struct sockaddr *)&s->addr, &len) == 0,
         "no socket");
    wh_switch_config config = {.node_id = id, .udp_fd = fd};
    must(wh_switch_new(&config, &s->sw, NULL) == WH_OK && wh_switch_network_add(s->sw, VNI, 1400, NULL) == WH_OK,
         "no switch");
    memcpy(s->mac, (uint8_t[]){2, 0, 0, 0, 0, (uint8_t)id}, 6);
    s->in_event = eventfd(0, EFD_NONBLOCK);
    must(file >= 0 && wh_ring_map(file, 0, true, &s->in, NULL) == WH_OK &&
             wh_ring_map(file, 1, false, &s->out, NULL) == WH_OK &&
             wh_switch_port_ring(s->sw, 1, VNI, file, s->in_event, out_event, s->mac, 1, NULL) == WH_OK,
         "no port");
    must(pthread_getcpuclockid(s->sw->thread, &s->clock) == 0, "no clock");
}

static void join(struct side *a, uint32_t id_a, struct side *b, uint32_t id_b)
{
    uint8_t key[32] = {(uint8_t)id_a, (uint8_t)id_b};
    must(wh_switch_peer_set(a->sw, id_b, id_b, &b->addr, sizeof(b->addr), NULL) == WH_OK &&
             wh_switch_peer_set(b->sw, id_a, id_a, &a->addr, sizeof(a->addr), NULL) == WH_OK &&
             wh_switch_peer_rx_key(b->sw, id_a, 1, 0, key, NULL) == WH_OK &&
             wh_switch_peer_tx_key(a->sw, id_b, 1, 0, key, NULL) == WH_OK &&
             wh_switch_mac_set(a->sw, VNI, b->mac, id_b, NULL) == WH_OK,
         "the switches do not join");
}

static void frames(uint32_t len, uint64_t count)
{
    static struct side a, b;
    static uint8_t frame[1500];
    uint64_t sent = 0, got = 0, one = 1, stuck = 0;
    const uint8_t *data;
    uint32_t n;
    must(len >= 60 && len <= 1414, "a frame has 60 to 1414 bytes");
    open_side(&a, 1), open_side(&b, 2);
    join(&a, 1, &b, 2), join(&b, 2, &a, 1);
    memcpy(frame, b.mac, 6), memcpy(frame + 6, a.mac, 6);
    frame[12] = 0x88, frame[13] = 0xb5; /* for local experiments */
    double tx = nanoseconds(a.clock), rx = nanoseconds(b.clock);
    while (got < count) {
        bool kick = false, sleeps = false, moved = false;
        while (sent < count && sent - got < UNDER_WAY && wh_ring_put(a.in, frame, len, &kick) == WH_OK)
            sent++, moved = true, sleeps |= kick;
        if (sleeps)
            must(write(a.in_event, &one, sizeof(one)) == sizeof(one), "no doorbell");
        for (; wh_ring_peek(b.out, &data, &n) == WH_OK; got++, moved = true)
            wh_ring_consume(b.out);
        stuck = moved ? 0 : stuck + 1;
        must(stuck < 100000, "frames were lost");
        if (!moved)
            usleep(20);
    }
    tx = nanoseconds(a.clock) - tx, rx = nanoseconds(b.clock) - rx;
    printf("frames %.1f %.1f\n", tx / (double)count, rx / (double)count);
    wh_switch_free(a.sw), wh_switch_free(b.sw);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "aead") == 0)
        aead(strcmp(argv[2], "ours") == 0, strtoul(argv[3], NULL, 10));
    else if (argc == 4 && strcmp(argv[1], "frames") == 0)
        frames((uint32_t)strtoul(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
    else
        must(false, "see the head of tunnelbench.c");
    return 0;
}
