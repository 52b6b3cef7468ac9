/* virtio_echo: the smallest device type: one queue, each chain's out part is copied to its in part. Lets tests look at
 * the transport and the queue alone. */
#ifndef WH_TEST_VIRTIO_ECHO_H
#define WH_TEST_VIRTIO_ECHO_H

#include "virtio_guest.h"

#include <unistd.h>

struct echo {
    wh_virtio v;
    unsigned served;
    wh_chain chain;
    uint8_t bytes[1 << 16];
};

static void echo_notify(wh_virtio *v, unsigned queue)
{
    struct echo *e = (struct echo *)v;
    unsigned budget = v->queue[queue].num;
    while (budget-- > 0 && wh_virtio_pop(v, queue, &e->chain)) {
        uint32_t n = wh_chain_read(&e->chain, 0, e->bytes, sizeof e->bytes);
        wh_virtio_push(v, queue, &e->chain, wh_chain_write(&e->chain, v->ram, 0, e->bytes, n));
        e->served++;
    }
    if (wh_virtio_live(v))
        wh_virtio_signal(v, queue);
}

static void echo_poll(wh_device *d)
{
    wh_virtio *v = (wh_virtio *)d;
    if (wh_virtio_live(v) && v->queue[0].ready)
        echo_notify(v, 0);
}

static void echo_destroy(wh_device *d)
{
    close(d->poll_fd);
    free(d);
}

static const wh_device_ops ECHO_OPS = {"echo",          wh_virtio_mmio_read, wh_virtio_mmio_write, echo_poll,
                                       wh_virtio_reset, wh_virtio_save,      wh_virtio_load,       echo_destroy};
static const wh_virtio_type ECHO_TYPE = {
    .name = "echo", .device_id = 63, .queues = 2, .queue_max = WH_VIRTQ_MAX, .notify = echo_notify};

static inline wh_device *make_echo(struct guest *g)
{
    wh_virtio_env env = guest_env(g);
    struct echo *e = calloc(1, sizeof *e);
    e->v.device = (wh_device){&ECHO_OPS, -1};
    wh_virtio_init(&e->v, &ECHO_TYPE, &env, 1ull << 3);
    e->v.config_len = 12;
    for (unsigned i = 0; i < 12; i++)
        e->v.config[i] = (uint8_t)(0xa0 + i);
    CHECK_EQ(wh_virtio_kick_new(&e->v, NULL), 0);
    return &e->v.device;
}

#endif
