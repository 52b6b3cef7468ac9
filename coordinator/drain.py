"""Moving many guests: emptying a node that is cordoned first (drain), or just moving all that it holds (move-all).

The cheapest go first: whoever waits for room at the node gets some soonest. Cost is what the guest's last migration
sent, else what it has resident. How many at a time: ``parallel`` of a batch, ``PER_NODE`` on any node as source or
target, ``IN_CLUSTER`` altogether, whoever asked for them; a target that is at its limit is passed over, and when
nothing but busy nodes is left the guest waits. What cannot be moved is named in the error and stays; a drained node
stays cordoned. Stopped guests hold nothing there and are left alone.

After a restart the batch is made again from the store: guests that have gone are not there any more, and one whose
migration is under way is waited for. The others go on once the nodes are back, or known to be lost.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import trio
from msgspec import convert

from coordinator.cluster import Cluster
from coordinator.errors import Cancelled, Conflict, CoordinatorError, Failed, Full, Unsupported
from coordinator.migrations import Migrations
from coordinator.model import Guest, Node, Operation
from coordinator.operations import Operations, Task, error_json
from coordinator.store import guests, journal, migrations, nodes, reports
from coordinator.store.db import Tx
from protocol.messages import MigrationParams, to_builtins

log = logging.getLogger(__name__)

PARALLEL = 2
PER_NODE = 4
IN_CLUSTER = 16
LOOK_AGAIN_S = 1.0  # for room that somebody else's migration has left


@dataclass
class _Batch:
    """One operation at work. ``changed`` is set and replaced when a guest's move has ended."""

    node: int
    to: str | None
    params: MigrationParams
    parallel: int
    moving: dict[str, str] = field(default_factory=dict)  # id → name
    moved: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # name → why
    given_up: set[str] = field(default_factory=set)  # ids of those
    changed: trio.Event = field(default_factory=trio.Event)


class Drains:
    def __init__(self, cluster: Cluster, operations: Operations, moves: Migrations) -> None:
        self._cluster = cluster
        self._operations = operations
        self._moves = moves
        operations.handle("drain", self._do_batch)
        operations.handle("move-all", self._do_batch)

    async def drain(self, name: str, *, parallel: int = PARALLEL) -> Operation:
        """Cordon the node at once and begin to empty it."""

        def decide(tx: Tx) -> Operation:
            node = nodes.by_name(tx, name)
            args = {"node": node.id, "parallel": parallel}
            operation = journal.begin(tx, "drain", subject=name, target=f"node-{node.id}", args=args)
            nodes.cordon(tx, node, True)
            return operation

        return await self._begin(decide)

    async def move_all(
        self, name: str, *, to: str | None, params: MigrationParams, parallel: int = PARALLEL
    ) -> Operation:
        """Move what runs on the node, to one node or where there is room; it goes on taking guests."""

        def decide(tx: Tx) -> Operation:
            node = nodes.by_name(tx, name, field="from")
            if to is not None and nodes.by_name(tx, to, field="to").id == node.id:
                raise Conflict(f"its guests are on {to} already", field="to")
            args = {"node": node.id, "parallel": parallel, "to": to, "params": to_builtins(params)}
            return journal.begin(tx, "move-all", subject=name, target=f"node-{node.id}", args=args)

        self._moves.check(params)
        if params.mode == "cold":
            raise Unsupported("only running guests are moved all together", field="mode")
        return await self._begin(decide)

    async def _begin(self, decide: Any) -> Operation:
        operation: Operation = await self._cluster.db.run(decide)
        self._operations.start(operation)
        return operation

    async def uncordon(self, name: str) -> Node:
        def decide(tx: Tx) -> Node:
            node = nodes.by_name(tx, name)
            busy = journal.active_on(tx, f"node-{node.id}")
            if busy is not None and busy.kind == "drain":
                raise Conflict(f"node {name} is being drained by operation {busy.id}; cancel that first", field="name")
            nodes.cordon(tx, node, False)
            return nodes.by_name(tx, name)

        return await self._cluster.db.run(decide)

    # ---- work -------------------------------------------------------------------------------------------------------

    async def _do_batch(self, operation: Operation, task: Task) -> dict[str, Any]:
        args = operation.args
        batch = _Batch(
            int(args["node"]),
            args.get("to"),
            convert(args.get("params") or {}, MigrationParams),
            int(args.get("parallel", PARALLEL)),
        )
        async with trio.open_nursery() as nursery:
            while True:
                left = await self._left(batch)
                if not batch.moving and (not left or task.cancel_asked.is_set()):
                    break
                changed = batch.changed
                if left and not task.cancel_asked.is_set() and await self._room(batch):
                    batch.moving[left[0].id] = left[0].name
                    nursery.start_soon(self._carry, batch, left[0], task)
                    self._report(batch, task, len(left))
                    continue
                self._report(batch, task, len(left) + len(batch.moving))
                with trio.move_on_after(LOOK_AGAIN_S):
                    await changed.wait()
        return self._outcome(operation, batch, task)

    def _report(self, batch: _Batch, task: Task, left: int) -> None:
        task.report(
            phase="drain",
            guest=" ".join(sorted(batch.moving.values())),
            moved=len(batch.moved),
            left=left,
            failed=dict(batch.failed),
        )

    def _outcome(self, operation: Operation, batch: _Batch, task: Task) -> dict[str, Any]:
        if task.cancel_asked.is_set():
            stays = "; the node stays cordoned" if operation.kind == "drain" else ""
            raise Cancelled(f"{operation.kind} cancelled; moved: {', '.join(batch.moved) or 'none'}{stays}")
        if batch.failed:
            what = "; ".join(f"{name}: {why}" for name, why in batch.failed.items())
            text = f"moved {len(batch.moved)}, could not move {len(batch.failed)}: {what}"
            raise Failed("conflict", text, field="name")
        return {"moved": batch.moved}

    async def _left(self, batch: _Batch) -> list[Guest]:
        """Who is to be moved and is not on its way, the cheapest first."""

        def read(tx: Tx) -> list[tuple[Guest, int]]:
            found = [g for g in guests.on_node(tx, batch.node) if _holds(g)]
            waiting = [g for g in found if g.id not in batch.moving and g.id not in batch.given_up]
            return [(g, reports.last_bytes(tx, g.id)) for g in waiting]

        found = await self._cluster.db.run(read)
        return [g for g, sent in sorted(found, key=lambda each: (self._cost(*each), each[0].name))]

    def _cost(self, guest: Guest, sent: int) -> int:
        """Bytes that its migration will send; ``sent``: by its last one, 0 if there was none."""
        sample = self._cluster.stats.sample(guest.id, guest.node, guest.generation, trio.current_time())
        return sent or (sample.resident if sample is not None and sample.resident else guest.spec.memory)

    async def _room(self, batch: _Batch) -> bool:
        """May one more leave the node?"""
        busy = await self._cluster.db.run(migrations.busy_nodes)
        here = max(busy.get(batch.node, 0), len(batch.moving))
        return len(batch.moving) < batch.parallel and here < PER_NODE and sum(busy.values()) // 2 < IN_CLUSTER

    async def _carry(self, batch: _Batch, guest: Guest, task: Task) -> None:
        try:
            if await self._move(batch, guest, task):
                batch.moved.append(guest.name)
        except CoordinatorError as exc:
            if not task.cancel_asked.is_set():
                batch.failed[guest.name] = exc.message
            batch.given_up.add(guest.id)
        finally:
            del batch.moving[guest.id]
            batch.changed.set()
            batch.changed = trio.Event()

    async def _move(self, batch: _Batch, guest: Guest, task: Task) -> bool:
        """Move one guest; an operation that is under way on it already is waited for first. False: it went away."""
        active = await self._cluster.db.run(journal.active_on, guest.id)
        if active is not None and active.kind != "migrate":
            await self._operations.wait(active.id)
            current = await self._cluster.db.run(guests.find_id, guest.id)
            if current is None or current.node != guest.node or not _holds(current):
                return False
            active = None
        if active is None:
            active = await self._start(batch, guest, task)
        ended = await self._wait_or_cancel(active, task)
        if ended.state != "succeeded" and ended.error is not None:
            raise Failed(ended.error["code"], ended.error["message"])
        return True

    async def _start(self, batch: _Batch, guest: Guest, task: Task) -> Operation:
        """The migration, to a node that has room for one more; waits while only busy nodes fit."""
        while True:
            await self._cluster.wait_known()  # a node that is on its way back is not to be taken for one without room
            counts = await self._cluster.db.run(migrations.busy_nodes)
            busy = {node: "it takes part in enough migrations" for node, n in counts.items() if n >= PER_NODE}
            busy.pop(batch.node, None)
            try:
                return await self._moves.migrate(guest.name, to=batch.to, params=batch.params, avoid=busy)
            except Full:
                if not busy or task.cancel_asked.is_set():
                    raise
            with trio.move_on_after(LOOK_AGAIN_S):
                await batch.changed.wait()

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
