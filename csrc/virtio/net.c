/* net: the virtio network device (virtio 1.2, section 5.1) between a guest and the switch's ring.
 *
 * Transmit is done in the notification itself: each frame goes into the guest-to-switch ring, and where the ring has no
 * room the frame is dropped and counted, as a wire would. Receive is done in poll: a frame stays in the switch-to-guest
 * ring until the driver has a buffer for it, so that pressure reaches the switch, which drops when the ring is full.
 * While the driver is not there, frames that arrive are dropped here, so that it does not start with stale ones.
 *
 * A gated device (wh_virtio_net_gate) reads a ring of its own, into which its owner lets frames at moments that it
 * chooses; what becomes of the frames that it sends leaves no trace in it.
 *
 * No offloads, one queue pair, no control queue. A ring that the switch side damaged takes the link down; the rest
 * works. */
#include "virtio/transport.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DEVICE_ID_NET 1u
#define F_MAC         (1ull << 5)
#define F_STATUS      (1ull << 16)
#define NET_RX        0u
#define NET_TX        1u
#define NET_BUDGET    64u /* frames of one call, so that the board lock is let go in between */
#define FRAME_MIN     14u /* an Ethernet header */

enum { CONFIG_MAC = 0, CONFIG_STATUS = 6, CONFIG_BYTES = 8 };
enum { LINK_UP = 1 };
enum { TO_SWITCH = 0, TO_GUEST = 1 };

struct net_hdr { /* 5.1.6, as it is with VERSION_1 */
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};
#define HDR_BYTES 12u
_Static_assert(sizeof(struct net_hdr) == HDR_BYTES, "wire format");

struct net {
    wh_virtio v;
    int ring_fd, to_switch; /* to_guest is device.poll_fd */
    wh_ring *tx, *rx;
    wh_ring *outside, *gate; /* gated: the switch's ring, and the way into rx; else NULL */
    bool damaged;
    wh_net_stats stats;
    wh_chain chain;
    uint8_t bounce[WH_RING_MAX_FRAME]; /* a frame that the guest scattered */
};

static struct net *net_of(wh_device *d)
{
    return (struct net *)d;
}

static void link_down(struct net *n)
{
    if (n->damaged)
        return;
    n->damaged = true;
    n->v.config[CONFIG_STATUS] = 0;
    wh_virtio_config_changed(&n->v);
}

/* The frame behind the header of an out chain: in place when one segment holds it. */
static const uint8_t *frame_of(struct net *n, uint32_t len)
{
    const wh_chain *c = &n->chain;
    const wh_segment *last = &c->seg[c->out_count - 1];
    if (last->len >= len)
        return last->host + (last->len - len);
    wh_chain_read(c, HDR_BYTES, n->bounce, len);
    return n->bounce;
}

static void transmit_one(struct net *n, bool *kick)
{
    struct net_hdr hdr;
    if (wh_chain_read(&n->chain, 0, &hdr, HDR_BYTES) != HDR_BYTES) {
        wh_virtio_break(&n->v, "transmit buffer shorter than its header");
        return;
    }
    uint32_t len = n->chain.out_bytes - HDR_BYTES;
    bool ring_it = false;
    int status = WH_E_INVAL;
    /* A header that asks for an offload which was not offered cannot be honoured. */
    if (!n->damaged && len >= FRAME_MIN && len <= WH_RING_MAX_FRAME && hdr.gso_type == 0 && !(hdr.flags & 1))
        status = wh_ring_put(n->tx, frame_of(n, len), len, &ring_it);
    if (n->gate != NULL && status != WH_E_INVAL)
        status = WH_OK;
    if (status == WH_E_FORMAT)
        link_down(n);
    if (status == WH_OK) {
        n->stats.tx_frames++;
        n->stats.tx_bytes += len;
        *kick |= ring_it;
    } else {
        n->stats.dropped++;
    }
    wh_virtio_push(&n->v, NET_TX, &n->chain, 0);
}

static void transmit(struct net *n)
{
    bool kick = false;
    unsigned budget = n->v.queue[NET_TX].num;
    while (budget-- > 0 && wh_virtio_pop(&n->v, NET_TX, &n->chain))
        transmit_one(n, &kick);
    wh_virtio_signal(&n->v, NET_TX);
    if (kick)
        wh_virtio_ring_event(n->to_switch);
    if (wh_virtio_live(&n->v) && !wh_virtq_idle(&n->v.queue[NET_TX], n->v.ram))
        wh_virtio_kick(&n->v);
}

/* Put the frame into the popped buffer. The switch can still change the frame; it is only ever copied. */
static void receive_one(struct net *n, const uint8_t *frame, uint32_t len)
{
    const struct net_hdr hdr = {.num_buffers = htole16(1)};
    if (n->chain.in_bytes < HDR_BYTES) {
        wh_virtio_break(&n->v, "receive buffer shorter than its header");
        n->stats.dropped++;
        return;
    }
    if (len > n->chain.in_bytes - HDR_BYTES) {
        /* The driver's buffers fit its own MTU; a longer frame is the network's fault. */
        wh_virtq_unpop(&n->v.queue[NET_RX]);
        n->stats.dropped++;
        return;
    }
    wh_chain_write(&n->chain, n->v.ram, 0, &hdr, HDR_BYTES);
    wh_chain_write(&n->chain, n->v.ram, HDR_BYTES, frame, len);
    wh_virtio_push(&n->v, NET_RX, &n->chain, HDR_BYTES + len);
    n->stats.rx_frames++;
    n->stats.rx_bytes += len;
}

/* The next frame of the ring, or false; then the switch knows that it must ring. */
static bool next_frame(struct net *n, const uint8_t **frame, uint32_t *len)
{
    if (n->damaged)
        return false;
    int status = wh_ring_peek(n->rx, frame, len);
    if (status == WH_E_AGAIN && !wh_ring_sleep(n->rx))
        status = wh_ring_peek(n->rx, frame, len);
    if (status == WH_E_FORMAT)
        link_down(n);
    return status == WH_OK;
}

static void receive(struct net *n)
{
    const uint8_t *frame;
    uint32_t len;
    unsigned budget = NET_BUDGET;
    while (budget > 0 && next_frame(n, &frame, &len)) {
        if (wh_virtio_pop(&n->v, NET_RX, &n->chain))
            receive_one(n, frame, len);
        else if (wh_virtio_live(&n->v))
            break; /* no buffer: the driver's notification goes on from here */
        else
            n->stats.dropped++;
        wh_ring_consume(n->rx);
        budget--;
    }
    if (wh_virtio_live(&n->v))
        wh_virtio_signal(&n->v, NET_RX);
    if (budget == 0)
        wh_virtio_kick(&n->v);
}

static void net_notify(wh_virtio *v, unsigned queue)
{
    if (queue == NET_TX)
        transmit((struct net *)v);
    else
        receive((struct net *)v);
}

static void net_poll(wh_device *d)
{
    struct net *n = net_of(d);
    receive(n);
    if (wh_virtio_live(&n->v) && !wh_virtq_idle(&n->v.queue[NET_TX], n->v.ram))
        transmit(n);
}

void wh_virtio_net_settle(wh_device *d)
{
    struct net *n = net_of(d);
    /* Bounded, for the switch could go on filling. */
    for (unsigned turn = 0; turn < WH_RING_CAPACITY / NET_BUDGET && wh_virtio_live(&n->v) && !n->damaged; turn++) {
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
    for (unsigned budget = NET_BUDGET; budget > 0; budget--) {
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
    wh_virtio_kick(v);
}

static void net_save(wh_virtio *v, wh_writer *w)
{
    const struct net *n = (const struct net *)v;
    wh_put_map(w, 6);
    wh_put_kuint(w, "link", v->config[CONFIG_STATUS]);
    wh_put_kuint(w, "tx_frames", n->stats.tx_frames);
    wh_put_kuint(w, "rx_frames", n->stats.rx_frames);
    wh_put_kuint(w, "tx_bytes", n->stats.tx_bytes);
    wh_put_kuint(w, "rx_bytes", n->stats.rx_bytes);
    wh_put_kuint(w, "dropped", n->stats.dropped);
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
    .queues = 2,
    .queue_max = 256,
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

int wh_virtio_net_new(const wh_virtio_env *env, const uint8_t mac[6], wh_device **out, wh_error *err)
{
    *out = NULL;
    struct net *n = calloc(1, sizeof *n);
    if (!n)
        return wh_fail(err, WH_E_NOMEM, "nic", "out of memory");
    n->v.device = (wh_device){&NET_OPS, -1};
    n->ring_fd = n->to_switch = -1;
    wh_virtio_init(&n->v, &NET_TYPE, env, F_MAC | F_STATUS);
    memcpy(n->v.config + CONFIG_MAC, mac, 6);
    n->v.config[CONFIG_STATUS] = LINK_UP;
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
