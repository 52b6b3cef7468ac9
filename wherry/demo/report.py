"""The demo's figures and its verdict. Pure: what was measured goes in, rows and failures come out."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from wherry import units
from wherry.demo import pings
from wherry.demo.traffic import StreamResult


@dataclass(frozen=True)
class Move:
    """One migration: what the source reported, and the client's view of it."""

    guest: str
    source: str
    target: str
    generation: int  # after it
    rounds: int
    bytes_sent: int
    pages_sent: int
    zero_pages: int
    total_ms: float
    blackout_ms: float
    blackout_error_ms: float
    verify_ms: float
    source_checksum: str
    target_checksum: str
    gap_ms: float  # longest time between two ping replies while it was under way
    lost: int  # pings

    @property
    def checksums_agree(self) -> bool:
        """True also for a move that was not asked to compare them (``verified`` is False)."""
        return self.source_checksum == self.target_checksum

    @property
    def verified(self) -> bool:
        return bool(self.source_checksum)


def move(
    guest: str, source: str, target: str, generation: int, result: dict[str, Any], run: pings.Run, window: pings.Window
) -> Move:
    """From an operation's result (architecture.md, MigrationResult) and the pings around it."""
    return Move(
        guest=guest,
        source=source,
        target=target,
        generation=generation,
        rounds=int(result.get("rounds", 0)),
        bytes_sent=int(result.get("bytes_sent", 0)),
        pages_sent=int(result.get("pages_sent", 0)),
        zero_pages=int(result.get("zero_pages", 0)),
        total_ms=float(result.get("total_ms", 0.0)),
        blackout_ms=float(result.get("blackout_ms", 0.0)),
        blackout_error_ms=float(result.get("blackout_error_ms", 0.0)),
        verify_ms=float(result.get("verify_ms", 0.0)),
        source_checksum=str(result.get("source_checksum", "")),
        target_checksum=str(result.get("target_checksum", "")),
        gap_ms=pings.longest_gap_ms(run.between(window.first - 1, window.last + 1)),
        lost=sum(window.first <= seq <= window.last for seq in run.lost),
    )


@dataclass(frozen=True)
class Report:
    """Everything the demo measured. Milliseconds, seconds, Mbit/s and bytes as the names say."""

    boot_s: dict[str, float]
    rtt_ms: float
    throughput_mbit_s: float
    moves: Sequence[Move]
    pings_sent: int
    pings_lost: int
    pings_unexplained: Sequence[int]
    pings_duplicated: int
    longest_gap_ms: float
    stream: StreamResult
    doubles: Sequence[str]
    witness_samples: int
    drained_left: Sequence[str] = field(default_factory=list)  # guests still on the drained node
    expected_moves: int = 3
    expected_verified: int = 2  # a drain does not ask for checksums, so its blackout is the plain one

    @property
    def checksums_agree(self) -> bool:
        enough = sum(item.verified for item in self.moves) >= self.expected_verified
        return enough and all(item.checksums_agree for item in self.moves)

    def failures(self) -> list[str]:
        """Empty exactly when the demo proved what it is there to prove."""
        found: list[str] = []
        if not self.stream.intact:
            found.append("the TCP stream arrived damaged or not at all")
        if self.pings_unexplained:
            found.append(f"pings lost outside an outage of a migration: {list(self.pings_unexplained)[:20]}")
        if self.pings_sent == 0:
            found.append("no ping was sent")
        if self.pings_duplicated:
            found.append(f"{self.pings_duplicated} pings were answered twice: two copies answered")
        if len(self.moves) < self.expected_moves:
            found.append(f"{len(self.moves)} of {self.expected_moves} migrations took place")
        if sum(item.verified for item in self.moves) < self.expected_verified:
            found.append(f"fewer than {self.expected_verified} migrations compared RAM checksums")
        for item in self.moves:
            if not item.checksums_agree:
                name = f"{item.guest} {item.source}->{item.target}"
                found.append(f"RAM checksums differ: {name}: {item.source_checksum!r} and {item.target_checksum!r}")
        generations: dict[str, list[int]] = {}
        for item in self.moves:
            generations.setdefault(item.guest, []).append(item.generation)
        for guest, numbers in generations.items():
            if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
                found.append(f"{guest}: generations {numbers}: not one owner after the other")
        found.extend(self.doubles)
        if self.witness_samples == 0:
            found.append("no look at a migration's two guest processes succeeded: one running copy is unproven")
        if self.drained_left:
            found.append(f"the drained node still has {' '.join(self.drained_left)}")
        return found

    def to_json(self) -> dict[str, Any]:
        """The figures under the names that the issue gives, and all of them under ``moves``."""
        failures = self.failures()
        return {
            "machine": platform.machine(),
            "kernel": platform.release(),
            "boot_s": self.boot_s,
            "rtt_ms": self.rtt_ms,
            "throughput_mbit_s": self.throughput_mbit_s,
            "rounds": [item.rounds for item in self.moves],
            "bytes": [item.bytes_sent for item in self.moves],
            "blackout_ms": [item.blackout_ms for item in self.moves],
            "longest_gap_ms": self.longest_gap_ms,
            "pings_sent": self.pings_sent,
            "pings_lost": self.pings_lost,
            "pings_unexplained": list(self.pings_unexplained),
            "pings_duplicated": self.pings_duplicated,
            "stream_intact": self.stream.intact,
            "stream": asdict(self.stream),
            "ram_checksums_agree": self.checksums_agree,
            "one_copy": not self.doubles and self.witness_samples > 0,
            "witness_samples": self.witness_samples,
            "moves": [asdict(item) for item in self.moves],
            "passed": not failures,
            "failures": failures,
        }

    def rows(self) -> list[tuple[str, str]]:
        """The table that people see."""
        rows = [(f"boot of {name}", f"{seconds:.1f} s") for name, seconds in self.boot_s.items()]
        rows.append(("ping round trip, median", f"{self.rtt_ms:.2f} ms"))
        rows.append(("TCP throughput (one nc)", f"{self.throughput_mbit_s:.1f} Mbit/s"))
        for item in self.moves:
            rows.append(
                (
                    f"{item.guest} {item.source} -> {item.target}",
                    f"{item.total_ms:.0f} ms, {item.rounds} rounds, {units.size(item.bytes_sent)}, "
                    f"blackout {item.blackout_ms:.1f} ms, gap {item.gap_ms:.0f} ms, lost {item.lost}",
                )
            )
        rows.append(("longest gap between pings", f"{self.longest_gap_ms:.0f} ms"))
        rows.append(("pings lost", f"{self.pings_lost} of {self.pings_sent}"))
        rows.append(
            ("stream intact", f"{'yes' if self.stream.intact else 'NO'}, {self.stream.blocks} blocks of 16 KiB")
        )
        verified = sum(item.verified for item in self.moves)
        rows.append(("RAM checksums agree", f"{'yes' if self.checksums_agree else 'NO'}, {verified} moves compared"))
        rows.append(
            ("one running copy", f"{'NO' if self.doubles else 'yes'}, {self.witness_samples} looks at two processes")
        )
        return rows
