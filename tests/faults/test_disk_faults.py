"""kill -9 of each end at each step of a migration with a disk: one guest, with all that it was told is durable.

As tests/faults/test_migration_faults.py, of a guest that writes and flushes all the while. Besides agents, guest
processes and links whole hosts are struck: agent and guest process at once, so that nobody there knows of the copy's
memory any more, only of its disk. By default each point is met by a quarter of what can be struck; WHERRY_SOAK=1: all.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from node.guest import GuestGone
from tests.faults.checks import check_one_running_copy, check_tidy
from tests.faults.cluster import Cluster, running
from tests.faults.disklog import begun, check_log, disk_file, flushed, image_disk
from tests.faults.test_migration_faults import AGENTS, GUESTS, SOAK, SOURCE, TARGET, repair, strike, watched

POINTS = [
    "source.mirror",
    "target.mirror",
    "source.copy",
    "source.switch",
    "target.switch",
    "source.commit",
    "arbiter.decide-after",
    "target.commit",
    "source.handed",
    "source.done",
]
COMMITTED = POINTS[POINTS.index("arbiter.decide-after") :]
HOSTS = {"source host": SOURCE, "target host": TARGET}
VICTIMS = [*AGENTS, *GUESTS, *HOSTS, "coordinator", "link"]
# What only disks have to get right: the owner's loaded copy is lost, or the source's is while it may be needed.
ALWAYS = {("target.commit", "target host"), ("target.commit", "target guest"), ("source.handed", "source host")}


class Case(NamedTuple):
    point: str
    victim: str

    def __str__(self) -> str:
        return f"{self.victim} at {self.point}"


def cases() -> Iterator[Case]:
    for p, point in enumerate(POINTS):
        for v, victim in enumerate(VICTIMS):
            if (victim, point) == ("source guest", "source.done"):
                continue  # it is no more
            if SOAK or (p + v) % 4 == 0 or (point, victim) in ALWAYS:
                yield Case(point, victim)


async def strike_disk(cluster: Cluster, victim: str, guest: str) -> None:
    """A host's agent first: nobody notices that the guest's process has ended. The process may have gone by itself."""
    node = HOSTS.get(victim) or GUESTS.get(victim)
    if node is None:
        await strike(cluster, victim, guest)
        return
    if victim in HOSTS:
        await cluster.nodes[node].kill()
    process = cluster.processes(guest).get(node)
    if process is not None:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


async def repair_disk(cluster: Cluster, victim: str) -> None:
    if victim in HOSTS:
        await cluster.nodes[HOSTS[victim]].start()
    await repair(cluster, victim)


async def last_told(cluster: Cluster, guest: str) -> int:
    """What the guest has said last that it wrote. Behind the decision its process at the source may end at any time."""
    for node in (SOURCE, TARGET):
        try:
            return flushed(await cluster.log(guest, node))[-1]
        except GuestGone:
            continue
    return 0


async def run_case(cluster: Cluster, case: Case, name: str) -> None:
    await cluster.until("both nodes are alive", cluster.all_alive)
    started = await cluster.run_guest(name, SOURCE, image="logger")
    guest, generation = started["id"], started["generation"]
    await check_log(cluster, guest, SOURCE)
    cluster.hold(case.point)
    operation = await cluster.migrate(name, TARGET)
    await cluster.reached(case.point)
    told = await last_told(cluster, guest)
    await strike_disk(cluster, case.victim, guest)
    if case.point == "source.handed":
        assert disk_file(cluster, guest, SOURCE).exists(), "the target has not said that it runs"
    cluster.release(case.point)
    await repair_disk(cluster, case.victim)
    await cluster.wait_operation(operation, within=90)
    now = await cluster.guest(name)
    committed = now["generation"] == generation + 1
    assert now["node"] == (TARGET if committed else SOURCE)
    assert committed or case.point not in COMMITTED
    struck = GUESTS.get(case.victim) or HOSTS.get(case.victim)
    crashed = struck == now["node"] and (now["state"] == "crashed" or not await runs(cluster, guest, struck))
    if crashed:
        await check_ended(cluster, guest, name)
        again = await cluster.finish(await cluster.api.post(f"/v1/guests/{name}/start", json={}))
        assert again["state"] == "succeeded", again
        assert (await cluster.guest(name))["node"] == now["node"], "its disk is here"
        assert await begun(cluster, guest, now["node"]) >= told
    node = await check_one_running_copy(cluster, guest, name)
    await check_tidy(cluster, guest, node)
    await check_log(cluster, guest, node)
    await cluster.until("both nodes are alive", cluster.all_alive)
    other = SOURCE if node == TARGET else TARGET
    again = await cluster.wait_operation(await cluster.migrate(name, other), within=90)
    assert again["state"] == "succeeded", f"the next migration: {again}"
    await check_tidy(cluster, guest, other)
    await check_log(cluster, guest, other)
    await cluster.finish(await cluster.api.delete(f"/v1/guests/{name}"))
    assert cluster.folders(guest) == []


async def runs(cluster: Cluster, guest: str, node: str) -> bool:
    return (await cluster.copies(guest)).get(node) in ("running", "paused", "loaded")


async def check_ended(cluster: Cluster, guest: str, name: str) -> None:
    async def known() -> bool:
        return (await cluster.guest(name))["state"] in ("crashed", "stopped") and not cluster.processes(guest)

    await cluster.until("the crash is known and no process is left", known)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
async def test_disk_fault(point: str, tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        await cluster.add_image("logger", disk=image_disk())
        for number, case in enumerate(case for case in cases() if case.point == point):
            try:
                async with watched(cluster):
                    await run_case(cluster, case, f"t{number}")
            except BaseException as error:
                error.add_note(f"case: {case}")
                raise
