"""kill -9 of each process, and each cut path, at each phase of a migration: one running copy, nothing lost.

A case holds a migration at a point (docs/architecture.md, "Fault hooks"), strikes, lets go and repairs. Then, whatever
was struck: the store's decision is the outcome - not committed, the guest runs at the source in its generation;
committed, at the target in the next one - and the operation says the same; a watch on the guest's processes never saw
two that run; its console has every number once; nothing is left over; and the guest migrates again.

The cases of a point share a cluster. By default each is met by a quarter of what can be struck, so that every victim
has its turn at some points; WHERRY_SOAK=1 runs all of them, each also with a repair that comes only after the
coordinator has given the victim up.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from tests.faults.checks import check_counting, check_crashed, check_one_running_copy, check_tidy
from tests.faults.cluster import Cluster, running
from wherry.demo.witness import Witness

SOURCE, TARGET = "n1", "n2"
POINTS = [
    "source.prepare",
    "target.prepare",
    "source.copy",
    "target.copy",
    "source.switch",
    "target.switch",
    "source.commit",
    "arbiter.decide-before",
    "arbiter.decide-after",
    "target.commit",
    "source.done",
    "target.done",
]
COMMITTED = POINTS[POINTS.index("arbiter.decide-after") :]
AGENTS = {"source agent": SOURCE, "target agent": TARGET}
GUESTS = {"source guest": SOURCE, "target guest": TARGET}
CONTROLS = {"source's control link": SOURCE, "target's control link": TARGET}
VICTIMS = [*AGENTS, *GUESTS, "coordinator", "link", "silent link", *CONTROLS]
REGRESSIONS = {("target.prepare", "source guest"), ("source.switch", "target guest")}  # these found something once
SOAK = os.environ.get("WHERRY_SOAK") == "1"


class Case(NamedTuple):
    """``late``: the repair waits until the coordinator has noticed, and given the operation up if it may."""

    point: str
    victim: str
    late: bool = False

    def __str__(self) -> str:
        return f"{self.victim} at {self.point}{', repaired late' if self.late else ''}"

    @property
    def aborts(self) -> bool:
        """It can have no other end. A restarted agent asks for "abort" first; a copy without its process cannot run."""
        before = POINTS.index(self.point)
        if self.victim == "source agent":
            return before <= POINTS.index("source.commit")
        if self.victim == "source guest":
            return before <= POINTS.index("source.switch")
        if self.victim in ("target agent", "target guest"):
            return POINTS.index("target.prepare") <= before <= POINTS.index("target.switch")
        return False

    @property
    def commits(self) -> bool:
        return self.point in COMMITTED


def exists(point: str, victim: str) -> bool:
    """Guest processes are not there all the time."""
    if victim == "target guest":
        return point not in ("source.prepare", "target.prepare")
    return victim != "source guest" or point not in COMMITTED


def cases(point: str) -> Iterator[Case]:
    for index, victim in enumerate(VICTIMS):
        if exists(point, victim):
            if SOAK or (index + POINTS.index(point)) % 4 == 0 or (point, victim) in REGRESSIONS:
                yield Case(point, victim)
            if SOAK and victim not in GUESTS:
                yield Case(point, victim, late=True)


async def strike(cluster: Cluster, victim: str, guest: str) -> None:
    if victim in AGENTS:
        await cluster.nodes[AGENTS[victim]].kill()
    elif victim in GUESTS:
        os.kill(cluster.processes(guest)[GUESTS[victim]], signal.SIGKILL)
    elif victim in CONTROLS:
        cluster.controls[CONTROLS[victim]].cut()
    elif victim == "coordinator":
        await cluster.coordinator.kill()
    elif victim == "link":
        cluster.proxies[TARGET].cut()
    else:
        cluster.proxies[TARGET].silence()


async def noticed(cluster: Cluster, victim: str, operation: str) -> None:
    """Wait until nobody expects the victim back. Bounded: a link that is relayed meanwhile lets everything go on."""
    node = AGENTS.get(victim) or CONTROLS.get(victim)
    if node is not None:

        async def lost() -> bool:
            return await cluster.node_state(node) == "lost"

        await cluster.until(f"{node} is given up", lost)
    elif victim != "coordinator":
        with trio.move_on_after(15):
            await cluster.wait_operation(operation)


async def repair(cluster: Cluster, victim: str) -> None:
    if victim in AGENTS:
        await cluster.nodes[AGENTS[victim]].start()
    elif victim == "coordinator":
        await cluster.coordinator.start()
    for proxy in (*cluster.proxies.values(), *cluster.controls.values()):
        proxy.heal()


@asynccontextmanager
async def watched(cluster: Cluster) -> AsyncIterator[None]:
    """Fails when two processes of one guest were seen to run at one time."""
    witness = Witness(cluster.folder)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(witness.run)
        yield
        nursery.cancel_scope.cancel()
    assert witness.looks > 0
    assert witness.doubles == []


async def run_case(cluster: Cluster, case: Case, name: str) -> None:
    await cluster.until("both nodes are alive", cluster.all_alive)
    started = await cluster.run_guest(name, SOURCE)
    guest, generation = started["id"], started["generation"]
    cluster.hold(case.point)
    operation = await cluster.migrate(name, TARGET, verify=case.point == "target.switch")
    await cluster.reached(case.point)
    await strike(cluster, case.victim, guest)
    if case.late and not case.commits:
        await noticed(cluster, case.victim, operation)
    cluster.release(case.point)
    await repair(cluster, case.victim)
    ended = await cluster.wait_operation(operation, within=90)
    now = await cluster.guest(name)
    committed = now["generation"] == generation + 1
    assert committed or now["generation"] == generation
    assert now["node"] == (TARGET if committed else SOURCE)
    assert not (case.commits and not committed)
    assert not (case.aborts and committed)
    assert ended["state"] == ("succeeded" if committed else "failed"), ended
    assert committed or ended["error"]["message"], ended
    if GUESTS.get(case.victim) == now["node"]:
        assert await check_crashed(cluster, guest, name) == now["node"]
        again = await cluster.finish(await cluster.api.post(f"/v1/guests/{name}/start", json={}))
        assert again["state"] == "succeeded", again
    node = await check_one_running_copy(cluster, guest, name)
    await check_tidy(cluster, guest, node)
    await check_counting(cluster, guest, node)
    await check_migrates_again(cluster, guest, name, node)
    await cluster.finish(await cluster.api.delete(f"/v1/guests/{name}"))
    assert cluster.processes(guest) == {}
    assert cluster.folders(guest) == []


async def check_migrates_again(cluster: Cluster, guest: str, name: str, node: str) -> None:
    """Nothing of the broken attempt stands in the way."""
    await cluster.until("both nodes are alive", cluster.all_alive)
    other = SOURCE if node == TARGET else TARGET
    again = await cluster.wait_operation(await cluster.migrate(name, other, verify=True), within=90)
    assert again["state"] == "succeeded", f"the next migration: {again}"
    assert await check_one_running_copy(cluster, guest, name) == other
    await check_tidy(cluster, guest, other)
    await check_counting(cluster, guest, other)


def batches() -> Iterator[list[Case]]:
    """What shares a cluster: by default the cases of a point; alone they say more when they fail, but take longer."""
    for point in POINTS:
        yield from ([case] for case in cases(point)) if SOAK else [list(cases(point))]


def _name(batch: list[Case]) -> str:
    return str(batch[0]) if SOAK else batch[0].point


@pytest.mark.slow
@pytest.mark.parametrize("batch", list(batches()), ids=_name)
async def test_fault(batch: list[Case], tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        for number, case in enumerate(batch):
            try:
                async with watched(cluster):
                    await run_case(cluster, case, f"t{number}")
            except BaseException as error:
                error.add_note(f"case: {case}")
                raise
