"""The switch ports of this node's guests (implements node.guestcopy.Ports).

A guest copy has its ports from the moment its process is there, but they carry frames, and its MACs are claimed, only
while that copy may speak: not on a target before COMMIT, not on a paused source, not when a newer copy is known
elsewhere. The networks of the switch are those that have a port here.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field
from typing import Protocol

from node.core import CoreError
from node.guestcopy import Guest
from node.switchctl import Switch
from protocol.messages import Nic

log = logging.getLogger("wherry.node.ports")


class Claims(Protocol):
    """Who is told which MACs are here (node/mesh.py)."""

    def network_added(self, vni: int) -> None: ...
    def network_removed(self, vni: int) -> None: ...
    def mac_here(self, vni: int, mac: str, address: str, generation: int) -> None: ...
    def mac_gone(self, vni: int, mac: str) -> None: ...


@dataclass(slots=True)
class _Copy:
    """The ports of one guest copy, by NIC."""

    generation: int
    ports: list[tuple[int, Nic]] = field(default_factory=list)
    claimed: bool = False


class GuestPorts:
    def __init__(self, switch: Switch, claims: Claims) -> None:
        self._switch = switch
        self._claims = claims
        self._numbers = itertools.count(1)
        self._copies: dict[str, _Copy] = {}
        self._networks: dict[int, int] = {}  # vni: ports

    def attach(self, guest: Guest, *, enabled: bool) -> None:
        self.detach(guest)
        copy = self._copies[guest.id] = _Copy(guest.generation)
        fds = guest.live.fds
        for index, nic in enumerate(guest.record.spec.nics):
            if nic.vni not in self._networks:
                self._switch.add_network(nic.vni, nic.mtu)
                self._networks[nic.vni] = 0
                self._claims.network_added(nic.vni)
            number = next(self._numbers)
            self._switch.add_ring_port(
                number,
                nic.vni,
                ring_fd=fds[f"nic{index}.ring"],
                to_switch_event=fds[f"nic{index}.to_switch"],
                to_guest_event=fds[f"nic{index}.to_guest"],
                mac=nic.mac,
                generation=guest.generation,
            )
            self._networks[nic.vni] += 1
            copy.ports.append((number, nic))
            self._switch.enable_port(number, False)
        if enabled:
            self.enable(guest, True)

    def detach(self, guest: Guest) -> None:
        copy = self._copies.pop(guest.id, None)
        if copy is None:
            return
        for number, nic in copy.ports:
            if copy.claimed:
                self._claims.mac_gone(nic.vni, nic.mac)
            self._switch.remove_port(number)
            self._networks[nic.vni] -= 1
            if not self._networks[nic.vni]:
                del self._networks[nic.vni]
                self._claims.network_removed(nic.vni)
                self._switch.remove_network(nic.vni)

    def enable(self, guest: Guest, on: bool) -> None:
        """Off keeps the claim: a paused source may resume, and nobody else claims the MAC before COMMIT."""
        copy = self._copies.get(guest.id)
        if copy is None:
            return
        copy.generation = guest.generation
        for number, nic in copy.ports:
            self._switch.enable_port(number, on)
            if on:
                self._claims.mac_here(nic.vni, nic.mac, nic.address.partition("/")[0], guest.generation)
        copy.claimed = copy.claimed or on

    def announce(self, guest: Guest) -> None:
        copy = self._copies.get(guest.id)
        for number, _ in copy.ports if copy else ():
            try:
                self._switch.announce(number)
            except CoreError as error:
                log.warning("%s port %d cannot be announced: %s", guest.tag, number, error)

    def fence(self, vni: int, mac: str, node: int) -> None:
        """A newer copy of this MAC's guest is on ``node``: ours must be mute."""
        for guest, copy in self._copies.items():
            for number, nic in copy.ports:
                if (nic.vni, nic.mac) == (vni, mac):
                    log.info("guest=%s generation=%d is fenced: node %d is newer", guest, copy.generation, node)
                    self._switch.enable_port(number, False)
