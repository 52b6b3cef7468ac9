"""What switches noticed, made events that people can act on: each says where, why, and what to type.

A node may tell ``BURST`` at once and ``RATE`` a second; what is above is counted, and the count is told: one node, or a
guest that provokes it, must not push everybody's events out of the ring.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import trio

from coordinator.cluster import Cluster
from coordinator.errors import NotFound
from coordinator.model import Network
from coordinator.narrow import tell_path
from coordinator.store import networks, nodes, rules
from coordinator.store.db import Tx
from protocol.messages import NetEvent, NetEvents

log = logging.getLogger(__name__)

BURST, RATE = 120, 1.0


@dataclass(slots=True)
class Bucket:
    """Pure; times are the caller's."""

    left: float = BURST
    at: float = 0.0
    missed: int = 0

    def take(self, now: float) -> bool:
        self.left = min(BURST, self.left + (now - self.at) * RATE)
        self.at = now
        if self.left < 1:
            self.missed += 1
            return False
        self.left -= 1
        return True


class Noticed:
    """The receiving end of ``node.events``."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._buckets: dict[int, Bucket] = {}

    async def take(self, node: int, notice: NetEvents) -> None:
        now = trio.current_time()
        bucket = self._buckets.setdefault(node, Bucket(at=now))
        news = [e for e in notice.events if e.kind != "path_mtu" or self._cluster.paths.found(node, e.node, e.value)]
        good = [e for e in news if bucket.take(now)]
        bucket.missed += notice.lost
        missed = 0
        if bucket.missed and (good or notice.lost):
            missed, bucket.missed = bucket.missed, 0
        if good or missed:
            await self._cluster.db.run(self._write, node, good, missed)

    def _write(self, tx: Tx, node: int, events: list[NetEvent], missed: int) -> None:
        name = nodes.name_of(tx, node)
        if name is None:
            return
        known = {n.vni: n for n in networks.all_networks(tx)}
        for event in events:
            if event.kind == "path_mtu":
                tell_path(tx, node, event.node, event.value)
            elif (network := known.get(event.vni)) is not None:
                _write_one(tx, name, network, event)
        if missed:
            tx.emit("net.left-out", f"node {name}: {missed} more events of its switch were left out", node=name)


def _where(tx: Tx, port: str, node: str | None) -> tuple[str, str, str | None]:
    """A place in words, the name of a port that people type, and its guest's."""
    if not port:
        return f"node {node}", "", None
    try:
        row = rules.port(tx, port)
    except NotFound:
        return f"a port of node {node} that is gone", "", None
    return f"{row.name} on node {node}", row.name, row.guest.name if row.guest else None


def _write_one(tx: Tx, node: str, network: Network, event: NetEvent) -> None:
    place, name, guest = _where(tx, event.port, nodes.name_of(tx, event.node) if event.node else node)
    data: dict[str, Any] = {"network": network.name, "port": event.port or None, "count": event.count}
    if event.kind == "guard":
        text = (
            f"{place} is shut: a bridge's BPDU came in from {event.mac}; two such ports of network {network.name} make"
            f" a loop. When that can't be: wherry port set {name} --on {node} --open"
        )
        data["mac"] = event.mac
    elif event.kind == "storm":
        text = (
            f"{place} floods network {network.name} with more broadcasts than it may; it has {event.value} a second"
            " until it is calm"
        )
        data["rate"] = event.value
    else:
        other, _, _ = _where(tx, event.other_port, nodes.name_of(tx, event.other_node) if event.other_node else node)
        text = (
            f"{event.mac} of network {network.name} is at {place} and at {other}: two hosts have this address, or there"
            f" is a loop. It is held at the first for three minutes, or until: wherry port release {event.mac}"
        )
        data |= {"mac": event.mac, "other": other}
    if event.count > 1:
        text += f" ({event.count} times)"
    tx.emit(f"net.{event.kind}", text, guest=guest, node=node, **data)
