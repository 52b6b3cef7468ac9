"""Between the switch and the rest of the cluster: peers, keys, MACs, routes.

Theory. Three pure machines decide - protocol.macs (who has which MAC), protocol.keys (tunnel keys, one machine a peer),
protocol.routing.linkstate (next hops) - and this file feeds them with what links, the directory and the switch tell,
and does their effects at once: a change of the switch's tables is a short call. What goes to a peer is queued and sent
in order by that peer's session, so that adverts of one node never overtake one another.

A peer is in the switch as soon as the directory names it; frames to it are sealed as soon as keys were exchanged over a
link. A link that is lost takes nothing away: keys and MACs stay in use, frames flow on.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import trio

from node.attachments import Attachments
from node.bindings import Bindings
from node.core import CoreError
from node.fallback import Fallback, TunnelPath
from node.links import leaf
from node.netevents import Watcher
from node.netlook import NetWatch
from node.portrules import Rules
from node.ports import GuestPorts
from node.switchctl import Switch, SwitchEvent, SwitchEventKind, best_cipher
from node.switchnets import Networks
from node.tickets import Tickets
from protocol import keys, macs
from protocol.errors import LinkError
from protocol.messages import LinkStates, MacAdverts, NodeInfo, Notice, PeerHello, TunnelKey
from protocol.routing import linkstate
from protocol.transport import Handlers, Link, split_address

log = logging.getLogger("wherry.node.mesh")

HELLO_TIMEOUT = 10.0
KEY_TIMEOUT = 10.0


class _Session:
    """One live link to a peer and what is queued for it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.cipher: int | None = None
        self.hello = trio.Event()
        self.outbox, self._out = trio.open_memory_channel[Notice](math.inf)

    async def send_all(self) -> None:
        async for notice in self._out:
            await self.link.notify(notice)


class Mesh:
    """Owner of the switch. ``node``: this node's id; ``udp`` (bound) becomes the switch's, None: no tunnels.
    ``state``: the folder in which attachments and ports' settings are kept, None: in none. ``workers``: the switch's
    threads."""

    def __init__(self, node: int, udp: socket.socket | None, state: Path | None = None, *, workers: int = 1) -> None:
        self.node = node
        self._links_at: dict[int, str] = {}
        self.switch = Switch(node, udp, ports_off=True, workers=workers)
        rules = Rules(state / "rules.msgpack" if state else None, self.switch)
        networks = Networks(self.switch, self, rules)
        self.ports = GuestPorts(self.switch, self, networks)
        kept = state / "attachments.msgpack" if state else None
        self.attachments = Attachments(kept, self.switch, self, networks)
        self.watcher = Watcher(self.switch, rules, self.ports, self.attachments)
        self._bindings = Bindings(self.switch)
        self.tickets = Tickets()
        self.fallback = Fallback(self.switch, self._links_at.get, self.tickets)
        self._rules = rules
        self._look = NetWatch(self.switch, self.ports, self.attachments, self.watcher, self._peers)
        self._macs = macs.MacTable(node)
        self._routes = linkstate.LinkStateMachine(node, sequence=int(time.time() * 1000))
        self._keys: dict[int, keys.PeerKeys] = {}
        self._addresses: dict[int, tuple[str, int] | None] = {}
        self._via: dict[int, int] = {}
        self._sessions: dict[int, _Session] = {}
        self._early: dict[Link, int] = {}
        self._vids: dict[tuple[int, str], set[int]] = {}
        self._moved = trio.Event()
        self._nursery: trio.Nursery | None = None

    def close(self) -> None:
        self.attachments.close()
        self.switch.close()

    def register(self, handlers: Handlers) -> None:
        handlers.on_request(PeerHello, self._hello)
        handlers.on_request(TunnelKey, self._tunnel_key)
        handlers.on_notice(MacAdverts, self._adverts)
        handlers.on_notice(LinkStates, self._lsas)
        self.fallback.register(handlers)
        self.attachments.register(handlers)
        self._rules.register(handlers)
        self.watcher.register(handlers)
        self._look.register(handlers)

    async def run(self) -> None:
        """Serve the switch's events and the machines' timers until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.attachments.restore()
            nursery.start_soon(self._timers)
            async for event in self.switch.events():
                self._switch_event(event)

    def route(self, node: int) -> int | None:
        """The next hop to a node, itself when it is reached directly; None: no way is known."""
        return self._via.get(node)

    def _peers(self) -> list[tuple[int, int | None, TunnelPath]]:
        return [(node, self._via.get(node), self.fallback.path(node)) for node in self._addresses]

    # -- the directory

    def update(self, nodes: Iterable[NodeInfo]) -> None:
        present = {info.node: info for info in nodes if info.node != self.node}
        for node in self._addresses.keys() - present.keys():
            self._addresses.pop(node)
            self._keys.pop(node, None)
            self._do_macs(macs.NodeGone(node))
            self._do_routes(linkstate.NodeGone(node))
            self._via.pop(node, None)
            self._links_at.pop(node, None)
            self.fallback.gone(node)
            self._rules.peer_removed(node)
            self.watcher.peer_gone(node)
            self._try(self.switch.remove_peer, node)
        for node, info in present.items():
            address = _numeric(info.tunnel)
            self._links_at[node] = info.link
            if node not in self._addresses or self._addresses[node] != address:
                self._addresses[node] = address
                self._set_peer(node)

    def _set_peer(self, node: int) -> None:
        try:
            self.switch.set_peer(node, via=self._via.get(node), address=self._addresses.get(node))
        except CoreError as error:
            log.warning("node=%d cannot be a tunnel peer: %s", node, error)
        else:
            self._rules.peer_set(node)

    def _need_peer(self, node: int) -> None:
        """Keys may arrive before the directory that names their sender."""
        if node not in self._addresses:
            self._addresses[node] = None
            self._set_peer(node)

    # -- sessions

    async def peer_session(self, link: Link) -> None:
        """Runs beside each live link to a peer."""
        node = link.peer.node
        self._need_peer(node)
        features = link.peer.features
        self.switch.set_peer_takes(node, open_checksums="open-checksum" in features, lanes="tunnel-lanes" in features)
        session = self._sessions[node] = _Session(link)
        if link in self._early:
            self._greeted(session, self._early.pop(link))
        try:
            await link.call(PeerHello(node=self.node, cipher=_cipher()), timeout=HELLO_TIMEOUT)
            await session.hello.wait()
            assert session.cipher is not None
            self._do_keys(node, keys.LinkUp(session.cipher))
            self._do_macs(macs.LinkUp(node))
            self._do_routes(linkstate.LinkUp(node))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.fallback.keep, link)
                await session.send_all()
        except* LinkError as errors:
            log.info("node=%d session ended: %s", node, leaf(errors))
        finally:
            if self._sessions.get(node) is session:
                del self._sessions[node]
                self._do_keys(node, keys.LinkDown())
                self._do_macs(macs.LinkDown(node))
                self._do_routes(linkstate.LinkDown(node))

    async def _hello(self, link: Link, hello: PeerHello) -> None:
        session = self._sessions.get(link.peer.node)
        if session is not None and session.link is link:
            self._greeted(session, hello.cipher)
        elif not link.closed:
            self._early = {known: cipher for known, cipher in self._early.items() if not known.closed}
            self._early[link] = hello.cipher  # the peer's session was quicker than ours

    @staticmethod
    def _greeted(session: _Session, cipher: int) -> None:
        session.cipher = cipher
        session.hello.set()

    def _queue(self, node: int, notice: Notice) -> None:
        session = self._sessions.get(node)
        if session is not None:
            session.outbox.send_nowait(notice)

    # -- keys

    async def _tunnel_key(self, link: Link, message: TunnelKey) -> None:
        self._need_peer(link.peer.node)
        self._do_keys(link.peer.node, keys.KeyArrived(message))

    def _do_keys(self, node: int, event: keys.Event) -> None:
        machine = self._keys.get(node)
        if machine is None:
            machine = self._keys[node] = keys.PeerKeys(
                self.node, node, _cipher(), secrets.token_bytes, first_epoch=secrets.randbits(32)
            )
        for effect in machine.handle(event, trio.current_time()):
            match effect:
                case keys.SendKey(message):
                    self._start(self._send_key, node, message)
                case keys.InstallRx(epoch, cipher, key):
                    self.switch.set_rx_key(node, epoch, cipher, key)
                case keys.InstallTx(epoch, cipher, key):
                    self.switch.set_tx_key(node, epoch, cipher, key)
                case keys.DropRx(epoch):
                    if not self.switch.drop_rx_key(node, epoch):
                        machine.handle(keys.InUse(epoch), trio.current_time())
        self._moved.set()

    async def _send_key(self, node: int, message: TunnelKey) -> None:
        session = self._sessions.get(node)
        try:
            if session is None:
                raise LinkError("no session")
            await session.link.call(message, timeout=KEY_TIMEOUT)
        except LinkError as error:
            log.info("node=%d did not take a tunnel key: %s", node, error)
            self._do_keys(node, keys.KeyFailed(message.epoch))
        else:
            self._do_keys(node, keys.KeyAccepted(message.epoch))

    # -- MACs (node.ports.Claims)

    def network_added(self, vni: int) -> None:
        self._do_macs(macs.NetworkAdded(vni))

    def network_removed(self, vni: int) -> None:
        self._vids = {key: vids for key, vids in self._vids.items() if key[0] != vni}
        self._bindings.network_removed(vni)
        self._do_macs(macs.NetworkRemoved(vni))

    def mac_here(self, vni: int, mac: str, address: str, generation: int) -> None:
        self._bindings.put(vni, mac, address, "here")
        self._do_macs(macs.LocalMac(vni, mac, address, generation))

    def mac_gone(self, vni: int, mac: str) -> None:
        self._bindings.drop(vni, mac, "here")
        self._do_macs(macs.LocalGone(vni, mac))

    def mac_moved(self, vni: int, mac: str, address: str, generation: int, node: int) -> None:
        self._do_macs(macs.LocalMoved(vni, mac, address, generation, node))

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        self._start(self._after, seconds, work)

    @staticmethod
    async def _after(seconds: float, work: Callable[[], None]) -> None:
        await trio.sleep(seconds)
        work()

    async def _adverts(self, link: Link, notice: MacAdverts) -> None:
        self._do_macs(macs.AdvertsArrived(link.peer.node, notice))

    def _do_macs(self, event: macs.Event) -> None:
        for effect in self._macs.handle(event):
            match effect:
                case macs.SetRemote(vni, mac, node, address):
                    self._need_peer(node)
                    self._vids.pop((vni, mac), None)  # its entries were learned ones, and are gone
                    self._try(self.switch.set_mac, vni, mac, node)
                    self._bindings.put(vni, mac, address, "there")
                case macs.DelRemote(vni, mac):
                    self._try(self.switch.remove_mac, vni, mac)
                    self._bindings.drop(vni, mac, "there")
                case macs.NetworkPeers(vni, nodes):
                    self._try(self.switch.set_network_peers, vni, nodes)
                case macs.LocalFenced(vni, mac, node):
                    self.ports.fence(vni, mac, node)
                case macs.SendAdverts(node, notice):
                    self._queue(node, notice)

    # -- routes

    async def _lsas(self, link: Link, notice: LinkStates) -> None:
        self._do_routes(linkstate.LsasArrived(link.peer.node, notice))

    def _do_routes(self, event: linkstate.Event) -> None:
        for effect in self._routes.handle(event, trio.current_time()):
            match effect:
                case linkstate.SendLsas(node, notice):
                    self._queue(node, notice)
                case linkstate.SetRoute(node, via, cost):
                    log.info(
                        "node=%d is reached %s (%d us)", node, f"through {via}" if via != node else "directly", cost
                    )
                    self._via[node] = via
                    if node in self._addresses:
                        self._set_peer(node)
                case linkstate.DelRoute(node):
                    log.info("node=%d has no route", node)
                    self._via.pop(node, None)
                    if node in self._addresses:
                        self._set_peer(node)
        self._moved.set()

    # -- switch events, timers

    def _switch_event(self, event: SwitchEvent) -> None:
        match event.kind:
            case SwitchEventKind.PEER_UP:
                self.fallback.answers(event.node, "tcp" if event.port else "udp")
                self._do_routes(linkstate.NeighbourUp(event.node, event.value))
            case SwitchEventKind.PEER_DOWN:
                self.fallback.answers(event.node, "")
                self._do_routes(linkstate.NeighbourDown(event.node))
            case SwitchEventKind.STREAM_DOWN:
                self.fallback.broken(event.node)
            case SwitchEventKind.REKEY:
                self._do_keys(event.node, keys.Worn())
            case SwitchEventKind.MAC_LEARNED | SwitchEventKind.MAC_AGED:
                self._learned(event)
            case SwitchEventKind.PORT_DOWN:
                if not self.attachments.down(event.port):
                    log.warning("port %d is down: its ring is damaged", event.port)
            case _:
                self.watcher.noticed(event)

    def _learned(self, event: SwitchEvent) -> None:
        """A MAC is one station, whatever VLANs it is seen in: it is here while it is in one of them."""
        key, here = (event.vni, event.mac), event.kind is SwitchEventKind.MAC_LEARNED
        vids = self._vids.setdefault(key, set())
        (vids.add if here else vids.discard)(event.value)
        if here:
            self._do_macs(macs.LocalMac(*key))
        elif not vids:
            self._do_macs(macs.LocalGone(*key))
        if not vids:
            del self._vids[key]

    async def _timers(self) -> None:
        while True:
            machines: list[Any] = [self._routes, *self._keys.values()]
            due = min((at for machine in machines if (at := machine.wakeup) is not None), default=math.inf)
            self._moved = trio.Event()
            with trio.move_on_at(due):
                await self._moved.wait()
            now = trio.current_time()
            if (at := self._routes.wakeup) is not None and now >= at:
                self._do_routes(linkstate.Tick())
            for node, machine in list(self._keys.items()):
                if machine.wakeup is not None and now >= machine.wakeup:
                    self._do_keys(node, keys.Tick())

    def _start(self, work: Any, *arguments: Any) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(work, *arguments)

    @staticmethod
    def _try(change: Any, *arguments: Any) -> None:
        """A table that is full or an entry that is gone costs that entry, not the agent."""
        try:
            change(*arguments)
        except CoreError as error:
            log.warning("switch: %s%r: %s", change.__name__, arguments, error)


def _cipher() -> Any:
    return best_cipher()


def _numeric(tunnel: str) -> tuple[str, int] | None:
    """None: the node has no address that frames could be sent to; they go through others."""
    try:
        host, port = split_address(tunnel)
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return host, port
