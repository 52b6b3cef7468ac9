/* FQ-CoDel in virtual time: a link of a fixed rate, flows that send into it. */
#include "switch/codel.h"
#include "switch/fq.h"
#include "switch_check.h"

#include <stdlib.h>

#define MS 1000000ull

struct packet {
    struct wh_fq_item item;
    unsigned flow;
    uint32_t seq;
};

struct tally {
    uint64_t put, out, lost, marked, bytes, longest_ns;
    uint32_t last_seq;
};

static struct tally tally[64];

static void count_lost(struct wh_fq_item *list)
{
    while (list) {
        struct packet *p = (struct packet *)list;
        list = list->next;
        tally[p->flow].lost++;
        free(p);
    }
}

static void put(struct wh_fq *q, unsigned flow, uint32_t bytes, bool takes_mark, uint64_t now)
{
    struct packet *p = calloc(1, sizeof(*p));
    p->item.bytes = bytes;
    p->item.takes_mark = takes_mark;
    p->flow = flow;
    p->seq = (uint32_t)++tally[flow].put;
    count_lost(wh_fq_put(q, &p->item, flow * 77, now));
}

static uint32_t take(struct wh_fq *q, uint64_t now)
{
    struct wh_fq_item *lost;
    bool mark;
    struct packet *p = (struct packet *)wh_fq_take(q, now, &mark, &lost);
    count_lost(lost);
    if (!p)
        return 0;
    struct tally *t = &tally[p->flow];
    uint32_t bytes = p->item.bytes;
    CHECK(p->seq > t->last_seq); /* a flow keeps its order */
    CHECK(!mark || p->item.takes_mark);
    t->last_seq = p->seq;
    t->out++;
    t->marked += mark;
    t->bytes += bytes;
    uint64_t waited = now - p->item.since_ns;
    t->longest_ns = waited > t->longest_ns ? waited : t->longest_ns;
    free(p);
    return bytes;
}

static struct wh_fq *begin(size_t max)
{
    struct wh_fq *q;
    memset(tally, 0, sizeof(tally));
    CHECK(wh_fq_new(max, &q) == WH_OK);
    return q;
}

static void end(struct wh_fq *q)
{
    count_lost(wh_fq_clear(q));
    CHECK(wh_fq_bytes(q) == 0 && take(q, 0) == 0);
    for (unsigned i = 0; i < 64; i++)
        CHECK(tally[i].put == tally[i].out + tally[i].lost);
    wh_fq_free(q);
}

/* Two senders of one link, of different sizes of packet and one twice as fast: half of the bytes each. */
static void fairness(void)
{
    struct wh_fq *q = begin(4 << 20);
    for (uint64_t now = 0; now < 2000 * MS; now += MS / 10) { /* 1500 bytes each 100 us: 120 Mbit/s */
        put(q, 1, 1500, false, now), put(q, 1, 1500, false, now);
        put(q, 2, 500, false, now), put(q, 2, 500, false, now);
        for (uint32_t room = 0, got; room < 1500 && (got = take(q, now)); room += got)
            ;
    }
    double ratio = (double)tally[1].bytes / (double)tally[2].bytes;
    CHECK(ratio > 1.0 && ratio < 2.1); /* the second one offers no more than two thirds of the link */
    end(q);
    q = begin(4 << 20);
    for (uint64_t now = 0; now < 2000 * MS; now += MS / 10) {
        for (unsigned i = 0; i < 4; i++)
            put(q, 1, 1500, false, now);
        for (unsigned i = 0; i < 6; i++)
            put(q, 2, 300, false, now);
        for (uint32_t room = 0, got; room < 1500 && (got = take(q, now)); room += got)
            ;
    }
    ratio = (double)tally[1].bytes / (double)tally[2].bytes;
    CHECK(ratio > 0.9 && ratio < 1.1);
    end(q);
}

/* A flow that asks now and then stands behind nobody. */
static void sparse(void)
{
    struct wh_fq *q = begin(4 << 20);
    for (uint64_t tick = 0; tick < 20000; tick++) {
        uint64_t now = tick * MS / 10;
        put(q, 1, 1500, false, now), put(q, 1, 1500, false, now);
        if (tick % 200 == 0)
            put(q, 2, 100, false, now);
        take(q, now);
    }
    CHECK(tally[2].lost == 0 && tally[2].put - tally[2].out <= 1);
    CHECK(tally[2].longest_ns <= MS && tally[1].longest_ns > 5 * MS);
    end(q);
}

/* A sender that slows down when it is hit, as TCP does: the time in the queue comes down to the target. */
static void target(bool ecn)
{
    struct wh_fq *q = begin(4 << 20);
    double window = 200, debt = 0; /* packets a tick of 100 us, in thousandths */
    uint64_t late = 0, hits = 0, outs = 0;
    for (uint64_t tick = 0; tick < 200000; tick++) {
        uint64_t now = (1 + tick) * MS / 10, before = tally[1].lost + tally[1].marked;
        for (debt += window / 1000; debt >= 1; debt -= 1)
            put(q, 1, 1500, ecn, now);
        tally[1].longest_ns = 0;
        if (tick % 2 == 0 && take(q, now) && tick > 100000) {
            outs++;
            late += tally[1].longest_ns > 4 * WH_CODEL_TARGET_NS;
        }
        uint64_t hit = tally[1].lost + tally[1].marked - before;
        hits += hit;
        window = hit ? window * 0.7 : window + 0.02;
    }
    CHECK(hits > 10 && outs > 30000 && late < outs / 5);
    CHECK(ecn ? tally[1].lost == 0 && tally[1].marked == hits : tally[1].marked == 0);
    end(q);
}

/* A burst that is gone within an interval is nobody's fault. */
static void burst(void)
{
    struct wh_fq *q = begin(4 << 20);
    for (unsigned round = 0; round < 20; round++) {
        uint64_t from = round * 1000 * MS;
        for (unsigned i = 0; i < 500; i++)
            put(q, 3, 1500, false, from);
        for (unsigned i = 0; i < 600; i++)
            take(q, from + i * MS / 6);
    }
    CHECK(tally[3].lost == 0 && tally[3].out == 10000);
    end(q);
}

/* The bound holds, and the flow that fills the queue is the one that pays. */
static void bound(void)
{
    struct wh_fq *q = begin(100000);
    for (unsigned i = 0; i < 20; i++)
        put(q, 5, 200, true, 0);
    for (unsigned i = 0; i < 5000; i++) {
        put(q, 4, 1500, true, i);
        CHECK(wh_fq_bytes(q) <= 100000);
    }
    CHECK(tally[5].lost == 0 && tally[4].lost > 4900);
    put(q, 6, 200000, true, 5000); /* more than there is room for at all */
    CHECK(wh_fq_bytes(q) <= 100000 && tally[6].lost == 1);
    while (take(q, 6000))
        ;
    CHECK(tally[5].out == 20 && tally[4].out > 20);
    end(q);
}

static void random_walk(uint64_t seed)
{
    struct wh_fq *q = begin(300000);
    uint64_t state = seed, now = 0;
    for (unsigned i = 0; i < 200000; i++) {
        uint64_t r = next_random(&state);
        now += r % 64 ? r % 300000 : r % (200 * MS);
        if (r >> 32 & 1)
            put(q, (unsigned)(r >> 40) % 64, (uint32_t)(r >> 48) % 9000, r >> 33 & 1, now);
        else
            take(q, now);
        CHECK(wh_fq_bytes(q) <= 300000);
        if (i % 50000 == 49999) {
            count_lost(wh_fq_clear(q));
            CHECK(wh_fq_bytes(q) == 0);
        }
    }
    end(q);
}

/* The gaps of the control law: interval / sqrt(n). */
static void law(void)
{
    struct wh_codel c = {0};
    uint64_t at[10], now = 1;
    unsigned hits = 0;
    for (; hits < 10; now += 10000)
        if (wh_codel_hit(&c, 50 * MS, 100000, now))
            at[hits++] = now;
    CHECK(at[0] >= 100 * MS && at[0] < 101 * MS);
    CHECK(at[1] - at[0] > 99 * MS && at[1] - at[0] < 101 * MS);
    CHECK(at[4] - at[3] > 49 * MS && at[4] - at[3] < 51 * MS);   /* 100 ms / sqrt(4) */
    CHECK(at[9] - at[8] > 32 * MS && at[9] - at[8] < 35 * MS);   /* 100 ms / sqrt(9) */
    CHECK(!wh_codel_hit(&c, 4 * MS, 100000, now) && !c.hitting); /* below the target: over */
    CHECK(!wh_codel_hit(&c, 50 * MS, 100, now + 200 * MS));      /* a single packet is no queue */
}

int main(void)
{
    law();
    fairness();
    sparse();
    target(false);
    target(true);
    burst();
    bound();
    random_walk(0x5eed);
    return finish("fq");
}
