/* net: the virtio network device (virtio 1.3, section 5.1) between a guest and the switch's ring.
 *
 * Transmit is done in the notification itself: each frame goes into the guest-to-switch ring. Where the ring has no
 * room frames stay in the driver's queue until the switch rings, so that a guest is slowed down to what the switch
 * takes; with no switch at the other end they are dropped and counted, as a wire would. Receive is done in poll: a
 * frame stays in the switch-to-guest ring until the driver has buffers for it, so that pressure reaches the switch,
 * which drops when the ring is full. While the driver is not there, frames that arrive are dropped here, so that it
 * does not start with stale ones.
 *
 * Checksums and segmentation are nobody's work here: what the driver left open goes to the switch as it is, and the
 * switch is told what the driver takes, so that the work is done where a frame leaves for somebody who needs it done.
 * All queue pairs share one ring each way: the switch is one thread, and the board lock lets one queue in at a time.
 *
 * A gated device (wh_virtio_net_gate) reads a ring of its own, into which its owner lets frames at moments that it
 * chooses; what becomes of the frames that it sends leaves no trace in it.
 *
 * A ring that the switch side damaged takes the link down; the rest works. */
#include "virtio/net_device.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DEVICE_ID_NET 1u
#define ADMIT_BUDGET  64u

enum { LINK_UP = 1 };
enum { TO_SWITCH = 0, TO_GUEST = 1 };

#define OFFERED                                                                                                        \
    (NET_F(NET_MAC) | NET_F(NET_STATUS) | NET_F(NET_CSUM) | NET_GUEST_OFFLOADS | NET_F(NET_HOST_TSO4) |                \
     NET_F(NET_HOST_TSO6) | NET_F(NET_HOST_ECN) | NET_F(NET_HOST_USO) | NET_F(NET_MRG_RXBUF) | NET_F(NET_CTRL_VQ) |    \
     NET_F(NET_CTRL_GUEST_OFFLOADS))

static struct net *net_of(wh_device *d)
{
    return (struct net *)d;
}

static void net_driver_ok(wh_virtio *v)
{
    struct net *n = (struct net *)v;
    n->guest_offloads = v->accepted & NET_GUEST_OFFLOADS;
    wh_net_tell_takes(n);
}

static void net_notify(wh_virtio *v, unsigned queue)
{
    struct net *n = (struct net *)v;
    if (wh_virtio_has(v, NET_F(NET_CTRL_VQ)) && queue == wh_net_control_queue(n))
        wh_net_control(n);
    else if (queue & 1)
        wh_net_transmit(n, queue);
    else
        wh_net_receive(n);
}

static void net_poll(wh_device *d)
{
    struct net *n = net_of(d);
    wh_net_receive(n);
    n->turn++; /* they begin in turns: the first one may take all the room that there is */
    for (unsigned i = 0; i < n->max_pairs; i++) {
        unsigned queue = wh_net_tx_queue((n->turn + i) % n->max_pairs);
        if (wh_virtio_live(&n->v) && !wh_virtq_idle(&n->v.queue[queue], n->v.ram))
            wh_net_transmit(n, queue);
    }
}

void wh_virtio_net_settle(wh_device *d)
{
    struct net *n = net_of(d);
    /* Bounded, for the switch could go on filling. */
    for (unsigned turn = 0; turn < WH_RING_CAPACITY / ADMIT_BUDGET && wh_virtio_live(&n->v) && !n->damaged; turn++) {
        uint64_t before = n->stats.rx_frames + n->stats.tx_frames + n->stats.dropped;
        net_poll(d);
        if (n->stats.rx_frames + n->stats.tx_frames + n->stats.dropped == before)
            break;
    }
}

int wh_virtio_net_gate(wh_device *d, wh_error *err)
{
    struct net *n = net_of(d);
    wh_ring *out = NULL;
    int fd = wh_ring_file_new(err);
    if (fd < 0)
        return fd;
    int status = wh_ring_map(fd, TO_GUEST, true, &n->gate, err);
    if (status == WH_OK)
        status = wh_ring_map(fd, TO_GUEST, false, &out, err);
    close(fd);
    if (status != WH_OK) {
        wh_ring_unmap(n->gate);
        n->gate = NULL;
        return status;
    }
    n->outside = n->rx;
    n->rx = out;
    return WH_OK;
}

bool wh_virtio_net_let_in(wh_device *d, const uint8_t *frame, uint32_t len)
{
    bool kick;
    return wh_ring_put(net_of(d)->gate, frame, len, &kick) == WH_OK;
}

bool wh_virtio_net_waits(wh_device *d)
{
    const uint8_t *frame;
    uint32_t len;
    return wh_ring_peek(net_of(d)->outside, &frame, &len) == WH_OK;
}

void wh_virtio_net_admit(wh_device *d, void (*note)(void *ctx, const uint8_t *frame, uint32_t len), void *ctx)
{
    struct net *n = net_of(d);
    const uint8_t *frame;
    uint32_t len;
    for (unsigned budget = ADMIT_BUDGET; budget > 0; budget--) {
        int status = wh_ring_peek(n->outside, &frame, &len);
        if (status == WH_E_AGAIN && !wh_ring_sleep(n->outside))
            status = wh_ring_peek(n->outside, &frame, &len);
        if (status != WH_OK || len > sizeof n->bounce)
            return;
        memcpy(n->bounce, frame, len); /* once: the switch could change it between our looks */
        if (!wh_virtio_net_let_in(d, n->bounce, len))
            return; /* no room: it waits, and the switch drops */
        note(ctx, n->bounce, len);
        wh_ring_consume(n->outside);
    }
    wh_virtio_kick(&n->v);
}

/* Have poll drop what the last driver left in the ring. */
static void net_reset(wh_virtio *v)
{
    struct net *n = (struct net *)v;
    n->pairs = 1;
    n->guest_offloads = 0;
    wh_net_tell_takes(n);
    wh_virtio_kick(v);
}

static void net_save(wh_virtio *v, wh_writer *w)
{
    const struct net *n = (const struct net *)v;
    wh_put_map(w, 8);
    wh_put_kuint(w, "link", v->config[CONFIG_STATUS]);
    wh_put_kuint(w, "tx_frames", n->stats.tx_frames);
    wh_put_kuint(w, "rx_frames", n->stats.rx_frames);
    wh_put_kuint(w, "tx_bytes", n->stats.tx_bytes);
    wh_put_kuint(w, "rx_bytes", n->stats.rx_bytes);
    wh_put_kuint(w, "dropped", n->stats.dropped);
    wh_put_kuint(w, "pairs", n->pairs);
    wh_put_kuint(w, "guest_offloads", n->guest_offloads);
}

/* Absent in states of before there was a control queue. */
static uint64_t uint_or(const wh_reader *map, const char *key, uint64_t otherwise, wh_reader *fail)
{
    wh_reader at = wh_map_find(map, key);
    return at.status == WH_OK ? wh_map_uint(map, key, fail) : otherwise;
}

static void load_control(struct net *n, const wh_reader *map, wh_reader *r)
{
    uint64_t pairs = uint_or(map, "pairs", 1, r), offloads = uint_or(map, "guest_offloads", 0, r);
    if (pairs < 1 || pairs > n->max_pairs || (pairs > 1 && !wh_virtio_has(&n->v, NET_F(NET_MQ))))
        wh_reader_refuse(r, "pairs");
    if (offloads & ~(n->v.accepted & NET_GUEST_OFFLOADS))
        wh_reader_refuse(r, "guest_offloads");
    if (r->status != WH_OK)
        return;
    n->pairs = (uint16_t)pairs;
    n->guest_offloads = offloads;
}

/* The MAC is configuration: the new machine was made with it. The rings are new and empty, the link is up. */
static void net_load(wh_virtio *v, wh_reader *r)
{
    struct net *n = (struct net *)v;
    const wh_reader map = *r;
    if (wh_map_uint(&map, "link", r) != v->config[CONFIG_STATUS])
        wh_virtio_config_changed(v);
    n->stats.tx_frames = wh_map_uint(&map, "tx_frames", r);
    n->stats.rx_frames = wh_map_uint(&map, "rx_frames", r);
    n->stats.tx_bytes = wh_map_uint(&map, "tx_bytes", r);
    n->stats.rx_bytes = wh_map_uint(&map, "rx_bytes", r);
    n->stats.dropped = wh_map_uint(&map, "dropped", r);
    load_control(n, &map, r);
    wh_net_tell_takes(n);
    wh_virtio_kick(&n->v); /* a turn that was due when the guest was saved comes after its restore */
    wh_get_skip(r);
}

static void net_destroy(wh_device *d)
{
    struct net *n = net_of(d);
    wh_ring_unmap(n->tx);
    wh_ring_unmap(n->rx);
    wh_ring_unmap(n->outside);
    wh_ring_unmap(n->gate);
    int fds[] = {n->ring_fd, n->to_switch, d->poll_fd};
    for (unsigned i = 0; i < WH_ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(n);
}

static const wh_device_ops NET_OPS = {
    .name = "virtio-net",
    .read = wh_virtio_mmio_read,
    .write = wh_virtio_mmio_write,
    .poll = net_poll,
    .reset = wh_virtio_reset,
    .save = wh_virtio_save,
    .load = wh_virtio_load,
    .destroy = net_destroy,
};

static const wh_virtio_type NET_TYPE = {
    .name = "net",
    .device_id = DEVICE_ID_NET,
    .queues = 3,
    .queue_max = 256,
    .driver_ok = net_driver_ok,
    .notify = net_notify,
    .reset = net_reset,
    .save = net_save,
    .load = net_load,
};

static int open_rings(struct net *n, wh_error *err)
{
    n->ring_fd = wh_ring_file_new(err);
    if (n->ring_fd < 0)
        return n->ring_fd;
    int status = wh_ring_map(n->ring_fd, TO_SWITCH, true, &n->tx, err);
    if (status == WH_OK)
        status = wh_ring_map(n->ring_fd, TO_GUEST, false, &n->rx, err);
    if (status != WH_OK)
        return status;
    n->to_switch = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (n->to_switch < 0)
        return wh_fail(err, WH_E_IO, "nic", "eventfd: %s", strerror(errno));
    status = wh_virtio_kick_new(&n->v, err);
    if (status == WH_OK && !wh_ring_sleep(n->rx)) /* the first frame rings */
        wh_virtio_kick(&n->v);
    return status;
}

static void put_config16(struct net *n, unsigned at, uint16_t value)
{
    value = htole16(value);
    memcpy(n->v.config + at, &value, sizeof value);
}

int wh_virtio_net_new(const wh_virtio_env *env, const wh_net_config *config, wh_device **out, wh_error *err)
{
    *out = NULL;
    unsigned pairs = config->pairs ? config->pairs : 1;
    struct net *n = calloc(1, sizeof *n);
    if (!n)
        return wh_fail(err, WH_E_NOMEM, "nic", "out of memory");
    n->v.device = (wh_device){&NET_OPS, -1};
    n->ring_fd = n->to_switch = -1;
    n->max_pairs = (uint16_t)(pairs < WH_NET_PAIRS_MAX ? pairs : WH_NET_PAIRS_MAX);
    n->pairs = 1;
    wh_virtio_init(&n->v, &NET_TYPE, env,
                   OFFERED | (n->max_pairs > 1 ? NET_F(NET_MQ) : 0) | (config->mtu ? NET_F(NET_MTU) : 0));
    wh_virtio_set_queues(&n->v, 2u * n->max_pairs + 1);
    memcpy(n->v.config + CONFIG_MAC, config->mac, 6);
    n->v.config[CONFIG_STATUS] = LINK_UP;
    put_config16(n, CONFIG_PAIRS, n->max_pairs);
    put_config16(n, CONFIG_MTU, config->mtu);
    n->v.config_len = CONFIG_BYTES;
    int status = open_rings(n, err);
    if (status != WH_OK) {
        net_destroy(&n->v.device);
        return status;
    }
    *out = &n->v.device;
    return WH_OK;
}

void wh_virtio_net_fds(wh_device *d, int *ring_fd, int *to_switch_event, int *to_guest_event)
{
    const struct net *n = net_of(d);
    *ring_fd = n->ring_fd;
    *to_switch_event = n->to_switch;
    *to_guest_event = d->poll_fd;
}

void wh_virtio_net_get_stats(wh_device *d, wh_net_stats *out)
{
    *out = net_of(d)->stats;
}
