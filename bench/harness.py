"""Pairs, medians and the report that every benchmark writes.

Method: ours and the peer's runs alternate (A B A B ...) so that a machine whose speed drifts drifts for both; the
advantage of a row is the median over the pairs of (better / worse) in the row's own sense, above 1 when ours is
better. Raw figures are kept. A peer that is not installed is named as missing; the row then has no advantage.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Row:
    """One measured figure. ``ours`` and ``theirs`` are the raw figures in the order in which they were taken; so are
    those of all peers in ``rivals``, where there are several, and of the host itself in ``native``."""

    name: str
    unit: str
    better: Literal["higher", "lower"]
    ours: list[float] = field(default_factory=list)
    peer: str | None = None
    theirs: list[float] = field(default_factory=list)
    note: str = ""
    rivals: dict[str, list[float]] = field(default_factory=dict)
    native: list[float] = field(default_factory=list)

    def face_best(self) -> None:
        """Of several ``rivals`` (name to raw figures) the one with the best median becomes the peer."""
        figures = {name: statistics.median(raw) for name, raw in self.rivals.items() if raw}
        if figures:
            choose = max if self.better == "higher" else min
            self.peer = choose(figures, key=lambda name: figures[name])
            self.theirs = self.rivals[self.peer]

    @property
    def advantage(self) -> float | None:
        """Median over pairs of how many times ours is better; None without a peer."""
        pairs = [(a, b) for a, b in zip(self.ours, self.theirs, strict=False) if a > 0 and b > 0]
        if self.peer is None or not pairs:
            return None
        return statistics.median(a / b if self.better == "higher" else b / a for a, b in pairs)

    def as_dict(self) -> dict[str, Any]:
        advantage = self.advantage
        return {
            "name": self.name,
            "unit": self.unit,
            "better": self.better,
            "ours": self.ours,
            "peer": self.peer,
            "theirs": self.theirs,
            "advantage": None if advantage is None else round(advantage, 3),
            "note": self.note,
            **({"rivals": self.rivals} if self.rivals else {}),
            **({"native": self.native} if self.native else {}),
        }


def measure_pairs(row: Row, pairs: int, ours: Callable[[], float], theirs: Callable[[], float] | None) -> Row:
    """Fill ``row`` with ``pairs`` alternating figures; progress goes to stderr."""
    for index in range(pairs):
        row.ours.append(ours())
        text = f"{row.name} {index + 1}/{pairs}: ours {row.ours[-1]:.4g} {row.unit}"
        if theirs is not None:
            row.theirs.append(theirs())
            text += f", {row.peer} {row.theirs[-1]:.4g}"
        print(text, file=sys.stderr, flush=True)
    return row


def write_json(name: str, rows: list[Row], method: str, **more: Any) -> Path:
    """Write ``build/bench/NAME.json`` (DESIGN, benchmarks); ``more`` are further keys. Returns its path."""
    path = ROOT / "build" / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": machine(),
        "commit": _commit(),
        "method": method,
        "rows": [row.as_dict() for row in rows],
        **more,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def write_report(name: str, rows: list[Row], method: str) -> Path:
    """Print the table and the method; write ``build/bench/NAME.json``."""
    path = write_json(name, rows, method)
    print(f"{'row':<20} {'unit':<7} {'ours (median)':>14} {'peer (median)':>14} {'advantage':>9}  peer")
    for row in rows:
        ours = f"{statistics.median(row.ours):.4g}" if row.ours else "-"
        theirs = f"{statistics.median(row.theirs):.4g}" if row.theirs else "-"
        ratio = "-" if row.advantage is None else f"{row.advantage:.2f}x"
        note = f" ({row.note})" if row.note else ""
        print(f"{row.name:<20} {row.unit:<7} {ours:>14} {theirs:>14} {ratio:>9}  {row.peer or '-'}{note}")
    print(f"\n{method}\nraw figures: {path}")
    return path


def machine() -> str:
    """CPU model, core count and kernel: an absolute figure means nothing without them."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}"


def _commit() -> str:
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def tool_version(argv: list[str]) -> str:
    """The first line that ``argv`` prints, or an empty string when it is not installed."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    except FileNotFoundError:
        return ""
    return (done.stdout or done.stderr).splitlines()[0] if (done.stdout or done.stderr) else ""
