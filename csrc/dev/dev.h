/* dev: what every device is, and the plain (not virtio) devices of the board.
 *
 * A device is a filled ops table in front of its own state. The board calls every op with the board lock held, from
 * hart threads (read, write) and from the I/O thread (poll), so that a device needs no lock of its own. save writes one
 * msgpack map, load reads it; neither touches RAM. */
#ifndef WH_DEV_H
#define WH_DEV_H

#include "base/base.h"
#include "memory/memory.h"
#include "state/state.h"

typedef struct wh_device wh_device;
typedef struct wh_device_ops {
    const char *name; /* key in the machine state document and in error texts */
    int (*read)(wh_device *d, uint64_t offset, unsigned size, uint64_t *value); /* non-zero: access fault */
    int (*write)(wh_device *d, uint64_t offset, unsigned size, uint64_t value);
    void (*poll)(wh_device *d); /* its poll_fd was readable (already drained if an eventfd); may be NULL */
    void (*reset)(wh_device *d);
    void (*save)(wh_device *d, wh_writer *w);
    void (*load)(wh_device *d, wh_reader *r);
    void (*destroy)(wh_device *d);
} wh_device_ops;
struct wh_device {
    const wh_device_ops *ops;
    int poll_fd; /* eventfd that the board's I/O thread watches, or -1 */
};

/* An interrupt output: level-triggered, as the PLIC's inputs are. */
typedef struct wh_irq {
    void (*set)(void *ctx, unsigned line, bool level);
    void *ctx;
    unsigned line;
} wh_irq;
static inline void wh_irq_set(const wh_irq *irq, bool level)
{
    irq->set(irq->ctx, irq->line, level);
}

/* A byte channel between a device and the outside. The board owns both rings (board/channel.c) and hands this to a
 * device. output: from the guest; returns the bytes taken. Fewer than len: the reader is behind; the device keeps the
 * rest and is polled when there is room (only the agent's channel ever refuses, others drop their oldest bytes). input:
 * to the guest; the board fills it and kicks the device's poll_fd or calls its poll. opened: the guest opened or closed
 * the port. */
typedef struct wh_channel_end {
    void *ctx;
    size_t (*output)(void *ctx, const uint8_t *data, size_t len);
    size_t (*input)(void *ctx, uint8_t *data, size_t cap); /* what the outside has written, up to cap */
    size_t (*input_ready)(void *ctx);
    void (*opened)(void *ctx, bool open);
} wh_channel_end;

#endif
