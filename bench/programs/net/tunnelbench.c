/* tunnelbench: what a tunnel costs, in processor time. Linked with the switch's own objects.
 *
 *   tunnelbench aead ours|openssl LEN   one key, one datagram after the other: "aead NAME_OF_LIBRARY|SEAL_NS|OPEN_NS"
 *   tunnelbench frames LEN COUNT        ring, switch, UDP over loopback, switch, ring: "frames TX_NS RX_NS", the
 * processor time of each switch's thread for a frame, its share of the kernel's work included
 *   tunnelbench packets COUNT           the same of TCP packets of 64 KiB, which go out as segments and are put
 * together again: "packets TX_NS RX_NS", for each segment
 *   tunnelbench flood KIND LEN COUNT    forged datagrams of LEN bytes, no faster than the switch takes them: "flood
 * NS", the processor time of the switch's thread for each. KIND, by what is wrong: see kinds tunnelbench beside KIND
 * LEN         the same as fast as one thread sends them, for two seconds, beside a peer's 10000 frames a second:
 * "beside FORGED_A_SECOND SHARE", the share of the peer's frames that arrived
 *
 * Both count processor time of the thread and not the clock, so that others on the machine disturb little. At most 500
 * frames are under way, so that no ring is full. */
#include "base/ring.h"
#include "switch/aead.h"
#include "switch/csum.h"
#include "switch/switch.h"
#include "switch/udp.h"

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

/* ---- packets that are cut ---- */

#define MSS      1346u /* of MTU 1400 */
#define SEGMENTS 47u
#define HEADERS  54u
#define PACKETS  8u /* under way; a ring holds more */

/* Ethernet, IPv4, TCP with ACK; the transport's checksum is left open. */
static void make_packet(uint8_t *p, const uint8_t *to, const uint8_t *from, uint32_t seq)
{
    const uint32_t len = HEADERS + SEGMENTS * MSS;
    struct wh_layers y;
    memset(p, 0, HEADERS);
    memcpy(p, to, 6), memcpy(p + 6, from, 6);
    p[12] = 8;
    p[14] = 0x45, p[16] = (uint8_t)((len - 14) >> 8), p[17] = (uint8_t)(len - 14);
    p[20] = 0x40, p[22] = 64, p[23] = WH_PROTO_TCP, p[26] = p[30] = 10, p[29] = from[5], p[33] = to[5];
    p[34] = 0x13, p[36] = 0x14, p[46] = 0x50, p[47] = WH_TCP_ACK, p[48] = 0x10;
    wh_set32(p + 38, seq), wh_set32(p + 42, 1);
    must(wh_layers_of(p, len, &y), "that is no packet");
    uint16_t open = wh_csum_fold(wh_csum_pseudo(p, &y, len - y.l4));
    memcpy(p + 34 + WH_TCP_CSUM, &open, 2);
}

static bool put_packet(struct side *a, const struct side *b, uint32_t seq)
{
    static const struct wh_vnet todo = {.flags = WH_VNET_NEEDS_CSUM,
                                        .gso_type = WH_VNET_GSO_TCPV4,
                                        .hdr_len = HEADERS,
                                        .gso_size = MSS,
                                        .csum_start = 34,
                                        .csum_offset = WH_TCP_CSUM};
    uint64_t one = 1;
    uint8_t *room;
    bool kick = false;
    if (wh_ring_reserve(a->in, HEADERS + SEGMENTS * MSS, &room) != WH_OK)
        return false;
    make_packet(room, b->mac, a->mac, seq);
    wh_ring_commit(a->in, &todo, &kick);
    if (kick)
        must(write(a->in_event, &one, sizeof(one)) == sizeof(one), "no doorbell");
    return true;
}

/* Bytes of payload that have come out. */
static uint64_t take_packets(struct side *b)
{
    const uint8_t *data;
    uint32_t len;
    uint64_t bytes = 0;
    for (; wh_ring_peek(b->out, &data, &len) == WH_OK; wh_ring_consume(b->out))
        bytes += len - HEADERS;
    return bytes;
}

/* So many packets, no more than PACKETS under way. */
static void pass_packets(struct side *a, struct side *b, uint64_t count)
{
    const uint64_t whole = SEGMENTS * MSS;
    uint64_t sent = 0, got = 0, stuck = 0;
    while (got < count * whole) {
        while (sent < count && sent * whole - got < PACKETS * whole && put_packet(a, b, (uint32_t)(sent * whole)))
            sent++;
        uint64_t bytes = take_packets(b);
        got += bytes;
        stuck = bytes ? 0 : stuck + 1;
        must(stuck < 100000, "segments were lost");
        if (!bytes)
            usleep(20);
    }
}

static void packets(uint64_t count)
{
    static struct side a, b;
    open_side(&a, 1), open_side(&b, 2);
    join(&a, 1, &b, 2), join(&b, 2, &a, 1);
    wh_ring_set_takes(b.out, WH_TAKES_ALL);
    must(wh_switch_peer_takes(a.sw, 2, WH_TAKES_CSUM) == WH_OK && wh_switch_peer_takes(b.sw, 1, WH_TAKES_CSUM) == WH_OK,
         "no peer");
    usleep(500000); /* the path's MTU is found */
    pass_packets(&a, &b, 100);
    double tx = nanoseconds(a.clock), rx = nanoseconds(b.clock);
    pass_packets(&a, &b, count);
    tx = nanoseconds(a.clock) - tx, rx = nanoseconds(b.clock) - rx;
    printf("packets %.1f %.1f\n", tx / (double)(count * SEGMENTS), rx / (double)(count * SEGMENTS));
    wh_switch_free(a.sw), wh_switch_free(b.sw);
}

/* ---- floods ---- */

enum kind { NONE, GARBAGE, SENDER, EPOCH, REPLAY, STRANGE, SPOOFED, FOREIGN };
static const char *const kinds[] = {
    [NONE] = "none",       /* nothing is sent */
    [GARBAGE] = "garbage", /* no datagram of ours */
    [SENDER] = "sender",   /* in the name of no peer */
    [EPOCH] = "epoch",     /* of a key that the peer does not have */
    [REPLAY] = "replay",   /* a counter that was used */
    [STRANGE] = "strange", /* nothing but the tag, from anywhere */
    [SPOOFED] = "spoofed", /* the same, from the peer's own address */
    [FOREIGN] = "foreign", /* to be relayed, from nobody whom that is done for */
};
#define BATCH 32u

struct flood {
    enum kind kind;
    int fd;
    const struct side *at;
    uint64_t counter, sent;
    size_t len;
    uint8_t room[BATCH][WH_DATAGRAM_MAX];
    _Atomic bool stop;
};

static void send_batch(struct flood *f)
{
    struct mmsghdr m[BATCH];
    struct iovec v[BATCH];
    for (unsigned i = 0; i < BATCH; i++) {
        struct wh_header h = {.version = f->kind == GARBAGE ? 9 : 1,
                              .type = f->kind == FOREIGN ? 2 : 1,
                              .hops = 8,
                              .epoch = f->kind == EPOCH ? 2 : 1,
                              .sender = f->kind == SENDER ? 99 : 1,
                              .dest = f->kind == FOREIGN ? 77 : 2,
                              .counter = f->kind == REPLAY ? 0 : ++f->counter};
        wh_header_encode(&h, f->room[i]);
        v[i] = (struct iovec){f->room[i], f->len};
        m[i].msg_hdr = (struct msghdr){.msg_name = (void *)(uintptr_t)&f->at->addr,
                                       .msg_namelen = sizeof(f->at->addr),
                                       .msg_iov = &v[i],
                                       .msg_iovlen = 1};
    }
    int n = sendmmsg(f->fd, m, BATCH, 0);
    f->sent += n > 0 ? (uint64_t)n : 0;
}

static uint64_t refused(const struct side *s)
{
    wh_counters c;
    wh_switch_counters(s->sw, &c);
    return c.drop_invalid + c.drop_no_peer + c.drop_no_key + c.drop_replay + c.drop_auth + c.drop_flood;
}

static void begin_flood(struct flood *f, const char *kind, size_t len, struct side *a, struct side *b)
{
    while (f->kind < WH_ARRAY_LEN(kinds) && strcmp(kinds[f->kind], kind) != 0)
        f->kind++;
    must(f->kind < WH_ARRAY_LEN(kinds) && len >= WH_TUNNEL_OVERHEAD && len <= WH_DATAGRAM_MAX, "no such flood");
    open_side(a, 1), open_side(b, 2);
    join(a, 1, b, 2), join(b, 2, a, 1);
    usleep(200000); /* the first probes */
    f->fd = f->kind == SPOOFED ? wh_udp_fd(a->sw->udp) : socket(AF_INET, SOCK_DGRAM, 0);
    f->at = b;
    f->len = len;
    f->counter = 1u << 30;
}

static void flood(const char *kind, size_t len, uint64_t count)
{
    static struct side a, b;
    static struct flood f;
    begin_flood(&f, kind, len, &a, &b);
    double start = nanoseconds(b.clock);
    uint64_t before = refused(&b), stuck = 0;
    while (f.sent < count) {
        send_batch(&f);
        for (; refused(&b) - before + UNDER_WAY < f.sent; stuck++) {
            must(stuck < 1000000, "datagrams were lost");
            usleep(20);
        }
    }
    while (refused(&b) - before < f.sent && stuck++ < 1000000)
        usleep(20);
    printf("flood %.1f\n", (nanoseconds(b.clock) - start) / (double)f.sent);
    wh_switch_free(a.sw), wh_switch_free(b.sw);
}

static void *flood_on(void *arg)
{
    struct flood *f = arg;
    while (!f->stop && f->kind != NONE)
        send_batch(f);
    return NULL;
}

static void beside(const char *kind, size_t len)
{
    static struct side a, b;
    static struct flood f;
    static uint8_t frame[1414];
    pthread_t thread;
    uint64_t got = 0, sent = 0, one = 1;
    const uint8_t *data;
    uint32_t n;
    begin_flood(&f, kind, len, &a, &b);
    memcpy(frame, b.mac, 6), memcpy(frame + 6, a.mac, 6);
    frame[12] = 0x88, frame[13] = 0xb5;
    must(pthread_create(&thread, NULL, flood_on, &f) == 0, "no thread");
    double start = nanoseconds(CLOCK_MONOTONIC), end = start;
    for (unsigned ms = 0; ms < 2000 || end - start < 2e9; ms++) {
        bool kick = false, sleeps = false;
        uint64_t due = (uint64_t)((end - start) / 1e5);
        for (; sent < due && wh_ring_put(a.in, frame, sizeof(frame), &kick) == WH_OK; sent++)
            sleeps |= kick;
        if (sleeps)
            must(write(a.in_event, &one, sizeof(one)) == sizeof(one), "no doorbell");
        for (; wh_ring_peek(b.out, &data, &n) == WH_OK; got++)
            wh_ring_consume(b.out);
        usleep(1000);
        end = nanoseconds(CLOCK_MONOTONIC);
    }
    f.stop = true;
    pthread_join(thread, NULL);
    usleep(300000);
    for (; wh_ring_peek(b.out, &data, &n) == WH_OK; got++)
        wh_ring_consume(b.out);
    printf("beside %.0f %.4f\n", (double)f.sent / (end - start) * 1e9, (double)got / (double)sent);
    wh_switch_free(a.sw), wh_switch_free(b.sw);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "aead") == 0)
        aead(strcmp(argv[2], "ours") == 0, strtoul(argv[3], NULL, 10));
    else if (argc == 4 && strcmp(argv[1], "frames") == 0)
        frames((uint32_t)strtoul(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
    else if (argc == 3 && strcmp(argv[1], "packets") == 0)
        packets(strtoull(argv[2], NULL, 10));
    else if (argc == 5 && strcmp(argv[1], "flood") == 0)
        flood(argv[2], strtoul(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
    else if (argc == 4 && strcmp(argv[1], "beside") == 0)
        beside(argv[2], strtoul(argv[3], NULL, 10));
    else
        must(false, "see the head of tunnelbench.c");
    return 0;
}
