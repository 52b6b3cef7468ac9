"""The journal at work: runs each operation in a task, and starts unfinished ones again after a restart.

An operation is journaled (``store/journal.py``) in the transaction that decides it, before anything is done. Its
handler must be idempotent: after a kill at any moment it runs again from its beginning and finds in the store how far
things are. It ends in exactly one of succeeded, failed, cancelled; a stopping coordinator leaves it running in the
journal. Progress lives in memory only; a restart loses nothing that matters by that.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Any

import trio

from coordinator.errors import Cancelled, Conflict, CoordinatorError
from coordinator.model import Operation
from coordinator.store import journal
from coordinator.store.db import Db
from protocol.errors import RemoteError, WherryError

log = logging.getLogger(__name__)

RETRY_S = 2.0
Result = dict[str, Any]
Handler = Callable[[Operation, "Task"], Awaitable[Result]]


class Task:
    """One operation while it runs: where its handler leaves progress and learns of a cancel."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.progress: dict[str, Any] = {}
        self.cancel_asked = trio.Event()
        self.finished = trio.Event()

    def report(self, **values: Any) -> None:
        self.progress.update(values)


def error_json(exc: BaseException) -> dict[str, Any]:
    """Any failure as the API's error object."""
    if isinstance(exc, CoordinatorError):
        return {"code": exc.code, "field": exc.field, "message": exc.message}
    if isinstance(exc, RemoteError):
        return {"code": exc.code, "field": exc.details.get("field"), "message": exc.message}
    if isinstance(exc, WherryError):
        return {"code": "unavailable", "field": None, "message": str(exc)}
    return {"code": "internal", "field": None, "message": f"{type(exc).__name__}: {exc}"}


class Operations:
    """All operations of the process. ``nursery`` holds their tasks."""

    def __init__(self, db: Db, nursery: trio.Nursery) -> None:
        self._db = db
        self._nursery = nursery
        self._handlers: dict[str, tuple[Handler, bool]] = {}
        self._tasks: dict[str, Task] = {}

    def handle(self, kind: str, handler: Handler, *, cancellable: bool = True) -> None:
        """``handler`` sees ``task.cancel_asked``; it raises :class:`Cancelled` if it gave up for that."""
        self._handlers[kind] = (handler, cancellable)

    async def resume(self) -> int:
        """Start what the journal holds unfinished; how many."""
        found = await self._db.run(journal.unfinished)
        for operation in found:
            log.info("resuming operation=%s kind=%s subject=%s", operation.id, operation.kind, operation.subject)
            self.start(operation)
        return len(found)

    def start(self, operation: Operation) -> None:
        """Begin the work of an operation that is in the journal."""
        task = Task(operation)
        self._tasks[operation.id] = task
        self._nursery.start_soon(self._run, task)

    async def _run(self, task: Task) -> None:
        ident = task.operation.id
        try:
            handler, _ = self._handlers[task.operation.kind]
            try:
                await self._db.run(journal.set_running, ident)
                result = await handler(task.operation, task)
            except Cancelled as exc:
                await self._finish(task, "cancelled", error=error_json(exc))
            except (CoordinatorError, WherryError) as exc:
                await self._finish(task, "failed", error=error_json(exc))
            except Exception as exc:
                log.exception("operation=%s kind=%s broke", ident, task.operation.kind)
                await self._finish(task, "failed", error=error_json(exc))
            else:
                await self._finish(task, "succeeded", result=result)
        finally:
            task.finished.set()
            self._tasks.pop(ident, None)

    async def _finish(
        self, task: Task, state: str, *, result: Result | None = None, error: dict[str, Any] | None = None
    ) -> None:
        while True:
            try:
                operation = await self._db.run(journal.finish, task.operation.id, state, result=result, error=error)
                break
            except CoordinatorError as exc:  # a full disk: the end is known and must not be lost
                log.error("operation=%s cannot be ended in the journal: %s", task.operation.id, exc.message)
                await trio.sleep(RETRY_S)
        log.info(
            "operation=%s kind=%s subject=%s %s%s",
            operation.id,
            operation.kind,
            operation.subject,
            state,
            f": {error['message']}" if error else "",
        )

    def task(self, ident: str) -> Task | None:
        return self._tasks.get(ident)

    async def get(self, ident: str, *, wait: float = 0.0) -> Operation:
        """The operation with its progress, at the latest after ``wait`` seconds, at the earliest when it has ended."""
        operation = await self._db.run(journal.operation, ident)
        task = self._tasks.get(ident)
        if task is None or operation.finished:
            return operation
        if wait > 0:
            with trio.move_on_after(wait):
                await task.finished.wait()
            operation = await self._db.run(journal.operation, ident)
        return replace(operation, progress=dict(task.progress))

    async def wait(self, ident: str) -> Operation:
        """The operation once it has ended."""
        task = self._tasks.get(ident)
        if task is not None:
            await task.finished.wait()
        return await self._db.run(journal.operation, ident)

    async def cancel(self, ident: str, *, kinds: Collection[str] | None = None) -> Operation:
        """Ask an operation to give up; it may still succeed if it is past the point of return."""
        operation = await self._db.run(journal.operation, ident)
        task = self._tasks.get(ident)
        if operation.finished or task is None:
            raise Conflict(f"operation {ident} has {operation.state} already", field="id")
        _, cancellable = self._handlers[operation.kind]
        if not cancellable or (kinds is not None and operation.kind not in kinds):
            raise Conflict(f"operation {ident} ({operation.kind}) cannot be cancelled", field="id")
        task.cancel_asked.set()
        return replace(operation, progress=dict(task.progress))
