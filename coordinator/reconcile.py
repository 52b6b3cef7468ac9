"""What a node says runs there, against what the store says should. Pure: rows and reports in, actions out.

The store is right about ownership, the owner is right about its own copy. So: an owner's report of the present
generation is taken over; a copy that is not the owner's, or of an older generation, is fenced and must go; a copy that
takes part in an undecided migration is left alone, in a decided one it is told the decision; a guest that its owner
does not have any more has crashed. Guests with an operation under way are that operation's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coordinator.model import Guest, Migration
from protocol.messages import GuestStatus

RUNS = ("starting", "running", "paused", "migrating", "stopping")
SHOULD_BE_THERE = ("starting", "running", "paused", "migrating", "stopping", "unknown")


@dataclass(frozen=True, slots=True)
class Observe:
    guest: Guest
    status: GuestStatus


@dataclass(frozen=True, slots=True)
class Forget:
    guest: str
    generation: int


@dataclass(frozen=True, slots=True)
class Tell:
    """The migration's decision to this node, which does not seem to know it."""

    migration: Migration


@dataclass(frozen=True, slots=True)
class TakeBack:
    """The target's copy of a protected migration has died, and its source is to run it again: with ``give`` the store
    has to give it the guest first, else it has, and the source does not seem to know."""

    guest: Guest
    migration: Migration
    give: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """It runs, though nobody wants it to."""

    guest: Guest


@dataclass(frozen=True, slots=True)
class Missing:
    guest: Guest


Action = Observe | Forget | Tell | TakeBack | Stop | Missing


def _done_with(migration: Migration, guest: Guest | None) -> bool:
    """Does nobody pull from a source's paused copy any more? The target says so itself, unless it could not: its guest
    has ended since, or has gone on, which it can only with all pages."""
    if migration.decision != "committed":
        return False
    return guest is None or guest.generation > migration.generation + 1 or guest.state in ("stopped", "crashed")


def _taken_back(node: int, status: GuestStatus, guest: Guest | None, migration: Migration | None) -> TakeBack | None:
    """Only the owner's word that its copy has ended counts: a node that is not heard may well run it."""
    if guest is None or migration is None or guest.node != node or guest.desired != "running":
        return None
    if node == migration.target and status.generation == guest.generation == migration.generation + 1:
        return TakeBack(guest, migration, True) if status.state == "crashed" else None
    given = guest.generation == migration.generation + 2 and guest.state == "starting"
    if node == migration.source and given and status.generation == migration.generation:
        return TakeBack(guest, migration, False)
    return None


def reconcile(
    node: int,
    reported: Iterable[GuestStatus],
    *,
    guests: Mapping[str, Guest],
    migrations: Mapping[str, Migration],
    busy: frozenset[str],
    protected: Mapping[str, Migration] | None = None,
) -> list[Action]:
    """``guests``: all that the node owns or reports, by id; ``migrations``: all that its reports name; ``busy``: ids of
    guests with an operation under way; ``protected``: migrations under way whose source can run the guest again, by
    guest."""
    out: list[Action] = []
    seen: set[str] = set()
    for status in reported:
        guest = guests.get(status.guest)
        migration = migrations.get(status.migration) if status.migration else None
        mine = guest is not None and guest.node == node and guest.generation == status.generation
        if mine:
            seen.add(status.guest)
        taken = _taken_back(node, status, guest, (protected or {}).get(status.guest))
        if taken is not None:
            seen.add(status.guest)
            out.append(taken)
            continue
        if migration is not None and node in (migration.source, migration.target):
            if migration.decision == "pending":
                seen.add(status.guest)
                continue
            out.append(Tell(migration))
            if not mine:
                seen.add(status.guest)  # the decision tells it what to do with its copy
                if node == migration.source and _done_with(migration, guest):
                    out.append(Forget(status.guest, status.generation))
                continue
        if guest is None or guest.node != node or status.generation < guest.generation:
            out.append(Forget(status.guest, status.generation))
            continue
        if status.generation > guest.generation:
            seen.add(status.guest)  # from a store newer than ours: not ours to kill
            continue
        if guest.id in busy or status.state == "migrating":
            continue  # the end of a migration is the store's to tell, not the node's
        out.append(Observe(guest, status))
        if guest.desired == "stopped" and status.state in RUNS:
            out.append(Stop(guest))
    out += [
        Missing(g)
        for g in sorted(guests.values(), key=lambda g: g.name)
        if g.node == node and g.id not in seen and g.id not in busy and g.state in SHOULD_BE_THERE
    ]
    return out
