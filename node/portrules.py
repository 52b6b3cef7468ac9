"""What the ports, networks and tunnels of this node's switch let through, as the coordinator says for the whole
cluster.

The list is kept in a file of the state folder, so that a restarted agent has it before it opens a port, with or without
a coordinator, and a guest that moves here finds its settings in force. A port is known by a key: a guest NIC's MAC or
an attachment's id. What cannot be put into the switch fails the port that is being opened, rather than open it wider
than it may be.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import msgpack

from node.core import CoreError, CoreInvalid, CoreNotFound
from node.record import write_atomically
from node.switchctl import Switch
from protocol import vlans
from protocol.codec import decode
from protocol.errors import Refused, RemoteProtocolError
from protocol.messages import NetworkRule, PortRules, PortSettings, to_builtins
from protocol.transport import Handlers, Link

log = logging.getLogger("wherry.node.portrules")

FORMAT = 1
STORM_RATE = 10000  # a new network's, csrc/switch/storm.h


@dataclass(slots=True)
class _Port:
    key: str
    vni: int
    guarded: bool  # unless it is set otherwise
    made_with: PortSettings  # what holds while the coordinator has told nothing
    now: tuple[PortSettings, int] | None = None  # settings and flood rate in force
    shut_by: str = ""


class Rules:
    """``file``: where the list is kept, None: nowhere. Port numbers are those of ``switch``."""

    def __init__(self, file: Path | None, switch: Switch) -> None:
        self._file = file
        self._switch = switch
        self._told = False
        self._kept: PortRules | None = None
        self._networks: dict[int, NetworkRule] = {}
        self._settings: dict[str, PortSettings] = {}
        self._ports: dict[int, _Port] = {}
        self._known: set[int] = set()
        self._rates: dict[int, int] = {}  # peer: bits a second; 0: each that is not here
        self._peers: dict[int, int] = {}  # peer: what is in force
        self._load()

    def register(self, handlers: Handlers) -> None:
        handlers.on_request(PortRules, self._set)

    def of(self, number: int) -> PortSettings:
        """What holds at a port now."""
        port = self._ports[number]
        return self._settings.get(port.key, PortSettings()) if self._told else port.made_with

    # -- what comes and goes

    def mtu(self, vni: int) -> int:
        """The network's, 0: not known. A port's own may be smaller."""
        rule = self._networks.get(vni)
        return rule.mtu if rule else 0

    def networks(self) -> list[int]:
        """Those that are here."""
        return sorted(self._known)

    def network_added(self, vni: int) -> None:
        self._known.add(vni)
        self._limit(vni)

    def network_removed(self, vni: int) -> None:
        self._known.discard(vni)

    def peer_set(self, node: int) -> None:
        """The switch has it as a peer, a new one without a rate."""
        self._peers.setdefault(node, 0)
        self._pace(node)

    def peer_removed(self, node: int) -> None:
        self._peers.pop(node, None)

    def port_added(
        self, number: int, key: str, vni: int, *, guarded: bool, made_with: PortSettings | None = None
    ) -> None:
        """Raises CoreError when the port cannot be made what it shall be: it must go then."""
        port = self._ports[number] = _Port(key, vni, guarded, made_with or PortSettings())
        try:
            self._apply(number, port)
        except CoreError:
            del self._ports[number]
            raise

    def port_removed(self, number: int) -> None:
        self._ports.pop(number, None)

    def shut(self, number: int, mac: str) -> None:
        """The guard has shut it, because of a BPDU of ``mac``."""
        if (port := self._ports.get(number)) is not None:
            port.shut_by = mac

    def opened(self, number: int) -> None:
        self.shut(number, "")

    def shut_by(self, number: int) -> str:
        """The MAC whose BPDU shut a port, empty: it is open."""
        port = self._ports.get(number)
        return port.shut_by if port is not None else ""

    # -- what the coordinator says

    async def _set(self, link: Link, order: PortRules) -> None:
        self.set(order)

    def set(self, order: PortRules) -> None:
        """Raises Refused when a setting is none, or the list cannot be written down; nothing changes then. Also when
        the switch does not take one, which the others do not suffer from."""
        for rule in order.ports:
            try:
                vlans.parse(rule.settings.vlan, rule.settings.native)
            except ValueError as error:
                raise Refused("invalid", f"port {rule.port}: {error}", field="ports") from error
        self._save(order)
        self._take(order)
        for peer in self._peers:
            self._pace(peer)
        wrong: list[str] = []
        for vni in self._known:
            self._limit(vni)
        for number, port in list(self._ports.items()):
            try:
                self._apply(number, port)
            except CoreNotFound:
                continue  # it goes: its owner has not said so yet
            except CoreError as error:
                wrong.append(f"port {port.key}: {error}")
        if wrong:
            raise Refused("internal", "; ".join(wrong[:4]))

    def _take(self, order: PortRules) -> None:
        self._told = True
        self._networks = {rule.vni: rule for rule in order.networks}
        self._settings = {rule.port: rule.settings for rule in order.ports}
        self._rates = {rule.to: rule.rate for rule in order.rates if rule.node == self._switch.node}

    # -- the switch

    def _limit(self, vni: int) -> None:
        rule = self._networks.get(vni)
        stations, storm, proxy = (rule.stations, rule.storm, rule.proxy) if rule else (0, STORM_RATE, True)
        bound = rule.bound if rule else False
        try:
            self._switch.limit_network(vni, fdb_max=stations, storm_rate=storm)
            self._switch.set_network_proxy(vni, proxy)
            self._switch.set_network_bound(vni, bound)
        except CoreError as error:
            log.warning("network %d is not limited: %s", vni, error)

    def _pace(self, peer: int) -> None:
        rate = self._rates.get(peer, self._rates.get(0, 0))
        if self._peers[peer] == rate:
            return  # what waits for its turn is not hurried
        try:
            self._switch.set_peer_rate(peer, rate // 8)
            self._peers[peer] = rate
        except CoreError as error:
            log.warning("node=%d is not sent to at %d bit/s: %s", peer, rate, error)

    def _apply(self, number: int, port: _Port) -> None:
        settings = self.of(number)
        network = self._networks.get(port.vni)
        storm = settings.storm if settings.storm is not None else network.storm if network else STORM_RATE
        if port.now == (settings, storm):
            return  # a storm that is under way, and a shut port, are not touched
        had, had_storm = port.now or (PortSettings(), STORM_RATE)
        try:
            found = vlans.parse(settings.vlan, settings.native)
        except ValueError as error:
            raise CoreInvalid(-2, "vlan", str(error)) from error
        if port.now is None or (had.vlan, had.native) != (settings.vlan, settings.native):
            self._switch.set_vlan(number, access=found.access, trunk=found.trunk, native=found.native)
        if port.now is None or had.guard != settings.guard:
            self._switch.guard_port(number, port.guarded if settings.guard is None else settings.guard)
        if (had.stations, had_storm) != (settings.stations, storm):
            self._switch.limit_port(number, fdb_max=settings.stations, storm_rate=storm)
        own = (settings.broadcast, settings.multicast, settings.unknown)
        if (had.broadcast, had.multicast, had.unknown) != own:
            self._switch.set_storms(
                number, broadcast=settings.broadcast, multicast=settings.multicast, unknown=settings.unknown
            )
        port.now = (settings, storm)

    # -- the file

    def _load(self) -> None:
        """A list that cannot be read is left for a person to look at; the coordinator's next word replaces it."""
        if self._file is None:
            return
        try:
            kept = msgpack.unpackb(self._file.read_bytes())
            if kept["format"] != FORMAT:
                raise ValueError(f"format {kept['format']}, {FORMAT} is known")
            self._kept = decode(PortRules, kept["rules"])
            self._take(self._kept)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, RemoteProtocolError, msgpack.UnpackException) as error:
            log.error("%s cannot be read: %s", self._file, error)

    def _save(self, order: PortRules) -> None:
        """The same list again, as at each new session, takes no room on a disk that may be full."""
        if self._file is None or order == self._kept:
            return
        data = msgpack.packb({"format": FORMAT, "rules": to_builtins(order)})
        try:
            write_atomically(self._file, data, sync=True)
        except OSError as error:
            raise Refused("full", f"{self._file}: {os.strerror(error.errno or 0)}") from error
        self._kept = order
