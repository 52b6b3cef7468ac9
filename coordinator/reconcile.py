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
class Stop:
    """It runs, though nobody wants it to."""

    guest: Guest


@dataclass(frozen=True, slots=True)
class Missing:
    guest: Guest


Action = Observe | Forget | Tell | Stop | Missing


def _done_with(migration: Migration, guest: Guest | None) -> bool:
    """Does nobody pull from a source's paused copy any more? The target says so itself, unless it could not: its guest
    has ended since, or has gone on, which it can only with all pages."""
    if migration.decision != "committed":
        return False
    return guest is None or guest.generation > migration.generation + 1 or guest.state in ("stopped", "crashed")


def reconcile(
    node: int,
    reported: Iterable[GuestStatus],
    *,
    guests: Mapping[str, Guest],
    migrations: Mapping[str, Migration],
    busy: frozenset[str],
) -> list[Action]:
    """``guests``: all that the node owns or reports, by id; ``migrations``: all that its reports name; ``busy``: ids of
    guests with an operation under way."""
    out: list[Action] = []
    seen: set[str] = set()
    for status in reported:
        guest = guests.get(status.guest)
        migration = migrations.get(status.migration) if status.migration else None
        mine = guest is not None and guest.node == node and guest.generation == status.generation
        if mine:
            seen.add(status.guest)
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
