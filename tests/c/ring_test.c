/* The frame ring: edges, two threads under load, a peer that lies, and files that are no rings. WHERRY_RING_FRAMES sets
 * how many frames the two-thread test moves. */
#include "base/ring_layout.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

static int failures;
#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, #cond);                         \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

struct pair {
    int fd;
    wh_ring *p, *c;
};

static struct pair pair_open(unsigned direction)
{
    struct pair r = {.fd = wh_ring_file_new(NULL)};
    CHECK(r.fd >= 0);
    CHECK(wh_ring_map(r.fd, direction, true, &r.p, NULL) == 0);
    CHECK(wh_ring_map(r.fd, direction, false, &r.c, NULL) == 0);
    return r;
}

static void pair_close(struct pair *r)
{
    wh_ring_unmap(r->p);
    wh_ring_unmap(r->c);
    close(r->fd);
}

/* Frame n: its length and each byte follow from n. */
static uint32_t make(uint64_t n, uint8_t *frame)
{
    uint64_t mixed = n * 0x9e3779b97f4a7c15ull;
    uint32_t len = 1 + (uint32_t)(mixed >> 40) % (mixed >> 63 ? 2000 : 64);
    if (n % 997 == 0)
        len = WH_RING_MAX_FRAME - (uint32_t)(n % 8);
    memset(frame, (int)(uint8_t)mixed, len);
    memcpy(frame, &n, len < sizeof n ? len : sizeof n);
    return len;
}

static bool same(uint64_t n, const uint8_t *frame, uint32_t len)
{
    static _Thread_local uint8_t want[WH_RING_MAX_FRAME];
    return make(n, want) == len && memcmp(want, frame, len) == 0;
}

static void edges(void)
{
    static uint8_t frame[WH_RING_MAX_FRAME + 1], big[WH_RING_MAX_FRAME];
    struct pair r = pair_open(0);
    const uint8_t *got;
    uint32_t len;
    bool kick;
    CHECK(wh_ring_peek(r.c, &got, &len) == WH_E_AGAIN);
    CHECK(wh_ring_put(r.p, frame, 0, &kick) == WH_E_INVAL);
    CHECK(wh_ring_put(r.p, frame, WH_RING_MAX_FRAME + 1, &kick) == WH_E_INVAL);
    CHECK(wh_ring_peek(r.c, &got, &len) == WH_E_AGAIN);
    /* Every phase against the end of the data, in steps of one record word, with frames that fit and that skip. */
    for (unsigned i = 0; i < 3 * WH_RING_CAPACITY / 8; i++) {
        uint32_t n = i % 4096 == 77 ? WH_RING_MAX_FRAME : 1 + i % 5;
        memset(big, (int)i, n);
        CHECK(wh_ring_put(r.p, big, n, &kick) == WH_OK);
        CHECK(wh_ring_peek(r.c, &got, &len) == WH_OK);
        CHECK(wh_ring_peek(r.c, &got, &len) == WH_OK); /* peek alone takes nothing */
        CHECK(len == n && memcmp(got, big, n) == 0);
        wh_ring_consume(r.c);
        wh_ring_consume(r.c); /* without a peek: nothing more */
        CHECK(wh_ring_peek(r.c, &got, &len) == WH_E_AGAIN);
        if (failures)
            break;
    }
    pair_close(&r);
}

static void fills_and_drains(void)
{
    static uint8_t frame[WH_RING_MAX_FRAME];
    struct pair r = pair_open(1);
    const uint8_t *got;
    uint32_t len;
    bool kick;
    uint64_t put = 0, taken = 0;
    for (unsigned round = 0; round < 50; round++) {
        int status;
        while ((status = wh_ring_put(r.p, frame, make(put, frame), &kick)) == WH_OK)
            put++;
        CHECK(status == WH_E_FULL);
        for (unsigned i = 0; i < 1 + round * 7 || round == 49; i++) {
            if (wh_ring_peek(r.c, &got, &len) != WH_OK)
                break;
            CHECK(same(taken, got, len));
            wh_ring_consume(r.c);
            taken++;
        }
    }
    CHECK(put == taken && put > 1000);
    pair_close(&r);
}

/* The two directions of one file do not meet, and a second process of either side goes on where the first was. */
static void directions_and_remap(void)
{
    struct pair a = pair_open(0), b = {a.fd, NULL, NULL};
    const uint8_t *got;
    uint32_t len;
    bool kick;
    CHECK(wh_ring_map(a.fd, 1, true, &b.p, NULL) == 0 && wh_ring_map(a.fd, 1, false, &b.c, NULL) == 0);
    CHECK(wh_ring_put(a.p, "to switch", 9, &kick) == 0);
    CHECK(wh_ring_peek(b.c, &got, &len) == WH_E_AGAIN);
    CHECK(wh_ring_put(b.p, "to guest", 8, &kick) == 0);
    CHECK(wh_ring_put(a.p, "again", 5, &kick) == 0);
    CHECK(wh_ring_peek(a.c, &got, &len) == 0 && len == 9);
    wh_ring_consume(a.c);
    wh_ring_unmap(a.c);
    wh_ring_unmap(a.p);
    CHECK(wh_ring_map(a.fd, 0, false, &a.c, NULL) == 0 && wh_ring_map(a.fd, 0, true, &a.p, NULL) == 0);
    CHECK(wh_ring_put(a.p, "third", 5, &kick) == 0);
    CHECK(wh_ring_peek(a.c, &got, &len) == 0 && len == 5 && memcmp(got, "again", 5) == 0);
    wh_ring_consume(a.c);
    CHECK(wh_ring_peek(a.c, &got, &len) == 0 && memcmp(got, "third", 5) == 0);
    CHECK(wh_ring_peek(b.c, &got, &len) == 0 && len == 8);
    wh_ring_unmap(b.p);
    wh_ring_unmap(b.c);
    pair_close(&a);
}

static void kicks(void)
{
    struct pair r = pair_open(0);
    const uint8_t *got;
    uint32_t len;
    bool kick;
    CHECK(wh_ring_put(r.p, "a", 1, &kick) == 0 && !kick); /* nobody sleeps */
    CHECK(!wh_ring_sleep(r.c));                           /* there is a frame */
    CHECK(wh_ring_put(r.p, "b", 1, &kick) == 0 && !kick);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(wh_ring_peek(r.c, &got, &len) == 0);
        wh_ring_consume(r.c);
    }
    CHECK(wh_ring_sleep(r.c));
    CHECK(wh_ring_put(r.p, "c", 1, &kick) == 0 && kick);
    CHECK(wh_ring_put(r.p, "d", 1, &kick) == 0 && !kick); /* once */
    for (unsigned i = 0; i < 2; i++) {
        CHECK(wh_ring_peek(r.c, &got, &len) == 0);
        wh_ring_consume(r.c);
    }
    CHECK(wh_ring_sleep(r.c));
    wh_ring_wake(r.c);
    CHECK(wh_ring_put(r.p, "e", 1, &kick) == 0 && !kick);
    pair_close(&r);
}

/* A producer waits for room where somebody reads, and is rung once half of the ring is free. */
static void room(void)
{
    struct pair r = pair_open(0);
    static uint8_t frame[WH_RING_MAX_FRAME];
    const uint8_t *got;
    uint32_t len, count = 0;
    bool kick;
    while (wh_ring_put(r.p, frame, 1000, &kick) == WH_OK)
        count++;
    CHECK(!wh_ring_await_room(r.p, 1000)); /* nobody reads: give it up */
    wh_ring_attend(r.c, true);
    CHECK(wh_ring_await_room(r.p, 1000));
    uint32_t read = 0;
    for (; !wh_ring_owes_room(r.c); read++) {
        CHECK(wh_ring_peek(r.c, &got, &len) == WH_OK);
        wh_ring_consume(r.c);
    }
    CHECK(read >= count / 2 && read < count / 2 + 3 && !wh_ring_owes_room(r.c)); /* said once */
    CHECK(!wh_ring_await_room(r.p, 1000));                                       /* there is room by now */
    CHECK(!wh_ring_owes_room(r.c));
    while (wh_ring_put(r.p, frame, 1000, &kick) == WH_OK)
        ;
    CHECK(wh_ring_await_room(r.p, 1000));
    while (wh_ring_peek(r.c, &got, &len) == WH_OK)
        wh_ring_consume(r.c);
    r.p->shared->head = 12345; /* indexes that lie do not silence the bell of who waits */
    CHECK(wh_ring_owes_room(r.c));
    wh_ring_attend(r.c, false);
    CHECK(!wh_ring_await_room(r.p, 1000));
    pair_close(&r);
}

/* ---- two threads ---------------------------------------------------------------------------------------------------
 */

struct run {
    wh_ring *p;
    int bell, room_bell;
    uint64_t frames;
    uint64_t waits;
};

static bool rung(int bell)
{
    struct pollfd pfd = {bell, POLLIN, 0};
    eventfd_t count;
    return poll(&pfd, 1, 20000) == 1 && eventfd_read(bell, &count) == 0;
}

static void *produce(void *arg)
{
    struct run *r = arg;
    static uint8_t frame[WH_RING_MAX_FRAME];
    for (uint64_t n = 0; n < r->frames;) {
        bool kick;
        int status = wh_ring_put(r->p, frame, make(n, frame), &kick);
        if (status == WH_OK)
            n++;
        else if (status != WH_E_FULL)
            return (void *)1;
        else if (wh_ring_await_room(r->p, make(n, frame)) && !rung(r->room_bell))
            return (void *)1;
        else
            r->waits++;
        if (kick && eventfd_write(r->bell, 1) != 0)
            return (void *)1;
    }
    return NULL;
}

/* The consumer sleeps on its bell whenever the ring is empty, the producer whenever it is full: a lost wake-up hangs,
 * and the poll's limit tells. */
static void two_threads(void)
{
    const char *env = getenv("WHERRY_RING_FRAMES");
    struct pair r = pair_open(0);
#ifdef __SANITIZE_THREAD__
    r.c->shared = r.p->shared; /* one address for the checker; both mappings leak */
    r.c->data = r.p->data;
#endif
    struct run run = {.p = r.p,
                      .bell = eventfd(0, EFD_NONBLOCK),
                      .room_bell = eventfd(0, EFD_NONBLOCK),
                      .frames = env ? strtoull(env, NULL, 10) : 300000};
    wh_ring_attend(r.c, true);
    pthread_t t;
    void *result;
    CHECK(pthread_create(&t, NULL, produce, &run) == 0);
    uint64_t sleeps = 0;
    for (uint64_t n = 0; n < run.frames && !failures;) {
        const uint8_t *got;
        uint32_t len;
        int status = wh_ring_peek(r.c, &got, &len);
        if (status == WH_OK) {
            CHECK(same(n, got, len));
            wh_ring_consume(r.c);
            n++;
        }
        if ((status != WH_OK || n % 64 == 0) && wh_ring_owes_room(r.c))
            CHECK(eventfd_write(run.room_bell, 1) == 0);
        if (status != WH_OK) {
            CHECK(status == WH_E_AGAIN);
            if (wh_ring_sleep(r.c)) {
                CHECK(rung(run.bell));
                sleeps++;
            }
        }
    }
    CHECK(pthread_join(t, &result) == 0 && result == NULL);
    CHECK(sleeps + run.waits > 0);
    close(run.bell);
    close(run.room_bell);
#ifdef __SANITIZE_THREAD__
    wh_ring_unmap(r.p);
    free(r.c);
    close(r.fd);
#else
    pair_close(&r);
#endif
}

/* ---- a lying peer --------------------------------------------------------------------------------------------------
 */

static void consumer_sees(uint64_t head, uint32_t first_length, int want)
{
    struct pair r = pair_open(0);
    const uint8_t *got;
    uint32_t len;
    bool kick;
    CHECK(wh_ring_put(r.p, "frame", 5, &kick) == 0);
    memcpy(r.c->data, &first_length, 4);
    atomic_store(&r.c->shared->head, head);
    CHECK(wh_ring_peek(r.c, &got, &len) == want);
    if (want == WH_E_FORMAT) {
        atomic_store(&r.c->shared->head, 0); /* damage stays damage */
        CHECK(wh_ring_peek(r.c, &got, &len) == WH_E_FORMAT);
    }
    pair_close(&r);
}

static void lying_producer(void)
{
    consumer_sees(24, 5, WH_OK);
    consumer_sees(25, 5, WH_E_FORMAT);
    consumer_sees(16, 5, WH_E_FORMAT); /* the record is longer than what was published */
    consumer_sees(WH_RING_CAPACITY + 8, 5, WH_E_FORMAT);
    consumer_sees(UINT64_MAX & ~7ull, 5, WH_E_FORMAT); /* behind the consumer */
    consumer_sees(24, 0, WH_E_FORMAT);
    consumer_sees(24, 9, WH_E_FORMAT);
    consumer_sees(24, WH_RING_MAX_FRAME + 1, WH_E_FORMAT);
    consumer_sees(WH_RING_CAPACITY, WH_RING_MAX_FRAME + 1, WH_E_FORMAT);
    consumer_sees(24, 0xfffffffe, WH_E_FORMAT);
    consumer_sees(24, WH_RING_SKIP, WH_E_FORMAT);
    consumer_sees(WH_RING_CAPACITY, WH_RING_SKIP, WH_E_FORMAT); /* skip at the start, all round to itself */
}

/* Near the end of the data, at `room` bytes before it: `length` stands there, `next` at the start. */
static void end_sees(uint32_t room, uint32_t length, uint32_t next, uint64_t ahead, int want)
{
    struct pair r = pair_open(0);
    const uint8_t *got;
    uint32_t len;
    r.c->own = 5 * (uint64_t)WH_RING_CAPACITY - room;
    memcpy(r.c->data + WH_RING_CAPACITY - room, &length, 4);
    memcpy(r.c->data, &next, 4);
    atomic_store(&r.c->shared->head, r.c->own + ahead);
    int status = wh_ring_peek(r.c, &got, &len);
    CHECK(status == want);
    if (status == WH_OK)
        CHECK(got == r.c->data + WH_RING_RECORD && len == next);
    pair_close(&r);
}

static void lying_at_the_end(void)
{
    end_sees(16, WH_RING_SKIP, 100, 16 + 120, WH_OK);
    end_sees(8, WH_RING_SKIP, 100, 8 + 120, WH_OK);
    end_sees(16, WH_RING_SKIP, 100, 16, WH_E_FORMAT); /* a skip to nothing */
    end_sees(16, WH_RING_SKIP, 100, 8, WH_E_FORMAT);  /* a skip over more than was published */
    end_sees(16, WH_RING_SKIP, 100, 16 + 112, WH_E_FORMAT);
    end_sees(16, WH_RING_SKIP, WH_RING_SKIP, 4096, WH_E_FORMAT); /* a skip where a skip leads */
    end_sees(16, 1, 0, 4096, WH_E_FORMAT);                       /* a record over the end */
    end_sees(16, WH_RING_MAX_FRAME, 0, 1 << 17, WH_E_FORMAT);
}

static void lying_consumer(void)
{
    const uint64_t tails[] = {8, 4, WH_RING_CAPACITY, UINT64_MAX & ~7ull, 1ull << 63};
    for (unsigned i = 0; i < WH_ARRAY_LEN(tails); i++) {
        struct pair r = pair_open(0);
        bool kick;
        atomic_store(&r.p->shared->tail, tails[i]); /* nothing was produced yet */
        CHECK(wh_ring_put(r.p, "frame", 5, &kick) == WH_E_FORMAT || tails[i] == (UINT64_MAX & ~7ull));
        pair_close(&r);
    }
    /* It may write our own index: we never read it back. */
    struct pair r = pair_open(0);
    const uint8_t *got;
    uint32_t len;
    bool kick;
    CHECK(wh_ring_put(r.p, "one", 3, &kick) == 0);
    atomic_store(&r.p->shared->head, 1ull << 40);
    CHECK(wh_ring_put(r.p, "two", 3, &kick) == 0);
    CHECK(wh_ring_peek(r.c, &got, &len) == 0 && memcmp(got, "one", 3) == 0);
    pair_close(&r);
}

/* Random bytes over the whole shared memory, with both ends at work: the sanitizer and the bounds of peek tell. */
static void random_damage(void)
{
    static uint8_t frame[WH_RING_MAX_FRAME];
    unsigned seed = 1, damaged = 0;
    for (unsigned round = 0; round < 400; round++) {
        struct pair r = pair_open(0);
        for (unsigned step = 0; step < 300; step++) {
            const uint8_t *got;
            uint32_t len;
            bool kick;
            wh_ring_put(r.p, frame, 1 + (unsigned)rand_r(&seed) % 3000, &kick);
            if (step > 20 && rand_r(&seed) % 8 == 0) {
                uint32_t where = rand_r(&seed) % 3 ? (uint32_t)(r.c->own & (WH_RING_CAPACITY - 1)) + WH_PAGE_SIZE
                                                   : (uint32_t)rand_r(&seed) % 256;
                ((uint8_t *)r.p->shared)[where] ^= (uint8_t)rand_r(&seed);
            }
            int status = wh_ring_peek(r.c, &got, &len);
            if (status == WH_OK) {
                CHECK(len > 0 && len <= WH_RING_MAX_FRAME && got >= r.c->data &&
                      got + len <= r.c->data + WH_RING_CAPACITY);
                wh_ring_consume(r.c);
            }
            damaged += status == WH_E_FORMAT;
        }
        pair_close(&r);
    }
    CHECK(damaged > 0);
}

static void other_files(void)
{
    wh_ring *r = (wh_ring *)1;
    wh_error err;
    int plain = memfd_create("plain", MFD_ALLOW_SEALING);
    CHECK(ftruncate(plain, WH_RING_FILE_BYTES) == 0);
    CHECK(wh_ring_map(plain, 0, true, &r, &err) == WH_E_FORMAT && r == NULL); /* could shrink later */
    CHECK(ftruncate(plain, WH_RING_FILE_BYTES - 1) == 0);
    CHECK(fcntl(plain, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    CHECK(wh_ring_map(plain, 0, true, &r, &err) == WH_E_FORMAT);
    CHECK(wh_ring_map(9999, 0, true, &r, &err) == WH_E_IO);
    close(plain);
    int fd = wh_ring_file_new(&err);
    CHECK(wh_ring_map(fd, 2, true, &r, &err) == WH_E_INVAL);
    CHECK(ftruncate(fd, 0) != 0 && ftruncate(fd, 1 << 24) != 0);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) != 0);
    struct wh_ring_shared *s = mmap(NULL, WH_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    atomic_store(&s->head, WH_RING_CAPACITY + 8);
    CHECK(wh_ring_map(fd, 0, true, &r, &err) == WH_E_FORMAT && r == NULL);
    CHECK(wh_ring_map(fd, 0, false, &r, &err) == WH_E_FORMAT && r == NULL);
    munmap(s, WH_PAGE_SIZE);
    wh_ring_unmap(NULL);
    close(fd);
}

int main(void)
{
    edges();
    fills_and_drains();
    directions_and_remap();
    kicks();
    room();
    lying_producer();
    lying_at_the_end();
    lying_consumer();
    random_damage();
    other_files();
    two_threads();
    if (failures)
        fprintf(stderr, "ring: %d failures\n", failures);
    return failures != 0;
}
