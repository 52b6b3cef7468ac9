"""The rows of ``make bench-core``: what each is called, in which unit, and what it must reach.

A target is on the advantage over the better peer, or, where ``of`` is "ours", on our own figure. Verdicts are computed
from medians; a row without figures has none.
"""

from __future__ import annotations

import statistics
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


_CODE, _FLOAT, _STREAM, _KERNEL = Target(2.5, 4), Target(3, 6), Target(1.5, 3), Target(2, 4)
_CHASE, _ATOMIC = Target(1, None, near_native=(1.3, 0)), Target(1.2, None, near_native=(1, 2))

GUEST = (  # what bench/programs/core prints, in its order
    Spec("integer", "it/s", "higher", _CODE),
    Spec("calls", "M/s", "higher", _CODE),
    Spec("indirect", "M/s", "higher", _CODE),
    Spec("linpack", "MFLOPS", "higher", _FLOAT),
    Spec("nbody", "kstep/s", "higher", _FLOAT),
    Spec("conversion", "M/s", "higher", _FLOAT),
    Spec("copy", "MB/s", "higher", _STREAM),
    Spec("triad", "MB/s", "higher", _STREAM),
    Spec("memset", "MB/s", "higher", _STREAM),
    Spec("chase_16k", "ns", "lower", Target(1, None)),
    Spec("chase_1m", "ns", "lower", _CHASE),
    Spec("chase_64m", "ns", "lower", _CHASE),
    Spec("amo", "ns", "lower", _ATOMIC),
    Spec("cas", "ns", "lower", _ATOMIC),
    Spec("smc", "us", "lower", Target(1, 2)),
    Spec("syscall", "ns", "lower", _KERNEL),
    Spec("pagefault", "us", "lower", _KERNEL),
    Spec("pipe", "us", "lower", _KERNEL),
    Spec("fork", "us", "lower", _KERNEL),
    Spec("exec", "us", "lower", _KERNEL),
    Spec("signal", "us", "lower", _KERNEL),
    Spec("sha256", "MB/s", "higher", None),
    Spec("gzip", "MB/s", "higher", None),
)
MACHINE = (
    Spec("boot", "s", "lower", Target(2, 1 / 0.3)),
    Spec("interp_integer", "it/s", "higher", Target(0.35, 0.55)),
    Spec("rss_mib", "MiB", "lower", Target(24, 12, of="ours")),
    Spec("smp2", "x", "higher", Target(1.9, None, of="ours")),
    Spec("restore_ms", "ms", "lower", Target(20, None, of="ours")),
)
SPECS = {spec.name: spec for spec in (*GUEST, *MACHINE)}


def new_row(name: str) -> Row:
    spec = SPECS[name]
    return Row(name, spec.unit, spec.better)


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


def verdict(row: Row) -> str:
    """ "goal" or "must" (the best that is met), "SHORT" (must missed), "WRONG" (a wrong result), "-" (no target or no
    figure)."""
    if row.note.startswith("wrong"):
        return "WRONG"
    target = SPECS[row.name].target
    if target is None or not row.ours:
        return "-"
    figure = statistics.median(row.ours) if target.of == "ours" else row.advantage
    if figure is None:
        return "-"
    met = figure <= target.must if target.of == "ours" and row.better == "lower" else figure >= target.must
    if not met:
        return "SHORT"
    return "goal" if _goal_met(row, target, figure) else "must"


def target_text(name: str) -> str:
    """The target as the table gives it: ``>= 2.5x (4x)``: must, and the goal in brackets."""
    target = SPECS[name].target
    if target is None:
        return "-"
    sign, unit = (">=", "x") if target.of == "advantage" or SPECS[name].better == "higher" else ("<=", SPECS[name].unit)
    goal = f" ({target.goal:.3g}{unit})" if target.goal is not None else ""
    if target.near_native is not None:
        factor, plus = target.near_native
        goal = f" (native + {plus:g} {SPECS[name].unit})" if plus else f" ({factor:g} x native)"
    return f"{sign} {target.must:g}{'' if unit == 'x' else ' '}{unit}{goal}"


def table(rows: list[Row]) -> str:
    """The table as text: medians of ours, of the better peer and of the host, the advantage and its target."""
    head = f"{'row':<15}{'unit':<9}{'ours':>10}{'peer':>10}{'native':>10}{'advantage':>11}  "
    lines = [f"{head}{'must (goal)':<24}{'met':<7}peer, note"]
    for row in rows:
        ours, theirs, native = (f"{statistics.median(x):.4g}" if x else "-" for x in (row.ours, row.theirs, row.native))
        ratio = "-" if row.advantage is None else f"{row.advantage:.2f}x"
        peer = (row.peer or "-").removeprefix("qemu-system-riscv64 ")
        lines.append(
            f"{row.name:<15}{row.unit:<9}{ours:>10}{theirs:>10}{native:>10}{ratio:>11}  {target_text(row.name):<24}"
            f"{verdict(row):<7}{peer}{', ' + row.note if row.note else ''}"
        )
    return "\n".join(lines)
