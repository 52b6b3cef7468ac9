/* netctl: the network device's control queue (virtio 1.3, 5.1.6.5): how many queue pairs are in use, and which receive
 * offloads. A command that makes no sense is answered with an error and changes nothing. */
#include "virtio/net_device.h"

#include <endian.h>

enum { CLASS_MQ = 4, CLASS_GUEST_OFFLOADS = 5 };
enum { MQ_PAIRS_SET = 0, GUEST_OFFLOADS_SET = 0 };
enum { ANSWER_OK = 0, ANSWER_ERROR = 1 };

static bool set_pairs(struct net *n)
{
    uint16_t pairs;
    if (!wh_virtio_has(&n->v, NET_F(NET_MQ)) || wh_chain_read(&n->chain, 2, &pairs, sizeof pairs) != sizeof pairs)
        return false;
    pairs = le16toh(pairs);
    if (pairs < 1 || pairs > n->max_pairs)
        return false;
    n->pairs = pairs;
    return true;
}

static bool set_offloads(struct net *n)
{
    uint64_t on;
    if (!wh_virtio_has(&n->v, NET_F(NET_CTRL_GUEST_OFFLOADS)) ||
        wh_chain_read(&n->chain, 2, &on, sizeof on) != sizeof on)
        return false;
    on = le64toh(on);
    if (on & ~(n->v.accepted & NET_GUEST_OFFLOADS))
        return false;
    n->guest_offloads = on;
    wh_net_tell_takes(n);
    return true;
}

void wh_net_control(struct net *n)
{
    const unsigned queue = wh_net_control_queue(n);
    unsigned budget = n->v.queue[queue].num;
    while (budget-- > 0 && wh_virtio_pop(&n->v, queue, &n->chain)) {
        uint8_t command[2], answer = ANSWER_ERROR;
        if (n->chain.in_bytes < 1 || wh_chain_read(&n->chain, 0, command, sizeof command) != sizeof command) {
            wh_virtio_break(&n->v, "control command shorter than its header or without room for its answer");
            return;
        }
        if ((command[0] == CLASS_MQ && command[1] == MQ_PAIRS_SET && set_pairs(n)) ||
            (command[0] == CLASS_GUEST_OFFLOADS && command[1] == GUEST_OFFLOADS_SET && set_offloads(n)))
            answer = ANSWER_OK;
        wh_chain_write(&n->chain, n->v.ram, 0, &answer, 1);
        wh_virtio_push(&n->v, queue, &n->chain, 1);
    }
    wh_virtio_signal(&n->v, queue);
}
