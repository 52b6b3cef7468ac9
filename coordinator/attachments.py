"""Attached ports: the store says which there shall be, each node is told its whole list.

A new port is kept only if its node could open it: the caller gets the node's reason instead. One that fails later
stays, and is shown as failed; its node tries it again. A node that is away when a port is taken from it hears so when
it registers. Lists of one node are sent one after the other, so that an older one never follows a newer.
"""

from __future__ import annotations

import logging
from collections import defaultdict

import trio

from coordinator.cluster import Cluster
from coordinator.errors import Conflict, CoordinatorError, Failed, Unavailable
from coordinator.model import AttachedPort, AttachmentKind
from coordinator.store import attachments, nodes
from coordinator.store.db import Tx
from coordinator.store.rules import PortRow
from protocol.errors import LinkError, WherryError
from protocol.messages import (
    NetLook,
    NetLooked,
    PortOpen,
    PortRelease,
    PortReleased,
    PortsDone,
    PortSettings,
    PortsSet,
    PortTrace,
    PortTraced,
)
from protocol.transport import Link

log = logging.getLogger(__name__)

CALL_S = 10.0
LOOK_S = 3.0


class Attachments:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._locks: defaultdict[int, trio.Lock] = defaultdict(trio.Lock)

    async def attach(
        self,
        *,
        network: str,
        kind: AttachmentKind,
        local: str,
        remote: str,
        on: str | None,
        settings: PortSettings | None = None,
    ) -> AttachedPort:
        """A port that its node has open. Raises :class:`CoordinatorError` with the node's reason."""

        def write(tx: Tx) -> AttachedPort:
            node = nodes.by_name(tx, on, field="on").id if on else _only_node(tx)
            return attachments.create(
                tx,
                node=node,
                network=network,
                kind=kind,
                local=local,
                remote=remote,
                settings=settings or PortSettings(),
            )

        port = await self._cluster.db.run(write)
        try:
            done = await self._send(port.node)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._take_back(port)
            raise
        state = next((s for s in done.states if s.id == port.id), None)
        if state is None or state.state != "up":
            await self._take_back(port)
            reason = state.reason if state else "its node did not take it"
            raise Failed((state.code if state else "") or "unavailable", reason, field="local")
        return port

    async def detach(self, ident: str) -> AttachedPort:
        port = await self._cluster.db.run(attachments.remove, ident)
        await self.tell(port.node)
        return port

    async def tell(self, node: int) -> None:
        """Send a node its list, if it is there: at each registration, and after a change."""
        try:
            await self._send(node)
        except (WherryError, CoordinatorError) as exc:
            log.info("node=%d was not told its attached ports: %s", node, exc)

    async def tell_network(self, network: str) -> None:
        """What is attached to a network has changed with it: send the nodes their lists."""
        ports = await self._cluster.db.run(attachments.all_ports)
        async with trio.open_nursery() as nursery:
            for node in {port.node for port in ports if port.network == network}:
                nursery.start_soon(self.tell, node)

    async def open(self, port: PortRow) -> None:
        """Open a port that the guard has shut. Raises :class:`Unavailable` when its node is away."""
        if port.node is None:
            raise Unavailable(f"{port.name} is on no node", field="open")
        name = await self._cluster.db.run(nodes.name_of, port.node)
        await self._cluster.links.need(port.node, name).call(PortOpen(port=port.key), timeout=CALL_S)

    async def release_at(self, port: PortRow) -> list[str]:
        """All stations that are held at a port may move again."""
        macs: dict[int, list[str]] = {}
        for answer in (await self.look()).values():
            for status in answer.ports:
                if port.key in (status.mac, status.owner):
                    macs[status.vni] = [held.mac for held in status.held]
        return sorted({mac for vni, held in macs.items() if held for mac in await self.release(vni, held)})

    async def release(self, vni: int, macs: list[str]) -> list[str]:
        """These may move again, in the switches of all nodes; ``vni`` 0: in all networks. Those that were held."""
        found: set[str] = set()

        async def ask(link: Link) -> None:
            try:
                answer = await link.call(PortRelease(vni=vni, macs=macs), timeout=LOOK_S)
            except LinkError as exc:
                log.info("node=%d did not release %s: %s", link.peer.node, ", ".join(macs), exc)
            else:
                assert isinstance(answer, PortReleased)
                found.update(answer.macs)

        async with trio.open_nursery() as nursery:
            for link in self._cluster.links.all().values():
                nursery.start_soon(ask, link)
        return sorted(found)

    async def look(self) -> dict[int, NetLooked]:
        """What the switches of all nodes that answer in time have."""
        found: dict[int, NetLooked] = {}

        async def ask(node: int) -> None:
            link = self._cluster.links.get(node)
            if link is not None:
                try:
                    answer = await link.call(NetLook(), timeout=LOOK_S)
                except LinkError as exc:
                    log.info("node=%d did not tell its ports: %s", node, exc)
                else:
                    assert isinstance(answer, NetLooked)
                    found[node] = answer

        async with trio.open_nursery() as nursery:
            for node in self._cluster.links.all():
                nursery.start_soon(ask, node)
        return found

    async def trace(self, node: str, port: int, every: int, seconds: float) -> PortTraced:
        """Where a port's frames go; takes ``seconds``."""
        row = await self._cluster.db.run(lambda tx: nodes.by_name(tx, node, field="node"))
        link = self._cluster.links.need(row.id, node)
        answer = await link.call(PortTrace(port=port, every=every, seconds=seconds), timeout=CALL_S + seconds)
        assert isinstance(answer, PortTraced)
        return answer

    async def _send(self, node: int) -> PortsDone:
        await self._cluster.rules.ensure(node)
        async with self._locks[node]:
            wanted = await self._cluster.db.run(attachments.on_node, node)
            name = await self._cluster.db.run(nodes.name_of, node)
            answer = await self._cluster.links.need(node, name).call(PortsSet(attachments=wanted), timeout=CALL_S)
        assert isinstance(answer, PortsDone)
        return answer

    async def _take_back(self, port: AttachedPort) -> None:
        await self._cluster.db.run(attachments.remove, port.id)
        await self.tell(port.node)


def _only_node(tx: Tx) -> int:
    found = nodes.all_nodes(tx)
    if len(found) != 1:
        known = ", ".join(n.name for n in found) or "none"
        raise Conflict(f"which node? name it; known: {known}", field="on")
    return found[0].id
