"""What guests have done so far, as their nodes last reported it, and how fast they do it. In memory only.

A sample is a guest's counters (``wh_machine_stats`` of csrc/api.cdef, whatever that build of the node has) with the
node's own clock. Rates are those between the last two samples of one copy; a copy that has moved or was started again
begins anew. Pure: time comes in with each call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.messages import GuestStatus

STALE_S = 15.0  # reports come every 3 s
_EXITS = ("exits_wfi", "exits_sbi", "exits_pause", "exits_attention", "exits_limit", "exits_debug")


@dataclass(frozen=True, slots=True)
class Sample:
    """``sampled``: the node's clock, ``seen``: ours, both in seconds; ``resident`` in bytes."""

    node: int
    generation: int
    sampled: float
    seen: float
    resident: int
    counters: dict[str, int]


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second of wall time. ``mips``: millions of instructions; ``cpu_percent``: 100 is one host core;
    ``exits``: returns from guest code, MMIO included."""

    mips: float
    cpu_percent: float
    tlb_misses: float
    traps: float
    interrupts: float
    exits: float
    net_rx_frames: float
    net_tx_frames: float
    throttled_percent: float  # of the time that its harts would have run


class Stats:
    def __init__(self) -> None:
        self._last: dict[str, tuple[Sample | None, Sample]] = {}

    def observe(self, node: int, statuses: Iterable[GuestStatus], now: float) -> None:
        """A node's report. Statuses without new counters leave what is there."""
        for status in statuses:
            if not status.counters or status.sampled <= 0:
                continue
            new = Sample(node, status.generation, status.sampled, now, status.resident, status.counters)
            _, last = self._last.get(status.guest, (None, None))
            if last is not None and last.generation > new.generation:
                continue  # a copy that was left behind
            same = last is not None and (last.node, last.generation) == (node, new.generation)
            if last is not None and same and new.sampled <= last.sampled:
                continue
            self._last[status.guest] = (last if same else None, new)
        for guest in [g for g, (_, s) in self._last.items() if now - s.seen > STALE_S]:
            del self._last[guest]

    def sample(self, guest: str, node: int | None, generation: int, now: float) -> Sample | None:
        """The last sample of this copy, None when there is none that is fresh."""
        _, last = self._last.get(guest, (None, None))
        if last is None or (last.node, last.generation) != (node, generation) or now - last.seen > STALE_S:
            return None
        return last

    def rates(self, guest: str) -> Rates | None:
        """Between the last two samples, None when there are not two."""
        before, last = self._last.get(guest, (None, None))
        if before is None or last is None:
            return None
        seconds = last.sampled - before.sampled
        was, now = before.counters, last.counters

        def rate(*names: str) -> float:
            return sum(max(0, now.get(n, 0) - was.get(n, 0)) for n in names) / seconds

        return Rates(
            mips=rate("instructions") / 1e6,
            cpu_percent=rate("run_ns") / 1e7,
            tlb_misses=rate("tlb_misses"),
            traps=rate("traps"),
            interrupts=rate("interrupts"),
            exits=rate("mmio", *_EXITS),
            net_rx_frames=rate("net_rx_frames"),
            net_tx_frames=rate("net_tx_frames"),
            throttled_percent=100 * rate("throttled_ns") / max(rate("throttled_ns", "run_ns"), 1.0),
        )
