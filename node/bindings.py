"""Which address the control plane gave to which guest NIC, as the switch's tables have it.

A binding is known from a guest here, or from the adverts of the node where the guest is; it stands while one of the two
says so, as when a guest moves. Only networks that have a port here are in the switch.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import Literal

from node.core import CoreError
from node.switchctl import Switch

log = logging.getLogger("wherry.node.bindings")

Where = Literal["here", "there"]


class Bindings:
    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._known: dict[tuple[int, str], tuple[bytes, set[Where]]] = {}

    def put(self, vni: int, mac: str, address: str, where: Where) -> None:
        """``address`` empty, or no IPv4 address: nothing to bind."""
        try:
            ip = ipaddress.IPv4Address(address).packed
        except ValueError:
            return
        had, said = self._known.get((vni, mac), (ip, set[Where]()))
        if had != ip:
            self._unbind(vni, mac, had)
        try:
            self._switch.bind_address(vni, mac, ip)
        except CoreError as error:
            log.warning("%s in network %d is not bound to %s: %s", address, vni, mac, error)
            return
        self._known[vni, mac] = (ip, said | {where})

    def drop(self, vni: int, mac: str, where: Where) -> None:
        known = self._known.get((vni, mac))
        if known is None:
            return
        ip, said = known
        said.discard(where)
        if not said:
            del self._known[vni, mac]
            self._unbind(vni, mac, ip)

    def network_removed(self, vni: int) -> None:
        """It is gone, or about to go, from the switch."""
        self._known = {key: row for key, row in self._known.items() if key[0] != vni}

    def _unbind(self, vni: int, mac: str, ip: bytes) -> None:
        try:
            self._switch.unbind_address(vni, mac, ip)
        except CoreError as error:
            log.warning("%s in network %d stays bound to %s: %s", ipaddress.IPv4Address(ip), vni, mac, error)
