/* mmio: the virtio-mmio register file, version 2 (virtio 1.2, section 4.2), and what all device types share behind it.
 *
 * The register file promises: a driver that follows the specification sees a conforming device; one that does not sees
 * reads of zero, ignored writes or DEVICE_NEEDS_RESET, and can always come back by writing 0 to Status. Registers are
 * 32 bits wide and accessed whole; the configuration space takes any width. The interrupt line is high while
 * InterruptStatus is not 0. */
#include "virtio/transport.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum reg {
    REG_MAGIC = 0x000,
    REG_VERSION = 0x004,
    REG_DEVICE_ID = 0x008,
    REG_VENDOR_ID = 0x00c,
    REG_DEVICE_FEATURES = 0x010,
    REG_DEVICE_FEATURES_SEL = 0x014,
    REG_DRIVER_FEATURES = 0x020,
    REG_DRIVER_FEATURES_SEL = 0x024,
    REG_QUEUE_SEL = 0x030,
    REG_QUEUE_NUM_MAX = 0x034,
    REG_QUEUE_NUM = 0x038,
    REG_QUEUE_READY = 0x044,
    REG_QUEUE_NOTIFY = 0x050,
    REG_INTERRUPT_STATUS = 0x060,
    REG_INTERRUPT_ACK = 0x064,
    REG_STATUS = 0x070,
    REG_QUEUE_DESC = 0x080, /* low word, high word at +4; so the next two */
    REG_QUEUE_DRIVER = 0x090,
    REG_QUEUE_DEVICE = 0x0a0,
    REG_SHM_LEN = 0x0b0,
    REG_SHM_END = 0x0c0,
    REG_CONFIG_GENERATION = 0x0fc,
    REG_CONFIG = 0x100
};

enum {
    STATUS_ACKNOWLEDGE = 1,
    STATUS_DRIVER = 2,
    STATUS_DRIVER_OK = 4,
    STATUS_FEATURES_OK = 8,
    STATUS_NEEDS_RESET = 64,
    STATUS_FAILED = 128,
    STATUS_FROM_DRIVER = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FEATURES_OK | STATUS_FAILED
};
enum { INTERRUPT_USED = 1, INTERRUPT_CONFIG = 2 };

#define MAGIC     0x74726976u /* "virt" */
#define VENDOR_ID 0x59524857u /* "WHRY" */

static wh_virtio *of(wh_device *d)
{
    return (wh_virtio *)d;
}

static void raise_interrupt(wh_virtio *v, uint32_t bits)
{
    v->interrupt_status |= bits;
    wh_irq_set(&v->irq, v->interrupt_status != 0);
}

/* ---- what device types use ----------------------------------------------------------------------------------------
 */

void wh_virtio_init(wh_virtio *v, const wh_virtio_type *type, const wh_virtio_env *env, uint64_t offered)
{
    v->type = type;
    v->ram = env->ram;
    v->irq = env->irq;
    v->offered = offered | WH_VIRTIO_F_VERSION_1 | WH_VIRTIO_F_INDIRECT | WH_VIRTIO_F_EVENT_IDX | WH_VIRTIO_F_PACKED;
    wh_virtio_set_queues(v, type->queues);
}

void wh_virtio_set_queues(wh_virtio *v, unsigned queues)
{
    assert(queues <= WH_VIRTIO_MAX_QUEUES);
    v->queues = queues;
    for (unsigned i = 0; i < queues; i++)
        v->queue[i].max = v->type->queue_max;
}

bool wh_virtio_live(const wh_virtio *v)
{
    return (v->status & STATUS_DRIVER_OK) && !v->broken;
}

bool wh_virtio_has(const wh_virtio *v, uint64_t feature)
{
    return (v->accepted & feature) == feature;
}

void wh_virtio_break(wh_virtio *v, const char *why)
{
    if (v->broken)
        return;
    v->broken = why;
    v->status |= STATUS_NEEDS_RESET;
    if (v->status & STATUS_DRIVER_OK)
        raise_interrupt(v, INTERRUPT_CONFIG);
}

const char *wh_virtio_broken(const wh_device *d)
{
    return ((const wh_virtio *)d)->broken;
}

bool wh_virtio_pop(wh_virtio *v, unsigned queue, wh_chain *chain)
{
    if (!wh_virtio_live(v))
        return false;
    const char *why = NULL;
    int got = wh_virtq_pop(&v->queue[queue], v->ram, chain, &why);
    if (got < 0)
        wh_virtio_break(v, why);
    return got > 0;
}

void wh_virtio_push(wh_virtio *v, unsigned queue, const wh_chain *chain, uint32_t written)
{
    wh_virtio_push_all(v, queue, &(wh_used){chain->head, chain->descs, written}, 1);
}

void wh_virtio_push_all(wh_virtio *v, unsigned queue, const wh_used *used, unsigned count)
{
    wh_virtq_push(&v->queue[queue], v->ram, used, count);
}

void wh_virtio_signal(wh_virtio *v, unsigned queue)
{
    if (wh_virtq_signal(&v->queue[queue], v->ram))
        raise_interrupt(v, INTERRUPT_USED);
}

void wh_virtio_config_changed(wh_virtio *v)
{
    v->config_generation++;
    if (v->status & STATUS_DRIVER_OK)
        raise_interrupt(v, INTERRUPT_CONFIG);
}

int wh_virtio_kick_new(wh_virtio *v, wh_error *err)
{
    v->device.poll_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (v->device.poll_fd < 0)
        return wh_fail(err, WH_E_IO, v->type->name, "eventfd: %s", strerror(errno));
    return WH_OK;
}

void wh_virtio_ring_event(int event_fd)
{
    (void)!eventfd_write(event_fd, 1);
}

void wh_virtio_kick(const wh_virtio *v)
{
    wh_virtio_ring_event(v->device.poll_fd);
}

/* ---- registers ----------------------------------------------------------------------------------------------------
 */

static wh_virtq *selected(wh_virtio *v)
{
    return v->queue_sel < v->queues ? &v->queue[v->queue_sel] : NULL;
}

static uint32_t word(uint64_t value, uint32_t sel)
{
    return sel == 0 ? (uint32_t)value : sel == 1 ? (uint32_t)(value >> 32) : 0;
}

static void set_word(uint64_t *value, bool high, uint32_t v)
{
    *value = high ? (*value & 0xffffffffull) | (uint64_t)v << 32 : (*value & ~0xffffffffull) | v;
}

static uint32_t read_reg(wh_virtio *v, uint32_t reg)
{
    const wh_virtq *q = selected(v);
    switch (reg) {
    case REG_MAGIC:
        return MAGIC;
    case REG_VERSION:
        return 2;
    case REG_DEVICE_ID:
        return v->type->device_id;
    case REG_VENDOR_ID:
        return VENDOR_ID;
    case REG_DEVICE_FEATURES:
        return word(v->offered, v->offered_sel);
    case REG_QUEUE_NUM_MAX:
        return q ? q->max : 0;
    case REG_QUEUE_READY:
        return q ? q->ready : 0;
    case REG_INTERRUPT_STATUS:
        return v->interrupt_status;
    case REG_STATUS:
        return v->status;
    case REG_CONFIG_GENERATION:
        return v->config_generation;
    default:
        /* No shared memory regions: length and address read as all ones (4.2.2). */
        return reg >= REG_SHM_LEN && reg < REG_SHM_END ? UINT32_MAX : 0;
    }
}

int wh_virtio_mmio_read(wh_device *d, uint64_t offset, unsigned size, uint64_t *value)
{
    wh_virtio *v = of(d);
    *value = 0;
    if (offset < REG_CONFIG) {
        if (size == 4 && (offset & 3) == 0)
            *value = read_reg(v, (uint32_t)offset);
        return 0;
    }
    offset -= REG_CONFIG;
    for (unsigned i = 0; i < size && i < 8; i++)
        if (offset + i < v->config_len)
            *value |= (uint64_t)v->config[offset + i] << (8 * i);
    return 0;
}

/* The driver's features that concern the ring, told to every queue. */
static void tell_queues(wh_virtio *v)
{
    for (unsigned i = 0; i < v->queues; i++) {
        v->queue[i].event_idx = wh_virtio_has(v, WH_VIRTIO_F_EVENT_IDX);
        v->queue[i].indirect = wh_virtio_has(v, WH_VIRTIO_F_INDIRECT);
        v->queue[i].packed = wh_virtio_has(v, WH_VIRTIO_F_PACKED);
    }
}

static void notify(wh_virtio *v, uint32_t queue)
{
    if (queue < v->queues && v->queue[queue].ready && wh_virtio_live(v))
        v->type->notify(v, queue);
}

static void write_status(wh_virtio *v, uint32_t value)
{
    if (value == 0) {
        wh_virtio_reset(&v->device);
        return;
    }
    uint32_t set = value & STATUS_FROM_DRIVER & ~v->status; /* bits are only ever added (2.1.1) */
    if (set & STATUS_FEATURES_OK) {
        if (!(v->accepted & ~v->offered) && wh_virtio_has(v, WH_VIRTIO_F_VERSION_1))
            tell_queues(v);
        else
            set &= ~(uint32_t)STATUS_FEATURES_OK; /* the driver reads back and sees it refused (3.1.1) */
    }
    v->status |= set;
    if (!(set & STATUS_DRIVER_OK))
        return;
    if (!(v->status & STATUS_FEATURES_OK)) {
        wh_virtio_break(v, "DRIVER_OK without FEATURES_OK");
        return;
    }
    if (v->type->driver_ok)
        v->type->driver_ok(v);
    /* Buffers that were made available before DRIVER_OK had no notification that we could follow. */
    for (unsigned i = 0; i < v->queues; i++)
        notify(v, i);
}

static void write_ready(wh_virtio *v, wh_virtq *q, uint32_t value)
{
    if (value == 0) {
        wh_virtq_reset(q);
    } else if (!q->ready) {
        const char *why = wh_virtq_check(q, v->ram);
        if (why) {
            wh_virtio_break(v, why);
            return;
        }
        wh_virtq_begin(q);
        q->ready = true;
    }
    tell_queues(v);
}

/* The registers of the selected queue; all but QueueReady are frozen while it is ready. */
static void write_queue_reg(wh_virtio *v, uint32_t reg, uint32_t value)
{
    wh_virtq *q = selected(v);
    if (!q)
        return;
    if (reg == REG_QUEUE_READY) {
        write_ready(v, q, value);
        return;
    }
    if (q->ready)
        return;
    bool high = (reg & 4) != 0;
    switch (reg & ~4u) {
    case REG_QUEUE_NUM & ~4u:
        if (reg == REG_QUEUE_NUM) /* a value too large for the field is as wrong as 0 */
            q->num = value > UINT16_MAX ? 0 : (uint16_t)value;
        break;
    case REG_QUEUE_DESC:
        set_word(&q->desc, high, value);
        break;
    case REG_QUEUE_DRIVER:
        set_word(&q->avail, high, value);
        break;
    case REG_QUEUE_DEVICE:
        set_word(&q->used, high, value);
        break;
    default:
        break;
    }
}

static void write_reg(wh_virtio *v, uint32_t reg, uint32_t value)
{
    switch (reg) {
    case REG_DEVICE_FEATURES_SEL:
        v->offered_sel = value;
        break;
    case REG_DRIVER_FEATURES_SEL:
        v->accepted_sel = value;
        break;
    case REG_DRIVER_FEATURES:
        if (!(v->status & STATUS_FEATURES_OK) && v->accepted_sel <= 1)
            set_word(&v->accepted, v->accepted_sel == 1, value);
        break;
    case REG_QUEUE_SEL:
        v->queue_sel = value;
        break;
    case REG_QUEUE_NOTIFY:
        notify(v, value);
        break;
    case REG_INTERRUPT_ACK:
        v->interrupt_status &= ~value;
        wh_irq_set(&v->irq, v->interrupt_status != 0);
        break;
    case REG_STATUS:
        write_status(v, value);
        break;
    default:
        write_queue_reg(v, reg, value);
    }
}

int wh_virtio_mmio_write(wh_device *d, uint64_t offset, unsigned size, uint64_t value)
{
    /* No type that we have lets the driver write its configuration. */
    if (offset < REG_CONFIG && size == 4 && (offset & 3) == 0)
        write_reg(of(d), (uint32_t)offset, (uint32_t)value);
    return 0;
}

void wh_virtio_reset(wh_device *d)
{
    wh_virtio *v = of(d);
    v->accepted = 0;
    v->offered_sel = v->accepted_sel = v->queue_sel = 0;
    v->status = v->interrupt_status = 0;
    v->broken = NULL;
    for (unsigned i = 0; i < v->queues; i++)
        wh_virtq_reset(&v->queue[i]);
    wh_irq_set(&v->irq, false);
    if (v->type->reset)
        v->type->reset(v);
}

/* ---- state --------------------------------------------------------------------------------------------------------
 */

void wh_virtio_save(wh_device *d, wh_writer *w)
{
    wh_virtio *v = of(d);
    wh_put_map(w, v->type->save ? 9 : 8);
    wh_put_kuint(w, "features", v->accepted);
    wh_put_kuint(w, "features_sel", v->accepted_sel);
    wh_put_kuint(w, "offered_sel", v->offered_sel);
    wh_put_kuint(w, "queue_sel", v->queue_sel);
    wh_put_kuint(w, "status", v->status);
    wh_put_kuint(w, "interrupt_status", v->interrupt_status);
    wh_put_kuint(w, "config_generation", v->config_generation);
    wh_put_str(w, "queues");
    wh_put_array(w, v->queues);
    for (unsigned i = 0; i < v->queues; i++)
        wh_virtq_save(&v->queue[i], w);
    if (v->type->save) {
        wh_put_str(w, v->type->name);
        v->type->save(v, w);
    }
}

static uint32_t map_u32(const wh_reader *map, const char *key, wh_reader *fail)
{
    uint64_t v = wh_map_uint(map, key, fail);
    if (v > UINT32_MAX)
        wh_reader_refuse(fail, key);
    return (uint32_t)v;
}

static void pass_failure(wh_reader *to, const wh_reader *at, const char *key)
{
    if (at->status != WH_OK)
        wh_reader_refuse(to, at->field[0] ? at->field : key);
}

static void load_queues(wh_virtio *v, const wh_reader *map, wh_reader *r)
{
    wh_reader at = wh_map_find(map, "queues");
    uint32_t count = wh_get_array(&at);
    if (count == 0 || count > v->queues) /* fewer: it was saved by a device that had less to offer */
        wh_reader_refuse(&at, "queues");
    tell_queues(v);
    for (unsigned i = 0; i < count && at.status == WH_OK; i++)
        wh_virtq_load(&v->queue[i], v->ram, &at);
    pass_failure(r, &at, "queues");
}

static void load_type(wh_virtio *v, const wh_reader *map, wh_reader *r)
{
    if (!v->type->load)
        return;
    wh_reader at = wh_map_find(map, v->type->name);
    v->type->load(v, &at);
    pass_failure(r, &at, v->type->name);
}

void wh_virtio_load(wh_device *d, wh_reader *r)
{
    wh_virtio *v = of(d);
    const wh_reader map = *r;
    wh_virtio_reset(d);
    uint64_t accepted = wh_map_uint(&map, "features", r);
    uint32_t accepted_sel = map_u32(&map, "features_sel", r);
    uint32_t offered_sel = map_u32(&map, "offered_sel", r);
    uint32_t queue_sel = map_u32(&map, "queue_sel", r);
    uint32_t status = map_u32(&map, "status", r);
    uint32_t interrupt_status = map_u32(&map, "interrupt_status", r);
    uint32_t generation = map_u32(&map, "config_generation", r);
    if ((status & STATUS_FEATURES_OK) && ((accepted & ~v->offered) || !(accepted & WH_VIRTIO_F_VERSION_1)))
        wh_reader_refuse(r, "features"); /* saved by a device that could do more than this one */
    if (r->status != WH_OK)
        return;
    v->accepted = accepted;
    v->accepted_sel = accepted_sel;
    v->offered_sel = offered_sel;
    v->queue_sel = queue_sel;
    v->status = status & (STATUS_FROM_DRIVER | STATUS_NEEDS_RESET);
    v->interrupt_status = interrupt_status & (INTERRUPT_USED | INTERRUPT_CONFIG);
    v->config_generation = generation;
    v->broken = v->status & STATUS_NEEDS_RESET ? "broken when it was saved" : NULL;
    load_queues(v, &map, r);
    load_type(v, &map, r);
    if (r->status != WH_OK) {
        wh_virtio_reset(d);
        return;
    }
    wh_get_skip(r);
    wh_irq_set(&v->irq, v->interrupt_status != 0);
    /* What had been notified but not served yet is found by looking once. */
    if (v->device.poll_fd >= 0)
        wh_virtio_kick(v);
}

static void add_range(const wh_ram *ram, uint64_t pa, uint64_t len, uint64_t *bitmap)
{
    if (!wh_ram_has(ram, pa, len))
        return;
    for (uint64_t p = (pa - WH_RAM_BASE) >> WH_PAGE_SHIFT; p <= (pa + len - 1 - WH_RAM_BASE) >> WH_PAGE_SHIFT; p++)
        bitmap[p / 64] |= 1ull << p % 64;
}

void wh_virtio_queue_pages(const wh_device *d, uint64_t *bitmap)
{
    const wh_virtio *v = (const wh_virtio *)(const void *)d;
    for (unsigned i = 0; i < v->queues; i++) {
        const wh_virtq *q = &v->queue[i];
        if (!q->ready)
            continue;
        add_range(v->ram, q->desc, 16ull * q->num, bitmap);
        add_range(v->ram, q->avail, q->packed ? 4 : 6 + 2ull * q->num, bitmap);
        add_range(v->ram, q->used, q->packed ? 4 : 6 + 8ull * q->num, bitmap);
    }
}
