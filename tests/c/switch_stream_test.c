/* The tunnel over TCP: whole switches over loopback, between which UDP passes when the test says so. */
#include "switch_rig.h"

#include "switch/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/syscall.h>

static _Atomic bool udp_is_blocked;
static _Atomic uint64_t udp_sent;

/* In place of the C library's: what a firewall drops has left the host. */
int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    udp_sent += count;
    return udp_is_blocked ? (int)count : (int)syscall(SYS_sendmmsg, fd, messages, count, flags);
}

/* Both ends of one connection; small: its buffers are. */
static void connection(int fds[2], bool small)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int listener = socket(AF_INET, SOCK_STREAM, 0), bytes = 16 << 10;
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (small) {
        CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)) == 0);
        CHECK(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)) == 0);
    }
    CHECK(bind(listener, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(listener, 1) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&at, &len) == 0);
    CHECK(connect(fds[0], (struct sockaddr *)&at, sizeof(at)) == 0);
    fds[1] = accept(listener, NULL, NULL);
    close(listener);
}

static void give_stream(struct node *a, struct node *b, bool small)
{
    int fds[2];
    connection(fds, small);
    CHECK(wh_switch_peer_stream(a->sw, b->id, fds[0], NULL) == WH_OK);
    CHECK(wh_switch_peer_stream(b->sw, a->id, fds[1], NULL) == WH_OK);
}

static bool up_on(struct node *at, uint32_t peer, uint32_t path)
{
    wh_switch_event e = event_of(at->sw, WH_SW_PEER_UP);
    while (e.kind && (e.node != peer || e.port != path))
        e = event_of(at->sw, WH_SW_PEER_UP);
    return e.kind == WH_SW_PEER_UP;
}

struct pair {
    struct node a, b;
    struct nic from, to;
};

static void open_pair(struct pair *t)
{
    node_open(&t->a, 1), node_open(&t->b, 2);
    nic_open(&t->from, 1), nic_open(&t->to, 2);
    CHECK(nic_plug(&t->from, t->a.sw, 1, any, 1) == WH_OK && nic_plug(&t->to, t->b.sw, 2, t->to.mac, 1) == WH_OK);
    CHECK(wh_switch_mac_set(t->a.sw, VNI, t->to.mac, 2, NULL) == WH_OK);
    join(&t->a, &t->b, 0);
}

static void close_pair(struct pair *t)
{
    udp_is_blocked = false;
    wh_switch_free(t->a.sw), wh_switch_free(t->b.sw);
    nic_close(&t->from), nic_close(&t->to);
}

static void blocked_from_the_start(void)
{
    struct pair t;
    udp_is_blocked = true;
    open_pair(&t);
    nic_send(&t.from, t.to.mac, 1); /* lost: nothing says yet that UDP is blocked */
    WAIT_FOR(port_counters(t.a.sw, 1).rx_frames == 1);
    give_stream(&t.a, &t.b, false);
    CHECK(up_on(&t.a, 2, 1) && up_on(&t.b, 1, 1));
    nic_send(&t.from, t.to.mac, 2);
    CHECK(nic_take(&t.to, NULL, NULL) == 2);
    CHECK(peer_counters(t.b.sw, 1).drop_invalid == 0 && all_counters(t.b.sw).drop_replay == 0);
    close_pair(&t);
}

static void blocked_in_between_and_back(void)
{
    struct pair t;
    open_pair(&t);
    CHECK(up_on(&t.a, 2, 0) && up_on(&t.b, 1, 0));
    give_stream(&t.a, &t.b, false); /* frames stay on UDP while it answers */
    uint64_t before = udp_sent;
    nic_send(&t.from, t.to.mac, 1);
    CHECK(nic_take(&t.to, NULL, NULL) == 1 && udp_sent > before);
    udp_is_blocked = true;
    CHECK(up_on(&t.a, 2, 1) && up_on(&t.b, 1, 1));
    for (uint32_t i = 2; i < 50; i++) {
        nic_send(&t.from, t.to.mac, i);
        CHECK(nic_take(&t.to, NULL, NULL) == i);
    }
    udp_is_blocked = false;
    CHECK(up_on(&t.a, 2, 0) && up_on(&t.b, 1, 0));
    CHECK(wh_switch_peer_stream(t.a.sw, 2, -1, NULL) == WH_OK); /* no longer needed */
    CHECK(event_of(t.b.sw, WH_SW_STREAM_DOWN).node == 1);
    nic_send(&t.from, t.to.mac, 50);
    CHECK(nic_take(&t.to, NULL, NULL) == 50);
    close_pair(&t);
}

/* While its connection takes nothing, frames wait and are bounded; the rest of the switch goes on. */
static void a_full_stream(void)
{
    enum { MANY = 900 };
    struct pair t;
    struct nic other;
    udp_is_blocked = true;
    open_pair(&t);
    nic_open(&other, 3);
    CHECK(nic_plug(&other, t.a.sw, 3, other.mac, 1) == WH_OK);
    give_stream(&t.a, &t.b, true);
    CHECK(up_on(&t.a, 2, 1) && up_on(&t.b, 1, 1));
    wh_switch_lock(t.b.sw); /* it reads nothing */
    uint8_t frame[1400] = {0};
    bool kick = false;
    uint64_t one = 1;
    memcpy(frame, t.to.mac, 6), memcpy(frame + 6, t.from.mac, 6);
    frame[12] = 8;
    for (uint32_t i = 1; i <= MANY; i++) {
        memcpy(frame + 14, &i, 4);
        while (wh_ring_put(t.from.tx, frame, sizeof(frame), &kick) == WH_E_FULL)
            poll(NULL, 0, 1);
        if (kick)
            CHECK(write(t.from.to_switch, &one, 8) == 8);
    }
    WAIT_FOR(port_counters(t.a.sw, 1).rx_frames == MANY);
    CHECK(peer_counters(t.a.sw, 2).queued > 0);
    nic_send(&t.from, other.mac, 77);
    CHECK(nic_take(&other, NULL, NULL) == 77);
    wh_switch_unlock(t.b.sw);
    uint32_t last = 0, count = 0;
    while (last < MANY) {
        uint32_t tag = nic_take(&t.to, NULL, NULL);
        CHECK(tag > last && tag <= MANY);
        if (tag <= last || tag > MANY)
            break;
        last = tag;
        count++;
    }
    wh_counters c = peer_counters(t.a.sw, 2);
    CHECK(count + c.drop_aqm + c.drop_queue == MANY && c.drop_queue == 0 && c.tx_frames == count);
    close_pair(&t);
    nic_close(&other);
}

/* ---- the other end is ours ---- */

struct raw {
    struct node at;
    struct nic to;
    int fd;
};

static void raw_open(struct raw *r)
{
    struct node peer = {.id = 2};
    int fds[2];
    struct sockaddr_in nowhere = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(9)};
    node_open(&r->at, 1);
    nic_open(&r->to, 1);
    CHECK(nic_plug(&r->to, r->at.sw, 1, r->to.mac, 1) == WH_OK);
    for (peer.id = 2; peer.id <= 3; peer.id++) {
        CHECK(wh_switch_peer_set(r->at.sw, peer.id, peer.id, &nowhere, sizeof(nowhere), NULL) == WH_OK);
        accept_epoch(&r->at, &peer, 1, 0);
    }
    connection(fds, false);
    CHECK(wh_switch_peer_stream(r->at.sw, 2, fds[0], NULL) == WH_OK);
    r->fd = fds[1];
}

static void raw_close(struct raw *r)
{
    wh_switch_free(r->at.sw);
    nic_close(&r->to);
    close(r->fd);
}

/* A record with one frame of 64 bytes for the NIC, sealed by a node. Its length. */
static size_t make_record(struct raw *r, uint8_t *out, uint32_t sender, uint64_t counter, uint8_t tos, uint32_t tag)
{
    uint8_t room[WH_FRAME_PREFIX + 64] = {0}, *frame = room + WH_FRAME_PREFIX, header[WH_TUNNEL_HEADER], key[32];
    struct wh_header h = {1, WH_TUNNEL_DIRECT, 1, 0, 1, sender, 1, counter};
    size_t len = WH_DATAGRAM_MAX;
    memcpy(frame, r->to.mac, 6);
    memcpy(frame + 6, (uint8_t[]){2, 0, 0, 0, 9, (uint8_t)sender}, 6);
    memcpy(frame + 12, (uint8_t[]){8, 0}, 2);
    memcpy(frame + 14, &tag, 4);
    wh_frame_prefix(frame, 64, VNI);
    wh_header_encode(&h, header);
    direction_key(sender, 1, 1, key);
    CHECK(wh_tunnel_seal(0, key, header, sizeof(header), room, sizeof(room), out + WH_STREAM_RECORD, &len) == WH_OK);
    memcpy(out, (uint8_t[]){(uint8_t)(len >> 8), (uint8_t)len, tos, 0}, WH_STREAM_RECORD);
    return len + WH_STREAM_RECORD;
}

static void put(const struct raw *r, const uint8_t *data, size_t len)
{
    CHECK(send(r->fd, data, len, MSG_NOSIGNAL) == (ssize_t)len);
}

static void in_pieces(void)
{
    struct raw r;
    uint8_t out[2 * (WH_STREAM_RECORD + WH_DATAGRAM_MAX)];
    int on = 1;
    raw_open(&r);
    CHECK(setsockopt(r.fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof(on)) == 0);
    size_t len = make_record(&r, out, 2, 1, 0, 11);
    for (size_t i = 0; i < len; i++)
        put(&r, out + i, 1);
    CHECK(nic_take(&r.to, NULL, NULL) == 11);
    len = make_record(&r, out, 2, 2, 0, 12); /* one and a half at a time */
    size_t second = make_record(&r, out + len, 2, 3, 0, 13);
    put(&r, out, len + second / 2);
    CHECK(nic_take(&r.to, NULL, NULL) == 12);
    put(&r, out + len + second / 2, second - second / 2);
    CHECK(nic_take(&r.to, NULL, NULL) == 13);
    put(&r, out, len); /* again: replayed */
    len = make_record(&r, out, 3, 1, 0, 14);
    put(&r, out, len); /* in another's name */
    len = make_record(&r, out, 2, 4, 0, 15);
    out[40] ^= 1;
    put(&r, out, len); /* forged */
    len = make_record(&r, out, 2, 5, 0, 16);
    put(&r, out, len);
    CHECK(nic_take(&r.to, NULL, NULL) == 16);
    wh_counters c = all_counters(r.at.sw);
    CHECK(c.drop_replay == 1 && c.drop_invalid == 1 && c.drop_auth == 1);
    raw_close(&r);
}

static void what_is_no_stream(void)
{
    static const uint8_t bad[][WH_STREAM_RECORD] = {{0, 0, 0, 0}, {0, 39, 0, 0}, {0x24, 1, 0, 0}, {0, 64, 0, 1}};
    for (size_t i = 0; i < WH_ARRAY_LEN(bad); i++) {
        struct raw r;
        uint8_t byte;
        raw_open(&r);
        put(&r, bad[i], sizeof(bad[i]));
        CHECK(event_of(r.at.sw, WH_SW_STREAM_DOWN).node == 2);
        CHECK(recv(r.fd, &byte, 1, 0) <= 0);
        CHECK(peer_counters(r.at.sw, 2).drop_invalid == 1);
        raw_close(&r);
    }
    struct raw r;
    int fds[2], udp;
    struct sockaddr_in at;
    raw_open(&r);
    connection(fds, false);
    udp = udp_socket(&at);
    CHECK(wh_switch_peer_stream(r.at.sw, 2, udp, NULL) == WH_E_INVAL && fcntl(udp, F_GETFD) >= 0);
    CHECK(wh_switch_peer_stream(r.at.sw, 9, fds[0], NULL) == WH_E_NOTFOUND && fcntl(fds[0], F_GETFD) >= 0);
    CHECK(wh_switch_peer_stream(r.at.sw, 2, fds[0], NULL) == WH_OK); /* replaces the first, which is closed */
    uint8_t byte;
    CHECK(recv(r.fd, &byte, 1, 0) == 0);
    close(udp);
    close(r.fd);
    r.fd = fds[1];
    size_t len = 0;
    uint8_t out[WH_STREAM_RECORD + WH_DATAGRAM_MAX];
    len = make_record(&r, out, 2, 1, 0, 5);
    put(&r, out, len);
    CHECK(nic_take(&r.to, NULL, NULL) == 5);
    CHECK(wh_switch_peer_del(r.at.sw, 2) == WH_OK && recv(r.fd, &byte, 1, 0) == 0);
    raw_close(&r);
}

/* Whatever a peer writes, in whatever pieces: good records get through until a bad header ends it. */
static void anything(uint64_t seed)
{
    for (unsigned round = 0; round < 40; round++) {
        struct raw r;
        uint8_t out[64 << 10];
        size_t len = 0;
        uint32_t good = 0;
        raw_open(&r);
        while (len + WH_STREAM_RECORD + WH_DATAGRAM_MAX < sizeof(out)) {
            uint64_t dice = next_random(&seed) % 3;
            if (dice == 0) {
                good++;
                len += make_record(&r, out + len, 2, good, 0, good);
                continue;
            }
            size_t junk = WH_TUNNEL_OVERHEAD + next_random(&seed) % (dice == 1 ? 100 : 9000);
            memcpy(out + len, (uint8_t[]){(uint8_t)(junk >> 8), (uint8_t)junk, (uint8_t)seed, 0}, WH_STREAM_RECORD);
            for (size_t i = 0; i < junk; i++)
                out[len + WH_STREAM_RECORD + i] =
                    i < 24 && dice == 1 ? (i == 0 || i == 1) : (uint8_t)next_random(&seed);
            len += WH_STREAM_RECORD + junk;
        }
        for (size_t at = 0, n; at < len; at += n) {
            n = 1 + next_random(&seed) % 3000;
            n = n < len - at ? n : len - at;
            put(&r, out + at, n);
        }
        for (uint32_t i = 1; i <= good; i++)
            CHECK(nic_take(&r.to, NULL, NULL) == i);
        put(&r, (const uint8_t[]){0xff, 0xff, 0, 0}, WH_STREAM_RECORD);
        CHECK(event_of(r.at.sw, WH_SW_STREAM_DOWN).node == 2);
        raw_close(&r);
    }
}

/* Node 2 stands between: a stream to 1, UDP to 3. */
static void a_relay(void)
{
    struct node n[3];
    struct nic from, to;
    for (uint32_t i = 0; i < 3; i++)
        node_open(&n[i], i + 1);
    nic_open(&from, 1), nic_open(&to, 3);
    CHECK(nic_plug(&from, n[0].sw, 1, from.mac, 1) == WH_OK && nic_plug(&to, n[2].sw, 3, to.mac, 1) == WH_OK);
    CHECK(wh_switch_mac_set(n[0].sw, VNI, to.mac, 3, NULL) == WH_OK);
    CHECK(wh_switch_mac_set(n[2].sw, VNI, from.mac, 1, NULL) == WH_OK);
    struct sockaddr_in nowhere = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(9)};
    struct sockaddr_in at[2] = {n[0].addr, n[1].addr};
    n[0].addr = n[1].addr = nowhere;
    join(&n[0], &n[1], 0), join(&n[0], &n[2], 0);
    n[1].addr = at[1];
    join(&n[1], &n[2], 0);
    n[0].addr = at[0];
    CHECK(wh_switch_peer_set(n[0].sw, 3, 2, NULL, 0, NULL) == WH_OK);
    CHECK(wh_switch_peer_set(n[2].sw, 1, 2, NULL, 0, NULL) == WH_OK);
    give_stream(&n[0], &n[1], false);
    CHECK(up_on(&n[0], 2, 1) && up_on(&n[1], 3, 0));
    nic_send(&from, to.mac, 1);
    CHECK(nic_take(&to, NULL, NULL) == 1);
    nic_send(&to, from.mac, 2);
    CHECK(nic_take(&from, NULL, NULL) == 2);
    CHECK(peer_counters(n[1].sw, 1).relayed == 1 && peer_counters(n[1].sw, 3).relayed == 1);
    for (uint32_t i = 0; i < 3; i++)
        wh_switch_free(n[i].sw);
    nic_close(&from), nic_close(&to);
}

int main(void)
{
    blocked_from_the_start();
    blocked_in_between_and_back();
    a_full_stream();
    in_pieces();
    what_is_no_stream();
    anything(0x9e3779b97f4a7c15ull);
    a_relay();
    return finish("switch_stream_test");
}
