/* Reasons: what a guest may leave in front of a frame that cannot be done, and what each such frame is counted as. */
#include "switch_rig.h"

#include <endian.h>

static void put(struct nic *n, const struct wh_vnet *todo, uint32_t len)
{
    uint8_t *room;
    uint64_t one = 1;
    bool kick = false;
    CHECK(wh_ring_reserve(n->tx, len, &room) == WH_OK);
    memset(room, 0, len);
    memcpy(room, everybody, 6);
    memcpy(room + 6, n->mac, 6);
    room[12] = 8;
    wh_ring_commit(n->tx, todo, &kick);
    if (kick)
        CHECK(write(n->to_switch, &one, 8) == 8);
}

int main(void)
{
    static const struct wh_vnet plain, bad_csum = {.flags = WH_VNET_NEEDS_CSUM}, bad_gso = {.gso_type = 77};
    struct wh_vnet bad_packet = {.flags = WH_VNET_NEEDS_CSUM, .gso_type = WH_VNET_GSO_TCPV4};
    struct node n;
    struct nic a, b;
    bad_packet.csum_start = htole16(34);
    bad_packet.csum_offset = htole16(16);
    bad_packet.gso_size = htole16(100);
    node_open(&n, 1);
    nic_open(&a, 1), nic_open(&b, 2);
    CHECK(nic_plug(&a, n.sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, n.sw, 2, b.mac, 1) == WH_OK);
    put(&a, &bad_csum, 64);
    put(&a, &bad_gso, 64), put(&a, &bad_gso, 64);
    put(&a, &bad_packet, 400), put(&a, &bad_packet, 400), put(&a, &bad_packet, 400);
    put(&a, &plain, 1419), put(&a, &plain, 1419);
    put(&a, &plain, 13);
    nic_send(&a, everybody, 5);
    CHECK(nic_take(&b, NULL, NULL) == 5);
    wh_counters c = port_counters(n.sw, 1), all = all_counters(n.sw);
    CHECK(c.drop_vnet_csum == 1 && c.drop_vnet_gso == 2 && c.drop_vnet_packet == 3);
    CHECK(c.drop_oversize == 2 && c.drop_invalid == 1 && c.rx_frames == 1);
    CHECK(all.drop_vnet_csum == 1 && all.drop_vnet_packet == 3 && all.drop_oversize == 2);
    wh_switch_free(n.sw);
    nic_close(&a), nic_close(&b);
    return finish("switch_drops");
}
