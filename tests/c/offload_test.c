/* Cutting, coalescing and checksums: random packets against what a slow reference says of each piece, pieces put
 * together to the packet they were, and headers that lie. WHERRY_FUZZ_ROUNDS and WHERRY_FUZZ_SEED as in switch_fuzz. */
#include "base/ring_layout.h"
#include "switch/coalesce.h"
#include "switch/port.h"
#include "switch_packets.h"

#include <stdlib.h>
#include <unistd.h>

#define FLOWS 12u

/* A switch without threads and sockets: one port, whose ring is read here. */
struct bench {
    wh_switch *s;
    struct wh_shared all;
    struct wh_pair pair;
    struct wh_port *port;
    int file;
    wh_ring *out;
};

static void bench_open(struct bench *b, uint32_t takes)
{
    memset(b, 0, sizeof(*b));
    b->s = calloc(1, sizeof(*b->s));
    b->s->all = &b->all;
    b->s->alone = true;
    b->file = wh_ring_file_new(NULL);
    const size_t size = sizeof(*b->port) + sizeof(b->port->part[0]);
    b->port = aligned_alloc(_Alignof(struct wh_port), size);
    memset(b->port, 0, size);
    b->port->is_ring = b->port->enabled = true;
    b->port->pairs = 1;
    b->port->pair[0] = b->port->part[0].pair = &b->pair;
    CHECK(wh_ring_map(b->file, 1, true, &b->pair.to_guest, NULL) == WH_OK);
    CHECK(wh_ring_map(b->file, 1, false, &b->out, NULL) == WH_OK);
    wh_ring_set_takes(b->out, takes);
}

static void bench_close(struct bench *b)
{
    wh_coalesce_free(&b->s->coalesce);
    free(b->s);
    free(b->port);
    wh_ring_unmap(b->pair.to_guest);
    wh_ring_unmap(b->out);
    close(b->file);
}

static bool take(struct bench *b, struct packet *k)
{
    const uint8_t *frame;
    uint32_t len;
    if (wh_ring_peek(b->out, &frame, &len) != WH_OK)
        return false;
    wh_ring_todo(frame, &k->todo);
    memcpy(k->bytes + WH_HEADROOM, frame, len);
    k->f = wh_frame_plain(k->bytes + WH_HEADROOM, len);
    CHECK(wh_frame_from_vnet(&k->f, &k->todo) == WH_VNET_GOOD);
    wh_ring_consume(b->out);
    return true;
}

/* One piece: a frame that is right by itself, and the next part of the payload. */
static void check_piece(const struct packet *whole, struct wh_frame *piece, uint32_t at, uint32_t index, bool last)
{
    struct wh_layers y, w;
    wh_csum_complete(piece);
    CHECK(wh_layers_of(piece->data, piece->len, &y) && wh_layers_of(whole->f.data, whole->f.len, &w));
    CHECK(y.end == piece->len && y.data == w.data && y.proto == w.proto);
    CHECK(piece->len - y.data == (last ? whole->f.len - w.data - at : whole->f.gso_size));
    CHECK(memcmp(piece->data + y.data, whole->f.data + w.data + at, piece->len - y.data) == 0);
    CHECK(slow_transport_sum(piece->data, &y) == 0xffff);
    CHECK(memcmp(piece->data, whole->f.data, y.l3) == 0);
    const uint8_t *l4 = piece->data + y.l4, *was = whole->f.data + w.l4;
    if (y.ip == 4) {
        CHECK(slow_sum(0, piece->data + y.l3, (uint32_t)(y.l4 - y.l3)) == 0xffff);
        CHECK(wh_get16(piece->data + y.l3 + 4) == (uint16_t)(wh_get16(whole->f.data + w.l3 + 4) + index));
    }
    if (y.proto == WH_PROTO_UDP)
        return;
    CHECK(wh_get32(l4 + 4) == wh_get32(was + 4) + at);
    uint8_t lost = was[13] & (uint8_t)~l4[13];
    CHECK((l4[13] & (uint8_t)~was[13]) == 0);
    CHECK(lost == ((was[13] & (last ? 0 : WH_TCP_FIN | WH_TCP_PSH)) | (was[13] & (index == 0 ? 0 : WH_TCP_CWR))));
}

static void cut_is_right(unsigned rounds, uint64_t *state)
{
    static struct packet whole, spoiled;
    for (unsigned i = 0; i < rounds; i++) {
        packet_make(&whole, state, i % FLOWS, (uint32_t)next_random(state), 2 + below(state, 60));
        if (whole.f.gso == WH_GSO_NONE)
            continue;
        spoiled = whole;
        spoiled.f.data = spoiled.bytes + WH_HEADROOM;
        struct wh_cut cut;
        struct wh_frame piece;
        uint32_t at = 0, index = 0, total = whole.f.len - whole.f.hdr_len;
        wh_cut_begin(&cut, &spoiled.f);
        while (wh_cut_next(&cut, &piece)) {
            uint32_t bytes = piece.len - whole.f.hdr_len;
            memset(piece.data - WH_OPEN_PREFIX, 0xa5, WH_OPEN_PREFIX); /* what a tunnel does to it */
            check_piece(&whole, &piece, at, index++, at + bytes == total);
            at += bytes;
        }
        CHECK(at == total);
    }
}

/* Opened to where it belongs if it is the next segment, as a datagram is. True: it was that. Else f is as it was, and
 * so is all that was put together, also when it could not be opened. */
static bool opened_ahead(struct bench *b, struct wh_frame *f, const struct wh_peer *from, uint32_t vni)
{
    static uint8_t back[WH_HEADROOM + WH_RING_MAX_FRAME];
    size_t bytes = (size_t)f->len + WH_OPEN_PREFIX;
    uint8_t *place = f->csum == WH_CSUM_PARTIAL ? wh_coalesce_ahead(b->s, from, bytes) : NULL;
    if (!place)
        return false;
    memset(place, 0xee, bytes);
    wh_coalesce_undo(b->s);
    CHECK(wh_coalesce_ahead(b->s, from, bytes) == place);
    wh_open_prefix(place + WH_OPEN_PREFIX, f->len, vni, f->csum_start, (uint8_t)f->csum_offset);
    memcpy(place + WH_OPEN_PREFIX, f->data, f->len);
    if (wh_coalesce_settle(b->s, back, bytes))
        return true;
    CHECK(memcmp(back + WH_OPEN_PREFIX, f->data, f->len) == 0);
    return false;
}

/* As a frame out of a tunnel: by the shorter ways behind the one before it, where it belongs to the same packet. True:
 * it took one. */
static bool arrive(struct bench *b, struct wh_frame *f, const struct wh_peer *from, uint32_t vni, bool ahead)
{
    if ((ahead && opened_ahead(b, f, from, vni)) || wh_coalesce_next(b->s, from, vni, f))
        return true;
    wh_coalesce_deliver(b->s, b->port, f);
    wh_coalesce_came(&b->s->coalesce, from, vni);
    return false;
}

static const struct wh_peer *peer_of(unsigned number) /* an address is all that is looked at */
{
    static const uint8_t peers[2][64];
    return (const struct wh_peer *)(const void *)peers[number];
}

static void cut_to(struct bench *b, struct packet *k)
{
    struct wh_cut cut;
    struct wh_frame piece;
    wh_cut_begin(&cut, &k->f);
    for (unsigned i = 0; wh_cut_next(&cut, &piece); i++)
        CHECK(arrive(b, &piece, peer_of(0), 7, i % 3) == (i > 0));
}

static void coalesce_undoes_cut(unsigned rounds, uint64_t *state)
{
    static struct packet whole, spoiled, got;
    struct bench b;
    bench_open(&b, WH_TAKES_ALL);
    for (unsigned i = 0; i < rounds; i++) {
        packet_make(&whole, state, i % FLOWS, (uint32_t)next_random(state), 2 + below(state, 60));
        if (whole.f.gso == WH_GSO_NONE)
            continue;
        spoiled = whole;
        spoiled.f.data = spoiled.bytes + WH_HEADROOM;
        cut_to(&b, &spoiled);
        wh_coalesce_flush(b.s);
        CHECK(take(&b, &got));
        CHECK(got.f.len == whole.f.len && memcmp(got.f.data, whole.f.data, whole.f.len) == 0);
        CHECK(memcmp(&got.todo, &whole.todo, sizeof(whole.todo)) == 0);
        CHECK(!take(&b, &got));
    }
    bench_close(&b);
}

/* What a flow's pieces are, as a number: of their bytes with the checksum filled in, in their order. */
static void digest(struct wh_frame *f, uint64_t sums[FLOWS], uint64_t *pieces)
{
    struct wh_layers y;
    wh_csum_complete(f);
    CHECK(wh_layers_of(f->data, f->len, &y) && slow_transport_sum(f->data, &y) == 0xffff);
    uint64_t *sum = &sums[wh_get16(f->data + y.l4) - 1000];
    for (uint32_t i = 0; i < f->len; i++)
        *sum = (*sum ^ f->data[i]) * 0x100000001b3ull;
    ++*pieces;
}

static void digest_out(struct bench *b, uint64_t sums[FLOWS], uint64_t *pieces, uint64_t *packets)
{
    static struct packet got;
    while (take(b, &got)) {
        struct wh_cut cut;
        struct wh_frame piece;
        ++*packets;
        CHECK((wh_frame_needs(&got.f) & ~wh_port_takes(b->port)) == 0);
        if (got.f.gso == WH_GSO_NONE) {
            digest(&got.f, sums, pieces);
            continue;
        }
        wh_cut_begin(&cut, &got.f);
        while (wh_cut_next(&cut, &piece))
            digest(&piece, sums, pieces);
    }
}

/* Pieces of many flows mixed with each other, some lost, doubled or swapped: each flow comes out as it went in. */
static void order_is_kept(unsigned rounds, uint64_t *state, uint32_t takes, bool complete)
{
    static struct packet source[FLOWS];
    struct wh_cut cut[FLOWS];
    uint64_t in[FLOWS] = {0}, out[FLOWS] = {0}, pieces_in = 0, pieces_out = 0, packets = 0;
    uint32_t seq[FLOWS] = {0};
    bool open[FLOWS] = {false};
    struct bench b;
    bench_open(&b, takes);
    for (unsigned i = 0; i < rounds; i++) {
        unsigned flow = below(state, FLOWS);
        for (uint32_t burst = 1 + below(state, 20); burst > 0; burst--) {
            static uint8_t copy[WH_HEADROOM + WH_RING_MAX_FRAME], again[WH_RING_MAX_FRAME];
            struct wh_frame piece;
            if (!open[flow]) {
                packet_make(&source[flow], state, flow, seq[flow], 2 + below(state, 30));
                open[flow] = source[flow].f.gso != WH_GSO_NONE;
                seq[flow] += source[flow].f.len - source[flow].f.hdr_len;
                if (!open[flow])
                    break;
                wh_cut_begin(&cut[flow], &source[flow].f);
            }
            if (!wh_cut_next(&cut[flow], &piece)) {
                open[flow] = false;
                continue;
            }
            uint32_t fate = below(state, 40);
            for (unsigned times = fate == 0 ? 0 : fate == 1 ? 2 : 1; times > 0; times--) {
                struct wh_frame f = piece;
                memcpy(again, piece.data, piece.len);
                f.data = again;
                digest(&f, in, &pieces_in);
                f = piece;
                f.data = copy + WH_HEADROOM;
                memcpy(f.data, piece.data, piece.len);
                if (complete)
                    wh_csum_complete(&f);
                if (complete && below(state, 2)) /* nobody has looked whether it is right */
                    f.csum = WH_CSUM_COMPLETE;
                if (below(state, 2))
                    (void)arrive(&b, &f, peer_of(0), 7, below(state, 2));
                else
                    wh_coalesce_deliver(b.s, b.port, &f);
            }
        }
        if (below(state, 4) == 0) {
            wh_coalesce_flush(b.s);
            digest_out(&b, out, &pieces_out, &packets);
        }
    }
    wh_coalesce_flush(b.s);
    digest_out(&b, out, &pieces_out, &packets);
    CHECK(b.s->total.drop_full == 0 && pieces_in == pieces_out && pieces_in > rounds);
    CHECK(memcmp(in, out, sizeof(in)) == 0);
    if (!(takes & WH_TAKES_TSO4))
        CHECK(packets == pieces_out);
    else
        CHECK(packets < pieces_out / (complete ? 4 : 2) * (complete ? 3 : 1)); /* complete: of long ones only */
    bench_close(&b);
}

static void same_out(struct bench *a, struct bench *b)
{
    static struct packet from_a, from_b;
    while (take(a, &from_a)) {
        CHECK(take(b, &from_b) && from_a.f.len == from_b.f.len);
        CHECK(memcmp(from_a.f.data, from_b.f.data, from_a.f.len) == 0);
        CHECK(memcmp(&from_a.todo, &from_b.todo, sizeof(from_a.todo)) == 0);
    }
    CHECK(!take(b, &from_b));
}

/* Pieces of which some have a byte or a length that is not as it was: by the short way comes out what comes out by the
 * long one, and it is taken for no other peer, network or flow. */
static void short_way_is_the_same(unsigned rounds, uint64_t *state)
{
    static struct packet whole;
    static uint8_t copy[2][WH_HEADROOM + WH_RING_MAX_FRAME];
    struct bench by_short, by_long;
    unsigned taken = 0;
    bench_open(&by_short, WH_TAKES_ALL), bench_open(&by_long, WH_TAKES_ALL);
    for (unsigned i = 0; i < rounds; i++) {
        struct wh_cut cut;
        struct wh_frame piece;
        unsigned peer = 0, vni = 7;
        packet_make(&whole, state, below(state, 2), (uint32_t)next_random(state), 2 + below(state, 60));
        if (whole.f.gso == WH_GSO_NONE)
            continue;
        wh_cut_begin(&cut, &whole.f);
        while (wh_cut_next(&cut, &piece)) {
            if (below(state, 16) == 0)
                piece.data[below(state, cut.y.data)] ^= (uint8_t)(1u << below(state, 8));
            if (below(state, 32) == 0)
                piece.len -= below(state, piece.len - cut.y.data + 1);
            if (below(state, 64) == 0)
                piece.csum_start ^= 2;
            bool other = below(state, 16) == 0;
            if (other)
                peer ^= below(state, 2), vni ^= below(state, 2);
            for (unsigned way = 0; way < 2; way++) {
                struct wh_frame f = piece;
                f.data = copy[way] + WH_HEADROOM;
                memcpy(f.data, piece.data, piece.len);
                if (way == 0)
                    taken += arrive(&by_short, &f, peer_of(peer), vni, below(state, 2));
                else
                    wh_coalesce_deliver(by_long.s, by_long.port, &f);
            }
        }
        if (below(state, 2)) {
            wh_coalesce_flush(by_short.s), wh_coalesce_flush(by_long.s);
            same_out(&by_short, &by_long);
        }
    }
    wh_coalesce_flush(by_short.s), wh_coalesce_flush(by_long.s);
    same_out(&by_short, &by_long);
    CHECK(taken > rounds);
    bench_close(&by_short), bench_close(&by_long);
}

static void short_way_of_others(uint64_t *state, bool ahead)
{
    static struct packet whole, got;
    struct wh_cut cut;
    struct wh_frame piece;
    struct bench b;
    bench_open(&b, WH_TAKES_ALL);
    do
        packet_make(&whole, state, 1, 7, 30);
    while (whole.f.gso != WH_GSO_TCP4 || (whole.f.data[whole.f.csum_start + 13] & WH_TCP_PSH));
    wh_cut_begin(&cut, &whole.f);
    CHECK(wh_cut_next(&cut, &piece) && !arrive(&b, &piece, peer_of(0), 7, ahead)); /* the first of it */
    CHECK(wh_cut_next(&cut, &piece) && !wh_coalesce_ahead(b.s, peer_of(1), piece.len + WH_OPEN_PREFIX));
    CHECK(!wh_coalesce_next(b.s, peer_of(1), 7, &piece));
    CHECK(!wh_coalesce_next(b.s, peer_of(0), 7, &piece)); /* there was another one in between */
    CHECK(!arrive(&b, &piece, peer_of(0), 7, ahead) && wh_cut_next(&cut, &piece));
    CHECK(!wh_coalesce_next(b.s, peer_of(0), 8, &piece));
    CHECK(!arrive(&b, &piece, peer_of(0), 7, ahead) && wh_cut_next(&cut, &piece) &&
          arrive(&b, &piece, peer_of(0), 7, ahead));
    wh_coalesce_flush(b.s);
    CHECK(wh_cut_next(&cut, &piece) && !wh_coalesce_next(b.s, peer_of(0), 7, &piece)); /* a batch is over */
    CHECK(take(&b, &got) && !take(&b, &got));
    bench_close(&b);
}

/* A wrong checksum is the receiver's to find: such a segment is delivered as it came. */
static void damage_is_kept(unsigned rounds, uint64_t *state)
{
    static struct packet whole, got;
    static uint8_t copy[WH_RING_MAX_FRAME];
    struct bench b;
    bench_open(&b, WH_TAKES_ALL);
    for (unsigned i = 0; i < rounds; i++) {
        struct wh_cut cut;
        struct wh_frame piece;
        packet_make(&whole, state, i % FLOWS, 1, 4);
        if (whole.f.gso == WH_GSO_NONE)
            continue;
        wh_cut_begin(&cut, &whole.f);
        while (wh_cut_next(&cut, &piece)) {
            struct wh_layers y;
            wh_csum_complete(&piece);
            CHECK(wh_layers_of(piece.data, piece.len, &y));
            piece.data[y.data + below(state, y.end - y.data)] ^= (uint8_t)(1 + below(state, 255));
            piece.csum = WH_CSUM_COMPLETE;
            memcpy(copy, piece.data, piece.len);
            wh_coalesce_deliver(b.s, b.port, &piece);
            CHECK(take(&b, &got) && got.f.len == piece.len && got.f.csum == WH_CSUM_COMPLETE &&
                  !memcmp(got.f.data, copy, piece.len));
        }
    }
    bench_close(&b);
}

/* A receiver without offloads gets from a packet what one with them makes of it. */
static void plain_receivers(unsigned rounds, uint64_t *state)
{
    static struct packet whole, spoiled, got;
    struct bench b;
    bench_open(&b, 0);
    for (unsigned i = 0; i < rounds; i++) {
        packet_make(&whole, state, 1, 7, 1 + below(state, 50));
        spoiled = whole;
        spoiled.f.data = spoiled.bytes + WH_HEADROOM;
        wh_port_deliver(b.s, b.port, &spoiled.f);
        uint32_t payload = 0;
        struct wh_layers y;
        while (take(&b, &got)) {
            CHECK(got.f.csum != WH_CSUM_PARTIAL && got.f.gso == WH_GSO_NONE);
            CHECK(wh_layers_of(got.f.data, got.f.len, &y) && slow_transport_sum(got.f.data, &y) == 0xffff);
            payload += y.end - y.data;
        }
        CHECK(wh_layers_of(whole.f.data, whole.f.len, &y) && payload == y.end - y.data);
    }
    bench_close(&b);
}

/* Headers that another process wrote: refused, or the frame can be cut and completed without a step outside of it. */
static void lying_headers(unsigned rounds, uint64_t *state)
{
    static struct packet k;
    unsigned good = 0;
    for (unsigned i = 0; i < rounds; i++) {
        packet_make(&k, state, 1, 7, 1 + below(state, 8));
        uint8_t *todo = (uint8_t *)&k.todo, *frame = k.bytes + WH_HEADROOM;
        for (uint32_t n = below(state, 3); n > 0; n--)
            todo[below(state, sizeof(k.todo))] = (uint8_t)next_random(state);
        for (uint32_t n = below(state, 3); n > 0; n--)
            frame[below(state, 80)] = (uint8_t)next_random(state);
        uint32_t len = below(state, 4) ? k.f.len : 14 + below(state, k.f.len - 13);
        uint8_t *exact = malloc(WH_HEADROOM + len); /* the sanitizer sees its end */
        memcpy(exact + WH_HEADROOM, frame, len);
        struct wh_frame f = wh_frame_plain(exact + WH_HEADROOM, len), piece;
        if (wh_frame_from_vnet(&f, &k.todo) == WH_VNET_GOOD) {
            good++;
            if (f.gso == WH_GSO_NONE) {
                wh_csum_complete(&f);
            } else {
                struct wh_cut cut;
                uint32_t pieces = 0;
                wh_cut_begin(&cut, &f);
                while (wh_cut_next(&cut, &piece))
                    wh_csum_complete(&piece), pieces++;
                CHECK(pieces > 1 && pieces <= 65535 / WH_GSO_SIZE_MIN);
            }
        }
        free(exact);
    }
    CHECK(good > rounds / 20 && good < rounds * 9 / 10);
}

static void refused(void)
{
    static struct packet k;
    uint64_t state = 5;
    do
        packet_make(&k, &state, 1, 7, 9);
    while (k.f.gso != WH_GSO_TCP4);
    const struct wh_vnet good = k.todo;
    static const enum wh_vnet_verdict want[11] = {WH_VNET_BAD_GSO,    WH_VNET_BAD_GSO,    WH_VNET_BAD_PACKET,
                                                  WH_VNET_BAD_CSUM,   WH_VNET_BAD_CSUM,   WH_VNET_BAD_GSO,
                                                  WH_VNET_BAD_PACKET, WH_VNET_BAD_PACKET, WH_VNET_BAD_GSO,
                                                  WH_VNET_BAD_PACKET, WH_VNET_BAD_GSO};
    struct wh_vnet bad[11];
    for (unsigned i = 0; i < WH_ARRAY_LEN(bad); i++)
        bad[i] = good;
    bad[0].gso_size = 0;
    bad[1].gso_size = htole16(WH_GSO_SIZE_MIN - 1);
    bad[2].hdr_len = htole16(65535);
    bad[3].csum_start = htole16(65535);
    bad[4].csum_offset = htole16(65535);
    bad[5].flags = 0; /* segments want checksums */
    bad[6].gso_type = WH_VNET_GSO_TCPV6;
    bad[7].gso_type = WH_VNET_GSO_UDP_L4;
    bad[8].gso_type = 3; /* UFO, which was never offered */
    bad[9].csum_start = htole16((uint16_t)(le16toh(good.csum_start) + 2));
    bad[10].gso_type = WH_VNET_GSO_ECN;
    for (unsigned i = 0; i < WH_ARRAY_LEN(bad); i++) {
        struct wh_frame f = wh_frame_plain(k.f.data, k.f.len);
        CHECK(wh_frame_from_vnet(&f, &bad[i]) == want[i]);
    }
    struct wh_frame f = wh_frame_plain(k.f.data, k.f.len - 1); /* shorter than its IP header says */
    CHECK(wh_frame_from_vnet(&f, &good) == WH_VNET_BAD_PACKET);
}

static uint64_t number_from(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

int main(void)
{
    uint64_t state = number_from("WHERRY_FUZZ_SEED", 0x5bd1e995) | 1;
    unsigned rounds = (unsigned)number_from("WHERRY_FUZZ_ROUNDS", 1000);
    printf("seed %#llx\n", (unsigned long long)state);
    refused();
    cut_is_right(rounds / 2, &state);
    coalesce_undoes_cut(rounds / 2, &state);
    short_way_is_the_same(rounds * 2, &state);
    short_way_of_others(&state, false);
    short_way_of_others(&state, true);
    order_is_kept(rounds, &state, WH_TAKES_ALL, false);
    order_is_kept(rounds / 2, &state, WH_TAKES_ALL, true);
    order_is_kept(rounds / 2, &state, 0, false);
    order_is_kept(rounds / 2, &state, WH_TAKES_CSUM, false);
    damage_is_kept(rounds / 4, &state);
    plain_receivers(rounds / 2, &state);
    lying_headers(rounds * 4, &state);
    return finish("offload");
}
