"""Link-state routing of the node mesh, pure (SPEC.md section 10; after RFC 2328's flooding and SPF, much reduced).

Each node floods one LSA: the peers that it reaches directly and at which cost. Every node keeps the newest LSA of each
origin and computes shortest paths. An edge counts only when both ends list each other (the two-way check), so a dead
node's stale LSA attracts nothing once its neighbours notice. Flooding: a newer LSA goes to every link but the one that
it came from; an older one is answered with ours; an equal one ends there. A node that hears its own LSA from an earlier
life outbids its sequence number. LSAs are refreshed every ``REFRESH`` and forgotten ``MAX_AGE`` after they were last
renewed.

Two kinds of neighbourhood must not be confused: ``LinkUp/LinkDown`` are control sessions, over which LSAs travel;
``NeighbourUp/NeighbourDown`` are direct UDP paths, which LSAs describe and frames take.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from protocol.messages import LinkState, LinkStateEntry, LinkStates

REFRESH: Final = 30.0
MAX_AGE: Final = 100.0
MIN_INTERVAL: Final = 0.5  # between two LSAs of ours
MAX_ORIGINS: Final = 4096
MAX_COST: Final = 0xFFFFFF
BATCH: Final = 64  # LSAs a notice


@dataclass(frozen=True, slots=True)
class NeighbourUp:
    """Probes over the direct path are answered; ``cost`` in microseconds of RTT. Repeat it as the RTT changes."""

    node: int
    cost: int


@dataclass(frozen=True, slots=True)
class NeighbourDown:
    node: int


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A control session to ``node`` is live: it gets all LSAs."""

    node: int


@dataclass(frozen=True, slots=True)
class LinkDown:
    node: int


@dataclass(frozen=True, slots=True)
class LsasArrived:
    """From the authenticated peer ``node``; the origins may be others."""

    node: int
    notice: LinkStates


@dataclass(frozen=True, slots=True)
class NodeGone:
    """The node left the cluster."""

    node: int


@dataclass(frozen=True, slots=True)
class Tick:
    """``wakeup`` has come."""


Event = NeighbourUp | NeighbourDown | LinkUp | LinkDown | LsasArrived | NodeGone | Tick


@dataclass(frozen=True, slots=True)
class SendLsas:
    """Notice for the link to ``node``."""

    node: int
    notice: LinkStates


@dataclass(frozen=True, slots=True)
class SetRoute:
    """Datagrams for ``node`` go to ``via`` (== ``node``: directly). ``cost`` in microseconds."""

    node: int
    via: int
    cost: int


@dataclass(frozen=True, slots=True)
class DelRoute:
    node: int


Effect = SendLsas | SetRoute | DelRoute
Effects = list[Effect]


def shortest_paths(graph: Mapping[int, Mapping[int, int]], root: int) -> dict[int, tuple[int, int]]:
    """Dijkstra: node → (cost, next hop), without ``root``. Ties go to the lower next hop, so all runs agree."""
    best: dict[int, tuple[int, int]] = {}
    queue: list[tuple[int, int, int]] = [(0, 0, root)]  # cost, next hop, node
    while queue:
        cost, via, node = heapq.heappop(queue)
        if node in best:
            continue
        best[node] = (cost, via)
        for other, step in graph.get(node, {}).items():
            if other not in best:
                heapq.heappush(queue, (cost + step, other if node == root else via, other))
    del best[root]
    return best


class LinkStateMachine:
    """One node's database and routes. ``sequence`` should grow from run to run (Unix milliseconds do)."""

    def __init__(self, node: int, sequence: int = 0) -> None:
        self.node = node
        self.routes: dict[int, tuple[int, int]] = {}  # node: (cost, via)
        self._sequence = sequence
        self._neighbours: dict[int, int] = {}
        self._links: set[int] = set()
        self._lsas: dict[int, LinkState] = {}
        self._renewed: dict[int, float] = {}
        self._originated = float("-inf")
        self._dirty = True  # our LSA is not what we would say now

    @property
    def wakeup(self) -> float | None:
        """When it wants a Tick."""
        mine = self._originated + (MIN_INTERVAL if self._dirty else REFRESH)
        return min([mine, *(t + MAX_AGE for o, t in self._renewed.items() if o != self.node)])

    def handle(self, event: Event, now: float) -> Effects:
        """One event; gives the effects to carry out, in order."""
        effects = _ACTIONS[type(event)](self, event, now)
        if self._dirty and now >= self._originated + MIN_INTERVAL:
            effects += self._originate(now)
        return effects + self._reroute()

    # ---- what changes

    def _on_neighbour(self, event: NeighbourUp, now: float) -> Effects:
        cost = min(max(event.cost, 1), MAX_COST)
        old = self._neighbours.get(event.node)
        # An RTT wobbles: only a change by a quarter is news, or every probe would flood the cluster.
        if event.node != self.node and (old is None or abs(cost - old) * 4 > old):
            self._neighbours[event.node] = cost
            self._dirty = True
        return []

    def _on_neighbour_down(self, event: NeighbourDown, now: float) -> Effects:
        if self._neighbours.pop(event.node, None) is not None:
            self._dirty = True
        return []

    def _on_link_up(self, event: LinkUp, now: float) -> Effects:
        self._links.add(event.node)
        return self._send(event.node, [self._lsas[o] for o in sorted(self._lsas)])

    def _on_link_down(self, event: LinkDown, now: float) -> Effects:
        self._links.discard(event.node)
        return []

    def _on_gone(self, event: NodeGone, now: float) -> Effects:
        self._links.discard(event.node)
        self._forget(event.node)
        return self._on_neighbour_down(NeighbourDown(event.node), now)

    def _on_lsas(self, event: LsasArrived, now: float) -> Effects:
        newer: list[LinkState] = []
        ours: list[LinkState] = []
        for lsa in event.notice.lsas:
            known = self._lsas.get(lsa.origin)
            if lsa.origin == self.node:
                if lsa.sequence > self._sequence or (known is None and lsa.sequence == self._sequence):
                    self._sequence = lsa.sequence  # an earlier life of ours: outbid it
                    self._dirty = True
                elif known is not None and lsa.sequence < known.sequence:
                    ours.append(known)
            elif known is None or lsa.sequence > known.sequence:
                if known is None and len(self._lsas) >= MAX_ORIGINS:
                    continue
                self._lsas[lsa.origin] = lsa
                self._renewed[lsa.origin] = now
                newer.append(lsa)
            elif lsa.sequence < known.sequence:
                ours.append(known)
        return self._flood(newer, event.node) + self._send(event.node, ours)

    def _on_tick(self, event: Tick, now: float) -> Effects:
        for origin in [o for o, t in self._renewed.items() if o != self.node and now >= t + MAX_AGE]:
            self._forget(origin)
        if now >= self._originated + REFRESH:
            self._dirty = True
        return []

    # ---- helpers

    def _forget(self, origin: int) -> None:
        if origin != self.node:
            self._lsas.pop(origin, None)
            self._renewed.pop(origin, None)

    def _originate(self, now: float) -> Effects:
        self._dirty = False
        self._originated = now
        self._sequence += 1
        entries = [LinkStateEntry(node=n, cost=c) for n, c in sorted(self._neighbours.items())]
        lsa = LinkState(origin=self.node, sequence=self._sequence, entries=entries)
        self._lsas[self.node] = lsa
        self._renewed[self.node] = now
        return self._flood([lsa], self.node)

    def _flood(self, lsas: list[LinkState], but: int) -> Effects:
        effects: Effects = []
        for node in sorted(self._links - {but}):
            effects += self._send(node, lsas)
        return effects

    def _send(self, node: int, lsas: list[LinkState]) -> Effects:
        parts = [lsas[i : i + BATCH] for i in range(0, len(lsas), BATCH)]
        return [SendLsas(node, LinkStates(lsas=part)) for part in parts]

    def graph(self) -> dict[int, dict[int, int]]:
        """The edges that both ends claim, with the cost that the near end gives."""
        claimed = {o: {e.node: e.cost for e in lsa.entries} for o, lsa in self._lsas.items()}
        return {
            origin: {node: cost for node, cost in edges.items() if origin in claimed.get(node, {})}
            for origin, edges in claimed.items()
        }

    def _reroute(self) -> Effects:
        routes = shortest_paths(self.graph(), self.node)
        effects: Effects = [DelRoute(node) for node in sorted(self.routes.keys() - routes.keys())]
        for node, (cost, via) in sorted(routes.items()):
            old = self.routes.get(node)
            if old is None or old[1] != via:
                effects.append(SetRoute(node, via, cost))
        self.routes = routes
        return effects


_ACTIONS: Final[dict[type, Callable[[LinkStateMachine, Any, float], Effects]]] = {
    NeighbourUp: LinkStateMachine._on_neighbour,
    NeighbourDown: LinkStateMachine._on_neighbour_down,
    LinkUp: LinkStateMachine._on_link_up,
    LinkDown: LinkStateMachine._on_link_down,
    LsasArrived: LinkStateMachine._on_lsas,
    NodeGone: LinkStateMachine._on_gone,
    Tick: LinkStateMachine._on_tick,
}
