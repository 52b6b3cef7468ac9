/* transport: what a virtio device type sees of virtio-mmio. A device type fills a wh_virtio_type, puts a wh_virtio
 * first in its own struct and calls wh_virtio_init; register access, negotiation, reset, interrupts and the state of
 * the queues are the transport's. Everything runs with the board lock held. */
#ifndef WH_VIRTIO_TRANSPORT_H
#define WH_VIRTIO_TRANSPORT_H

#include "virtio/queue.h"
#include "virtio/virtio.h"

#define WH_VIRTIO_MAX_QUEUES 17u /* a network device of 8 queue pairs and its control queue */
#define WH_VIRTIO_CONFIG_MAX 64u

/* Device-independent feature bits (virtio 1.2, section 6). */
#define WH_VIRTIO_F_INDIRECT  (1ull << 28)
#define WH_VIRTIO_F_EVENT_IDX (1ull << 29)
#define WH_VIRTIO_F_VERSION_1 (1ull << 32)
#define WH_VIRTIO_F_PACKED    (1ull << 34)

typedef struct wh_virtio wh_virtio;

typedef struct wh_virtio_type {
    const char *name;   /* key of the device's own part in a saved state */
    uint32_t device_id; /* virtio 1.2, section 5 */
    unsigned queues;    /* what wh_virtio_init sets; a device may have another number, at most WH_VIRTIO_MAX_QUEUES */
    uint16_t queue_max; /* a power of two, at most WH_VIRTQ_MAX */
    /* New buffers may be there, or DRIVER_OK was just set. Only called while the device is live. */
    void (*notify)(wh_virtio *v, unsigned queue);
    void (*driver_ok)(wh_virtio *v);          /* the driver is there, before the first notify; may be NULL */
    void (*reset)(wh_virtio *v);              /* the type's own state; may be NULL */
    void (*save)(wh_virtio *v, wh_writer *w); /* one msgpack value; may be NULL together with load */
    void (*load)(wh_virtio *v, wh_reader *r);
} wh_virtio_type;

struct wh_virtio {
    wh_device device; /* first: the board's handle */
    const wh_virtio_type *type;
    wh_ram *ram;
    wh_irq irq;
    uint64_t offered, accepted; /* features */
    uint32_t offered_sel, accepted_sel, queue_sel;
    uint32_t status, interrupt_status, config_generation;
    const char *broken; /* why DEVICE_NEEDS_RESET is set; NULL while it is not */
    uint8_t config[WH_VIRTIO_CONFIG_MAX];
    uint32_t config_len;
    unsigned queues;
    wh_virtq queue[WH_VIRTIO_MAX_QUEUES];
};

/* offered: the type's own features; the transport adds its own. */
void wh_virtio_init(wh_virtio *v, const wh_virtio_type *type, const wh_virtio_env *env, uint64_t offered);

/* Another number of queues than the type's. */
void wh_virtio_set_queues(wh_virtio *v, unsigned queues);

/* The register, reset, save and load ops that every type puts into its wh_device_ops. */
int wh_virtio_mmio_read(wh_device *d, uint64_t offset, unsigned size, uint64_t *value);
int wh_virtio_mmio_write(wh_device *d, uint64_t offset, unsigned size, uint64_t value);
void wh_virtio_reset(wh_device *d);
void wh_virtio_save(wh_device *d, wh_writer *w);
void wh_virtio_load(wh_device *d, wh_reader *r);

/* DRIVER_OK and not broken: only then are queues looked at (virtio 1.2, 3.1.1 and 2.1.2). */
bool wh_virtio_live(const wh_virtio *v);
bool wh_virtio_has(const wh_virtio *v, uint64_t feature);
/* The guest did what it must not: DEVICE_NEEDS_RESET. The first reason is kept. */
void wh_virtio_break(wh_virtio *v, const char *why);
/* Why a device waits for a reset, for logs; NULL when it does not. d is any virtio device. */
const char *wh_virtio_broken(const wh_device *d);

/* Pop, push and interrupt with the queue's number. Pop breaks the device on nonsense and returns false. */
bool wh_virtio_pop(wh_virtio *v, unsigned queue, wh_chain *chain);
void wh_virtio_push(wh_virtio *v, unsigned queue, const wh_chain *chain, uint32_t written);
/* Several chains that the driver sees at once. */
void wh_virtio_push_all(wh_virtio *v, unsigned queue, const wh_used *used, unsigned count);
void wh_virtio_signal(wh_virtio *v, unsigned queue);
/* The bytes of config changed. */
void wh_virtio_config_changed(wh_virtio *v);

/* The device's own eventfd: made at creation, rung to have poll called once more. */
int wh_virtio_kick_new(wh_virtio *v, wh_error *err);
void wh_virtio_kick(const wh_virtio *v);
/* Make an eventfd readable. It cannot fail in a way that matters: EAGAIN means that it is readable already. */
void wh_virtio_ring_event(int event_fd);

#endif
