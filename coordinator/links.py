"""What nodes ask and tell: joining, registering, reporting, deciding, relaying, blobs.

Handlers of requests are cancelled with their session, so whatever must be finished is either one transaction (which is
never torn) or a task of the service's own nursery.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import trio

from coordinator import join
from coordinator.attachments import Attachments
from coordinator.background import Errands
from coordinator.cluster import Cluster
from coordinator.errors import CoordinatorError, Forbidden, NotFound
from coordinator.leases import Heard, LinkLost
from coordinator.leases import Registered as LeaseRegistered
from coordinator.migrations import Migrations
from coordinator.model import Guest
from coordinator.netevents import Noticed
from coordinator.reconcile import Forget, Missing, Observe, Stop, TakeBack, Tell, reconcile
from coordinator.rollover import Rollover
from coordinator.store import guests, journal, migrations, nodes
from coordinator.store.db import Tx
from protocol import messages as m
from protocol.errors import LinkError, Refused, RemoteError, WherryError
from protocol.handlers import Handlers
from protocol.transport import Link, LinkStream, split_address

log = logging.getLogger(__name__)

BRIDGE_CHUNK = 256 * 1024
TAKE_BACK_TIMEOUT_S = 60.0


def refused(exc: CoordinatorError) -> Refused:
    """A refusal of ours as the link's error."""
    details: dict[str, Any] = {"field": exc.field} if exc.field else {}
    code = "forbidden" if exc.code == "unauthorized" else exc.code
    return Refused(code, exc.message, **details)


class NodeService:
    """Serves all nodes' sessions. ``errands`` outlive every session."""

    def __init__(
        self, cluster: Cluster, moves: Migrations, rollover: Rollover, attachments: Attachments, errands: Errands
    ) -> None:
        self._cluster = cluster
        self._moves = moves
        self._rollover = rollover
        self._attachments = attachments
        self._errands = errands
        self._noticed = Noticed(cluster)
        self._absent: dict[int, set[str]] = {}

    def handlers(self) -> Handlers:
        out = Handlers()
        out.on_request(m.CaFetch, self._ca)
        out.on_request(m.Join, self._join)
        out.on_request(m.Register, self._register)
        out.on_request(m.Renew, self._renew)
        out.on_request(m.Decide, self._decide)
        out.on_notice(m.Report, self._report)
        out.on_notice(m.NetEvents, self._net_events)
        out.on_notice(m.MigrationProgress, self._progress)
        out.on_notice(m.MigrationResult, self._result)
        out.on_stream(m.RelayOpen, self._relay)
        out.on_stream(m.BlobOpen, self._blob)
        return out

    async def on_link(self, link: Link) -> None:
        """Beside each session, cancelled at its end: takes it off the list of those that are up."""
        try:
            await link.wait_closed()
        finally:
            if link.peer.role == "node" and self._cluster.links.drop(link.peer.node, link):
                log.info("node=%d link down: %s", link.peer.node, link.reason)
                self._errands.send(self._cluster.lease, LinkLost(link.peer.node))

    # ---- joining ----------------------------------------------------------------------------------------------------

    async def _ca(self, link: Link, request: m.CaFetch) -> m.CaFetched:
        return m.CaFetched(ca_pem=self._cluster.ca.pem)

    async def _join(self, link: Link, request: m.Join) -> m.Joined:
        ca = self._cluster.ca
        try:
            node, certificate = await join.join(
                self._cluster.db,
                ca,
                token=request.token,
                name=request.name,
                csr_pem=request.csr_pem,
                now=self._cluster.wall(),
            )
        except CoordinatorError as exc:
            # Logged, not audited: outsiders must not be able to fill the disk.
            log.warning("join of %s from %s refused: %s", request.name, link.peer.address, exc.message)
            raise refused(exc) from None
        await self._cluster.db.run(
            journal.audit, who=request.name, role="joiner", source=link.peer.address, action="join", outcome="ok"
        )
        log.info("node=%d name=%s joined from %s", node, request.name, link.peer.address)
        return m.Joined(node=node, cluster=ca.cluster, certificate_pem=certificate, ca_pem=ca.pem)

    async def _renew(self, link: Link, request: m.Renew) -> m.Renewed:
        try:
            await self._cluster.db.run(nodes.by_id, link.peer.node)
            certificate = self._cluster.ca.sign_node(request.csr_pem, link.peer.node, self._cluster.wall())
        except CoordinatorError as exc:
            raise refused(exc) from None
        return m.Renewed(certificate_pem=certificate, ca_pem=self._cluster.ca.pem)

    # ---- registering and reporting ----------------------------------------------------------------------------------

    async def _register(self, link: Link, request: m.Register) -> m.Registered:
        node = link.peer.node

        def write(tx: Tx) -> None:
            try:
                row = nodes.by_id(tx, node)
            except NotFound:
                raise Forbidden("this node was removed from the cluster; join it again") from None
            if row.name != request.name:
                raise Forbidden(f"this certificate is of node {row.name}, not {request.name}", field="name")
            nodes.registered(
                tx,
                node,
                link=_reachable(request.link, link.peer.address),
                tunnel=_reachable(request.tunnel, link.peer.address),
                software=request.software,
                resources=request.resources,
            )

        try:
            await self._cluster.db.run(write)
        except CoordinatorError as exc:
            raise refused(exc) from None
        self._absent.pop(node, None)
        older = self._cluster.links.put(node, link)
        if older is not None:
            log.info("node=%d has a newer session", node)
            self._errands.send(older.aclose)
        if link.closed:  # it ended before it was on the list: on_link() has been and gone
            self._cluster.links.drop(node, link)
        await self._cluster.lease(LeaseRegistered(node))
        forget = await self._reconcile(link, request.guests, registering=True)
        self._cluster.announce()
        self._errands.send(self._rollover.tell, node, link)  # it may have been away while the CA was rotated
        self._errands.send(self._told_ports, node)
        log.info("node=%d name=%s registered with %d guests", node, request.name, len(request.guests))

        def read(tx: Tx) -> m.Registered:
            infos, networks = self._cluster.directory_of(tx)
            return m.Registered(node=node, nodes=infos, networks=networks, forget=forget)

        return await self._cluster.db.run(read)

    async def _report(self, link: Link, report: m.Report) -> None:
        node = link.peer.node
        if self._cluster.links.get(node) is not link:
            return  # a session that was replaced, or never registered
        await self._cluster.db.run(nodes.seen, node, report.resources)
        await self._cluster.lease(Heard(node))
        self._cluster.stats.observe(node, report.guests, trio.current_time())
        for guest, generation in await self._reconcile(link, report.guests, registering=False):
            self._errands.send(self._send, link, m.GuestForget(guest=guest, generation=generation))

    async def _told_ports(self, node: int) -> None:
        """What its ports let through, then which of them there shall be."""
        await self._cluster.rules.tell(node)
        await self._attachments.tell(node)

    async def _net_events(self, link: Link, notice: m.NetEvents) -> None:
        if self._cluster.links.get(link.peer.node) is link:
            await self._noticed.take(link.peer.node, notice)

    async def _reconcile(
        self, link: Link, reported: list[m.GuestStatus], *, registering: bool
    ) -> list[tuple[str, int]]:
        """Act on what the node has; returns the copies that it must forget."""
        node = link.peer.node

        def write(tx: Tx) -> tuple[list[tuple[str, int]], list[Tell | Stop | TakeBack]]:
            involved = {g.id: g for g in guests.on_node(tx, node)}
            for status in reported:
                guest = guests.find_id(tx, status.guest)
                if guest is not None:
                    involved[guest.id] = guest
            named = {s.migration: migrations.find(tx, s.migration) for s in reported if s.migration}
            busy = frozenset(o.target for o in journal.unfinished(tx))
            shielded = {g.id: migrations.protected(tx, g) for g in involved.values() if g.id in busy}
            actions = reconcile(
                node,
                reported,
                guests=involved,
                migrations={k: v for k, v in named.items() if v is not None},
                busy=busy,
                protected={k: v for k, v in shielded.items() if v is not None},
            )
            forget: list[tuple[str, int]] = []
            later: list[Tell | Stop | TakeBack] = []
            absent: set[str] = set()
            for action in actions:
                match action:
                    case Observe(guest, status):
                        guests.observe(tx, guest, status)
                    case Forget(ident, generation):
                        forget.append((ident, generation))
                    case Missing(guest):
                        absent.add(guest.id)
                        # A report may have been on its way while the guest was started: twice in a row counts.
                        if registering or guest.id in self._absent.get(node, set()):
                            guests.set_state(tx, guest, "crashed", reason="its node does not have it any more")
                    case TakeBack():
                        later.append(_give_back(tx, action))
                    case Tell() | Stop():
                        later.append(action)
            self._absent[node] = absent
            return forget, later

        forget, later = await self._cluster.db.run(write)
        for action in later:
            if isinstance(action, Tell):
                self._errands.send(self._moves.tell, node, action)
            elif isinstance(action, TakeBack):
                self._errands.send(self._take_back, action)
            else:
                stop = m.GuestStop(guest=action.guest.id, generation=action.guest.generation, force=True)
                self._errands.send(self._send, link, stop)
        for guest, generation in forget:
            log.info("guest=%s node=%d generation=%d is fenced and must go", guest, node, generation)
        return forget

    async def _take_back(self, action: TakeBack) -> None:
        """Have the source run the guest again. If its answer is lost, its next report brings it up again."""
        guest, node = action.guest, action.migration.source
        link = self._cluster.links.get(node)
        if link is None:
            return
        try:
            await self._cluster.rules.ensure(node)
            request = m.GuestRun(spec=guest.spec, generation=guest.generation, resume=True)
            status = await link.call(request, timeout=TAKE_BACK_TIMEOUT_S)
        except RemoteError as exc:
            message = f"its copy at the target died, and the source cannot run it again: {exc.message or exc.code}"
            await self._cluster.db.run(_not_taken, guest, message)
            return
        except WherryError as exc:
            log.info("guest=%s node=%d did not say that it took the guest back: %s", guest.id, node, exc)
            return
        await self._cluster.db.run(guests.observe, guest, status)

    async def _send(self, link: Link, request: m.GuestForget | m.GuestStop) -> None:
        try:
            await link.call(request, timeout=30)
        except WherryError as exc:
            log.info("guest=%s node=%d %s: %s", request.guest, link.peer.node, request.method, exc)

    # ---- migrations -------------------------------------------------------------------------------------------------

    async def _decide(self, link: Link, request: m.Decide) -> m.Decision:
        ask: Literal["commit", "abort", "query"] = request.ask
        try:
            return await self._moves.decide(
                request.migration,
                ask=ask,
                reason=request.reason,
                asker=link.peer.node,
                guest=request.guest,
                generation=request.generation,
            )
        except CoordinatorError as exc:
            raise refused(exc) from None

    async def _progress(self, link: Link, notice: m.MigrationProgress) -> None:
        self._moves.progress(link.peer.node, notice)

    async def _result(self, link: Link, notice: m.MigrationResult) -> None:
        self._moves.result(link.peer.node, notice)

    # ---- streams ----------------------------------------------------------------------------------------------------

    def _need_registered(self, link: Link) -> None:
        if self._cluster.links.get(link.peer.node) is not link:
            raise Refused("forbidden", "register first")

    async def _relay(self, link: Link, opening: m.RelayOpen, stream: LinkStream) -> None:
        """Bridge to the called node. What flows is TLS between the two; nothing of it can be read here."""
        self._need_registered(link)
        callee = self._cluster.links.get(opening.node)
        if callee is None or opening.node == link.peer.node:
            raise Refused("unavailable", f"node {opening.node} is not connected")
        try:
            far = await callee.open_stream(m.RelayAccept(node=link.peer.node))
        except LinkError as exc:
            raise Refused("unavailable", f"node {opening.node} does not take the relay: {exc}") from None
        async with far:
            await bridge(stream, far)

    async def _blob(self, link: Link, opening: m.BlobOpen, stream: LinkStream) -> None:
        self._need_registered(link)
        size = self._cluster.blobs.size(opening.sha256)
        if size is None:
            raise Refused("not_found", f"no blob {opening.sha256}", field="sha256")
        if opening.offset > size:
            raise Refused("invalid", f"offset {opening.offset} is beyond the end {size}", field="offset")
        async for chunk in self._cluster.blobs.read(opening.sha256, opening.offset):
            await stream.send_all(chunk)
        await stream.send_eof()


async def bridge(a: trio.abc.HalfCloseableStream, b: trio.abc.HalfCloseableStream) -> None:
    """Carry bytes both ways until both directions have ended or one breaks."""
    async with trio.open_nursery() as nursery:

        async def carry(source: trio.abc.HalfCloseableStream, sink: trio.abc.HalfCloseableStream) -> None:
            try:
                while data := await source.receive_some(BRIDGE_CHUNK):
                    await sink.send_all(data)
                await sink.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                nursery.cancel_scope.cancel()

        nursery.start_soon(carry, a, b)
        nursery.start_soon(carry, b, a)


def _give_back(tx: Tx, action: TakeBack) -> TakeBack:
    """The change of owner, by the same compare-and-set as any other: nobody else can have been given the guest."""
    if not action.give:
        return action
    source, target = (nodes.name_of(tx, node) for node in (action.migration.source, action.migration.target))
    guest = guests.move(tx, action.guest, node=action.migration.source, expect=action.guest.generation)
    guest = guests.set_state(tx, guest, "starting", reason=f"its copy on {target} died")
    tx.emit(
        "migration.taken-back",
        f"guest {guest.name} died on {target} before its memory was there; {source} runs it again",
        guest=guest.name,
        node=source,
        generation=guest.generation,
        migration=action.migration.id,
    )
    return TakeBack(guest, action.migration, False)


def _not_taken(tx: Tx, guest: Guest, reason: str) -> None:
    now = guests.find_id(tx, guest.id)
    if now is not None and now.generation == guest.generation and now.state == "starting":
        guests.set_state(tx, now, "crashed", reason=reason)


def _reachable(address: str, seen_from: str) -> str:
    """Where others reach the node: an unspecified host ("0.0.0.0", "[::]") is replaced by the one that we see."""
    try:
        host, port = split_address(address)
        seen, _ = split_address(seen_from)
    except ValueError:
        return address
    if host not in ("0.0.0.0", "::", "*"):
        return address
    return f"[{seen}]:{port}" if ":" in seen else f"{seen}:{port}"
