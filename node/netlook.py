"""What this node's switch has and has counted, for whoever asks (``port.look``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Literal

import trio

from node.attachments import Attachments
from node.core import CoreError
from node.fallback import TunnelPath
from node.netevents import Watcher
from node.ports import GuestPorts
from node.switchctl import Counters, Switch
from protocol.errors import Refused
from protocol.messages import NetLook, NetLooked, PortStatus, PortTrace, PortTraced, TunnelStatus
from protocol.transport import Handlers, Link


class NetWatch:
    """``peers``: the nodes that the switch has as peers, the next hop to each and by which path it answers itself."""

    def __init__(
        self,
        switch: Switch,
        guests: GuestPorts,
        attachments: Attachments,
        watcher: Watcher,
        peers: Callable[[], Iterable[tuple[int, int | None, TunnelPath]]],
    ) -> None:
        self._switch = switch
        self._watcher = watcher
        self._guests = guests
        self._attachments = attachments
        self._peers = peers

    def register(self, handlers: Handlers) -> None:
        handlers.on_request(NetLook, self._look)
        handlers.on_request(PortTrace, self._trace)

    async def _look(self, link: Link, order: NetLook) -> NetLooked:
        return self.look()

    async def _trace(self, link: Link, order: PortTrace) -> PortTraced:
        """Two at one port: the later one takes it over, the earlier one tells what it has by then."""
        try:
            self._switch.trace_port(order.port, order.every)
            try:
                await trio.sleep(order.seconds)
                notes, lost = self._switch.traced(order.port)
            finally:
                self._switch.trace_port(order.port, 0)
        except CoreError as error:
            raise Refused("not_found", f"port {order.port}: {error}", field="port") from error
        return PortTraced(notes=notes, lost=lost)

    def look(self) -> NetLooked:
        ports = [self._port(n, nic.vni, "guest", guest, "", nic.mac) for n, guest, nic in self._guests.all()]
        ports += [self._port(n, wish.vni, wish.kind, wish.id, wish.local, "") for n, wish in self._attachments]
        return NetLooked(
            sampled=time.monotonic(),
            ports=ports,
            tunnels=[
                TunnelStatus(node=n, via=via, path=path, counters=self._tunnel(n)) for n, via, path in self._peers()
            ],
            attachments=self._attachments.states(),
            counters=asdict(self._switch.counters()),
        )

    def _port(
        self, number: int, vni: int, kind: Literal["guest", "tap", "unix", "udp"], owner: str, name: str, mac: str
    ) -> PortStatus:
        return PortStatus(
            port=number,
            vni=vni,
            kind=kind,
            owner=owner,
            name=name,
            mac=mac,
            counters=_told(lambda: self._switch.port_counters(number)),
            shut_by=self._watcher.shut_by(number),
            held=self._watcher.held_at(number),
        )

    def _tunnel(self, node: int) -> dict[str, int]:
        return _told(lambda: self._switch.peer_counters(node))


def _told(ask: Callable[[], Counters]) -> dict[str, int]:
    try:
        return asdict(ask())
    except CoreError:  # gone since
        return {}
