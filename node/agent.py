"""The agent: one host's daemon. It owns the switch, the links and the handles of the guests, and dies without them.

One nursery holds everything. Start order: adopt the guests that are there; listen; dial the coordinator; say "ready".
At each new session it registers with all that really runs here and does what the answer says; from then on it reports
every few seconds and whenever a guest changes. Orders run in the agent's own nursery: a link that breaks in the middle
of one does not tear it apart, and the coordinator that asks again gets the answer of the work that is done by then.

Ends by cancellation (SIGTERM, SIGINT): links say goodbye, guests keep running.
"""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path

import trio

from node.blobs import BlobError, Blobs, Opener
from node.config import Config, advertised, own_address
from node.guests import Guests
from node.host import Host
from node.identity import Identity, TrustKeeper, keep_renewed
from node.links import SOFTWARE, Coordinator
from node.mesh import Mesh
from node.migration.manager import Migrations
from node.orders import Orders
from node.peers import Peers
from node.resources import host_memory, measure
from node.stays import Stays
from protocol.errors import Refused
from protocol.messages import (
    BlobOpen,
    Directory,
    ImageFile,
    NodeInfo,
    Register,
    Registered,
    RelayAccept,
    Report,
)
from protocol.transport import Handlers, Link, LinkStream, LocalIdentity, format_address, serve_links, split_address

log = logging.getLogger("wherry.node")

REPORT_S = 3.0
REGISTER_TIMEOUT = 15.0
KEPT_SHARE, KEPT_MOST = 8, 4 << 30  # of the memory for guests, what is kept of those that have left; bytes


class Agent:
    """``tcp`` listens, ``udp`` is bound to the same number (node/config.py); both become the agent's."""

    def __init__(self, config: Config, identity: Identity, tcp: socket.socket, udp: socket.socket) -> None:
        self.config = config
        self.identity = identity
        self._tcp = tcp
        self._handlers = Handlers()
        self._changed = trio.Event()
        self._directory_version = -1
        self._tcp_name = tcp.getsockname()
        port = self._tcp_name[1]
        coordinator = config.coordinator or identity.coordinator
        self.address = advertised(config.advertise or own_address(coordinator, config.host), port)
        self.coordinator = Coordinator(identity, coordinator, self._handlers)
        self.mesh = Mesh(identity.node, udp, config.state, workers=config.switch_workers)
        self.peers = Peers(identity, self.coordinator, self._handlers, self._peer_session)
        self.blobs = Blobs(config.state / "blobs")
        self.registered = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Reports readiness once it listens and has adopted its guests."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                offered = self._offered
                keep = self.config.keep if self.config.keep is not None else min(offered // KEPT_SHARE, KEPT_MOST)
                self.stays = Stays(keep if self.config.dedup != "off" else 0)
                self.guests = Guests(
                    self.config.state / "guests",
                    nursery,
                    ports=self.mesh.ports,
                    fetch=self._fetch,
                    on_change=self.report_soon,
                    memory=offered,
                    stays=self.stays,
                )
                host = Host(
                    self.config,
                    self.identity,
                    self.coordinator,
                    self.peers,
                    self.guests,
                    self.stays,
                    self.mesh.tickets,
                    nursery,
                    self.report_soon,
                )
                self.migrations = Migrations(host)
                self._register_handlers(Orders(host, self.migrations.take_back))
                await self.guests.adopt_all()
                nursery.start_soon(self.mesh.run)
                nursery.start_soon(self.stays.run, host_memory)
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._tcp))
                await nursery.start(self._serve, listener)
                log.info("listening on %s, known as %s", format_address(self._tcp_name), self.address)
                nursery.start_soon(self.coordinator.run, self._session)
                self.migrations.recover()
                task_status.started()
        finally:
            if hasattr(self, "guests"):
                self.guests.close()
                self.stays.close()
            self.mesh.close()

    @property
    def _offered(self) -> int:
        return measure(self.config.state, self.config.memory).memory

    @property
    def nursery(self) -> trio.Nursery:
        assert self._nursery is not None
        return self._nursery

    def report_soon(self) -> None:
        self._changed.set()

    # -- serving

    def _register_handlers(self, orders: Orders) -> None:
        self._handlers.on_notice(Directory, self._directory)
        self._handlers.on_stream(RelayAccept, self.peers.relayed)
        self._handlers.on_stream(BlobOpen, self._blob)
        TrustKeeper(self.identity).register(self._handlers)
        orders.register(self._handlers)
        self.mesh.register(self._handlers)
        self.migrations.register(self._handlers)

    async def _serve(
        self, listener: trio.SocketListener, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await serve_links(
            listener,
            tls=self.identity.tls,
            identity=LocalIdentity(self.identity.name, SOFTWARE),
            handlers=self._handlers,
            on_link=self.peers.accepted,
            other=self.mesh.tickets.accept,
            task_status=task_status,
        )

    async def _peer_session(self, link: Link) -> None:
        await self.mesh.peer_session(link)

    async def _blob(self, link: Link, opening: BlobOpen, stream: LinkStream) -> None:
        await self.blobs.serve(opening.sha256, opening.offset, stream)
        await stream.send_eof()

    async def _fetch(self, file: ImageFile) -> Path:
        """An image's file, from the coordinator or from whichever peer has it. Raises Refused."""

        def opener(link: Link) -> Opener:
            return lambda sha256, offset: link.open_stream(BlobOpen(sha256=sha256, offset=offset))

        sources = [(f"node {node}", opener(link)) for node, link in self.peers.links().items()]
        if self.coordinator.link is not None:
            sources.insert(0, ("coordinator", opener(self.coordinator.link)))
        try:
            return await self.blobs.ensure(file, sources)
        except BlobError as error:
            raise Refused(error.code, error.message, field="image") from error

    # -- the coordinator

    async def _session(self, link: Link) -> None:
        """One session's life: register, then report until it ends."""
        answer: Registered = await link.call(
            Register(
                name=self.identity.name,
                link=self.address,
                tunnel=await self._tunnel_address(),
                resources=measure(self.config.state, self.config.memory),
                guests=self.guests.statuses(),
                software=SOFTWARE,
            ),
            timeout=REGISTER_TIMEOUT,
        )
        log.info("node=%d registered, %d nodes, %d networks", answer.node, len(answer.nodes), len(answer.networks))
        self._directory_version = -1  # a restored coordinator may count from below
        self._apply(answer.nodes)
        for guest, generation in answer.forget:
            self.nursery.start_soon(self._forget, guest, generation)
        self.registered.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_renewed, self.identity, link, time.time)
            nursery.start_soon(self.mesh.watcher.tell, link)
            await self._report(link)

    async def _tunnel_address(self) -> str:
        """The same as the link's, but numeric: a switch resolves no names. Empty when it cannot be found out."""
        host, port = split_address(self.address)
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as error:
            log.warning("no tunnel address: %s cannot be resolved: %s", host, error)
            return ""
        return format_address(found[0][4])

    async def _report(self, link: Link) -> None:
        while True:
            with trio.move_on_after(REPORT_S) as waited:
                await self._changed.wait()
            self._changed = trio.Event()
            if waited.cancelled_caught:
                await self.guests.refresh()
            await link.notify(
                Report(
                    resources=measure(self.config.state, self.config.memory),
                    guests=self.guests.statuses(),
                )
            )

    async def _directory(self, link: Link, directory: Directory) -> None:
        if directory.version > self._directory_version:
            self._directory_version = directory.version
            self._apply(directory.nodes)

    def _apply(self, nodes: list[NodeInfo]) -> None:
        self.peers.update(nodes, self.nursery)
        self.mesh.update(nodes)

    async def _forget(self, guest: str, generation: int) -> None:
        try:
            await self.guests.forget(guest, generation)
        except Refused as error:
            log.warning("guest=%s generation=%d not forgotten: %s", guest, generation, error)
