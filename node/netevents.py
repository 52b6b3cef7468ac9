"""What the switch notices - a station in two places, a port that floods, a bridge's BPDU, a narrow path - as the
coordinator is told it, and which stations are held.

The switch lets a held station go after three minutes, so that is as long as one is shown here.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from dataclasses import dataclass

import trio

from node.attachments import Attachments
from node.core import CoreError
from node.eventgate import EventGate
from node.portrules import Rules
from node.ports import GuestPorts
from node.switchctl import Switch, SwitchEvent, SwitchEventKind
from protocol.errors import Refused
from protocol.messages import HeldStation, NetEvent, NetEvents, PortOpen, PortRelease, PortReleased
from protocol.transport import Handlers, Link

log = logging.getLogger("wherry.node.netevents")

HELD_S = 180.0  # csrc/switch/moves.h
MOST_HELD = 256  # told of one port


@dataclass(frozen=True, slots=True)
class _Held:
    """``at``: the numbers of the ports that have a part in it, with what is to be said there."""

    at: dict[int, HeldStation]
    until: float


class Watcher:
    """``guests`` and ``attachments`` say whose a port is."""

    def __init__(self, switch: Switch, rules: Rules, guests: GuestPorts, attachments: Attachments) -> None:
        self._switch = switch
        self._rules = rules
        self._guests = guests
        self._attachments = attachments
        self._gate = EventGate()
        self._more = trio.Event()
        self._held: dict[tuple[int, str], _Held] = {}
        self._paths: dict[int, int] = {}

    def register(self, handlers: Handlers) -> None:
        handlers.on_request(PortOpen, self._open)
        handlers.on_request(PortRelease, self._release)

    # -- from the switch

    def noticed(self, event: SwitchEvent) -> None:
        match event.kind:
            case SwitchEventKind.DUPLICATE:
                self._duplicate(event)
            case SwitchEventKind.STORM:
                log.warning(
                    "network %d: %s floods more than its rate; it has %d frames a second until it is calm",
                    event.vni, self._place(event.port), event.value,
                )  # fmt: skip
                self._tell(NetEvent(kind="storm", time=time.time(), vni=event.vni, port=self._key(event.port),
                                    value=event.value))  # fmt: skip
            case SwitchEventKind.GUARD:
                log.warning("network %d: %s is shut: a bridge's BPDU came in", event.vni, self._place(event.port))
                self._rules.shut(event.port, event.mac)
                self._tell(NetEvent(kind="guard", time=time.time(), vni=event.vni, port=self._key(event.port),
                                    mac=event.mac))  # fmt: skip
            case SwitchEventKind.PATH_MTU:
                log.info("node=%d the path carries frames of networks of MTU %d and below", event.node, event.value)
                self._paths[event.node] = event.value
                self._tell(_path(event.node, event.value))

    def _duplicate(self, event: SwitchEvent) -> None:
        other_port, other_node = event.value >> 32, event.value & 0xFFFFFFFF
        log.warning(
            "network %d: %s is at %s and at %s: two hosts have this address, or there is a loop; "
            "frames with it from the second are dropped",
            event.vni, event.mac, self._place(event.port, event.node), self._place(other_port, other_node),
        )  # fmt: skip
        at = {
            event.port: HeldStation(mac=event.mac, other_port=self._key(other_port), other_node=other_node),
            other_port: HeldStation(mac=event.mac, here=False, other_port=self._key(event.port), other_node=event.node),
        }
        at.pop(0, None)  # at another node
        now = trio.current_time()
        self._held = {key: held for key, held in self._held.items() if held.until > now}
        self._held[event.vni, event.mac] = _Held(at, now + HELD_S)
        self._tell(
            NetEvent(
                kind="duplicate",
                time=time.time(),
                vni=event.vni,
                mac=event.mac,
                port=self._key(event.port),
                node=event.node,
                other_port=self._key(other_port),
                other_node=other_node,
            )
        )

    def peer_gone(self, node: int) -> None:
        self._paths.pop(node, None)

    def _tell(self, event: NetEvent) -> None:
        self._gate.offer(event, trio.current_time())
        self._more.set()

    def _key(self, number: int) -> str:
        """How the coordinator knows a port; empty for none, and for one that is gone."""
        for n, wish in self._attachments:
            if n == number:
                return wish.id
        return next((nic.mac for n, _, nic in self._guests.all() if n == number), "")

    def _place(self, port: int, node: int = 0) -> str:
        if not port:
            return f"node {node}"
        named = {number: f"{wish.kind} {wish.local}" for number, wish in self._attachments}
        named |= {number: f"guest {guest} ({nic.mac})" for number, guest, nic in self._guests.all()}
        return f"port {port}, {named.get(port, 'which is gone')}"

    # -- to the coordinator

    async def tell(self, link: Link) -> None:
        """Send what happens, while the session is there; what could not be sent is lost with it. Begins with the paths:
        a coordinator that has started anew knows none."""
        await link.notify(NetEvents(events=[_path(node, mtu) for node, mtu in self._paths.items()][:256]))
        while True:
            due = self._gate.wakeup()
            with trio.move_on_at(math.inf if due is None else due):
                await self._more.wait()
            self._more = trio.Event()
            events, lost = self._gate.take(trio.current_time())
            if events or lost:
                await link.notify(NetEvents(events=events, lost=lost))

    def shut_by(self, number: int) -> str:
        """The MAC whose BPDU shut a port, empty: it is open."""
        return self._rules.shut_by(number)

    def held_at(self, number: int) -> list[HeldStation]:
        now = trio.current_time()
        return [held.at[number] for held in self._held.values() if number in held.at and held.until > now][:MOST_HELD]

    # -- what people do about it

    async def _open(self, link: Link, order: PortOpen) -> None:
        number = self._attachments.number_of(order.port)
        if number is None:
            number = self._guests.number_of(order.port)
        if number is None:
            raise Refused("not_found", f"port {order.port} is not open at this node", field="port")
        try:
            self._switch.enable_port(number, True)
        except CoreError as error:
            raise Refused("internal", str(error), field="port") from error
        self._rules.opened(number)

    async def _release(self, link: Link, order: PortRelease) -> PortReleased:
        vnis = [order.vni] if order.vni else self._rules.networks()
        return PortReleased(macs=[mac for mac in order.macs if self._let_go(vnis, mac)])

    def _let_go(self, vnis: list[int], mac: str) -> bool:
        held = False
        for vni in vnis:
            self._held.pop((vni, mac), None)
            with contextlib.suppress(CoreError):  # a network that is not here
                held |= self._switch.release_mac(vni, mac)
        return held


def _path(node: int, mtu: int) -> NetEvent:
    return NetEvent(kind="path_mtu", time=time.time(), node=node, value=mtu)
