"""The switch ports of this node's guests (implements node.guestcopy.Ports).

A guest copy has its ports from the moment its process is there, but they carry frames, and its MACs are claimed, only
while that copy may speak: not on a target before COMMIT, not when a newer copy is known elsewhere.

A source that is paused for a move holds its ports: frames for the guest wait, and go to whichever copy runs in the end.
After a move this node stays in the network for ``LINGER_S``, claim and all, so that frames of nodes that have not heard
of it yet follow the guest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from node.core import CoreError
from node.guestcopy import Guest
from node.switchctl import Switch
from node.switchnets import Claims, Networks
from protocol.messages import Nic

log = logging.getLogger("wherry.node.ports")

LINGER_S = 5.0


@dataclass(slots=True)
class _Copy:
    """The ports of one guest copy, by NIC."""

    generation: int
    ports: list[tuple[int, Nic]] = field(default_factory=list)
    claimed: bool = False
    moved: bool = False
    on: bool = False  # its ports carry frames


class GuestPorts:
    def __init__(self, switch: Switch, claims: Claims, networks: Networks) -> None:
        self._switch = switch
        self._claims = claims
        self._networks = networks
        self._copies: dict[str, _Copy] = {}
        self._lingering: dict[tuple[int, str], object] = {}

    def attach(self, guest: Guest, *, enabled: bool) -> None:
        self.detach(guest)
        copy = self._copies[guest.id] = _Copy(guest.generation)
        fds = guest.live.fds
        for index, nic in enumerate(guest.record.spec.nics):
            number = self._networks.enter(nic.vni, nic.mtu)
            try:
                self._switch.add_ring_port(
                    number,
                    nic.vni,
                    ring_fd=fds[f"nic{index}.ring"],
                    to_switch_event=fds[f"nic{index}.to_switch"],
                    to_guest_event=fds[f"nic{index}.to_guest"],
                    mac=nic.mac,
                    generation=guest.generation,
                )
                self._set_up(number, nic)
            except BaseException:
                self._networks.leave(nic.vni)
                raise
            copy.ports.append((number, nic))
            self._switch.enable_port(number, False)
            self._leave(nic, self._lingering.get((nic.vni, nic.mac)))  # it came back
        if enabled:
            self.enable(guest, True)

    def _set_up(self, number: int, nic: Nic) -> None:
        try:
            self._networks.rules.port_added(number, nic.mac, nic.vni, guarded=False, made_with=nic.settings)
        except CoreError:
            self._switch.remove_port(number)
            raise

    def detach(self, guest: Guest) -> None:
        copy = self._copies.pop(guest.id, None)
        if copy is None:
            return
        for number, nic in copy.ports:
            if copy.claimed and not copy.moved:
                self._claims.mac_gone(nic.vni, nic.mac)
            self._switch.remove_port(number)
            self._networks.rules.port_removed(number)
            if copy.moved:
                self._linger(nic)
            else:
                self._networks.leave(nic.vni)

    def _linger(self, nic: Nic) -> None:
        token = self._lingering[nic.vni, nic.mac] = object()
        self._claims.later(LINGER_S, lambda: self._leave(nic, token))

    def _leave(self, nic: Nic, token: object | None) -> None:
        key = (nic.vni, nic.mac)
        if token is None or self._lingering.get(key) is not token:
            return
        del self._lingering[key]
        self._claims.mac_gone(*key)
        self._networks.leave(nic.vni)

    def hold(self, guest: Guest) -> None:
        """Before the guest is paused: frames for it wait. Again behind the pause: its last frames are on their way."""
        copy = self._copies.get(guest.id)
        for number, _ in copy.ports if copy else ():
            self._switch.hold_port(number, True)

    def release(self, guest: Guest) -> None:
        """It runs here again: what waited is delivered."""
        copy = self._copies.get(guest.id)
        for number, _ in copy.ports if copy else ():
            self._switch.hold_port(number, False)

    def moved(self, guest: Guest, node: int, generation: int) -> None:
        """It runs on ``node`` now: what waited goes there, and so do frames that still come here."""
        copy = self._copies.get(guest.id)
        if copy is None or copy.moved:
            return
        copy.moved = True
        for number, nic in copy.ports:
            self._claims.mac_moved(nic.vni, nic.mac, nic.address.partition("/")[0], generation, node)
            self._switch.hold_port(number, False)

    def enable(self, guest: Guest, on: bool) -> None:
        """Off keeps the claim: the copy may speak again, and nobody else claims its MAC before COMMIT."""
        copy = self._copies.get(guest.id)
        if copy is None:
            return
        copy.generation, copy.on = guest.generation, on
        for number, nic in copy.ports:
            self._switch.enable_port(number, on)
            if on:
                self._networks.rules.opened(number)
                self._claims.mac_here(nic.vni, nic.mac, nic.address.partition("/")[0], guest.generation)
        copy.claimed = copy.claimed or on

    def announce(self, guest: Guest) -> None:
        copy = self._copies.get(guest.id)
        for number, _ in copy.ports if copy else ():
            try:
                self._switch.announce(number)
            except CoreError as error:
                log.warning("%s port %d cannot be announced: %s", guest.tag, number, error)

    def number_of(self, mac: str) -> int | None:
        """The port of a NIC whose copy may speak here."""
        return next((n for copy in self._copies.values() if copy.on for n, nic in copy.ports if nic.mac == mac), None)

    def all(self) -> Iterator[tuple[int, str, Nic]]:
        """Port number, guest and NIC of each."""
        for guest, copy in self._copies.items():
            for number, nic in copy.ports:
                yield number, guest, nic

    def fence(self, vni: int, mac: str, node: int) -> None:
        """A newer copy of this MAC's guest is on ``node``: ours must be mute."""
        for guest, copy in self._copies.items():
            if copy.moved:
                continue
            for number, nic in copy.ports:
                if (nic.vni, nic.mac) == (vni, mac):
                    log.info("guest=%s generation=%d is fenced: node %d is newer", guest, copy.generation, node)
                    copy.on = False
                    self._switch.enable_port(number, False)
