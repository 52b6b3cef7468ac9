"""Single values: the cluster's id, counters that never fall."""

from __future__ import annotations

from coordinator.store.db import Tx


def get(tx: Tx, key: str) -> str | None:
    row = tx.one("SELECT value FROM meta WHERE key = ?", key)
    return str(row["value"]) if row else None


def put(tx: Tx, key: str, value: str) -> None:
    tx.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)


def bump(tx: Tx, key: str) -> int:
    """The counter's next value: 1, 2, ... over all restarts."""
    value = int(get(tx, key) or "0") + 1
    put(tx, key, str(value))
    return value
