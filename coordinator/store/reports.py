"""How migrations went: one report each, kept when it has ended, the newest for each guest."""

from __future__ import annotations

import json
from typing import Any

from coordinator.errors import NotFound
from coordinator.store.db import Tx, dumps

KEPT = 50  # of one guest
KEPT_OF_ALL = 2000  # those of removed guests go with time


def keep(tx: Tx, migration: str, guest: str, report: dict[str, Any]) -> None:
    """A migration that is resumed after a restart may end twice: the last word counts."""
    tx.execute(
        "INSERT OR REPLACE INTO reports (migration, guest, created, report) VALUES (?, ?, ?, ?)",
        migration,
        guest,
        tx.now,
        dumps(report),
    )
    newest = "SELECT migration FROM reports WHERE guest = ? ORDER BY created DESC LIMIT ?"
    tx.execute(f"DELETE FROM reports WHERE guest = ? AND migration NOT IN ({newest})", guest, guest, KEPT)
    tx.execute(
        "DELETE FROM reports WHERE migration NOT IN (SELECT migration FROM reports ORDER BY created DESC LIMIT ?)",
        KEPT_OF_ALL,
    )


def of_guest(tx: Tx, guest: str) -> list[dict[str, Any]]:
    """The newest first."""
    rows = tx.all("SELECT report FROM reports WHERE guest = ? ORDER BY created DESC", guest)
    return [json.loads(row["report"]) for row in rows]


def last_bytes(tx: Tx, guest: str) -> int:
    """What its last migration that came about has sent; 0: none is known."""
    row = tx.one(
        "SELECT json_extract(report, '$.bytes_sent') AS sent FROM reports WHERE guest = ?"
        " AND json_extract(report, '$.outcome') = 'committed' ORDER BY created DESC LIMIT 1",
        guest,
    )
    return int(row["sent"] or 0) if row is not None else 0


def by_id(tx: Tx, migration: str) -> dict[str, Any]:
    row = tx.one("SELECT report FROM reports WHERE migration = ?", migration)
    if row is None:
        raise NotFound(f"no report of migration {migration}", field="id")
    report: dict[str, Any] = json.loads(row["report"])
    return report
