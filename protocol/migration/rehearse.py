"""A migration that does not happen: the same plan, fed with rounds that are computed instead of sent. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.messages import MigrationMode, MigrationParams
from protocol.migration.events import RoundDone
from protocol.migration.plan import PAGE, Again, Choice, Curve, GiveUp, GoPostcopy, Plan, Switch, Throttle

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


def rehearse(params: MigrationParams, curve: Curve, *, first_bytes: int, rate: float) -> Rehearsal:
    """``curve``: of the guest as it runs now; ``first_bytes``: of all its pages on the wire; ``rate``: bytes/s of the
    link. The wanted bandwidth limits the rounds of a running guest."""
    plan = Plan(params)
    held = min(rate, params.bandwidth) if params.bandwidth else rate
    choice: Choice = plan.begin()
    now, waiting, sent, left = 0.0, float(first_bytes), 0.0, 0
    while isinstance(choice, Again | Throttle):
        if isinstance(choice, Throttle):
            plan.resting(choice.percent)
        takes, share = waiting / held, plan.share
        now, sent = now + takes, sent + waiting
        if now > params.deadline_s:
            choice = GiveUp(f"not finished within {params.deadline_s:g} s")
            break
        looks = (takes * (n + 1) / _LOOKS for n in range(_LOOKS))
        points = tuple((t, int(curve.at(t * share))) for t in looks)
        left = points[-1][1]
        pages = int(waiting / PAGE) or 1
        choice = plan.after(RoundDone(pages, 0, int(waiting), takes, left, points), params.deadline_s - now)
        waiting = left * plan.cost
    mode: MigrationMode = "precopy" if params.mode in ("auto", "hybrid") else params.mode
    reason, blackout = "", 0.0
    match choice:
        case GiveUp(reason):
            pass
        case GoPostcopy():
            mode = "hybrid" if plan.rounds else "postcopy"
            now, sent = now + waiting / rate, sent + waiting
        case Switch():
            blackout = waiting / (held if not plan.rounds else rate)
            now, sent = now + blackout, sent + waiting
    return Rehearsal(mode, plan.rounds, int(sent), now, 1000 * blackout, plan.throttle_most, reason)
