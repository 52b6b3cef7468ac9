/* Several workers: what holds for one holds for each number of them. Guests with several queues talk across two nodes
 * in flows that are numbered frame by frame, while ports, peers, keys, stations and timers change: no flow is
 * reordered, nothing comes twice, and what does not come is in a counter. WHERRY_SWITCH_WORKERS: only that many. */
#include "switch/port.h"
#include "switch/steer.h"
#include "switch_rig.h"

#include <pthread.h>
#include <sched.h>

#define QUEUES  4u
#define FLOWS   8u   /* of a guest */
#define FRAMES  600u /* of a flow */
#define VISITOR 78u

struct queue {
    int file, to_switch;
    wh_ring *tx, *rx;
};

/* A guest's NIC of several queues: a flow is sent by one of them, and taken from whichever it comes by. */
struct guest {
    uint8_t mac[6];
    int to_guest;
    struct queue queue[QUEUES];
    uint32_t next[FLOWS]; /* sequence to send */
    uint32_t seen[FLOWS]; /* 1 + the last that came */
    uint64_t got, lost, reordered;
};

static void guest_open(struct guest *g, uint8_t last)
{
    *g = (struct guest){.mac = {2, 0, 0, 0, 1, last}, .to_guest = eventfd(0, EFD_NONBLOCK)};
    for (unsigned i = 0; i < QUEUES; i++) {
        struct queue *q = &g->queue[i];
        q->file = wh_ring_file_new(NULL);
        q->to_switch = eventfd(0, EFD_NONBLOCK);
        CHECK(q->file >= 0 && wh_ring_map(q->file, 0, true, &q->tx, NULL) == WH_OK);
        CHECK(wh_ring_map(q->file, 1, false, &q->rx, NULL) == WH_OK);
    }
}

static void guest_close(struct guest *g)
{
    for (unsigned i = 0; i < QUEUES; i++) {
        wh_ring_unmap(g->queue[i].tx);
        wh_ring_unmap(g->queue[i].rx);
        close(g->queue[i].file);
        close(g->queue[i].to_switch);
    }
    close(g->to_guest);
}

static void guest_plug(struct guest *g, wh_switch *sw, uint32_t port, bool locked)
{
    const struct queue *q = g->queue;
    CHECK(wh_switch_port_ring(sw, port, VNI, q->file, q->to_switch, g->to_guest, locked ? g->mac : any, 1, NULL) ==
          WH_OK);
    for (unsigned i = 1; i < QUEUES; i++)
        CHECK(wh_switch_port_queue(sw, port, g->queue[i].file, g->queue[i].to_switch, NULL) == WH_OK);
}

/* False: its ring is full. */
static bool guest_send(struct guest *g, const struct guest *to, unsigned flow, uint32_t len)
{
    uint8_t frame[1200] = {0};
    struct queue *q = &g->queue[flow % QUEUES];
    uint64_t one = 1;
    bool kick;
    memcpy(frame, to->mac, 6);
    memcpy(frame + 6, g->mac, 6);
    frame[12] = 0x88; /* for experiments: opaque to all */
    frame[13] = 0xb5;
    frame[14] = (uint8_t)flow;
    memcpy(frame + 16, &g->next[flow], 4);
    if (wh_ring_put(q->tx, frame, len, &kick) != WH_OK)
        return false;
    g->next[flow]++;
    if (kick)
        CHECK(write(q->to_switch, &one, 8) == 8);
    return true;
}

static void guest_take(struct guest *g)
{
    for (unsigned i = 0; i < QUEUES; i++) {
        const uint8_t *frame;
        uint32_t len, number;
        while (wh_ring_peek(g->queue[i].rx, &frame, &len) == WH_OK) {
            unsigned flow = frame[14] % FLOWS;
            memcpy(&number, frame + 16, 4);
            if (frame[12] == 0x88 && memcmp(frame, g->mac, 6) == 0) { /* and not what was flooded */
                g->got++;
                if (number < g->seen[flow])
                    g->reordered++;
                else
                    g->lost += number - g->seen[flow];
                g->seen[flow] = number + 1;
            }
            wh_ring_consume(g->queue[i].rx);
        }
    }
}

static uint64_t sent_by(const struct guest *g)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < FLOWS; i++)
        sum += g->next[i];
    return sum;
}

static uint64_t sum_of_drops(const wh_counters *c)
{
    uint64_t sum = 0, words[sizeof(*c) / 8];
    memcpy(words, c, sizeof(*c));
    for (size_t i = offsetof(wh_counters, drop_full) / 8; i <= offsetof(wh_counters, drop_vnet_packet) / 8; i++)
        sum += words[i];
    return sum;
}

/* Every counter of a frame that went no further, but for the visitor's. */
static uint64_t drops(wh_switch *sw)
{
    wh_counters all = all_counters(sw), visitor = {0};
    (void)wh_switch_port_counters(sw, VISITOR, &visitor);
    return sum_of_drops(&all) - sum_of_drops(&visitor);
}

static void print_drops(const struct node *n)
{
    wh_counters c = all_counters(n->sw);
    uint64_t words[sizeof(c) / 8];
    memcpy(words, &c, sizeof(c));
    for (size_t i = offsetof(wh_counters, drop_full) / 8; i <= offsetof(wh_counters, drop_vnet_packet) / 8; i++)
        if (words[i])
            printf("  node %u: counter %zu of wh_counters: %llu\n", n->id, i, (unsigned long long)words[i]);
}

struct scene {
    struct node n1, n2;
    struct guest a, b, c; /* a and c on the first node, b on the second */
    struct nic spare;     /* plugged and unplugged, on the first */
    struct nic visitor;   /* of changing address, on the first: its frames are learned and flooded */
    uint32_t epoch;
    uint64_t keyed; /* frames that have to arrive before the next key */
    _Atomic bool quit;
};

static void node_of(struct node *n, uint32_t id, uint32_t workers)
{
    n->id = id;
    wh_switch_config config = {.node_id = id, .fdb_age_s = 1, .fdb_max = 1000, .workers = workers};
    config.udp_fd = udp_socket(&n->addr);
    CHECK(wh_switch_new(&config, &n->sw, NULL) == WH_OK && wh_switch_workers(n->sw) == workers);
    CHECK(wh_switch_network_add(n->sw, VNI, 1400, NULL) == WH_OK);
}

/* Loopback has a queue for each processor: a thread that changes its own while it sends may overtake itself. */
static void pin(const struct node *n)
{
    cpu_set_t may;
    CHECK(sched_getaffinity(0, sizeof(may), &may) == 0);
    int cpu = -1;
    for (uint32_t i = 0; i < n->sw->all->workers; i++) {
        cpu_set_t one;
        do
            cpu = (cpu + 1) % CPU_SETSIZE;
        while (!CPU_ISSET(cpu, &may));
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        CHECK(pthread_setaffinity_np(n->sw->all->worker[i]->thread, sizeof(one), &one) == 0);
    }
}

static void scene_open(struct scene *t, uint32_t workers, uint32_t theirs)
{
    const uint32_t one = 1, two = 2;
    t->epoch = 1;
    node_of(&t->n1, 1, workers), node_of(&t->n2, 2, theirs);
    pin(&t->n1), pin(&t->n2);
    join(&t->n1, &t->n2, 0);
    guest_open(&t->a, 1), guest_open(&t->b, 2), guest_open(&t->c, 3);
    nic_open(&t->spare, 77), nic_open(&t->visitor, 78);
    guest_plug(&t->a, t->n1.sw, 1, true);
    guest_plug(&t->c, t->n1.sw, 3, false);
    guest_plug(&t->b, t->n2.sw, 2, true);
    CHECK(nic_plug(&t->visitor, t->n1.sw, VISITOR, any, 1) == WH_OK);
    CHECK(wh_switch_mac_set(t->n1.sw, VNI, t->b.mac, 2, NULL) == WH_OK);
    CHECK(wh_switch_mac_set(t->n2.sw, VNI, t->a.mac, 1, NULL) == WH_OK);
    CHECK(wh_switch_mac_set(t->n2.sw, VNI, t->c.mac, 1, NULL) == WH_OK);
    CHECK(wh_switch_network_peers(t->n1.sw, VNI, &two, 1, NULL) == WH_OK);
    CHECK(wh_switch_network_peers(t->n2.sw, VNI, &one, 1, NULL) == WH_OK);
    nic_send(&t->visitor, everybody, 0);
    WAIT_FOR(port_counters(t->n1.sw, VISITOR).rx_frames == 1);
}

static void scene_close(struct scene *t)
{
    wh_switch_free(t->n1.sw), wh_switch_free(t->n2.sw);
    guest_close(&t->a), guest_close(&t->b), guest_close(&t->c);
    nic_close(&t->spare), nic_close(&t->visitor);
}

/* A round of control calls: what changes on a busy node, all of it while frames flow. */
static void churn(struct scene *t, uint32_t round)
{
    wh_switch *sw = t->n1.sw;
    uint8_t mac[6] = {2, 0, 0, 9, (uint8_t)(round >> 8), (uint8_t)round};
    CHECK(nic_plug(&t->spare, sw, 77, t->spare.mac, round) == WH_OK);
    CHECK(wh_switch_mac_set(sw, VNI, mac, 2, NULL) == WH_OK);
    CHECK(wh_switch_peer_set(sw, 9, 2, NULL, 0, NULL) == WH_OK);
    nic_send_as(&t->visitor, mac, everybody, 0xffff0000u + round);
    CHECK(wh_switch_port_del(sw, 77) == WH_OK);
    CHECK(wh_switch_peer_del(sw, 9) == WH_OK);
    CHECK(wh_switch_mac_del(sw, VNI, mac) == WH_OK);
    for (wh_switch_event event; wh_switch_next_event(sw, &event) == WH_OK;)
        ;
}

static void *change(void *arg)
{
    struct scene *t = arg;
    for (uint32_t round = 1; !atomic_load(&t->quit); round++) {
        churn(t, round);
        poll(NULL, 0, 1);
    }
    return NULL;
}

static void take_all(struct scene *t)
{
    guest_take(&t->a), guest_take(&t->b), guest_take(&t->c);
}

static uint64_t under_way(const struct scene *t)
{
    return sent_by(&t->a) + sent_by(&t->b) + sent_by(&t->c) - t->a.got - t->b.got - t->c.got;
}

/* Until no more frames are under way than the receiving sockets and the rings hold. False: that does not come. */
static bool await_room(struct scene *t)
{
    for (unsigned ms = 0; ms < DEADLINE_MS; ms++) {
        take_all(t);
        if (under_way(t) < 400)
            return true;
        poll(NULL, 0, 1);
    }
    printf("%llu frames are lost\n", (unsigned long long)under_way(t));
    print_drops(&t->n1), print_drops(&t->n2);
    CHECK(false);
    return false;
}

/* Receivers hold three keys of a sender: the next one comes when all has arrived that was sent before the last one. */
static void change_keys(struct scene *t)
{
    uint64_t got = t->a.got + t->b.got + t->c.got;
    if (got < t->keyed)
        return;
    uint32_t epoch = ++t->epoch;
    accept_epoch(&t->n2, &t->n1, epoch, epoch % 2), use_epoch(&t->n1, &t->n2, epoch, epoch % 2);
    accept_epoch(&t->n1, &t->n2, epoch, epoch % 2), use_epoch(&t->n2, &t->n1, epoch, epoch % 2);
    t->keyed = sent_by(&t->a) + sent_by(&t->b) + sent_by(&t->c) + 200;
}

static void exchange(struct scene *t)
{
    uint64_t random = 4711;
    for (uint32_t i = 0; i < FRAMES * FLOWS && await_room(t); i++) {
        change_keys(t);
        uint32_t len = 60 + (uint32_t)(next_random(&random) % 1100);
        unsigned flow = (unsigned)(next_random(&random) % FLOWS);
        /* Across the tunnel both ways, and from ring to ring. */
        CHECK(guest_send(&t->a, &t->b, flow, len));
        CHECK(guest_send(&t->b, flow % 2 ? &t->c : &t->a, flow, len));
        CHECK(guest_send(&t->c, &t->b, flow, len));
    }
}

/* b's frames to a and c share its flows' numbers, so it is the odd ones for c. a's and c's flows meet at b. */
static void traffic_under_change(uint32_t workers, uint32_t theirs)
{
    struct scene t = {0};
    pthread_t changer;
    scene_open(&t, workers, theirs);
    CHECK(pthread_create(&changer, NULL, change, &t) == 0);
    exchange(&t);
    atomic_store(&t.quit, true);
    pthread_join(changer, NULL);
    uint64_t sent = sent_by(&t.a) + sent_by(&t.b) + sent_by(&t.c);
    for (unsigned ms = 0; ms < DEADLINE_MS; ms++) {
        take_all(&t);
        if (t.a.got + t.b.got + t.c.got + drops(t.n1.sw) + drops(t.n2.sw) >= sent)
            break;
        poll(NULL, 0, 1);
    }
    uint64_t got = t.a.got + t.b.got + t.c.got, lost = drops(t.n1.sw) + drops(t.n2.sw);
    CHECK(got == sent || (got < sent && got + lost >= sent));
    CHECK(t.a.reordered == 0 && t.c.reordered == 0);
    if (got != sent) {
        print_drops(&t.n1), print_drops(&t.n2);
        printf("workers %u and %u: %llu of %llu frames, %llu drops\n", workers, theirs, (unsigned long long)got,
               (unsigned long long)sent, (unsigned long long)lost);
    }
    uint64_t frames = 0;
    for (uint32_t i = 0; i < workers; i++) {
        wh_counters c;
        CHECK(wh_switch_worker_counters(t.n1.sw, i, &c) == WH_OK);
        CHECK(c.rx_frames > 0);
        frames += c.rx_frames;
    }
    CHECK(frames == all_counters(t.n1.sw).rx_frames);
    wh_counters none;
    CHECK(wh_switch_worker_counters(t.n1.sw, workers, &none) == WH_E_NOTFOUND);
    scene_close(&t);
}

/* The same of one direction, where a flow's receiver is one guest: in order, and nothing twice. */
static void order(uint32_t workers, uint32_t theirs)
{
    struct scene t = {0};
    pthread_t changer;
    uint64_t random = 815;
    scene_open(&t, workers, theirs);
    CHECK(pthread_create(&changer, NULL, change, &t) == 0);
    for (uint32_t i = 0; i < FRAMES * FLOWS && await_room(&t); i++) {
        change_keys(&t);
        CHECK(guest_send(&t.c, &t.b, i % FLOWS, 60 + (uint32_t)(next_random(&random) % 1100)));
    }
    atomic_store(&t.quit, true);
    pthread_join(changer, NULL);
    for (unsigned ms = 0; ms < DEADLINE_MS && t.b.got + t.b.lost < sent_by(&t.c); ms++) {
        take_all(&t);
        poll(NULL, 0, 1);
    }
    CHECK(t.b.reordered == 0);
    CHECK(t.b.got == sent_by(&t.c) || t.b.lost <= drops(t.n1.sw) + drops(t.n2.sw));
    scene_close(&t);
}

static void lane_counters(const struct node *n, uint64_t out[WH_WORKERS_MAX])
{
    wh_switch_lock(n->sw);
    const struct wh_peer *p = wh_idmap_get(&n->sw->all->peers, 2);
    for (uint32_t i = 0; i < p->workers; i++)
        out[i] = p->part[i].tx.counter;
    wh_switch_unlock(n->sw);
}

/* A peer that knows no lanes is sent to in the first, by whichever worker, and takes it all. */
static void without_lanes(uint32_t workers)
{
    struct scene t = {0};
    scene_open(&t, workers, 1);
    CHECK(wh_switch_peer_takes(t.n1.sw, 2, 0) == WH_OK);
    uint64_t counters[WH_WORKERS_MAX];
    lane_counters(&t.n1, counters);
    for (uint32_t i = 0; i < 50; i++)
        for (unsigned flow = 0; flow < FLOWS; flow++)
            CHECK(guest_send(&t.a, &t.b, flow, 300));
    for (unsigned ms = 0; ms < DEADLINE_MS && t.b.got < 50 * FLOWS; ms++) {
        take_all(&t);
        poll(NULL, 0, 1);
    }
    CHECK(t.b.got == 50 * FLOWS && t.b.reordered == 0 && peer_counters(t.n2.sw, 1).drop_replay == 0);
    uint64_t now[WH_WORKERS_MAX];
    lane_counters(&t.n1, now);
    CHECK(now[0] > counters[0]);
    CHECK(memcmp(now + 1, counters + 1, (workers - 1) * sizeof(now[0])) == 0);
    scene_close(&t);
}

/* A datagram that was seen is refused, from wherever it comes again and to whichever socket. */
static void replayed(uint32_t workers)
{
    struct scene t = {0};
    scene_open(&t, workers, workers);
    uint8_t key[32], room[WH_FRAME_PREFIX + 64] = {0}, sealed[200], *frame = room + WH_FRAME_PREFIX;
    memcpy(frame, t.a.mac, 6), memcpy(frame + 6, t.b.mac, 6);
    wh_frame_prefix(frame, 64, VNI);
    direction_key(2, 1, 1, key);
    for (uint32_t lane = 0; lane < WH_LANES; lane++) {
        struct wh_header h = {.version = WH_TUNNEL_VERSION, .type = WH_TUNNEL_DIRECT, .hops = 1, .epoch = 1};
        uint8_t header[WH_TUNNEL_HEADER];
        size_t len = sizeof(sealed);
        h.sender = 2, h.dest = 1;
        h.counter = 1000000 | (uint64_t)lane << WH_LANE_SHIFT;
        wh_header_encode(&h, header);
        CHECK(wh_tunnel_seal(0, key, header, sizeof(header), room, sizeof(room), sealed, &len) == WH_OK);
        uint64_t before = peer_counters(t.n1.sw, 2).drop_replay;
        for (unsigned i = 0; i < 6; i++) {
            struct sockaddr_in from;
            int fd = udp_socket(&from);
            CHECK(sendto(fd, sealed, len, 0, (struct sockaddr *)&t.n1.addr, sizeof(t.n1.addr)) == (ssize_t)len);
            close(fd);
        }
        WAIT_FOR(peer_counters(t.n1.sw, 2).drop_replay >= before + 5); /* and probes of the lane that leapt */
        WAIT_FOR(peer_counters(t.n1.sw, 2).rx_frames == lane + 1);
    }
    scene_close(&t);
}

static void refused(void)
{
    wh_switch *sw;
    wh_error err;
    CHECK(wh_switch_new(&(wh_switch_config){.node_id = 1, .udp_fd = -1, .workers = WH_WORKERS_MAX + 1}, &sw, &err) ==
              WH_E_INVAL &&
          !strcmp(err.field, "workers"));
    CHECK(wh_switch_new(&(wh_switch_config){.node_id = 1, .udp_fd = -1, .workers = WH_WORKERS_MAX}, &sw, &err) ==
          WH_OK);
    struct nic n;
    CHECK(wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
    nic_open(&n, 1);
    CHECK(wh_switch_port_queue(sw, 1, n.file, n.to_switch, &err) == WH_E_NOTFOUND);
    CHECK(nic_plug(&n, sw, 1, n.mac, 1) == WH_OK);
    CHECK(wh_switch_port_queue(sw, 1, n.to_switch, n.to_switch, &err) == WH_E_FORMAT);
    for (unsigned i = 1; i < WH_PORT_PAIRS_MAX; i++)
        CHECK(wh_switch_port_queue(sw, 1, n.file, n.to_switch, &err) == WH_OK);
    CHECK(wh_switch_port_queue(sw, 1, n.file, n.to_switch, &err) == WH_E_FULL);
    wh_switch_free(sw);
    nic_close(&n);
}

int main(void)
{
    static const uint32_t numbers[] = {1, 2, 4};
    const char *only = getenv("WHERRY_SWITCH_WORKERS");
    refused();
    for (size_t i = 0; i < WH_ARRAY_LEN(numbers); i++) {
        uint32_t n = numbers[i];
        if (only && n != workers_wanted())
            continue;
        traffic_under_change(n, numbers[(i + 1) % WH_ARRAY_LEN(numbers)]);
        order(n, n);
        without_lanes(n);
        replayed(n);
    }
    return finish("switch_workers");
}
