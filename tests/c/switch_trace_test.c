/* Notes on a port's frames: each way, a drop's reason, sampling, bounds, bad calls. */
#include "switch/trace.h"
#include "switch_rig.h"

static uint32_t traced(wh_switch *sw, wh_trace_event *out, uint32_t cap, uint64_t *lost)
{
    uint32_t count;
    CHECK(wh_switch_port_traced(sw, 1, out, cap, &count, lost) == WH_OK);
    return count;
}

int main(void)
{
    struct nic a, b;
    wh_switch *sw;
    wh_trace_event e[WH_TRACE_KEPT];
    uint64_t lost;
    uint32_t count;
    const uint8_t unknown[6] = {2, 0, 0, 0, 9, 9}, away[6] = {2, 0, 0, 0, 8, 8};
    wh_switch_config config = {.node_id = 1, .udp_fd = -1};
    CHECK(open_switch(&config, &sw, NULL) == WH_OK && wh_switch_network_add(sw, VNI, 1400, NULL) == WH_OK);
    nic_open(&a, 1), nic_open(&b, 2);
    CHECK(nic_plug(&a, sw, 1, a.mac, 1) == WH_OK && nic_plug(&b, sw, 2, b.mac, 1) == WH_OK);
    CHECK(wh_switch_mac_set(sw, VNI, away, 5, NULL) == WH_OK);
    CHECK(wh_switch_port_traced(sw, 1, e, 8, &count, &lost) == WH_E_STATE);
    CHECK(wh_switch_port_traced(sw, 9, e, 8, &count, &lost) == WH_E_NOTFOUND);
    CHECK(wh_switch_port_trace(sw, 9, 1) == WH_E_NOTFOUND);

    CHECK(wh_switch_port_trace(sw, 1, 1) == WH_OK);
    nic_send(&a, b.mac, 1);
    nic_send(&a, unknown, 2);
    nic_send(&a, away, 3); /* to a node that is no peer */
    nic_send(&a, a.mac, 4);
    nic_send_as(&a, b.mac, b.mac, 5);
    nic_send(&a, b.mac, 6);
    CHECK(nic_take(&b, NULL, NULL) == 1 && nic_take(&b, NULL, NULL) == 2 && nic_take(&b, NULL, NULL) == 6);
    CHECK(traced(sw, e, WH_TRACE_KEPT, &lost) == 6 && lost == 0);
    CHECK(e[0].way == WH_TRACE_PORT && e[0].to == 2 && e[0].reason == UINT32_MAX && e[0].len == 64);
    CHECK(!memcmp(e[0].head, b.mac, 6) && !memcmp(e[0].head + 6, a.mac, 6) && e[0].head[14] == 1);
    CHECK(e[1].way == WH_TRACE_FLOOD && e[1].reason == UINT32_MAX);
    CHECK(e[2].way == WH_TRACE_NODE && e[2].to == 5 && e[2].reason == offsetof(wh_counters, drop_no_peer) / 8);
    CHECK(e[3].way == WH_TRACE_BACK && e[3].to == 1);
    CHECK(e[4].way == WH_TRACE_PORT && e[4].reason == offsetof(wh_counters, drop_spoofed) / 8);
    CHECK(traced(sw, e, WH_TRACE_KEPT, &lost) == 0);

    for (uint32_t tag = 0; tag < WH_TRACE_KEPT + 10; tag++) { /* the oldest go */
        nic_send(&a, b.mac, tag);
        CHECK(nic_take(&b, NULL, NULL) == tag);
    }
    CHECK(traced(sw, e, 3, &lost) == 3 && lost == 10 && e[0].head[14] == 10);
    CHECK(traced(sw, e, WH_TRACE_KEPT, &lost) == WH_TRACE_KEPT - 3 && lost == 0);

    CHECK(wh_switch_port_trace(sw, 1, 4) == WH_OK); /* one in four */
    for (uint32_t tag = 0; tag < 8; tag++) {
        nic_send(&a, b.mac, tag);
        CHECK(nic_take(&b, NULL, NULL) == tag);
    }
    CHECK(traced(sw, e, WH_TRACE_KEPT, &lost) == 2 && e[0].head[14] == 3 && e[1].head[14] == 7);
    CHECK(wh_switch_port_trace(sw, 1, 0) == WH_OK);
    CHECK(wh_switch_port_traced(sw, 1, e, 8, &count, &lost) == WH_E_STATE);
    CHECK(wh_switch_port_trace(sw, 1, 1) == WH_OK); /* on while the port goes */
    wh_switch_free(sw);
    nic_close(&a), nic_close(&b);
    return finish("switch_trace");
}
