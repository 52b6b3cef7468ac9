"""Links between the agents: one per pair of nodes, dialled by the lower id, through the coordinator where need be.

The directory says who there is. For each higher id one task keeps a link: it dials the node's address; when that fails
it asks the coordinator to relay a stream, inside which both ends run the same TLS, end to end. Lower ids dial us. A new
link of a peer replaces the old one: it is the one that its dialler believes in.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable

import trio

from node.identity import Identity
from node.links import BACKOFF_FIRST, BACKOFF_LAST, SOFTWARE, Coordinator
from protocol.errors import LinkClosed, LinkError, PeerRejected, WherryError
from protocol.messages import NodeInfo, RelayAccept, RelayOpen
from protocol.transport import (
    Handlers,
    Link,
    LinkStream,
    LocalIdentity,
    connect_tls,
    open_link,
    wrap_client,
    wrap_server,
)

log = logging.getLogger("wherry.node.peers")

DIAL_TIMEOUT = 4.0
_HANDSHAKE = 10.0

OnLink = Callable[[Link], Awaitable[None]]


class Peers:
    """``on_link(link)`` runs beside each live link and is cancelled when it ends."""

    def __init__(self, identity: Identity, coordinator: Coordinator, handlers: Handlers, on_link: OnLink) -> None:
        self._identity = identity
        self._coordinator = coordinator
        self._handlers = handlers
        self._on_link = on_link
        self._known: dict[int, NodeInfo] = {}
        self._links: dict[int, Link] = {}
        self._tasks: dict[int, trio.CancelScope] = {}
        self._changed = trio.Event()
        self._hurry: dict[int, trio.Event] = {}

    def nodes(self) -> dict[int, NodeInfo]:
        return dict(self._known)

    def links(self) -> dict[int, Link]:
        return dict(self._links)

    async def link(self, node: int, timeout: float) -> Link:
        """The live link to a node, waited for. Raises LinkClosed."""
        with trio.move_on_after(timeout):
            while node not in self._links:
                await self._changed.wait()
            return self._links[node]
        raise LinkClosed(f"there is no link to node {node}")

    def hurry(self, node: int) -> None:
        """Somebody waits for this link: if we are the one that dials, try again now."""
        if node in self._hurry:
            self._hurry[node].set()

    def update(self, nodes: list[NodeInfo], nursery: trio.Nursery) -> None:
        """Take over a directory: start and stop diallers."""
        self._known = {info.node: info for info in nodes if info.node != self._identity.node}
        for node in list(self._tasks):
            if node not in self._known:
                self._tasks.pop(node).cancel()
        for node in self._known:
            if node > self._identity.node and node not in self._tasks:
                scope = self._tasks[node] = trio.CancelScope()
                nursery.start_soon(self._keep, node, scope)
        self._wake()

    async def accepted(self, link: Link) -> None:
        """For ``serve_links``: a peer has dialled us."""
        if link.peer.role == "node" and link.peer.node in self._known:
            await self._live(link)
        elif link.peer.role == "node":
            # The directory may be on its way; without it nothing is known of the peer, so it may stay but not count.
            while link.peer.node not in self._known:
                await self._changed.wait()
            await self._live(link)

    async def relayed(self, link: Link, opening: RelayAccept, stream: LinkStream) -> None:
        """Handler of ``link.relayed``: the coordinator hands us the other half of a bridge."""
        with trio.fail_after(_HANDSHAKE):
            secured = await wrap_server(stream, tls=self._identity.tls)
        async with open_link(
            secured, identity=self._local, handlers=self._handlers, client=False, address="relayed"
        ) as peer:
            if peer.peer.role != "node" or peer.peer.node != opening.node:
                raise PeerRejected(f"relay was announced for node {opening.node}, it is {peer.peer.node}")
            await self._until_closed(peer, self.accepted)

    @property
    def _local(self) -> LocalIdentity:
        return LocalIdentity(self._identity.name, SOFTWARE)

    async def _keep(self, node: int, scope: trio.CancelScope) -> None:
        """Dial a higher id for as long as it is in the directory."""
        pause = BACKOFF_FIRST
        with scope:
            while True:
                try:
                    pause = await self._dial(node, pause)
                except (WherryError, OSError, trio.BrokenResourceError, trio.TooSlowError, ValueError) as error:
                    log.info("node=%d cannot be linked: %s", node, error)
                self._hurry[node] = trio.Event()
                with trio.move_on_after(pause * random.uniform(0.5, 1.0)):
                    await self._hurry[node].wait()
                pause = min(pause * 2, BACKOFF_LAST)

    async def _dial(self, node: int, pause: float) -> float:
        """One link's life. Returns the pause before the next try."""
        secured, address = await self._connect(node)
        async with open_link(
            secured, identity=self._local, handlers=self._handlers, client=True, address=address
        ) as link:
            await self._until_closed(link, self._live)
            log.info("node=%d link ended: %s", node, link.reason)
            return BACKOFF_FIRST

    async def _connect(self, node: int) -> tuple[trio.abc.Stream, str]:
        info = self._known[node]
        try:
            return (
                await connect_tls(info.link, tls=self._identity.tls, expect=node, timeout=DIAL_TIMEOUT),
                info.link,
            )
        except (LinkError, ValueError) as error:
            log.info("node=%d cannot be dialled at %s (%s), trying the coordinator's relay", node, info.link, error)
        relay = await self._coordinator.open_stream(RelayOpen(node=node))
        with trio.fail_after(_HANDSHAKE):
            return await wrap_client(relay, tls=self._identity.tls, expect=node), "relayed"

    async def _until_closed(self, link: Link, work: OnLink) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, link)
            await link.wait_closed()
            nursery.cancel_scope.cancel()

    async def _live(self, link: Link) -> None:
        """Register a link, run ``on_link`` beside it."""
        node = link.peer.node
        old = self._links.get(node)
        self._links[node] = link
        self._wake()
        if old is not None:
            await old.aclose()
        log.info("node=%d linked (%s)", node, link.peer.address)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._on_link, link)
                await link.wait_closed()
                nursery.cancel_scope.cancel()
        finally:
            if self._links.get(node) is link:
                del self._links[node]
                self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
