/* Pages that the target has already: asked for by name, named by their question, copied and checked there. Whatever
 * either end says, no page becomes memory that is not what the source had. Also for ThreadSanitizer (make test-tsan).
 */
#include "memory/index.h"
#include "memory/memory.h"
#include "memory/pagehash.h"
#include "switch_check.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 256u
#define BYTES (PAGES * WH_PAGE_SIZE)
#define CAP   (2u << 20)

static const uint8_t key[WH_PAGE_KEY] = "whats the Elvish word for friend";

struct side {
    wh_ram ram;
    wh_ramview *view;
};

static struct side make(void)
{
    struct side s;
    wh_error err;
    CHECK(!wh_ram_new(BYTES, 1, &s.ram, &err));
    atomic_store(&s.ram.share->hart[0].parked, 1); /* nobody runs: rounds need not wait */
    CHECK(!wh_ramview_open(s.ram.ram_fd, s.ram.share_fd, &s.view, &err));
    return s;
}

static void drop(struct side *s)
{
    wh_ramview_close(s->view);
    wh_ram_free(&s->ram);
}

static uint8_t *page(const struct side *s, unsigned pfn)
{
    return s->ram.host + (size_t)pfn * WH_PAGE_SIZE;
}

/* The content that number `what` stands for. */
static void fill(uint8_t *to, uint64_t what)
{
    uint64_t seed = what * 2 + 1;
    for (unsigned i = 0; i < WH_PAGE_SIZE; i += 8) {
        uint64_t word = next_random(&seed);
        memcpy(to + i, &word, sizeof word);
    }
}

static void put(struct side *s, unsigned pfn, uint64_t what)
{
    fill(page(s, pfn), what);
    wh_ram_mark_dirty(&s->ram, WH_RAM_BASE + (uint64_t)pfn * WH_PAGE_SIZE);
}

static bool same(const struct side *a, const struct side *b)
{
    return memcmp(a->ram.host, b->ram.host, BYTES) == 0;
}

/* A source with content 1..200 in pages 20..219, a donor that has the even ones of these elsewhere, and a target. */
struct trio {
    struct side from, donor, to;
    wh_index *index;
    uint8_t *batch;
};

static void setup(struct trio *t, unsigned remembered)
{
    uint64_t pages, dirty;
    t->from = make(), t->donor = make(), t->to = make();
    t->batch = malloc(CAP);
    for (unsigned i = 1; i <= 200; i++) {
        put(&t->from, 19 + i, i);
        if (i % 2 == 0)
            put(&t->donor, i / 2, i);
    }
    memset(page(&t->from, 250), 7, WH_PAGE_SIZE); /* a fill */
    memset(page(&t->donor, 250), 7, WH_PAGE_SIZE);
    CHECK(!wh_index_new(key, 1000, PAGES, &t->index) && !wh_index_add(t->index, t->donor.ram.ram_fd, &pages));
    CHECK(pages == 100 && wh_index_pages(t->index) == 100);
    CHECK(!wh_ramview_use_index(t->to.view, t->index));
    CHECK(!wh_ramview_track(t->from.view, 1) && !wh_ramview_remember(t->from.view, remembered));
    CHECK(!wh_ramview_fills(t->from.view, 1) && !wh_ramview_ask_begin(t->from.view, key));
    CHECK(!wh_ramview_round(t->from.view, 0, &dirty) && dirty == 201);
}

static void teardown(struct trio *t)
{
    drop(&t->from);
    drop(&t->donor);
    drop(&t->to);
    wh_index_free(t->index);
    free(t->batch);
}

/* All that the source asks for, answered: how many the target has. */
static uint64_t ask_all(struct trio *t, uint32_t step, uint64_t *asked)
{
    static uint8_t names[64 * WH_PAGE_NAME], numbers[64 * 4];
    uint64_t found = 0, have;
    uint32_t count;
    *asked = 0;
    while (!wh_ramview_ask(t->from.view, step, 64, names, numbers, &count) && count) {
        uint8_t bits[8];
        CHECK(!wh_index_ask(t->index, names, numbers, count, bits, &have));
        CHECK(!wh_ramview_answer(t->from.view, bits, (count + 7) / 8));
        found += have;
        *asked += count;
    }
    return found;
}

/* The round's batches, placed: their bytes. */
static size_t send(struct trio *t)
{
    wh_batch_info info = {.more = 1};
    wh_error err;
    size_t bytes = 0;
    while (info.more) {
        CHECK(!wh_ramview_pack(t->from.view, t->batch, CAP, &info));
        int more = info.more;
        bytes += info.bytes;
        CHECK(!wh_ramview_unpack(t->to.view, t->batch, info.bytes, &info, &err));
        info.more = more;
    }
    return bytes;
}

/* What the target has missed goes back to the source. */
static uint64_t miss(struct trio *t)
{
    static uint8_t pages[4 * PAGES];
    uint64_t count, missing = wh_ramview_missing(t->to.view);
    CHECK(!missing || wh_ramview_missed(t->to.view, pages, 4 * missing - 1, &count) == WH_E_INVAL);
    CHECK(!wh_ramview_missed(t->to.view, pages, sizeof pages, &count) && count == missing);
    CHECK(!wh_ramview_missing(t->to.view) && !wh_ramview_resend(t->from.view, pages, 4 * count));
    return count;
}

static uint64_t next_round(struct trio *t)
{
    uint64_t dirty = 0;
    CHECK(!wh_ramview_round(t->from.view, 0, &dirty));
    return dirty;
}

static void test_names(void)
{
    static const uint8_t want[WH_PAGE_NAME_MAX] = {0xbe, 0xfc, 0x66, 0x0a, 0xea, 0x2f, 0x17, 0x18, 0x88, 0x4c, 0xd8,
                                                   0xde, 0xb9, 0x90, 0x28, 0x11, 0xd3, 0x32, 0xf4, 0xfc, 0x4a, 0x38,
                                                   0xcf, 0x7c, 0x73, 0x00, 0xd5, 0x97, 0xa0, 0x81, 0xbf, 0xc0};
    static const uint8_t zeros_of[] = {0x68, 0x27, 0x7e, 0xfe, 0xb7, 0x54, 0x42, 0x48};
    uint8_t content[WH_PAGE_SIZE], name[WH_PAGE_NAME_MAX], bytes[WH_PAGE_KEY];
    wh_page_key k;
    for (unsigned i = 0; i < WH_PAGE_SIZE; i++) /* as the test vectors of BLAKE3 have it */
        content[i] = (uint8_t)(i % 251);
    wh_page_key_set(&k, key);
    wh_page_name(&k, content, name, sizeof name);
    CHECK(!memcmp(name, want, sizeof want));
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)i;
    memset(content, 0, sizeof content);
    wh_page_key_set(&k, bytes);
    wh_page_name(&k, content, name, sizeof zeros_of);
    CHECK(!memcmp(name, zeros_of, sizeof zeros_of));
}

static void test_named(void)
{
    struct trio t;
    uint64_t asked;
    setup(&t, PAGES);
    CHECK(ask_all(&t, 15, &asked) >= 5 && asked >= 13 && asked <= 15); /* a sample, then the rest */
    uint64_t rest;
    (void)ask_all(&t, 1, &rest);
    CHECK(asked + rest == 200); /* the fill costs less than a question */
    size_t bytes = send(&t);
    CHECK(bytes > 100 * WH_PAGE_SIZE && bytes < 100 * (WH_PAGE_SIZE + 40) && same(&t.from, &t.to) && !miss(&t));
    page(&t.from, 21)[8] ^= 1, put(&t.from, 22, 999); /* the first of them was named */
    wh_ram_mark_dirty(&t.from.ram, WH_RAM_BASE + 21u * WH_PAGE_SIZE);
    CHECK(next_round(&t) == 2 && send(&t) < WH_PAGE_SIZE + 90 && same(&t.from, &t.to));
    teardown(&t);
}

/* A page that is written after its question is what it was then; what was written comes with the next round. */
static void test_written_at_the_source(void)
{
    struct trio t;
    uint64_t asked;
    setup(&t, PAGES);
    (void)ask_all(&t, 1, &asked);
    for (unsigned i = 1; i <= 200; i += 3)
        put(&t.from, 19 + i, 5000 + i);
    (void)send(&t);
    CHECK(!miss(&t) && !same(&t.from, &t.to));
    CHECK(next_round(&t) == 67 && send(&t) && same(&t.from, &t.to));
    teardown(&t);
}

static void test_donor_changes(void)
{
    struct trio t;
    uint64_t asked;
    setup(&t, PAGES);
    CHECK(ask_all(&t, 1, &asked) == 100);
    for (unsigned i = 1; i <= 40; i++)
        put(&t.donor, i, 7000 + i);
    CHECK(!ftruncate(t.donor.ram.ram_fd, BYTES)); /* sealed against shrinking; the rest stays */
    page(&t.donor, 50)[WH_PAGE_SIZE - 1] ^= 0x80;
    (void)send(&t);
    CHECK(!same(&t.from, &t.to) && miss(&t) == 41);
    page(&t.from, 21)[0] ^= 1; /* missed, and written since: nothing there that a change could be made to */
    wh_ram_mark_dirty(&t.from.ram, WH_RAM_BASE + 21u * WH_PAGE_SIZE);
    CHECK(next_round(&t) == 41 && send(&t) > 41 * WH_PAGE_SIZE && same(&t.from, &t.to));
    teardown(&t);
}

/* The target says that it has what it has not. */
static void test_lying_index(void)
{
    struct trio t;
    static uint8_t names[WH_ASK_MOST * WH_PAGE_NAME], numbers[WH_ASK_MOST * 4];
    uint8_t bits[32];
    uint64_t found;
    uint32_t count;
    setup(&t, PAGES);
    CHECK(!wh_ramview_ask(t.from.view, 1, WH_ASK_MOST, names, numbers, &count) && count == 200);
    CHECK(wh_ramview_ask(t.from.view, 1, WH_ASK_MOST, names, numbers, &count) == WH_E_STATE); /* unanswered */
    CHECK(!wh_index_ask(t.index, names, numbers, 200, bits, &found) && found == 100);
    memset(bits, 0xff, sizeof bits);
    CHECK(wh_ramview_answer(t.from.view, bits, 24) == WH_E_FORMAT &&
          wh_ramview_answer(t.from.view, bits, 26) == WH_E_FORMAT);
    CHECK(!wh_ramview_answer(t.from.view, bits, 25));
    CHECK(send(&t) < 200 * 14 && miss(&t) == 100);
    CHECK(next_round(&t) == 100 && send(&t) > 100 * WH_PAGE_SIZE && same(&t.from, &t.to) && !miss(&t));
    const uint8_t outside[] = {PAGES & 255, PAGES >> 8, 0, 0};
    CHECK(wh_ramview_resend(t.from.view, outside, 4) == WH_E_FORMAT &&
          wh_ramview_resend(t.from.view, outside, 3) == WH_E_FORMAT);
    teardown(&t);
}

/* A round ends what was asked in the one before: its answers are about content that may be gone. */
static void test_old_answers(void)
{
    struct trio t;
    uint64_t asked;
    setup(&t, 0);
    CHECK(ask_all(&t, 1, &asked) == 100);
    for (unsigned i = 1; i <= 200; i++)
        put(&t.from, 19 + i, 9000 + i);
    CHECK(next_round(&t) == 201 && send(&t) > 200 * WH_PAGE_SIZE && same(&t.from, &t.to));
    teardown(&t);
}

static void test_hostile_batches(void)
{
    struct trio t;
    uint64_t asked;
    wh_batch_info info;
    wh_error err;
    setup(&t, 0);
    struct side other = make();
    uint8_t wrong[] = {0xdd, 0, 0, 0, 1, 0x93, 3, 1, 0x91, 0};
    CHECK(wh_ramview_unpack(t.to.view, wrong, sizeof wrong, &info, &err) == WH_E_FORMAT); /* nothing was asked */
    CHECK(ask_all(&t, 1, &asked) == 100);
    wrong[9] = 1; /* questions 1, 3 ... found something */
    CHECK(!wh_ramview_unpack(t.to.view, wrong, sizeof wrong, &info, &err) && info.data_pages == 1);
    CHECK(!memcmp(page(&t.to, 3), page(&t.from, 21), WH_PAGE_SIZE));
    CHECK(wh_ramview_unpack(other.view, wrong, sizeof wrong, &info, &err) == WH_E_FORMAT); /* has no index */
    wrong[7] = 2;                                                                          /* two pages */
    CHECK(wh_ramview_unpack(t.to.view, wrong, sizeof wrong, &info, &err) == WH_E_FORMAT);
    const uint8_t beyond[] = {0xdd, 0, 0, 0, 1, 0x93, 3, 1, 0x91, 0xcc, 200};
    CHECK(wh_ramview_unpack(t.to.view, beyond, sizeof beyond, &info, &err) == WH_E_FORMAT);
    const uint8_t huge[] = {0xdd, 0, 0, 0, 1, 0x93, 3, 1, 0x91, 0xcf, 255, 255, 255, 255, 255, 255, 255, 255};
    CHECK(wh_ramview_unpack(t.to.view, huge, sizeof huge, &info, &err) == WH_E_FORMAT);
    CHECK(!wh_ramview_pack(t.from.view, t.batch, CAP, &info));
    size_t len = info.bytes;
    for (size_t cut = 0; cut < len; cut += cut < 64 ? 1 : 997) {
        uint8_t *exact = malloc(cut + 1);
        memcpy(exact, t.batch, cut);
        CHECK(wh_ramview_unpack(t.to.view, exact, cut, &info, &err) == WH_E_FORMAT);
        free(exact);
    }
    CHECK(!wh_ramview_unpack(t.to.view, t.batch, len, &info, &err));
    drop(&other);
    teardown(&t);
}

/* What the guest had here itself is looked at where it was; what it has moved or written since is not found there. */
static void test_own(void)
{
    struct trio t;
    uint64_t asked;
    setup(&t, PAGES);
    wh_index_free(t.index);
    for (unsigned i = 1; i <= 200; i += 4)
        put(&t.donor, 19 + i, i);
    CHECK(!wh_ramview_use_index(t.to.view, NULL) && !wh_index_new(key, 1, PAGES, &t.index));
    CHECK(wh_index_own(t.index, -1) == WH_E_IO && !wh_index_own(t.index, t.donor.ram.ram_fd));
    CHECK(wh_index_own(t.index, t.donor.ram.ram_fd) == WH_E_STATE && !wh_ramview_use_index(t.to.view, t.index));
    CHECK(ask_all(&t, 1, &asked) == 50 && asked == 200);
    put(&t.donor, 19 + 5, 777);
    (void)send(&t);
    CHECK(miss(&t) == 1 && next_round(&t) == 1 && send(&t) > WH_PAGE_SIZE && same(&t.from, &t.to));
    const uint8_t name[WH_PAGE_NAME] = {0}, far[] = {255, 255, 255, 255};
    uint8_t bits[1];
    CHECK(!wh_index_ask(t.index, name, far, 1, bits, &asked) && !asked); /* behind the end of that memory */
    teardown(&t);
}

static void test_limits(void)
{
    wh_index *ix;
    uint8_t names[3 * WH_PAGE_NAME] = {0}, numbers[3 * 4] = {0}, bits[1];
    uint64_t n;
    CHECK(wh_index_new(key, 0, 1, &ix) == WH_E_INVAL && wh_index_new(key, WH_INDEX_MOST + 1ull, 1, &ix) == WH_E_INVAL);
    struct side s = make();
    for (unsigned i = 0; i < 20; i++)
        put(&s, i, i % 10);
    CHECK(!wh_index_new(key, 7, 2, &ix) && !wh_index_add(ix, s.ram.ram_fd, &n) && n == 7);
    CHECK(wh_index_add(ix, s.ram.ram_fd, &n) == WH_E_FULL);
    CHECK(wh_index_ask(ix, names, numbers, 3, bits, &n) == WH_E_INVAL && !wh_index_asked(ix));
    CHECK(!wh_index_ask(ix, names, numbers, 2, bits, &n) && !n && !bits[0] && wh_index_asked(ix) == 2);
    uint8_t into[WH_PAGE_SIZE];
    CHECK(wh_index_read(ix, 0, into) == WH_E_STATE && wh_index_read(ix, 2, into) == WH_E_STATE);
    wh_index_free(ix);
    CHECK(!wh_index_new(key, 100, 2, &ix) && wh_index_add(ix, -1, &n) == WH_E_IO);
    CHECK(!wh_index_add(ix, s.ram.ram_fd, &n) && n == 10); /* each content once */
    for (unsigned i = 1; i < WH_INDEX_FILES; i++)
        CHECK(!wh_index_add(ix, s.ram.ram_fd, &n) && n == 0);
    CHECK(wh_index_add(ix, s.ram.ram_fd, &n) == WH_E_FULL);
    wh_index_free(ix);
    wh_index_free(NULL);
    uint32_t count;
    CHECK(wh_ramview_ask(s.view, 1, 1, names, numbers, &count) == WH_E_STATE); /* no key */
    CHECK(wh_ramview_answer(s.view, bits, 1) == WH_E_FORMAT);
    drop(&s);
}

/* A source that asks while it sends: what it asks meanwhile must not disturb who places. */
static void *ask_on(void *arg)
{
    struct trio *t = arg;
    uint8_t names[WH_PAGE_NAME] = {1}, numbers[4] = {0}, bits[1];
    uint64_t n;
    while (!wh_index_ask(t->index, names, numbers, 1, bits, &n))
        ;
    return NULL;
}

static void *write_on(void *arg)
{
    struct trio *t = arg;
    for (unsigned i = 0; i < 400; i++)
        (void)!pwrite(t->donor.ram.ram_fd, &i, sizeof i, (off_t)(1 + i % 100) * WH_PAGE_SIZE + 64);
    return NULL;
}

static void test_threads(void)
{
    struct trio t;
    uint64_t asked;
    pthread_t threads[2];
    setup(&t, PAGES);
    CHECK(ask_all(&t, 1, &asked) == 100);
    CHECK(!pthread_create(&threads[0], NULL, ask_on, &t) && !pthread_create(&threads[1], NULL, write_on, &t));
    (void)send(&t);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    uint64_t missed = miss(&t);
    CHECK(next_round(&t) == missed && (missed == 0 || send(&t)) && same(&t.from, &t.to));
    teardown(&t);
}

int main(void)
{
    test_names();
    test_named();
    test_written_at_the_source();
    test_donor_changes();
    test_lying_index();
    test_old_answers();
    test_hostile_batches();
    test_own();
    test_limits();
    test_threads();
    return finish("index");
}
