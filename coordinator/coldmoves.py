"""Moving a guest that is stopped (``--mode cold``): its record, and with it its ports and addresses, goes to another
node; it starts there. Nothing is copied: such a guest has no memory. One with a disk is moved as guests that run are
(coordinator/migrations.py), because what it wrote lies on its node.

The change of owner is one compare-and-set on the guest's generation, made with the journal's entry. The old node is
told to forget what it kept (its console's last output); if it cannot be reached it is told when it registers again.
The image comes to the new node when the guest starts.
"""

from __future__ import annotations

import logging
from typing import Any

from coordinator.cluster import Cluster
from coordinator.errors import Conflict, Full
from coordinator.model import Operation
from coordinator.operations import Operations, Task
from coordinator.placement import Demand
from coordinator.store import guests, journal, nodes
from coordinator.store.db import Tx
from protocol.errors import WherryError
from protocol.messages import GuestForget

log = logging.getLogger(__name__)

FORGET_TIMEOUT_S = 10.0
STOPPED = ("stopped", "crashed")


class ColdMoves:
    def __init__(self, cluster: Cluster, operations: Operations) -> None:
        self._cluster = cluster
        self._operations = operations
        operations.handle("move", self._do_move, cancellable=False)

    async def has_disk(self, name: str) -> bool:
        return (await self._cluster.db.run(guests.by_name, name)).spec.image.disk is not None

    async def move(self, name: str, *, to: str | None) -> Operation:
        """Give a stopped guest to another node, at once."""

        def decide(tx: Tx) -> Operation:
            guest = guests.by_name(tx, name)
            if guest.state not in STOPPED:
                raise Conflict(f"guest {name} is {guest.state}; mode cold moves a stopped guest", field="mode")
            on = nodes.by_name(tx, to, field="to") if to else None
            if on is not None and on.id == guest.node:
                raise Conflict(f"guest {name} is on {to} already", field="to")
            avoid = {guest.node: "it is there now"} if guest.node is not None else {}
            demand = Demand(guest.spec.memory, guest.spec.cpus, on=on.id if on else None, avoid=avoid)
            placement = self._cluster.place(tx, demand, without=guest.id)
            if placement.chosen is None:
                raise Full(placement.refusal(), field="to", placement=placement.to_json())
            target = placement.chosen.node
            args = {"source": guest.node, "target": target, "generation": guest.generation}
            operation = journal.begin(tx, "move", subject=name, target=guest.id, args=args)
            moved = guests.move(tx, guest, node=target, expect=guest.generation)
            guests.forget_run(tx, moved)
            where = nodes.name_of(tx, target)
            tx.emit(
                "guest.moved",
                f"guest {name}, stopped, belongs to {where} now",
                guest=name,
                node=where,
                generation=moved.generation,
            )
            return operation

        operation = await self._cluster.db.run(decide)
        self._operations.start(operation)
        return operation

    async def _do_move(self, operation: Operation, task: Task) -> dict[str, Any]:
        args = operation.args
        link = self._cluster.links.get(args["source"])
        if link is not None:
            try:
                forget = GuestForget(guest=operation.target, generation=args["generation"])
                await link.call(forget, timeout=FORGET_TIMEOUT_S)
            except WherryError as exc:
                log.info("guest=%s its old node will be told later: %s", operation.target, exc)

        def names(tx: Tx) -> dict[str, Any]:
            return {key: nodes.name_of(tx, args[key]) for key in ("source", "target")}

        found = await self._cluster.db.run(names)
        return {**found, "mode": "cold", "outcome": "committed", "generation": args["generation"] + 1}
