"""What is noted of a migration while it runs, and the report that is made of it at its end. Pure.

The source tells its progress several times a second and after each round (``migration.progress``). Samples are kept
for the plot: when there are many, every second one of the older is dropped, so that a long migration has as many as a
short one, evenly spread. What a coordinator's restart loses is a part of the plot and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from protocol.messages import MigrationProgress, MigrationResult, to_builtins

MOST_SAMPLES: Final = 400
COLUMNS: Final = (
    *("elapsed_ms", "phase", "round", "bytes_sent", "dirty_pages", "bytes_per_s", "dirty_rate", "throttle"),
    *("disk_sent", "disk_left"),
)


@dataclass
class Samples:
    """Rows of ``COLUMNS``."""

    rows: list[list[Any]] = field(default_factory=list)
    every: int = 1  # of those that come, one is kept
    _seen: int = 0
    _round: tuple[str, int] = ("", 0)

    def add(self, notice: MigrationProgress) -> None:
        """A new phase or round is always kept."""
        place = (notice.phase, notice.round)
        self._seen += 1
        if place == self._round and self._seen % self.every:
            return
        self._round = place
        self.rows.append([getattr(notice, name) for name in COLUMNS])
        if len(self.rows) > MOST_SAMPLES:
            del self.rows[1:-1:2]
            self.every *= 2


@dataclass
class Totals:
    """Since the coordinator's start, for /metrics."""

    ended: dict[str, int] = field(default_factory=lambda: {"committed": 0, "aborted": 0})
    bytes: int = 0
    blackout_s: float = 0.0
    total_s: float = 0.0
    throttled: int = 0
    postcopy: int = 0

    def add(self, outcome: str, result: MigrationResult | None) -> None:
        self.ended[outcome] = self.ended.get(outcome, 0) + 1
        if result is not None:
            self.bytes += result.bytes_sent
            self.blackout_s += result.blackout_ms / 1000
            self.total_s += result.total_ms / 1000
            self.throttled += bool(result.throttle)
            self.postcopy += result.postcopy


def report(
    *,
    migration: str,
    guest: str,
    names: dict[str, Any],
    generation: int,
    operation: str,
    created: float,
    ended: float,
    params: dict[str, Any],
    outcome: str,
    reason: str,
    result: MigrationResult | None,
    samples: Samples,
) -> dict[str, Any]:
    """As the API shows it. Without the source's last word (it was lost) the figures are missing."""
    figures = to_builtins(result) if result is not None else {}
    return {
        **figures,
        "migration": migration,
        "guest": guest,
        **names,
        "generation": generation,
        "operation": operation,
        "created": created,
        "ended": ended,
        "params": params,
        "outcome": outcome,
        "reason": reason,
        "columns": list(COLUMNS),
        "samples": samples.rows,
    }
