"""The rows of ``make bench-net``. Where a target is a share of the peer's figure that may not be exceeded ("at most 0.6
times"), it is given here as an advantage (1 / 0.6)."""

from __future__ import annotations

from bench.targets import Spec, Target, Targets

ENCRYPTED = "encrypted"
KERNEL = "kernel"

ROWS = (
    Spec("tcp_gbps", "Gbit/s", "higher", Target(1.5, 2.5)),
    Spec("vxlan_ratio", "Gbit/s", "higher", Target(0.5, 0.8)),
    Spec("loss1_gbps", "Gbit/s", "higher", Target(1.6, 2.2)),
    Spec("cpu_s_per_gb", "s/GB", "lower", Target(1 / 0.6, 1 / 0.3)),
    Spec("pps_64b", "frames/s", "higher", Target(1.2, 2)),
    Spec("rtt_us", "us", "lower", Target(1 / 1.1, 1 / 0.6)),
    Spec("ring_mpps", "M/s", "higher", Target(3, 10, of="ours")),
    Spec("guest_tcp_gbps", "Gbit/s", "higher", Target(1.5, 4)),
    Spec("peer_state_kib", "KiB", "lower", Target(16, None, of="ours")),
    Spec("mac_state_b", "B", "lower", Target(64, None, of="ours")),
)
TARGETS = Targets(ROWS)
OVERLAY = {"tcp_gbps", "vxlan_ratio", "loss1_gbps", "cpu_s_per_gb", "pps_64b", "rtt_us"}
ALONE = {"ring_mpps", "peer_state_kib", "mac_state_b"}
# Of which kind of overlay a row's peer is: the best of them.
RIVALS = {name: KERNEL if name == "vxlan_ratio" else ENCRYPTED for name in OVERLAY}
