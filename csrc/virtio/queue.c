/* queue: the device side of a split virtqueue, and what it shares with the packed one (see queue.h).
 *
 * The driver runs on other host threads while we look, so each field of a ring is loaded once into a local and only the
 * local is checked and used. avail.idx is loaded with acquire before the entries behind it; used.idx is stored with
 * release after the entry. Suppression in both directions is Dekker's handshake, so that both sides put a full fence
 * between the store of their own index and the load of the other's wish. A hart's may be no fence for the host (plain
 * atomics, memory.h): where our load says that nobody needs to react, we settle and load again. */
#include "virtio/queue_area.h"

#include <assert.h>
#include <string.h>

enum { AVAIL_NO_INTERRUPT = 1 };

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};
_Static_assert(sizeof(struct desc) == 16, "wire format");

/* The three areas. They were checked when the queue became ready, and thereby brought in (memory.h): what is present
 * stays so, hence wh_ram_at can't fail for them below. */
static uint64_t desc_bytes(const wh_virtq *q)
{
    return 16ull * q->num;
}

static uint64_t avail_bytes(const wh_virtq *q)
{
    return 6 + 2ull * q->num;
}

static uint64_t used_bytes(const wh_virtq *q)
{
    return 6 + 8ull * q->num;
}

static uint8_t *avail_at(const wh_virtq *q, const wh_ram *ram, uint32_t offset)
{
    return wh_ram_at(ram, q->avail, avail_bytes(q)) + offset;
}

static uint8_t *used_at(const wh_virtq *q, const wh_ram *ram, uint32_t offset)
{
    return wh_ram_at(ram, q->used, used_bytes(q)) + offset;
}

void wh_virtq_reset(wh_virtq *q)
{
    uint16_t max = q->max;
    memset(q, 0, sizeof *q);
    q->max = max;
}

const char *wh_virtq_check(const wh_virtq *q, const wh_ram *ram)
{
    if (q->packed)
        return wh_packed_check(q, ram);
    if (q->num == 0 || q->num > q->max || (q->num & (q->num - 1)) != 0)
        return "queue size is not a power of two within the offered size";
    if ((q->desc & 15) != 0 || (q->avail & 1) != 0 || (q->used & 3) != 0)
        return "queue area is not aligned";
    if (!wh_ram_at(ram, q->desc, desc_bytes(q)) || !wh_ram_at(ram, q->avail, avail_bytes(q)) ||
        !wh_ram_at(ram, q->used, used_bytes(q)))
        return "queue area lies outside RAM";
    return NULL;
}

const char *wh_chain_add(wh_chain *c, const wh_ram *ram, uint64_t pa, uint32_t len, uint16_t flags)
{
    unsigned count = (unsigned)c->out_count + c->in_count;
    bool in = (flags & DESC_WRITE) != 0;
    assert(count < WH_VIRTQ_MAX); /* a walk takes one table, and no table is longer */
    if (!in && c->in_count != 0)
        return "readable descriptor after a writable one";
    if (len == 0)
        return "descriptor of length zero";
    uint8_t *host = wh_ram_at(ram, pa, len);
    if (!host)
        return "descriptor points outside RAM";
    uint32_t *total = in ? &c->in_bytes : &c->out_bytes;
    if (len > UINT32_MAX - *total)
        return "descriptor chain exceeds 4 GiB";
    *total += len;
    c->seg[count] = (wh_segment){host, pa, len};
    if (in)
        c->in_count++;
    else
        c->out_count++;
    return NULL;
}

const char *wh_indirect_check(const wh_virtq *q, uint32_t len, uint16_t flags)
{
    if (!q->indirect)
        return "indirect descriptor, but the feature was not negotiated";
    if (flags & DESC_NEXT)
        return "indirect descriptor with a next one";
    return len == 0 || len % 16 != 0 || len / 16 > WH_VIRTQ_MAX ? "indirect table has a bad length" : NULL;
}

/* Walk a table of n descriptors from index i. Each step uses up one of n, so that a loop ends as a chain too long. */
static const char *walk(wh_chain *c, const wh_ram *ram, const uint8_t *table, uint32_t n, uint16_t i)
{
    for (uint32_t steps = 0; steps < n; steps++) {
        struct desc d;
        memcpy(&d, table + 16ull * i, sizeof d);
        uint16_t flags = le16toh(d.flags);
        if (flags & DESC_INDIRECT)
            return "indirect descriptor inside a chain";
        const char *why = wh_chain_add(c, ram, le64toh(d.addr), le32toh(d.len), flags);
        if (why)
            return why;
        if (!(flags & DESC_NEXT))
            return NULL;
        i = le16toh(d.next);
        if (i >= n)
            return "next descriptor index out of range";
    }
    return "descriptor chain is longer than its table (a loop)";
}

static const char *walk_from(const wh_virtq *q, const wh_ram *ram, wh_chain *c)
{
    const uint8_t *table = wh_ram_at(ram, q->desc, desc_bytes(q));
    struct desc d;
    memcpy(&d, table + 16ull * c->head, sizeof d);
    uint16_t flags = le16toh(d.flags);
    if (!(flags & DESC_INDIRECT))
        return walk(c, ram, table, q->num, c->head);
    uint32_t len = le32toh(d.len);
    const char *why = wh_indirect_check(q, len, flags);
    if (why)
        return why;
    const uint8_t *indirect = wh_ram_at(ram, le64toh(d.addr), len);
    if (!indirect)
        return "indirect table lies outside RAM";
    return walk(c, ram, indirect, len / 16, 0);
}

static bool nothing_available(const wh_virtq *q, const wh_ram *ram)
{
    return load16(avail_at(q, ram, 2)) == q->next_avail;
}

/* Ask for a notification at the next available buffer. True: still none there, so the notification will come. */
static bool arm(wh_virtq *q, wh_ram *ram)
{
    if (!q->event_idx)
        return true; /* used.flags is 0 for ever: every buffer is notified */
    uint32_t event = 4 + 8u * q->num;
    uint8_t *at = used_at(q, ram, event);
    if (load16(at) != q->next_avail) { /* an idle queue leaves its page clean */
        store16(at, q->next_avail);
        wh_ram_mark_dirty_range(ram, q->used + event, 2);
    }
    atomic_thread_fence(memory_order_seq_cst);
    if (!nothing_available(q, ram))
        return false;
    wh_ram_settle(ram);
    return nothing_available(q, ram);
}

bool wh_virtq_idle(wh_virtq *q, wh_ram *ram)
{
    if (!q->ready)
        return true;
    return q->packed ? wh_packed_idle(q, ram) : nothing_available(q, ram) && arm(q, ram);
}

int wh_virtq_pop(wh_virtq *q, wh_ram *ram, wh_chain *chain, const char **why)
{
    if (wh_virtq_idle(q, ram))
        return 0;
    wh_chain_begin(chain);
    if (q->packed)
        return wh_packed_pop(q, ram, chain, why);
    uint16_t there = (uint16_t)(load16(avail_at(q, ram, 2)) - q->next_avail);
    if (there > q->num) {
        *why = "available index is more than a queue ahead";
        return -1;
    }
    uint16_t head = load16(avail_at(q, ram, 4 + 2u * (q->next_avail & (q->num - 1u))));
    if (head >= q->num) {
        *why = "available descriptor index out of range";
        return -1;
    }
    chain->head = head;
    *why = walk_from(q, ram, chain);
    if (*why)
        return -1;
    q->next_avail++;
    return 1;
}

void wh_virtq_unpop(wh_virtq *q, unsigned chains, unsigned descs)
{
    if (q->packed)
        wh_packed_unpop(q, descs);
    else
        q->next_avail = (uint16_t)(q->next_avail - chains);
}

void wh_virtq_push(wh_virtq *q, wh_ram *ram, const wh_used *used, unsigned count)
{
    if (q->packed) {
        wh_packed_push(q, ram, used, count);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        uint32_t offset = 4 + 8u * (q->next_used++ & (q->num - 1u));
        uint32_t entry[2] = {htole32(used[i].head), htole32(used[i].written)};
        memcpy(used_at(q, ram, offset), entry, sizeof entry);
        wh_ram_mark_dirty_range(ram, q->used + offset, sizeof entry);
    }
    store16(used_at(q, ram, 2), q->next_used);
    wh_ram_mark_dirty_range(ram, q->used + 2, 2);
}

/* The driver wants to hear of the used buffers from `before` to `now`. */
static bool interrupt_wanted(const wh_virtq *q, const wh_ram *ram, uint16_t before, uint16_t now)
{
    if (!q->event_idx)
        return (load16(avail_at(q, ram, 0)) & AVAIL_NO_INTERRUPT) == 0;
    uint16_t event = load16(avail_at(q, ram, 4 + 2u * q->num));
    return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

bool wh_virtq_signal(wh_virtq *q, const wh_ram *ram)
{
    if (q->packed)
        return q->ready && wh_packed_signal(q, ram);
    uint16_t before = q->signalled;
    uint16_t now = q->next_used;
    if (!q->ready || before == now)
        return false;
    q->signalled = now;
    atomic_thread_fence(memory_order_seq_cst);
    if (interrupt_wanted(q, ram, before, now))
        return true;
    wh_ram_settle(ram);
    return interrupt_wanted(q, ram, before, now);
}

uint32_t wh_chain_read(const wh_chain *c, uint32_t offset, void *to, uint32_t len)
{
    uint32_t done = 0;
    for (unsigned i = 0; i < c->out_count && done < len; i++) {
        const wh_segment *s = &c->seg[i];
        if (offset >= s->len) {
            offset -= s->len;
            continue;
        }
        uint32_t n = s->len - offset < len - done ? s->len - offset : len - done;
        memcpy((uint8_t *)to + done, s->host + offset, n);
        done += n;
        offset = 0;
    }
    return done;
}

uint32_t wh_chain_write(const wh_chain *c, wh_ram *ram, uint32_t offset, const void *from, uint32_t len)
{
    uint32_t done = 0;
    for (unsigned i = 0; i < c->in_count && done < len; i++) {
        const wh_segment *s = &c->seg[c->out_count + i];
        if (offset >= s->len) {
            offset -= s->len;
            continue;
        }
        uint32_t n = s->len - offset < len - done ? s->len - offset : len - done;
        memcpy(s->host + offset, (const uint8_t *)from + done, n);
        wh_ram_mark_dirty_range(ram, s->pa + offset, n);
        done += n;
        offset = 0;
    }
    return done;
}

void wh_virtq_begin(wh_virtq *q)
{
    q->next_avail = q->next_used = q->packed ? 0x8000 : 0;
    q->signalled = 0;
}

void wh_virtq_save(const wh_virtq *q, wh_writer *w)
{
    wh_put_map(w, 8);
    wh_put_kuint(w, "num", q->num);
    wh_put_kuint(w, "ready", q->ready);
    wh_put_kuint(w, "desc", q->desc);
    wh_put_kuint(w, "avail", q->avail);
    wh_put_kuint(w, "used", q->used);
    wh_put_kuint(w, "next_avail", q->next_avail);
    wh_put_kuint(w, "next_used", q->next_used);
    wh_put_kuint(w, "signalled", q->signalled);
}

static uint16_t map_u16(const wh_reader *map, const char *key, wh_reader *fail)
{
    uint64_t v = wh_map_uint(map, key, fail);
    if (v > UINT16_MAX)
        wh_reader_refuse(fail, key);
    return (uint16_t)v;
}

void wh_virtq_load(wh_virtq *q, const wh_ram *ram, wh_reader *r)
{
    const wh_reader map = *r;
    wh_virtq n = *q;
    n.num = map_u16(&map, "num", r);
    n.ready = wh_map_uint(&map, "ready", r) != 0;
    n.desc = wh_map_uint(&map, "desc", r);
    n.avail = wh_map_uint(&map, "avail", r);
    n.used = wh_map_uint(&map, "used", r);
    n.next_avail = map_u16(&map, "next_avail", r);
    n.next_used = map_u16(&map, "next_used", r);
    n.signalled = map_u16(&map, "signalled", r);
    if (n.num > n.max)
        wh_reader_refuse(r, "num");
    if (n.ready && wh_virtq_check(&n, ram))
        wh_reader_refuse(r, "ready");
    if (n.ready && n.packed && ((n.next_avail & 0x7fff) >= n.num || (n.next_used & 0x7fff) >= n.num))
        wh_reader_refuse(r, "next_avail");
    wh_get_skip(r);
    if (r->status == WH_OK)
        *q = n;
}
