"""Transactions in one worker thread.

``Db.run(fn, ...)`` calls ``fn(tx, ...)`` inside ``BEGIN IMMEDIATE`` in a thread, one at a time; when it returns the
transaction is committed and synced to disk (WAL, ``synchronous=FULL``), when it raises nothing happened. Events that it
emitted are handed to ``on_events`` after the commit, in order, so that nobody hears of what did not happen.

Cancellation: a call that still waits for its turn is given up; one that runs is finished first.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import trio

from coordinator.errors import CoordinatorError, Failed, Full, StartError, Unavailable
from coordinator.model import Event
from coordinator.store import schema

P = ParamSpec("P")
T = TypeVar("T")

KEPT_EVENTS = 10_000


def dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


class Tx:
    """One transaction. ``now`` is its time (Unix seconds), the same for all that it writes."""

    def __init__(self, conn: sqlite3.Connection, now: float) -> None:
        self._conn = conn
        self.now = now
        self.events: list[Event] = []

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        return self._conn.execute(sql, args)

    def one(self, sql: str, *args: Any) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._conn.execute(sql, args).fetchone()
        return row

    def all(self, sql: str, *args: Any) -> list[sqlite3.Row]:
        return self._conn.execute(sql, args).fetchall()

    def emit(
        self,
        kind: str,
        message: str,
        *,
        guest: str | None = None,
        node: str | None = None,
        generation: int | None = None,
        **data: Any,
    ) -> None:
        """Record an event; subscribers get it once this transaction is committed. Old ones fall out of the ring."""
        cursor = self.execute(
            "INSERT INTO events (time, kind, message, guest, node, generation, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
            self.now,
            kind,
            message,
            guest,
            node,
            generation,
            dumps(data),
        )
        number = cursor.lastrowid
        assert number is not None
        self.execute("DELETE FROM events WHERE id <= ?", number - KEPT_EVENTS)
        self.events.append(Event(number, self.now, kind, message, guest, node, generation, data))


def _trouble(exc: sqlite3.OperationalError) -> CoordinatorError:
    """What the host does to us, as an error that people can act on; nothing was written."""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # extended codes keep the primary one in the low byte
    if code == sqlite3.SQLITE_FULL:
        return Full("the coordinator's disk is full; nothing was changed")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return Unavailable(f"the coordinator's store: {exc}; nothing was changed")
    return Failed("internal", f"the coordinator's store: {exc}")


class Db:
    """The open store. Made by :meth:`open`; its owner calls :meth:`close`, after which every call is refused."""

    def __init__(self, conn: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self._conn: sqlite3.Connection | None = conn
        self._clock = clock
        self._turn = trio.CapacityLimiter(1)
        self.on_events: Callable[[list[Event]], None] = lambda events: None

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], float] = time.time) -> Db:
        """Open or create the database, and hold it against a second coordinator.

        Raises :class:`StateVersionError` for a newer one, :class:`StartError` when it cannot be opened.
        """
        try:
            conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2.0)
            conn.row_factory = sqlite3.Row
            conn.execute("PRAGMA journal_mode = WAL")
            conn.execute("PRAGMA synchronous = FULL")
            conn.execute("PRAGMA foreign_keys = ON")
            schema.migrate(conn, path=str(path))
        except sqlite3.Error as exc:
            raise StartError(f"{path}: {exc}") from exc
        return cls(conn, clock)

    async def run(self, fn: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``fn`` as one transaction in the worker thread and return what it returned."""
        result, events = await trio.to_thread.run_sync(
            lambda: self._transact(fn, args, kwargs), limiter=self._turn, abandon_on_cancel=False
        )
        if events:
            self.on_events(events)
        return result

    def run_sync(self, fn: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same in the calling thread: for start-up, before anything else runs."""
        result, events = self._transact(fn, args, kwargs)
        if events:
            self.on_events(events)
        return result

    def _transact(self, fn: Callable[..., T], args: Any, kwargs: Any) -> tuple[T, list[Event]]:
        conn = self._conn
        if conn is None:
            raise Unavailable("the coordinator is stopping")
        try:
            conn.execute("BEGIN IMMEDIATE")
            tx = Tx(conn, self._clock())
            result = fn(tx, *args, **kwargs)
            conn.execute("COMMIT")
        except BaseException as exc:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            if isinstance(exc, sqlite3.OperationalError):
                raise _trouble(exc) from exc
            raise
        return result, tx.events

    def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()
