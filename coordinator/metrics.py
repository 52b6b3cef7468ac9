"""Figures as Prometheus reads them: the text format 0.0.4 (prometheus.io, "Exposition formats"). Pure.

Names are stable: a counter of csrc/api.cdef that has no line here becomes ``wherry_guest_NAME_total``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# counter of wh_machine_stats: metric, extra label, factor
_COUNTERS: dict[str, tuple[str, tuple[str, str] | None, float]] = {
    "run_ns": ("wherry_guest_run_seconds_total", None, 1e-9),
    "wfi_ns": ("wherry_guest_idle_seconds_total", None, 1e-9),
    "mmio": ("wherry_guest_mmio_total", None, 1),
    "net_rx_frames": ("wherry_guest_net_frames_total", ("direction", "rx"), 1),
    "net_tx_frames": ("wherry_guest_net_frames_total", ("direction", "tx"), 1),
    "net_rx_bytes": ("wherry_guest_net_bytes_total", ("direction", "rx"), 1),
    "net_tx_bytes": ("wherry_guest_net_bytes_total", ("direction", "tx"), 1),
    "net_dropped": ("wherry_guest_net_dropped_total", None, 1),
    "blk_reads": ("wherry_guest_block_requests_total", ("operation", "read"), 1),
    "blk_writes": ("wherry_guest_block_requests_total", ("operation", "write"), 1),
}
_GAUGES = {"pages_absent"}  # of wh_machine_stats: what goes up and down
_HELP = {
    "wherry_guest_instructions_total": "Guest instructions retired.",
    "wherry_guest_traps_total": "Exceptions that the guest's harts took.",
    "wherry_guest_interrupts_total": "Interrupts that the guest's harts took.",
    "wherry_guest_tlb_misses_total": "Translations that missed the software TLB.",
    "wherry_guest_mmio_total": "Accesses to device registers.",
    "wherry_guest_run_seconds_total": "Host time spent in guest code, all harts.",
    "wherry_guest_idle_seconds_total": "Host time that harts waited for interrupts.",
    "wherry_guest_exits_total": "Returns from guest code to the machine, by cause.",
    "wherry_guest_net_frames_total": "Frames of the guest's NICs.",
    "wherry_guest_net_bytes_total": "Bytes of the guest's NICs.",
    "wherry_guest_net_dropped_total": "Frames that the guest's NICs dropped.",
    "wherry_guest_block_requests_total": "Requests to the guest's disks.",
    "wherry_guest_jit_blocks_total": "Blocks of guest code that were translated.",
    "wherry_guest_jit_instructions_total": "Guest instructions that were translated.",
    "wherry_guest_jit_discarded_total": "Translated blocks whose code had changed.",
    "wherry_guest_jit_resets_total": "Times that the full cache of translated code was emptied.",
    "wherry_port_up": "1 while the port carries frames; 0: failed, shut by the guard, or its node is away.",
    "wherry_guest_memory_bytes": "RAM that the guest was given.",
    "wherry_guest_resident_bytes": "RAM of the guest that has memory behind it.",
    "wherry_guest_cpus": "Harts of the guest.",
    "wherry_guest_running": "1 while the guest runs.",
    "wherry_node_up": "1 while the node's lease holds.",
    "wherry_node_cpus": "Host cores of the node.",
    "wherry_node_load": "Load average of the node over a minute.",
    "wherry_node_memory_bytes": "Memory that the node offers to guests.",
    "wherry_node_memory_free_bytes": "Free memory of the node's host.",
    "wherry_port_frames_total": "Frames that came in at a switch port (rx) and went out there (tx).",
    "wherry_port_bytes_total": "Bytes of those frames.",
    "wherry_port_dropped_total": "Frames from or for a switch port that were dropped, by reason.",
    "wherry_tunnel_frames_total": "Frames that came by a tunnel from the peer (rx) and were sent to it (tx).",
    "wherry_tunnel_bytes_total": "Bytes of those frames.",
    "wherry_tunnel_dropped_total": "Frames and datagrams of a tunnel that were dropped, by reason.",
    "wherry_switch_frames_total": "Frames into (rx) and out of (tx) a node's switch, tunnels included.",
    "wherry_switch_bytes_total": "Bytes of those frames.",
    "wherry_switch_dropped_total": "Frames and datagrams that a node's switch dropped, by reason.",
    "wherry_migrations_running": "Migrations under way.",
    "wherry_migrations_total": "Migrations that ended since the coordinator's start, by outcome.",
    "wherry_migrations_throttled_total": "Of these, those whose guest was throttled.",
    "wherry_migrations_postcopy_total": "Of these, those that left pages to be pulled.",
    "wherry_migration_bytes_total": "Bytes that migrations sent.",
    "wherry_migration_seconds_total": "Time that migrations took.",
    "wherry_migration_blackout_seconds_total": "Time that migrated guests executed nowhere.",
    "wherry_migration_running_bytes": "Bytes sent so far by a migration under way.",
    "wherry_migration_running_dirty_pages": "Pages that wait to be sent again.",
    "wherry_migration_running_throttle_percent": "Share of its time that the guest rests.",
    "wherry_coordinator_info": "1, with the coordinator's version.",
}


@dataclass
class Exposition:
    """Families in the order of their first value."""

    families: dict[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)

    def add(self, name: str, value: float, /, **labels: str) -> None:
        self.families.setdefault(name, []).append((labels, value))

    def counters(self, counters: Mapping[str, int], **labels: str) -> None:
        """Those of one guest."""
        for name, value in counters.items():
            if name.startswith("exits_"):
                self.add("wherry_guest_exits_total", value, **labels, cause=name.removeprefix("exits_"))
                continue
            default = f"wherry_guest_{name}" if name in _GAUGES else f"wherry_guest_{name}_total"
            metric, extra, factor = _COUNTERS.get(name, (default, None, 1))
            self.add(metric, value * factor, **labels, **dict([extra] if extra else []))

    def switch(self, what: str, counters: Mapping[str, int], /, **labels: str) -> None:
        """Those of a port, tunnel or whole switch (``wh_counters``): ``wherry_WHAT_..._total``."""
        for name, value in counters.items():
            side, _, unit = name.partition("_")
            if side in ("rx", "tx"):
                self.add(f"wherry_{what}_{unit}_total", value, **labels, direction=side)
            elif side == "drop":
                self.add(f"wherry_{what}_dropped_total", value, **labels, reason=unit)
            else:
                self.add(f"wherry_{what}_{name}_total", value, **labels)

    def text(self) -> str:
        lines: list[str] = []
        for name, values in self.families.items():
            source = "wh_machine_stats" if name.startswith("wherry_guest_") else "wh_counters"
            lines.append(f"# HELP {name} {_HELP.get(name, f'See {source} in csrc/api.cdef.')}")
            lines.append(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}")
            lines += [f"{name}{_labels(labels.items())} {_number(value)}" for labels, value in values]
        return "\n".join(lines) + "\n"


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    def quote(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    inside = ",".join(f'{name}="{quote(value)}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(round(value, 9))
