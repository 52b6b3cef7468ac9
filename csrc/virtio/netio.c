/* netio: frames between the driver's queues and the rings of the switch (see net.c). */
#include "virtio/net_device.h"

#include <endian.h>
#include <string.h>

#define BUDGET    64u /* frames of one call, so that the board lock is let go in between */
#define FRAME_MIN 14u /* an Ethernet header */

void wh_net_link_down(struct net *n)
{
    if (n->damaged)
        return;
    n->damaged = true;
    n->v.config[CONFIG_STATUS] = 0;
    wh_virtio_config_changed(&n->v);
}

void wh_net_tell_takes(struct net *n)
{
    static const struct {
        uint64_t features;
        uint32_t takes;
    } table[] = {{NET_F(NET_GUEST_CSUM), WH_TAKES_CSUM},
                 {NET_F(NET_GUEST_CSUM) | NET_F(NET_GUEST_TSO4), WH_TAKES_TSO4},
                 {NET_F(NET_GUEST_CSUM) | NET_F(NET_GUEST_TSO6), WH_TAKES_TSO6},
                 {NET_F(NET_GUEST_CSUM) | NET_F(NET_GUEST_ECN), WH_TAKES_ECN},
                 {NET_F(NET_GUEST_CSUM) | NET_F(NET_GUEST_USO4) | NET_F(NET_GUEST_USO6), WH_TAKES_USO}};
    n->takes = 0;
    /* What a gated device is let in is recorded as plain frames. */
    for (unsigned i = 0; wh_virtio_live(&n->v) && !n->gate && i < WH_ARRAY_LEN(table); i++)
        if ((n->guest_offloads & table[i].features) == table[i].features)
            n->takes |= table[i].takes;
    wh_ring_set_takes(n->rx, n->takes);
}

/* ---- out ---- */

/* A header may ask for what was negotiated. The switch, which has the frame's bytes, checks that they fit it. */
static bool may_ask(const struct net *n, const struct wh_vnet *todo)
{
    const wh_virtio *v = &n->v;
    uint64_t needs = todo->flags & WH_VNET_NEEDS_CSUM ? NET_F(NET_CSUM) : 0;
    switch (todo->gso_type & ~WH_VNET_GSO_ECN) {
    case WH_VNET_GSO_NONE:
        break;
    case WH_VNET_GSO_TCPV4:
        needs |= NET_F(NET_HOST_TSO4);
        break;
    case WH_VNET_GSO_TCPV6:
        needs |= NET_F(NET_HOST_TSO6);
        break;
    case WH_VNET_GSO_UDP_L4:
        needs |= NET_F(NET_HOST_USO);
        break;
    default:
        return false;
    }
    if (todo->gso_type & WH_VNET_GSO_ECN)
        needs |= NET_F(NET_HOST_ECN);
    return wh_virtio_has(v, needs);
}

enum sent { SENT, LOST, WAITS };

/* The frame goes from the guest's buffers into the ring's room. */
static enum sent send_chain(struct net *n, const struct wh_vnet *todo, uint32_t len, bool *kick)
{
    uint8_t *room;
    if (n->damaged || len < FRAME_MIN || len > WH_RING_MAX_FRAME || !may_ask(n, todo))
        return LOST;
    int status = wh_ring_reserve(n->tx, len, &room);
    if (status == WH_E_FULL && n->gate == NULL) {
        if (wh_ring_await_room(n->tx, len))
            return WAITS;
        status = wh_ring_reserve(n->tx, len, &room);
    }
    if (status == WH_OK) {
        wh_chain_read(&n->chain, WH_VNET_BYTES, room, len);
        wh_ring_commit(n->tx, todo, kick);
    } else if (n->gate != NULL) {
        return SENT; /* what becomes of it leaves no trace here */
    } else if (status == WH_E_FORMAT) {
        wh_net_link_down(n);
    }
    return status == WH_OK ? SENT : LOST;
}

/* False: the frame stays in the queue until the ring has room. */
static bool transmit_one(struct net *n, unsigned queue, bool *kick)
{
    struct wh_vnet todo;
    if (wh_chain_read(&n->chain, 0, &todo, WH_VNET_BYTES) != WH_VNET_BYTES) {
        wh_virtio_break(&n->v, "transmit buffer shorter than its header");
        return true;
    }
    uint32_t len = n->chain.out_bytes - WH_VNET_BYTES;
    bool ring_it = false;
    todo.flags &= WH_VNET_NEEDS_CSUM; /* a driver says nothing else (5.1.6.2) */
    switch (send_chain(n, &todo, len, &ring_it)) {
    case SENT:
        n->stats.tx_frames++;
        n->stats.tx_bytes += len;
        *kick |= ring_it;
        break;
    case LOST:
        n->stats.dropped++;
        break;
    case WAITS:
        wh_virtq_unpop(&n->v.queue[queue], 1, n->chain.descs);
        return false;
    }
    wh_virtio_push(&n->v, queue, &n->chain, 0);
    return true;
}

void wh_net_transmit(struct net *n, unsigned queue)
{
    bool kick = false, waits = false;
    unsigned budget = n->v.queue[queue].num;
    while (budget-- > 0 && !waits && wh_virtio_pop(&n->v, queue, &n->chain))
        waits = !transmit_one(n, queue, &kick);
    wh_virtio_signal(&n->v, queue);
    if (kick)
        wh_virtio_ring_event(n->to_switch);
    /* The switch rings when there is room again. */
    if (!waits && wh_virtio_live(&n->v) && !wh_virtq_idle(&n->v.queue[queue], n->v.ram))
        wh_virtio_kick(&n->v);
}

/* ---- in ---- */

/* What the driver can take now: the frame may have been put into the ring for another driver. */
static bool may_receive(const struct net *n, const struct wh_vnet *todo)
{
    uint32_t needs = todo->flags & WH_VNET_NEEDS_CSUM ? WH_TAKES_CSUM : 0;
    switch (todo->gso_type & ~WH_VNET_GSO_ECN) {
    case WH_VNET_GSO_NONE:
        break;
    case WH_VNET_GSO_TCPV4:
        needs |= WH_TAKES_TSO4;
        break;
    case WH_VNET_GSO_TCPV6:
        needs |= WH_TAKES_TSO6;
        break;
    case WH_VNET_GSO_UDP_L4:
        needs |= WH_TAKES_USO;
        break;
    default:
        return false;
    }
    if (todo->gso_type & WH_VNET_GSO_ECN)
        needs |= WH_TAKES_ECN;
    return (needs & ~n->takes) == 0;
}

/* A part of the frame into a popped chain, from its byte `skip` on. */
static uint32_t fill(struct net *n, const wh_chain *c, uint32_t skip, const uint8_t *from, uint32_t left)
{
    uint32_t room = c->in_bytes - skip, bytes = room < left ? room : left;
    wh_chain_write(c, n->v.ram, skip, from, bytes);
    return bytes;
}

enum taken { TAKEN, NO_BUFFER, DROPPED };

/* Put the frame into as many buffers as it needs (one without MRG_RXBUF). The switch can still change the frame; it is
 * only ever copied. Buffers that were not enough are there again afterwards. */
static enum taken receive_one(struct net *n, unsigned queue, struct wh_vnet *todo, const uint8_t *frame, uint32_t len)
{
    wh_virtq *q = &n->v.queue[queue];
    const bool merge = wh_virtio_has(&n->v, NET_F(NET_MRG_RXBUF));
    unsigned count = 0, descs = 0;
    uint32_t done = 0;
    do {
        wh_chain *c = count == 0 ? &n->first : &n->chain;
        uint32_t skip = count == 0 ? WH_VNET_BYTES : 0;
        if (!wh_virtio_pop(&n->v, queue, c)) {
            if (!wh_virtio_live(&n->v))
                return DROPPED;
            wh_virtq_unpop(q, count, descs);
            return NO_BUFFER;
        }
        if (c->in_bytes < WH_VNET_BYTES) {
            wh_virtio_break(&n->v, "receive buffer shorter than its header");
            return DROPPED;
        }
        descs += c->descs;
        if (descs > q->num) {
            wh_virtio_break(&n->v, "more receive buffers than the queue has");
            return DROPPED;
        }
        if (!merge && c->in_bytes - skip < len) {
            wh_virtq_unpop(q, count + 1, descs);
            return DROPPED; /* the driver's buffers fit its own MTU; a longer frame is the network's fault */
        }
        uint32_t bytes = fill(n, c, skip, frame + done, len - done);
        n->used[count++] = (wh_used){c->head, c->descs, skip + bytes};
        done += bytes;
    } while (done < len && merge && count < q->num);
    if (done < len) {
        wh_virtq_unpop(q, count, descs);
        return DROPPED;
    }
    todo->num_buffers = htole16((uint16_t)count);
    wh_chain_write(&n->first, n->v.ram, 0, todo, WH_VNET_BYTES);
    wh_virtio_push_all(&n->v, queue, n->used, count);
    return TAKEN;
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
        wh_net_link_down(n);
    return status == WH_OK;
}

/* Frames of a flow always go the same way. The bytes may be changing: then the way does, too. */
static unsigned pair_of(const struct net *n, const uint8_t *frame, uint32_t len)
{
    uint32_t hash = 0, word;
    if (n->pairs < 2)
        return 0;
    /* Addresses and ports of an untagged packet without options are there, and every packet of a flow has the same
     * bytes: IPv4 26..37, IPv6 22..57. */
    const bool v6 = len >= 58 && frame[12] == 0x86 && frame[13] == 0xdd;
    for (uint32_t at = v6 ? 22 : 26; at < (v6 ? 58u : 38u) && at + 4 <= len; at += 4) {
        memcpy(&word, frame + at, sizeof word);
        hash = (hash ^ word) * 0x9e3779b1u;
    }
    return (hash >> 16) % n->pairs;
}

void wh_net_receive(struct net *n)
{
    const uint8_t *frame;
    uint32_t len;
    unsigned budget = BUDGET;
    while (budget > 0 && next_frame(n, &frame, &len)) {
        struct wh_vnet todo;
        wh_ring_todo(frame, &todo);
        enum taken taken = DROPPED;
        if (wh_virtio_live(&n->v) && may_receive(n, &todo))
            taken = receive_one(n, wh_net_rx_queue(pair_of(n, frame, len)), &todo, frame, len);
        if (taken == NO_BUFFER)
            break; /* the driver's notification goes on from here */
        if (taken == TAKEN) {
            n->stats.rx_frames++;
            n->stats.rx_bytes += len;
        } else {
            n->stats.dropped++;
        }
        wh_ring_consume(n->rx);
        budget--;
    }
    for (unsigned i = 0; wh_virtio_live(&n->v) && i < n->pairs; i++)
        wh_virtio_signal(&n->v, wh_net_rx_queue(i));
    if (budget == 0)
        wh_virtio_kick(&n->v);
}
