"""MAC tables and routes converge, whatever order the news took."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import macs
from protocol.messages import MacAdvert, MacAdverts
from protocol.routing import linkstate as ls

VNI = 9
MAC = "02:00:00:00:00:01"


def advert(node: int, generation: int, sequence: int, withdrawn: bool = False) -> MacAdvert:
    return MacAdvert(vni=VNI, mac=MAC, generation=generation, sequence=sequence, node=node, withdrawn=withdrawn)


CLAIMS = st.lists(
    st.builds(advert, st.integers(2, 6), st.integers(0, 4), st.integers(0, 4), st.booleans()), max_size=12
)


@settings(deadline=None)
@given(CLAIMS, st.randoms(use_true_random=False))
def test_mac_claims_converge_in_any_order(claims: list[MacAdvert], rng: random.Random) -> None:
    """The table is a function of the set of claims: no order, no repetition matters."""
    unique = {(c.node, c.generation, c.sequence): c for c in claims}  # a node says one thing per order
    owners, installed = set(), set()
    for _ in range(4):
        news = list(unique.values()) * 2
        rng.shuffle(news)
        table = macs.MacTable(1)
        table.handle(macs.NetworkAdded(VNI))
        remote: dict[str, int] = {}
        for claim in news:
            notice = MacAdverts(adverts=[claim], vnis=[VNI])
            for effect in table.handle(macs.AdvertsArrived(claim.node, notice)):
                if isinstance(effect, macs.SetRemote):
                    remote[effect.mac] = effect.node
                elif isinstance(effect, macs.DelRemote):
                    del remote[effect.mac]
        owners.add(table.owner(VNI, MAC))
        installed.add(remote.get(MAC))
    assert len(owners) == 1
    assert installed == owners
    latest = {}
    for claim in unique.values():
        if claim.node not in latest or (claim.generation, claim.sequence) > latest[claim.node][:2]:
            latest[claim.node] = (claim.generation, claim.sequence, claim)
    live = [c for _, _, c in latest.values() if not c.withdrawn]
    best = max(live, key=lambda c: (c.generation, c.sequence, -c.node), default=None)
    assert owners == {best.node if best else None}


class Mesh:
    """Link-state machines joined by reliable, ordered, slow links; costs in a table."""

    def __init__(self, nodes: int) -> None:
        self.now = 0.0
        self.machines = {n: ls.LinkStateMachine(n) for n in range(1, nodes + 1)}
        self.routes: dict[int, dict[int, int]] = {n: {} for n in self.machines}
        self.wire: list[tuple[int, int, ls.LinkStates]] = []
        self.links: set[tuple[int, int]] = set()

    def feed(self, node: int, event: ls.Event) -> None:
        for effect in self.machines[node].handle(event, self.now):
            if isinstance(effect, ls.SendLsas):
                if (node, effect.node) in self.links:
                    self.wire.append((node, effect.node, effect.notice))
            elif isinstance(effect, ls.SetRoute):
                self.routes[node][effect.node] = effect.via
            elif isinstance(effect, ls.DelRoute):
                del self.routes[node][effect.node]

    def link(self, a: int, b: int) -> None:
        self.links |= {(a, b), (b, a)}
        self.feed(a, ls.LinkUp(b))
        self.feed(b, ls.LinkUp(a))

    def run(self, seconds: float, rng: random.Random) -> None:
        end = self.now + seconds
        while self.now < end:
            budget = 100_000
            while self.wire:
                budget -= 1
                assert budget, "flooding does not end"
                first: dict[tuple[int, int], int] = {}
                for index, (a, b, _) in enumerate(self.wire):
                    first.setdefault((a, b), index)  # each link is in order; links among each other are not
                a, b, notice = self.wire.pop(rng.choice(sorted(first.values())))
                self.feed(b, ls.LsasArrived(a, notice))
            self.now += 0.5
            for node, machine in self.machines.items():
                if machine.wakeup is not None and machine.wakeup <= self.now:
                    self.feed(node, ls.Tick())


EDGES = st.dictionaries(st.tuples(st.integers(1, 6), st.integers(1, 6)).filter(lambda e: e[0] < e[1]),
                        st.integers(1, 1000), max_size=12)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(EDGES, EDGES, st.randoms(use_true_random=False))
def test_routes_converge_to_dijkstra_of_the_true_graph(
    before: dict[tuple[int, int], int], after: dict[tuple[int, int], int], rng: random.Random
) -> None:
    mesh = Mesh(6)
    for a in range(1, 6):
        mesh.link(a, a + 1)  # LSAs travel over a chain of control links
    for (a, b), cost in before.items():
        mesh.feed(a, ls.NeighbourUp(b, cost))
        mesh.feed(b, ls.NeighbourUp(a, cost))
    mesh.run(2, rng)
    for a, b in before.keys() - after.keys():
        mesh.feed(a, ls.NeighbourDown(b))
        mesh.feed(b, ls.NeighbourDown(a))
    for (a, b), cost in after.items():
        for near, far in ((a, b), (b, a)):
            mesh.feed(near, ls.NeighbourDown(far))
            mesh.feed(near, ls.NeighbourUp(far, cost))
    mesh.run(3, rng)
    graph: dict[int, dict[int, int]] = {n: {} for n in mesh.machines}
    for (a, b), cost in after.items():
        graph[a][b] = graph[b][a] = cost
    for node, machine in mesh.machines.items():
        true = floyd(graph, node)
        assert {n: cost for n, (cost, _) in machine.routes.items()} == true
        assert mesh.routes[node] == {n: via for n, (_, via) in machine.routes.items()}
        for target in true:  # following the next hops arrives, without a loop
            here, hops = node, 0
            while here != target:
                here = mesh.routes[here][target]
                hops += 1
                assert hops <= 6


def floyd(graph: dict[int, dict[int, int]], root: int) -> dict[int, int]:
    """Distances by relaxation until nothing changes: the slow check of the fast one."""
    cost = {root: 0}
    changed = True
    while changed:
        changed = False
        for a, edges in graph.items():
            for b, step in edges.items():
                if a in cost and cost[a] + step < cost.get(b, 1 << 60):
                    cost[b], changed = cost[a] + step, True
    del cost[root]
    return cost


def test_a_dead_node_loses_its_routes_by_the_two_way_check() -> None:
    mesh = Mesh(3)
    rng = random.Random(1)
    for a, b in ((1, 2), (2, 3)):
        mesh.link(a, b)
        mesh.feed(a, ls.NeighbourUp(b, 100))
        mesh.feed(b, ls.NeighbourUp(a, 100))
    mesh.run(2, rng)
    assert mesh.routes[1] == {2: 2, 3: 2}
    mesh.feed(2, ls.NeighbourDown(3))  # 3 died without a word: its LSA still names 2
    mesh.run(2, rng)
    assert mesh.routes[1] == {2: 2}


def test_a_restarted_node_outbids_its_earlier_life_and_silence_ages_out() -> None:
    mesh = Mesh(2)
    rng = random.Random(1)
    mesh.link(1, 2)
    for a, b in ((1, 2), (2, 1)):
        mesh.feed(a, ls.NeighbourUp(b, 100))
    mesh.run(40, rng)
    mesh.machines[1] = ls.LinkStateMachine(1)  # sequence starts below the one in 2's database
    mesh.routes[1] = {}
    mesh.link(1, 2)
    mesh.feed(1, ls.NeighbourUp(2, 100))
    mesh.run(3, rng)
    assert mesh.routes == {1: {2: 2}, 2: {1: 1}}
    mesh.links.clear()
    mesh.run(ls.MAX_AGE + 31, rng)
    assert 1 not in mesh.machines[2].graph()
    assert mesh.routes[2] == {}


@pytest.mark.parametrize("cost", [104, 96, 125, 75])
def test_small_wobbles_of_rtt_flood_nothing(cost: int) -> None:
    machine = ls.LinkStateMachine(1)
    machine.handle(ls.LinkUp(2), 0)
    machine.handle(ls.NeighbourUp(2, 100), 1)
    assert machine.handle(ls.NeighbourUp(2, cost), 5) == []
    assert machine.handle(ls.NeighbourUp(2, 126), 6) != []
