"""How large the packets of a network may be: what the paths between nodes carry. Pure.

Nodes tell the MTU of a path when they have found it out (``node.events``), both ends of one each their own; a path of
which nothing is known carries everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LEAST = 576  # what a NIC may have: a path that carries less cannot be had by making packets smaller


@dataclass(frozen=True, slots=True)
class Narrow:
    """The narrowest path of a network."""

    mtu: int
    node: int
    peer: int


class Paths:
    def __init__(self) -> None:
        self._mtu: dict[tuple[int, int], int] = {}

    def found(self, node: int, peer: int, mtu: int) -> bool:
        """True: that is news."""
        news = self._mtu.get((node, peer)) != mtu
        self._mtu[node, peer] = mtu
        return news

    def gone(self, node: int) -> None:
        """A node that was lost may come back elsewhere."""
        self._mtu = {ends: mtu for ends, mtu in self._mtu.items() if node not in ends}

    def narrowest(self, nodes: Iterable[int], mtu: int) -> Narrow | None:
        """Of the paths among ``nodes`` the one that carries least, if that is less than ``mtu``."""
        among = set(nodes)
        inside = [(m, a, b) for (a, b), m in self._mtu.items() if a in among and b in among and m < mtu]
        return Narrow(*min(inside)) if inside else None
