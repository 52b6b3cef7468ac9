"""What the services of one coordinator share: the store, the sessions that are up, the table of leases.

One :class:`Cluster` per process, made by ``service.py``. It owns nothing that outlives the process but the store.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

import trio

from coordinator.blobs import Blobs
from coordinator.ca import Authority
from coordinator.errors import CoordinatorError
from coordinator.events import Hub
from coordinator.leases import BecameAlive, LeaseEvent, Leases
from coordinator.live import LiveLinks
from coordinator.model import Guest, Network
from coordinator.paths import LEAST, Paths
from coordinator.placement import Demand, Placement, place
from coordinator.rules import Rules
from coordinator.stats import Stats
from coordinator.store import guests, meta, networks, nodes
from coordinator.store.db import Db, Tx
from protocol.errors import LinkError
from protocol.messages import Directory, NetworkInfo, NodeInfo
from protocol.transport import Link

log = logging.getLogger(__name__)


class Cluster:
    """The shared parts. ``wall`` gives Unix seconds; leases run on trio's clock."""

    def __init__(
        self, db: Db, ca: Authority, blobs: Blobs, leases: Leases, *, wall: Callable[[], float] = time.time
    ) -> None:
        self.db = db
        self.ca = ca
        self.blobs = blobs
        self.leases = leases
        self.wall = wall
        self.hub = Hub()
        self.links = LiveLinks()
        self.stats = Stats()
        self.rules = Rules(db, self.links)
        self.paths = Paths()
        self.directory_changed = trio.Event()
        self._lease_changed = trio.Event()
        db.on_events = self.hub.publish

    # ---- nodes ------------------------------------------------------------------------------------------------------

    def alive(self) -> frozenset[int]:
        """Ids of the nodes that can be asked for something now."""
        return frozenset(n for n in self.links.all() if self.leases.alive(n))

    async def lease(self, event: LeaseEvent) -> None:
        """Feed the table of leases and write down what follows."""
        effects = self.leases.handle(event, trio.current_time())
        for effect in effects:
            if isinstance(effect, BecameAlive):
                await self.db.run(_node_alive, effect.node)
            else:
                await self.db.run(_node_lost, effect.node, effect.reason)
                self.paths.gone(effect.node)
                log.warning("node=%s lost: %s", effect.node, effect.reason)
        self._lease_changed.set()
        self._lease_changed = trio.Event()
        if effects:
            self.announce()

    async def wait_lost(self, node: int) -> None:
        """Until the node's lease has run out."""
        while self.leases.state(node) != "lost":
            await self._lease_changed.wait()

    async def wait_known(self) -> None:
        """Until each node is there or lost: right behind our own start nobody is, but most are on their way. Bounded by
        the time after which a silent node is lost."""
        with trio.move_on_after(self.leases.silence):
            while self.leases.doubtful():
                await self._lease_changed.wait()

    async def doubt(self, guest: str) -> None:
        """Write down that nobody knows how a guest is, if its owner is lost."""

        def write(tx: Tx) -> None:
            row = guests.find_id(tx, guest)
            if row is not None and row.node is not None and self.leases.state(row.node) == "lost":
                name = nodes.name_of(tx, row.node)
                guests.set_state(tx, row, "unknown", reason=f"node {name} is lost")

        await self.db.run(write)

    async def watch_leases(self, tick: LeaseEvent) -> None:
        """Feed ``tick`` whenever a lease may have run out."""
        while True:
            changed = self._lease_changed
            deadline = self.leases.next_deadline()
            with trio.move_on_at(deadline if deadline is not None else float("inf")):
                await changed.wait()
                continue
            try:
                await self.lease(tick)
            except CoordinatorError as exc:  # a full disk must not end the control plane
                log.error("a lost node could not be written down: %s", exc.message)

    # ---- the directory ----------------------------------------------------------------------------------------------

    def announce(self) -> None:
        """Have the directory sent to all nodes soon."""
        self.directory_changed.set()

    def directory_of(self, tx: Tx) -> tuple[list[NodeInfo], list[NetworkInfo]]:
        alive = self.alive()
        infos = [
            NodeInfo(node=n.id, name=n.name, link=n.link, tunnel=n.tunnel, alive=n.id in alive)
            for n in nodes.all_nodes(tx)
            if n.link
        ]
        return infos, networks.infos(tx)

    async def send_directories(self) -> None:
        """Send the whole directory to every node on every change; changes that come close together are one."""
        while True:
            await self.directory_changed.wait()
            self.directory_changed = trio.Event()

            def read(tx: Tx) -> Directory:
                infos, nets = self.directory_of(tx)
                return Directory(version=meta.bump(tx, "directory"), nodes=infos, networks=nets)

            try:
                directory = await self.db.run(read)
            except CoordinatorError as exc:
                log.error("the directory could not be sent: %s", exc.message)
                continue
            async with trio.open_nursery() as nursery:
                for link in self.links.all().values():
                    nursery.start_soon(_notify, link, directory)

    # ---- placement --------------------------------------------------------------------------------------------------

    def place(self, tx: Tx, demand: Demand, *, without: str | None = None) -> Placement:
        return place(demand, guests.candidates(tx, self.alive(), without=without))

    def mtu(self, tx: Tx, network: Network, node: int | None = None) -> int:
        """What packets of a network may have that has a port on ``node``, too: its own MTU, or what the narrowest path
        between its nodes carries."""
        narrow = self.paths.narrowest(networks.nodes_of(tx, network.name) | ({node} if node else set()), network.mtu)
        return max(LEAST, narrow.mtu) if narrow else network.mtu

    def owner_link(self, guest: Guest, name: str | None) -> Link:
        return self.links.need(guest.node, name)


async def _notify(link: Link, directory: Directory) -> None:
    with trio.move_on_after(5):  # a stuck session is the leases' business
        with contextlib.suppress(LinkError):
            await link.notify(directory)


def _node_alive(tx: Tx, node: int) -> None:
    name = nodes.name_of(tx, node)
    if name is not None:
        tx.emit("node.alive", f"node {name} is alive", node=name)


def _node_lost(tx: Tx, node: int, reason: str) -> None:
    """Its guests are unknown from here on: they may well run, so nothing is started elsewhere."""
    name = nodes.name_of(tx, node)
    if name is None:
        return
    tx.emit("node.lost", f"node {name} is lost: {reason}", node=name, reason=reason)
    for guest in guests.on_node(tx, node):
        if guest.state in ("starting", "running", "paused", "stopping"):
            guests.set_state(tx, guest, "unknown", reason=f"node {name} is lost")
