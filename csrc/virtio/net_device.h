/* net_device: the network device's own state and the parts that it is made of: net.c (what the board sees), netio.c
 * (frames between queues and rings), netctl.c (the control queue). */
#ifndef WH_VIRTIO_NET_DEVICE_H
#define WH_VIRTIO_NET_DEVICE_H

#include "base/vnet.h"
#include "virtio/transport.h"

#define WH_NET_PAIRS_MAX 8u

/* Feature bits (virtio 1.3, 5.1.3). */
#define NET_F(bit) (1ull << (bit))
enum {
    NET_CSUM = 0,
    NET_GUEST_CSUM = 1,
    NET_CTRL_GUEST_OFFLOADS = 2,
    NET_MTU = 3,
    NET_MAC = 5,
    NET_GUEST_TSO4 = 7,
    NET_GUEST_TSO6 = 8,
    NET_GUEST_ECN = 9,
    NET_HOST_TSO4 = 11,
    NET_HOST_TSO6 = 12,
    NET_HOST_ECN = 13,
    NET_MRG_RXBUF = 15,
    NET_STATUS = 16,
    NET_CTRL_VQ = 17,
    NET_MQ = 22,
    NET_GUEST_USO4 = 54,
    NET_GUEST_USO6 = 55,
    NET_HOST_USO = 56
};
#define NET_GUEST_OFFLOADS                                                                                             \
    (NET_F(NET_GUEST_CSUM) | NET_F(NET_GUEST_TSO4) | NET_F(NET_GUEST_TSO6) | NET_F(NET_GUEST_ECN) |                    \
     NET_F(NET_GUEST_USO4) | NET_F(NET_GUEST_USO6))

/* Configuration space. */
enum { CONFIG_MAC = 0, CONFIG_STATUS = 6, CONFIG_PAIRS = 8, CONFIG_MTU = 10, CONFIG_BYTES = 12 };

struct net {
    wh_virtio v;
    int ring_fd, to_switch; /* to_guest is device.poll_fd */
    wh_ring *tx, *rx;
    wh_ring *outside, *gate; /* gated: the switch's ring, and the way into rx; else NULL */
    bool damaged;
    uint16_t max_pairs;      /* what the driver may use with MQ */
    uint16_t pairs;          /* what it uses */
    uint64_t guest_offloads; /* of NET_GUEST_OFFLOADS, what the driver has on; it begins with all that was negotiated */
    uint32_t takes;          /* WH_TAKES_*, as the switch was told */
    unsigned turn;           /* of the transmit queues */
    wh_net_stats stats;
    wh_chain chain, first;
    wh_used used[WH_VIRTQ_MAX];
    uint8_t bounce[WH_RING_MAX_FRAME]; /* gated: a frame that is let in */
};

static inline unsigned wh_net_rx_queue(unsigned pair)
{
    return 2 * pair;
}

static inline unsigned wh_net_tx_queue(unsigned pair)
{
    return 2 * pair + 1;
}

/* Behind all pairs that there could be: of one if MQ was not negotiated (5.1.2). */
static inline unsigned wh_net_control_queue(const struct net *n)
{
    return wh_virtio_has(&n->v, NET_F(NET_MQ)) ? 2u * n->max_pairs : 2u;
}

void wh_net_transmit(struct net *n, unsigned queue);
void wh_net_receive(struct net *n);
void wh_net_link_down(struct net *n);
/* Tell the switch what the driver takes now. */
void wh_net_tell_takes(struct net *n);
void wh_net_control(struct net *n);

#endif
