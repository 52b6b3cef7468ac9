/* packed: the device side of a packed virtqueue (virtio 1.2, section 2.8; see queue.h).
 *
 * One ring of descriptors serves both directions: the driver makes a descriptor available by its flags, the device
 * writes a used descriptor over the first ones that it has taken. Flags are loaded with acquire before the rest of a
 * descriptor and stored with release after it. A wrap counter on each side, which changes with every round, tells this
 * round's flags from the last one's. As in queue.c each field is loaded once, and suppression is Dekker's handshake. */
#include "virtio/queue_area.h"

#include <string.h>

enum { DESC_AVAIL = 0x80, DESC_USED = 0x8000 };
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 };
#define WRAP 0x8000u

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t id, flags;
};
_Static_assert(sizeof(struct desc) == 16, "wire format");
enum { AT_FLAGS = 14, EVENT_FLAGS = 2, EVENT_BYTES = 4 };

static uint8_t *desc_at(const wh_virtq *q, const wh_ram *ram, uint16_t position)
{
    return wh_ram_at(ram, q->desc, 16ull * q->num) + 16u * (position & ~WRAP);
}

static uint16_t forward(const wh_virtq *q, uint16_t position, unsigned by)
{
    unsigned index = (position & ~WRAP) + by, wrap = position & WRAP;
    return (uint16_t)(index >= q->num ? (index - q->num) | (wrap ^ WRAP) : index | wrap);
}

const char *wh_packed_check(const wh_virtq *q, const wh_ram *ram)
{
    if (q->num == 0 || q->num > q->max)
        return "queue size is not within the offered size";
    if ((q->desc & 15) != 0 || (q->avail & 3) != 0 || (q->used & 3) != 0)
        return "queue area is not aligned";
    if (!wh_ram_at(ram, q->desc, 16ull * q->num) || !wh_ram_at(ram, q->avail, EVENT_BYTES) ||
        !wh_ram_at(ram, q->used, EVENT_BYTES))
        return "queue area lies outside RAM";
    return NULL;
}

static bool available(const wh_virtq *q, const wh_ram *ram)
{
    uint16_t flags = load16(desc_at(q, ram, q->next_avail) + AT_FLAGS);
    bool wrap = (q->next_avail & WRAP) != 0;
    return ((flags & DESC_AVAIL) != 0) == wrap && ((flags & DESC_USED) != 0) != wrap;
}

bool wh_packed_idle(wh_virtq *q, wh_ram *ram)
{
    if (available(q, ram))
        return false;
    if (!q->event_idx)
        return true; /* the flags say "always" for ever */
    uint8_t *at = wh_ram_at(ram, q->used, EVENT_BYTES);
    if (load16(at) != q->next_avail || load16(at + EVENT_FLAGS) != EVENT_DESC) {
        store16(at, q->next_avail);
        store16(at + EVENT_FLAGS, EVENT_DESC);
        wh_ram_mark_dirty_range(ram, q->used, EVENT_BYTES);
    }
    atomic_thread_fence(memory_order_seq_cst);
    if (available(q, ram))
        return false;
    wh_ram_settle(ram);
    return !available(q, ram);
}

static struct desc load_desc(const uint8_t *at)
{
    struct desc d;
    memcpy(&d, at, sizeof d);
    return (struct desc){le64toh(d.addr), le32toh(d.len), le16toh(d.id), le16toh(d.flags)};
}

/* A table of its own: each entry follows the one before, whatever its flags say of a next one. */
static const char *walk_indirect(const wh_virtq *q, const wh_ram *ram, wh_chain *c, const struct desc *d)
{
    const char *why = wh_indirect_check(q, d->len, d->flags);
    const uint8_t *table = why ? NULL : wh_ram_at(ram, d->addr, d->len);
    if (!why && !table)
        why = "indirect table lies outside RAM";
    for (uint32_t i = 0; !why && i < d->len / 16; i++) {
        struct desc e = load_desc(table + 16ull * i);
        why = e.flags & DESC_INDIRECT ? "indirect descriptor inside a chain"
                                      : wh_chain_add(c, ram, e.addr, e.len, e.flags);
    }
    return why;
}

static const char *walk(const wh_virtq *q, const wh_ram *ram, wh_chain *c)
{
    struct desc d = load_desc(desc_at(q, ram, q->next_avail));
    c->descs = 1;
    c->head = d.id;
    if (d.flags & DESC_INDIRECT)
        return walk_indirect(q, ram, c, &d);
    for (;;) {
        const char *why = wh_chain_add(c, ram, d.addr, d.len, d.flags);
        if (why || !(d.flags & DESC_NEXT))
            return why;
        if (c->descs == q->num)
            return "descriptor chain is longer than its ring";
        d = load_desc(desc_at(q, ram, forward(q, q->next_avail, c->descs)));
        if (d.flags & DESC_INDIRECT)
            return "indirect descriptor inside a chain";
        c->descs++;
        c->head = d.id; /* the last one has it */
    }
}

int wh_packed_pop(wh_virtq *q, wh_ram *ram, wh_chain *chain, const char **why)
{
    *why = walk(q, ram, chain);
    if (*why)
        return -1;
    q->next_avail = forward(q, q->next_avail, chain->descs);
    return 1;
}

void wh_packed_unpop(wh_virtq *q, unsigned descs)
{
    q->next_avail = forward(q, q->next_avail, q->num - descs);
    q->next_avail ^= WRAP; /* a whole round forward but for them */
}

void wh_packed_push(wh_virtq *q, wh_ram *ram, const wh_used *used, unsigned count)
{
    const uint16_t first = q->next_used;
    uint16_t first_flags = 0;
    for (unsigned i = 0; i < count; i++) {
        uint8_t *at = desc_at(q, ram, q->next_used);
        uint16_t flags = q->next_used & WRAP ? DESC_AVAIL | DESC_USED : 0;
        flags |= used[i].written ? DESC_WRITE : 0;
        const uint32_t len = htole32(used[i].written);
        const uint16_t id = htole16(used[i].head);
        memcpy(at + 8, &len, sizeof len);
        memcpy(at + 12, &id, sizeof id);
        if (i == 0)
            first_flags = flags; /* the driver looks at this one first: it opens the way to all of them */
        else
            store16(at + AT_FLAGS, flags);
        wh_ram_mark_dirty_range(ram, q->desc + 16ull * (q->next_used & ~WRAP), 16);
        q->next_used = forward(q, q->next_used, used[i].descs);
        q->signalled = (uint16_t)(q->signalled + used[i].descs);
    }
    store16(desc_at(q, ram, first) + AT_FLAGS, first_flags);
}

static bool interrupt_wanted(const wh_virtq *q, const wh_ram *ram, uint16_t since)
{
    const uint8_t *at = wh_ram_at(ram, q->avail, EVENT_BYTES);
    uint16_t flags = load16(at + EVENT_FLAGS) & 3u;
    if (flags != EVENT_DESC || !q->event_idx)
        return flags != EVENT_DISABLE;
    uint16_t event = load16(at), now = q->next_used & (uint16_t)~WRAP;
    uint16_t index = event & (uint16_t)~WRAP;
    if ((event & WRAP) != (q->next_used & WRAP))
        index = (uint16_t)(index - q->num); /* in the round before */
    return (uint16_t)(now - index - 1) < since;
}

bool wh_packed_signal(wh_virtq *q, const wh_ram *ram)
{
    uint16_t since = q->signalled;
    if (since == 0)
        return false;
    q->signalled = 0;
    atomic_thread_fence(memory_order_seq_cst);
    if (interrupt_wanted(q, ram, since))
        return true;
    wh_ram_settle(ram);
    return interrupt_wanted(q, ram, since);
}
