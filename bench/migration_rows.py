"""The rows of ``make bench-migration``, what they must reach, and against which of QEMU's ways."""

from __future__ import annotations

from collections.abc import Callable

from bench.migration_guest import Move
from bench.targets import Spec, Target, Targets

FIGURES: dict[str, Callable[[Move], float]] = {
    "total_ms": lambda move: move.total_ms,
    "pause_ms": lambda move: move.pause_ms,
    "gap_udp_ms": lambda move: move.gap_udp_ms,
    "gap_tcp_ms": lambda move: move.gap_tcp_ms,
    "wire_mb": lambda move: move.wire_bytes / 1e6,
}
# Of ours only: no peer tells these.
OWN_FIGURES: dict[str, Callable[[Move], float]] = {
    "wire_ratio": lambda move: move.wire_bytes / move.resident,
    "final_kb": lambda move: move.final_bytes / 1e3,
    "fault_us": lambda move: move.fault_us,
    "fault_max_us": lambda move: move.fault_max_us,
}


def own_figures(case: str) -> dict[str, Callable[[Move], float]]:
    """Who has all pages waits for none."""
    return {name: of for name, of in OWN_FIGURES.items() if "postcopy" in case or not name.startswith("fault")}


UNITS = {"wire_mb": "MB", "wire_ratio": "ratio", "final_kb": "KB", "fault_us": "us", "fault_max_us": "us"}
STREAM = "stream_mb_s"
SLOWDOWN = "slowdown_pct"
DEDUP = ("dedup_ratio", "return_ratio", "resent_page_b")

# The first that gave figures is the peer of a case's rows.
PEERS = {
    "idle_lo": ("tls", "plain"),
    "idle_1g": ("plain", "tls"),
    "w64_lo": ("tls", "plain"),
    "w64_1g": ("xbzrle", "plain"),
    "w128_lo": ("tls", "plain"),
    "w128_1g": ("xbzrle", "auto-converge", "postcopy", "multifd-zstd", "plain"),
    "w64_postcopy_lo": ("postcopy-tls", "postcopy"),
    "w16_postcopy_100m": ("postcopy",),
}


def _own(must: float, goal: float | None = None) -> Target:
    return Target(must, goal, of="ours")


_MUST = {
    "idle_lo.total_ms": Target(1, None),
    "idle_lo.pause_ms": _own(10, 3),
    "idle_lo.gap_udp_ms": _own(40),
    "idle_1g.total_ms": Target(1 / 0.6, 1 / 0.3),
    "idle_1g.gap_udp_ms": _own(40),
    "w64_lo.pause_ms": _own(32),
    "w64_lo.gap_udp_ms": _own(60, 15),
    "w128_lo.total_ms": _own(1000),
    "w128_lo.gap_udp_ms": _own(80, 25),
    "w128_1g.total_ms": _own(2500, 1500),
    "w128_1g.pause_ms": _own(60),
    "w128_1g.gap_udp_ms": _own(150, 40),
    "w64_postcopy_lo.gap_udp_ms": _own(100, 25),
    "w16_postcopy_100m.gap_udp_ms": _own(500, 100),
    "idle_1g.wire_ratio": _own(0.34, 0.25),
    "w64_1g.wire_ratio": _own(1.1),
    **{f"{case}.wire_ratio": _own(1.5) for case in ("w64_lo", "w128_lo", "w128_1g")},
    **{f"{case}.final_kb": _own(256) for case in PEERS if "postcopy" not in case},
}

TARGETS = Targets(
    [
        *(
            Spec(f"{case}.{figure}", UNITS.get(figure, "ms"), "lower", _MUST.get(f"{case}.{figure}"))
            for case in PEERS
            for figure in (*FIGURES, *own_figures(case))
        ),
        Spec(STREAM, "MB/s", "higher", _own(300, 500)),
        Spec(SLOWDOWN, "%", "lower", _own(5, 3)),
        Spec("dedup_ratio", "ratio", "lower", _own(0.15, 0.05)),
        Spec("return_ratio", "ratio", "lower", _own(0.05)),
        Spec("resent_page_b", "B", "lower", _own(64)),
    ]
)
