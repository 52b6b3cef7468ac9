"""The store's rule, pure: the first of "commit" and "abort" wins for ever.

:func:`decide` is the rule on one row and is what the coordinator runs inside one database transaction;
:class:`Arbiter` is the same rule with its two tables in memory, for simulations and as the reading of record.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from protocol.errors import Refused

DecisionWord = Literal["pending", "committed", "aborted"]


@dataclass(frozen=True, slots=True)
class Begin:
    """A migration as the coordinator notes it before it tells the source."""

    migration: str
    guest: str
    generation: int
    source: int
    target: int
    decision: DecisionWord = "pending"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the store holds after a question: both rows, and what changed."""

    decision: DecisionWord
    generation: int  # of the guest
    owner: int
    changed: bool  # write both rows, durably, before answering; then settle both ends


def decide(
    row: Begin | None,
    guest_generation: int,
    owner: int,
    asked_generation: int,
    ask: Literal["commit", "abort", "query"],
) -> Verdict:
    """``row`` as stored (None: unknown migration), the guest's generation and owner as stored, and the question.

    "commit" takes effect only where row and question name the guest's present generation; otherwise the guest has
    changed hands and the migration is aborted. An unknown migration can only be aborted.
    """
    if row is None:
        return Verdict("aborted", guest_generation, owner, False)
    if row.decision != "pending" or ask == "query":
        return Verdict(row.decision, guest_generation, owner, False)
    if ask == "commit" and asked_generation == row.generation == guest_generation:
        return Verdict("committed", guest_generation + 1, row.target, True)
    return Verdict("aborted", guest_generation, owner, True)


@dataclass(slots=True)
class Arbiter:
    """Migrations by id, guests as (generation, owner)."""

    guests: dict[str, tuple[int, int]] = field(default_factory=dict)
    migrations: dict[str, Begin] = field(default_factory=dict)

    def begin(self, row: Begin) -> None:
        """Note a migration. :class:`Refused` when the guest is elsewhere, has changed, or migrates already."""
        if row.migration in self.migrations:
            raise Refused("exists", f"migration {row.migration} exists")
        if row.guest not in self.guests:
            raise Refused("not_found", f"guest {row.guest}")
        generation, owner = self.guests[row.guest]
        if (generation, owner) != (row.generation, row.source):
            raise Refused("fenced", f"guest {row.guest} is at generation {generation} on node {owner}")
        for other in self.migrations.values():
            if other.guest == row.guest and other.decision == "pending":
                raise Refused("conflict", f"guest {row.guest} is in migration {other.migration}")
        self.migrations[row.migration] = replace(row, decision="pending")

    def ask(self, migration: str, guest: str, generation: int, ask: Literal["commit", "abort", "query"]) -> Verdict:
        """Answer ``migration.decide``."""
        row = self.migrations.get(migration)
        if row is not None and row.guest != guest:
            raise Refused("invalid", f"migration {migration} is of guest {row.guest}", field="guest")
        if guest not in self.guests:
            raise Refused("not_found", f"guest {guest}")
        present, owner = self.guests[guest]
        verdict = decide(row, present, owner, generation, ask)
        if verdict.changed and row is not None:
            self.migrations[migration] = replace(row, decision=verdict.decision)
            self.guests[guest] = (verdict.generation, verdict.owner)
        return verdict
