"""Emptying a node: cordon it, then move its guests one after the other.

One at a time, because migrations from one node share its network and each would take longer. What cannot be moved is
named in the error and stays; the node stays cordoned. Stopped guests hold nothing there and are left alone.
"""

from __future__ import annotations

import logging
from typing import Any

import trio

from coordinator.cluster import Cluster
from coordinator.errors import Cancelled, Conflict, CoordinatorError, Failed
from coordinator.migrations import Migrations
from coordinator.model import Guest, Node, Operation
from coordinator.operations import Operations, Task, error_json
from coordinator.store import guests, journal, nodes
from coordinator.store.db import Tx
from protocol.messages import MigrationParams

log = logging.getLogger(__name__)


class Drains:
    def __init__(self, cluster: Cluster, operations: Operations, moves: Migrations) -> None:
        self._cluster = cluster
        self._operations = operations
        self._moves = moves
        operations.handle("drain", self._do_drain)

    async def drain(self, name: str) -> Operation:
        """Cordon the node at once and begin to empty it."""

        def decide(tx: Tx) -> Operation:
            node = nodes.by_name(tx, name)
            operation = journal.begin(tx, "drain", subject=name, target=f"node-{node.id}", args={"node": node.id})
            nodes.cordon(tx, node, True)
            return operation

        operation = await self._cluster.db.run(decide)
        self._operations.start(operation)
        return operation

    async def uncordon(self, name: str) -> Node:
        def decide(tx: Tx) -> Node:
            node = nodes.by_name(tx, name)
            busy = journal.active_on(tx, f"node-{node.id}")
            if busy is not None:
                raise Conflict(f"node {name} is being drained by operation {busy.id}; cancel that first", field="name")
            nodes.cordon(tx, node, False)
            return nodes.by_name(tx, name)

        return await self._cluster.db.run(decide)

    async def _do_drain(self, operation: Operation, task: Task) -> dict[str, Any]:
        node = int(operation.args["node"])
        moved: list[str] = []
        failed: dict[str, str] = {}
        while not task.cancel_asked.is_set():
            left = [g for g in await self._cluster.db.run(guests.on_node, node) if _holds(g) and g.name not in failed]
            task.report(phase="drain", moved=len(moved), left=len(left), failed=failed)
            if not left:
                break
            guest = left[0]
            task.report(guest=guest.name)
            try:
                await self._move(guest, task)
                moved.append(guest.name)
            except CoordinatorError as exc:
                failed[guest.name] = exc.message
        if task.cancel_asked.is_set():
            raise Cancelled(f"drain cancelled; moved: {', '.join(moved) or 'none'}; the node stays cordoned")
        if failed:
            what = "; ".join(f"{name}: {why}" for name, why in failed.items())
            raise Failed("conflict", f"moved {len(moved)}, could not move {len(failed)}: {what}", field="name")
        return {"moved": moved}

    async def _move(self, guest: Guest, task: Task) -> None:
        """Move one guest; an operation that is under way on it already is waited for first."""
        active = await self._cluster.db.run(journal.active_on, guest.id)
        if active is not None and active.kind != "migrate":
            await self._operations.wait(active.id)
            current = await self._cluster.db.run(guests.find_id, guest.id)
            if current is None or current.node != guest.node or not _holds(current):
                return
            active = None
        if active is None:
            active = await self._moves.migrate(guest.name, to=None, params=MigrationParams())
        ended = await self._wait_or_cancel(active, task)
        if ended.state != "succeeded" and ended.error is not None:
            raise Failed(ended.error["code"], ended.error["message"])

    async def _wait_or_cancel(self, operation: Operation, task: Task) -> Operation:
        async with trio.open_nursery() as nursery:

            async def pass_on() -> None:
                await task.cancel_asked.wait()
                try:
                    await self._operations.cancel(operation.id)
                except Conflict as exc:
                    log.info("operation=%s: %s", operation.id, error_json(exc)["message"])

            nursery.start_soon(pass_on)
            ended = await self._operations.wait(operation.id)
            nursery.cancel_scope.cancel()
        return ended


def _holds(guest: Guest) -> bool:
    return guest.state in ("pending", "starting", "running", "paused", "migrating", "stopping")
