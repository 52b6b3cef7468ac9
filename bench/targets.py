"""Rows with targets: what each is called, in which unit, and what it must reach. Shared by the benches.

A target is on the advantage over the better peer, or, where ``of`` is "ours", on our own figure. Verdicts are computed
from medians; a row without figures has none.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bench.harness import Row

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Target:
    """``must`` and ``goal`` for a row; ``near_native`` (factor, plus) replaces the goal by native * factor + plus."""

    must: float
    goal: float | None
    of: Literal["advantage", "ours"] = "advantage"
    near_native: tuple[float, float] | None = None


@dataclass(frozen=True)
class Spec:
    name: str
    unit: str
    better: Better
    target: Target | None


class Targets:
    """The rows of one bench. ``peer_prefix``: what all its peers' names begin with and a table leaves out."""

    def __init__(self, specs: Iterable[Spec], peer_prefix: str = "") -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.peer_prefix = peer_prefix

    def new_row(self, name: str) -> Row:
        spec = self.specs[name]
        return Row(name, spec.unit, spec.better)

    def verdict(self, row: Row) -> str:
        """ "goal" or "must" (the best that is met), "SHORT" (must missed), "WRONG" (a wrong result), "-" (no target or
        no figure)."""
        if row.note.startswith("wrong"):
            return "WRONG"
        target = self.specs[row.name].target
        if target is None or not row.ours:
            return "-"
        figure = statistics.median(row.ours) if target.of == "ours" else row.advantage
        if figure is None:
            return "-"
        met = figure <= target.must if target.of == "ours" and row.better == "lower" else figure >= target.must
        if not met:
            return "SHORT"
        return "goal" if _goal_met(row, target, figure) else "must"

    def target_text(self, name: str) -> str:
        """The target as the table gives it: ``>= 2.5x (4x)``: must, and the goal in brackets."""
        target = self.specs[name].target
        if target is None:
            return "-"
        sign = ">=" if target.of == "advantage" or self.specs[name].better == "higher" else "<="
        unit = "x" if target.of == "advantage" else self.specs[name].unit
        goal = f" ({target.goal:.3g}{unit})" if target.goal is not None else ""
        if target.near_native is not None:
            factor, plus = target.near_native
            goal = f" (native + {plus:g} {self.specs[name].unit})" if plus else f" ({factor:g} x native)"
        return f"{sign} {target.must:g}{'' if unit == 'x' else ' '}{unit}{goal}"

    def table(self, rows: list[Row]) -> str:
        """The table as text: medians of ours, of the better peer and of the host, the advantage and its target."""
        width = max(15, *(len(row.name) + 2 for row in rows)) if rows else 15
        head = f"{'row':<{width}}{'unit':<9}{'ours':>10}{'peer':>10}{'native':>10}{'advantage':>11}  "
        lines = [f"{head}{'must (goal)':<24}{'met':<7}peer, note"]
        for row in rows:
            ours, theirs, native = (
                f"{statistics.median(x):.4g}" if x else "-" for x in (row.ours, row.theirs, row.native)
            )
            ratio = "-" if row.advantage is None else f"{row.advantage:.2f}x"
            peer = (row.peer or "-").removeprefix(self.peer_prefix)
            lines.append(
                f"{row.name:<{width}}{row.unit:<9}{ours:>10}{theirs:>10}{native:>10}{ratio:>11}  "
                f"{self.target_text(row.name):<24}{self.verdict(row):<7}{peer}{', ' + row.note if row.note else ''}"
            )
        return "\n".join(lines)


def _goal_met(row: Row, target: Target, figure: float) -> bool | None:
    """None where there is no goal, or nothing to compare with."""
    if target.near_native is not None:
        if not row.native:
            return None
        factor, plus = target.near_native
        return statistics.median(row.ours) <= statistics.median(row.native) * factor + plus
    if target.goal is None:
        return None
    return figure <= target.goal if target.of == "ours" and row.better == "lower" else figure >= target.goal
