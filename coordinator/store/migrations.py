"""Migrations: the one place where a change of owner is committed.

The rule (DESIGN section 6): the first of commit and abort to be decided here wins for ever. ``decide`` is one
transaction: it looks at the row and, if nothing was decided yet, compares (guest, generation, source) and sets owner,
generation + 1 and decision together. A crash before the commit of that transaction leaves ``pending``; after it, the
answer is on disk and every later question gets the same one. Triggers in the schema refuse a second decision.
"""

from __future__ import annotations

import sqlite3
from typing import Literal

from coordinator.errors import Fenced, Forbidden, Invalid, NotFound
from coordinator.model import Guest, Migration
from coordinator.store import guests, nodes
from coordinator.store.db import Tx
from protocol.messages import Decision


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

    A commit whose compare fails is decided as an abort: the migration can never succeed, and its ends must learn that.
    """
    migration = by_id(tx, ident)
    if asker is not None and asker not in (migration.source, migration.target):
        raise Forbidden(f"node {asker} has no part in migration {ident}")
    if guest is not None and guest != migration.guest:
        raise Invalid(f"migration {ident} is not of guest {guest}", field="guest")
    if ask == "commit" and asker is not None and asker != migration.source:
        raise Forbidden("only the source of a migration asks for its commit")
    if migration.decision == "pending" and ask != "query":
        if ask == "commit" and generation not in (None, migration.generation):
            ask, reason = "abort", f"commit asked for generation {generation}, not {migration.generation}"
        migration = _settle(tx, migration, ask, reason)
    return answer(tx, migration)


def _settle(tx: Tx, migration: Migration, ask: str, reason: str) -> Migration:
    owner = guests.find_id(tx, migration.guest)
    decision = "aborted"
    if ask == "commit":
        if owner is None or owner.node != migration.source:
            reason = "the guest is not the source's any more"
        elif tx.one("SELECT 1 FROM nodes WHERE id = ?", migration.target) is None:
            reason = "the target node was removed"
        else:
            try:
                owner = guests.move(tx, owner, node=migration.target, expect=migration.generation)
                decision = "committed"
            except Fenced as exc:
                reason = exc.message
    tx.execute(
        "UPDATE migrations SET decision = ?, reason = ?, decided = ? WHERE id = ?",
        decision,
        reason,
        tx.now,
        migration.id,
    )
    if owner is not None:
        owner = guests.set_state(tx, owner, "running") if owner.state == "migrating" else owner
        where = nodes.name_of(tx, owner.node)
        tx.emit(
            f"migration.{decision}",
            f"migration of {owner.name} {decision}: it belongs to {where}" + (f" ({reason})" if reason else ""),
            guest=owner.name,
            node=where,
            generation=owner.generation,
            migration=migration.id,
            reason=reason,
        )
    return by_id(tx, migration.id)


def answer(tx: Tx, migration: Migration) -> Decision:
    """What anyone who asks about ``migration`` is told: its decision and who owned the guest after it."""
    committed = migration.decision == "committed"
    return Decision(
        decision=migration.decision,
        generation=migration.generation + int(committed),
        owner=migration.target if committed else migration.source,
    )
