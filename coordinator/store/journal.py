"""Operations (the journal of what people asked for), kept events, and the audit log."""

from __future__ import annotations

import json
import secrets
import sqlite3
from typing import Any

from coordinator.errors import Conflict, NotFound
from coordinator.model import Event, Operation
from coordinator.store.db import Tx, dumps

KEPT_OPERATIONS = 1000


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(6)}"


def _operation(row: sqlite3.Row) -> Operation:
    return Operation(
        id=row["id"],
        kind=row["kind"],
        subject=row["subject"],
        target=row["target"],
        state=row["state"],
        args=json.loads(row["args"]),
        progress={},
        result=json.loads(row["result"]) if row["result"] else None,
        error=json.loads(row["error"]) if row["error"] else None,
        created=row["created"],
        updated=row["updated"],
    )


def begin(tx: Tx, kind: str, *, subject: str, target: str, args: dict[str, Any]) -> Operation:
    """Journal an operation before anything is done; :class:`Conflict` while another works on the same thing."""
    busy = tx.one("SELECT id, kind FROM operations WHERE target = ? AND state IN ('pending', 'running')", target)
    if busy is not None:
        raise Conflict(f"{subject} is busy: operation {busy['id']} ({busy['kind']}) is under way", field="name")
    ident = new_id("op")
    tx.execute(
        "INSERT INTO operations (id, kind, subject, target, state, args, created, updated)"
        " VALUES (?, ?, ?, ?, 'pending', ?, ?, ?)",
        ident,
        kind,
        subject,
        target,
        dumps(args),
        tx.now,
        tx.now,
    )
    _forget_old(tx)
    return operation(tx, ident)


def _forget_old(tx: Tx) -> None:
    tx.execute(
        "DELETE FROM operations WHERE state NOT IN ('pending', 'running') AND id NOT IN"
        " (SELECT id FROM operations ORDER BY created DESC LIMIT ?)",
        KEPT_OPERATIONS,
    )


def operation(tx: Tx, ident: str) -> Operation:
    row = tx.one("SELECT * FROM operations WHERE id = ?", ident)
    if row is None:
        raise NotFound(f"no operation {ident}", field="id")
    return _operation(row)


def operations(tx: Tx, *, limit: int = 200) -> list[Operation]:
    """The newest first."""
    return [_operation(r) for r in tx.all("SELECT * FROM operations ORDER BY created DESC, id LIMIT ?", limit)]


def moves(tx: Tx, guest: str, *, limit: int = 10) -> list[Operation]:
    """A guest's migrations that succeeded, the newest first."""
    sql = "SELECT * FROM operations WHERE target = ? AND kind = 'migrate' AND state = 'succeeded'"
    return [_operation(r) for r in tx.all(f"{sql} ORDER BY created DESC, id LIMIT ?", guest, limit)]


def unfinished(tx: Tx) -> list[Operation]:
    sql = "SELECT * FROM operations WHERE state IN ('pending', 'running') ORDER BY created, id"
    return [_operation(r) for r in tx.all(sql)]


def active_on(tx: Tx, target: str) -> Operation | None:
    row = tx.one("SELECT * FROM operations WHERE target = ? AND state IN ('pending', 'running')", target)
    return _operation(row) if row else None


def set_running(tx: Tx, ident: str) -> None:
    tx.execute("UPDATE operations SET state = 'running', updated = ? WHERE id = ?", tx.now, ident)


def finish(
    tx: Tx, ident: str, state: str, *, result: dict[str, Any] | None = None, error: dict[str, Any] | None = None
) -> Operation:
    tx.execute(
        "UPDATE operations SET state = ?, result = ?, error = ?, updated = ? WHERE id = ?",
        state,
        dumps(result) if result is not None else None,
        dumps(error) if error is not None else None,
        tx.now,
        ident,
    )
    return operation(tx, ident)


# ---- events ---------------------------------------------------------------------------------------------------------


def events_since(tx: Tx, since: int, *, limit: int = 1000) -> list[Event]:
    """Events with an id above ``since``, oldest first, at most ``limit``."""
    return [
        Event(
            r["id"], r["time"], r["kind"], r["message"], r["guest"], r["node"], r["generation"], json.loads(r["data"])
        )
        for r in tx.all("SELECT * FROM events WHERE id > ? ORDER BY id LIMIT ?", since, limit)
    ]


# ---- audit ----------------------------------------------------------------------------------------------------------


def audit(tx: Tx, *, who: str, role: str, source: str, action: str, outcome: str) -> None:
    tx.execute(
        "INSERT INTO audit (time, who, role, source, action, outcome) VALUES (?, ?, ?, ?, ?, ?)",
        tx.now,
        who,
        role,
        source,
        action,
        outcome,
    )


def audit_entries(tx: Tx, *, since: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
    rows = tx.all("SELECT * FROM audit WHERE id > ? ORDER BY id LIMIT ?", since, limit)
    return [{key: row[key] for key in row.keys()} for row in rows]  # noqa: SIM118
