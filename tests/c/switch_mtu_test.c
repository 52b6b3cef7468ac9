/* Two switches whose path is narrower than their network: the size is found, told and kept to. In a network namespace
 * of its own. */
#include "switch_rig.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

static bool loopback(int mtu)
{
    struct ifreq lo = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    lo.ifr_mtu = mtu;
    bool ok = fd >= 0 && ioctl(fd, SIOCSIFMTU, &lo) == 0;
    lo.ifr_flags = IFF_UP;
    ok = ok && ioctl(fd, SIOCSIFFLAGS, &lo) == 0;
    close(fd);
    return ok;
}

static void put(struct nic *n, const uint8_t *dst, uint32_t tag, uint32_t len)
{
    uint8_t frame[1500] = {0};
    bool kick = false;
    uint64_t one = 1;
    memcpy(frame, dst, 6);
    memcpy(frame + 6, n->mac, 6);
    frame[12] = 8;
    memcpy(frame + 14, &tag, 4);
    CHECK(wh_ring_put(n->tx, frame, len, &kick) == WH_OK);
    if (kick)
        CHECK(write(n->to_switch, &one, 8) == 8);
}

int main(void)
{
    struct node n1, n2;
    struct nic a, b;
    if ((unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) || !loopback(1400)) {
        printf("switch_mtu: no network namespace of our own here, not tested\n");
        return 0;
    }
    node_open(&n1, 1), node_open(&n2, 2);
    join(&n1, &n2, 0);
    nic_open(&a, 1), nic_open(&b, 2);
    CHECK(nic_plug(&a, n1.sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, n2.sw, 1, b.mac, 1) == WH_OK);
    CHECK(wh_switch_mac_set(n1.sw, VNI, b.mac, 2, NULL) == WH_OK);
    wh_switch_event event = event_of(n1.sw, WH_SW_PATH_MTU);
    while (event.node == 2 && event.value > 1300) /* an upper bound that this host knows at once may come first */
        event = event_of(n1.sw, WH_SW_PATH_MTU);
    CHECK(event.node == 2 && event.value <= 1300 && event.value >= 1300 - WH_PMTU_STEP);
    CHECK(all_counters(n1.sw).drop_too_big == 0); /* probes are no frames */
    for (uint32_t i = 0; i < 20; i++) {
        put(&a, b.mac, 2 * i, 1414);
        put(&a, b.mac, 2 * i + 1, (uint32_t)event.value + WH_ETH_OVERHEAD);
    }
    for (uint32_t i = 0; i < 20; i++)
        CHECK(nic_take(&b, NULL, NULL) == 2 * i + 1);
    CHECK(peer_counters(n1.sw, 2).drop_too_big == 20 && peer_counters(n1.sw, 2).tx_frames == 20);
    CHECK(loopback(1500)); /* wider again, and the peer is known under another address: all is asked anew */
    CHECK(wh_switch_peer_set(n1.sw, 2, 2, NULL, 0, NULL) == WH_OK);
    CHECK(wh_switch_peer_set(n1.sw, 2, 2, &n2.addr, sizeof(n2.addr), NULL) == WH_OK);
    do
        event = event_of(n1.sw, WH_SW_PATH_MTU);
    while (event.node == 2 && event.value != 1400 && !failures);
    CHECK(event.value == 1400);
    put(&a, b.mac, 99, 1414);
    CHECK(nic_take(&b, NULL, NULL) == 99);
    wh_switch_free(n1.sw), wh_switch_free(n2.sw);
    nic_close(&a), nic_close(&b);
    return finish("switch_mtu");
}
