"""Migrations: the one place where a change of owner is committed.

The rule (DESIGN section 6): the first of commit and abort to be decided here wins for ever. ``decide`` is one
transaction: it looks at the row and, if nothing was decided yet, compares (guest, generation, source) and sets owner,
generation + 1 and decision together. A crash before the commit of that transaction leaves ``pending``; after it, the
answer is on disk and every later question gets the same one. Triggers in the schema refuse a second decision.
"""

from __future__ import annotations

import sqlite3
from typing import Literal

from coordinator.errors import Forbidden, Invalid, NotFound
from coordinator.model import Guest, Migration
from coordinator.store import guests, journal, nodes
from coordinator.store.db import Tx
from protocol.messages import Decision
from protocol.migration import Begin, Verdict
from protocol.migration import decide as rule


def _migration(row: sqlite3.Row) -> Migration:
    return Migration(**{key: row[key] for key in row.keys()})  # noqa: SIM118


def begin(tx: Tx, ident: str, guest: Guest, *, target: int, operation: str) -> Migration:
    assert guest.node is not None
    tx.execute(
        "INSERT INTO migrations (id, guest, generation, source, target, operation, created)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        ident,
        guest.id,
        guest.generation,
        guest.node,
        target,
        operation,
        tx.now,
    )
    return by_id(tx, ident)


def find(tx: Tx, ident: str) -> Migration | None:
    row = tx.one("SELECT * FROM migrations WHERE id = ?", ident)
    return _migration(row) if row else None


def by_id(tx: Tx, ident: str) -> Migration:
    found = find(tx, ident)
    if found is None:
        raise NotFound(f"no migration {ident}", field="migration")
    return found


def of_operation(tx: Tx, operation: str) -> Migration | None:
    row = tx.one("SELECT * FROM migrations WHERE operation = ?", operation)
    return _migration(row) if row else None


def pending_of(tx: Tx, guest: str) -> Migration | None:
    row = tx.one("SELECT * FROM migrations WHERE guest = ? AND decision = 'pending'", guest)
    return _migration(row) if row else None


def protected(tx: Tx, guest: Guest) -> Migration | None:
    """The guest's committed migration whose operation has not ended and was asked to protect it: its source may run
    the guest again if the target's copy dies."""
    operation = journal.active_on(tx, guest.id)
    if operation is None or operation.kind != "migrate" or not operation.args["params"].get("protect"):
        return None
    migration = of_operation(tx, operation.id)
    return migration if migration is not None and migration.decision == "committed" else None


def busy_nodes(tx: Tx) -> dict[int, int]:
    """Undecided migrations by the nodes that take part in them, at either end."""
    out: dict[int, int] = {}
    for row in tx.all("SELECT source, target FROM migrations WHERE decision = 'pending'"):
        for node in (row["source"], row["target"]):
            out[node] = out.get(node, 0) + 1
    return out


def decide(
    tx: Tx,
    ident: str,
    *,
    ask: Literal["commit", "abort", "query"],
    reason: str = "",
    asker: int | None = None,
    guest: str | None = None,
    generation: int | None = None,
) -> Decision:
    """The final word, or ``pending`` to a query. ``asker``: the node that asks, None for the coordinator itself.

    The rule is :func:`protocol.migration.decide`; here it meets the rows. A commit whose compare fails is decided as an
    abort: the migration can never succeed, and its ends must learn that. A migration that this store does not know can
    only be aborted.
    """
    migration = find(tx, ident)
    if migration is None:
        return _unknown(tx, ident, guest)
    if asker is not None and asker not in (migration.source, migration.target):
        raise Forbidden(f"node {asker} has no part in migration {ident}")
    if guest is not None and guest != migration.guest:
        raise Invalid(f"migration {ident} is not of guest {guest}", field="guest")
    if ask == "commit" and asker != migration.source:
        raise Forbidden("only the source of a migration asks for its commit")
    row = guests.find_id(tx, migration.guest)
    verdict = rule(
        Begin(
            migration.id, migration.guest, migration.generation, migration.source, migration.target, migration.decision
        ),
        row.generation if row is not None else 0,  # a removed guest has no generation that a commit could match
        row.node if row is not None and row.node is not None else 0,
        generation if generation is not None else migration.generation,
        ask,
    )
    if verdict.changed:
        if verdict.decision == "aborted" and ask == "commit":
            reason = f"the guest is not of generation {generation} any more"
        migration = _settle(tx, migration, row, verdict, reason)
    return answer(migration)


def _unknown(tx: Tx, ident: str, guest: str | None) -> Decision:
    row = guests.find_id(tx, guest) if guest is not None else None
    if row is None or row.node is None:
        raise NotFound(f"no migration {ident}", field="migration")
    return Decision(decision="aborted", generation=row.generation, owner=row.node)


def _settle(tx: Tx, migration: Migration, owner: Guest | None, verdict: Verdict, reason: str) -> Migration:
    """Write a verdict: both rows, in this transaction."""
    if owner is not None and verdict.decision == "committed":
        owner = guests.move(tx, owner, node=verdict.owner, expect=migration.generation)
    tx.execute(
        "UPDATE migrations SET decision = ?, reason = ?, decided = ? WHERE id = ?",
        verdict.decision,
        reason,
        tx.now,
        migration.id,
    )
    if owner is not None:
        owner = guests.set_state(tx, owner, "running") if owner.state == "migrating" else owner
        where = nodes.name_of(tx, owner.node)
        tx.emit(
            f"migration.{verdict.decision}",
            f"migration of {owner.name} {verdict.decision}: it belongs to {where}" + (f" ({reason})" if reason else ""),
            guest=owner.name,
            node=where,
            generation=owner.generation,
            migration=migration.id,
            reason=reason,
        )
    return by_id(tx, migration.id)


def answer(migration: Migration) -> Decision:
    """What anyone who asks is told: the decision, and who owned the guest by it. Not who owns it by now: an end that
    asks late must not take a later generation for its own."""
    committed = migration.decision == "committed"
    return Decision(
        decision=migration.decision,
        generation=migration.generation + int(committed),
        owner=migration.target if committed else migration.source,
    )
