"""The networks of this node's switch: those that have a port here, or had one until a moment ago."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

from node.portrules import Rules
from node.switchctl import Switch


class Claims(Protocol):
    """Who is told which networks and MACs are here (node/mesh.py)."""

    def network_added(self, vni: int) -> None: ...
    def network_removed(self, vni: int) -> None: ...
    def mac_here(self, vni: int, mac: str, address: str, generation: int) -> None: ...
    def mac_gone(self, vni: int, mac: str) -> None: ...
    def mac_moved(self, vni: int, mac: str, address: str, generation: int, node: int) -> None: ...
    def later(self, seconds: float, work: Callable[[], None]) -> None: ...


class Networks:
    """Counts the users of each network and gives port numbers, which are unique in the switch. ``rules``: what networks
    and ports let through."""

    def __init__(self, switch: Switch, claims: Claims, rules: Rules | None = None) -> None:
        self.rules = rules or Rules(None, switch)
        self._switch = switch
        self._claims = claims
        self._numbers = itertools.count(1)
        self._users: dict[int, int] = {}

    def enter(self, vni: int, mtu: int) -> int:
        """The network is there until as many :meth:`leave`; returns a port number. The MTU is the network's, or the
        first user's if that is larger or the only one that is known."""
        if vni not in self._users:
            self._switch.add_network(vni, max(mtu, self.rules.mtu(vni)))
            self.rules.network_added(vni)
            self._users[vni] = 0
            self._claims.network_added(vni)
        self._users[vni] += 1
        return next(self._numbers)

    def leave(self, vni: int) -> None:
        """The user's port is gone from the switch already."""
        self._users[vni] -= 1
        if not self._users[vni]:
            del self._users[vni]
            self._claims.network_removed(vni)
            self.rules.network_removed(vni)
            self._switch.remove_network(vni)
