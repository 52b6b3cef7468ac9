"""A migration that does not happen: the same plan, fed with rounds that are computed instead of sent. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.messages import MigrationMode, MigrationParams
from protocol.migration.events import DisksDone, RoundDone
from protocol.migration.plan import PAGE, Again, Choice, Curve, GiveUp, GoPostcopy, Mirror, Plan, Switch, Throttle

_LOOKS: Final = 32  # points of a computed round's curve


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """``reason``: why it would be given up; empty: it would be carried out. ``total_s``: until the target has all.
    ``blackout_ms``: transfer of the last pages."""

    mode: MigrationMode
    rounds: int
    bytes: int
    total_s: float
    blackout_ms: float
    throttle: int
    reason: str = ""


def rehearse(
    params: MigrationParams,
    curve: Curve,
    *,
    first_bytes: int,
    rate: float,
    disk_bytes: int | None = None,
    disk_rate: float = 0.0,
) -> Rehearsal:
    """``curve``: of the guest as it runs now; ``first_bytes``: of all its pages on the wire; ``rate``: bytes/s of the
    link. The wanted bandwidth limits the rounds of a running guest. ``disk_bytes``: of its disk that differ from the
    image's, None: it has no disk; ``disk_rate``: bytes/s that it writes to it."""
    plan = Plan(params)
    held = min(rate, params.bandwidth) if params.bandwidth else rate
    choice: Choice = plan.begin(disks=disk_bytes is not None)
    now, waiting, sent, left = 0.0, float(first_bytes), 0.0, 0
    disk = float(disk_bytes or 0)
    while isinstance(choice, Again | Throttle | Mirror):
        if isinstance(choice, Throttle):
            plan.resting(choice.percent)
        mirrors = isinstance(choice, Mirror) or (isinstance(choice, Throttle) and not plan.rounds)
        goes = disk if mirrors else waiting + disk
        takes, share = goes / held, plan.share
        now, sent = now + takes, sent + goes
        written = disk_rate * takes * share
        if now > params.deadline_s:
            choice = GiveUp(f"not finished within {params.deadline_s:g} s")
            break
        if mirrors:
            choice = plan.after_disks(DisksDone(int(disk), takes, int(written)), params.deadline_s - now)
            disk = written
            continue
        looks = (takes * (n + 1) / _LOOKS for n in range(_LOOKS))
        points = tuple((t, int(curve.at(t * share))) for t in looks)
        left = points[-1][1]
        pages = int(waiting / PAGE) or 1
        done = RoundDone(pages, 0, int(waiting), takes, left, points, int(disk), int(written))
        choice = plan.after(done, params.deadline_s - now)
        waiting, disk = left * plan.cost, written
    mode: MigrationMode = "precopy" if params.mode in ("auto", "hybrid") else params.mode
    reason, blackout = "", 0.0
    match choice:
        case GiveUp(reason):
            pass
        case GoPostcopy():
            mode = "hybrid" if plan.rounds else "postcopy"
            blackout = disk / rate
            now, sent = now + waiting / rate + blackout, sent + waiting + disk
        case Switch():
            blackout = (waiting + disk) / (held if not plan.rounds else rate)
            now, sent = now + blackout, sent + waiting + disk
    return Rehearsal(mode, plan.rounds, int(sent), now, 1000 * blackout, plan.throttle_most, reason)
