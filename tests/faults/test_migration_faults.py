"""kill -9 of each process, and a cut link, at each phase of a migration: one running copy, nothing lost.

The guest counts aloud (tests/guest/programs/ticker.c). Whatever happens to the daemons, in the end exactly one process
of the guest runs, the coordinator names its node, and its console - which travels with it - has every number once.

A case takes about ten seconds, so without WHERRY_FAULTS=all only the phases of ``ORDINARY`` are tried.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.faults.cluster import Cluster, running

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
ORDINARY = ["source.copy", "source.switch", "arbiter.decide-after", "target.commit"]
VICTIMS = ["source", "target", "coordinator", "link"]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as made:
        yield made


async def strike(cluster: Cluster, victim: str) -> None:
    if victim == "link":
        cluster.proxies[TARGET].cut()
    elif victim == "coordinator":
        await cluster.coordinator.kill()
    else:
        await cluster.nodes[SOURCE if victim == "source" else TARGET].kill()


async def repair(cluster: Cluster, victim: str) -> None:
    if victim == "link":
        cluster.proxies[TARGET].heal()
    elif victim == "coordinator":
        await cluster.coordinator.start()
    else:
        await cluster.restart(SOURCE if victim == "source" else TARGET)


async def check_one_running_copy(cluster: Cluster, guest: str, name: str) -> str:
    """Waits until things have settled. Returns the node."""
    seen: dict[str, str] = {}

    async def settled() -> bool:
        seen.clear()
        seen.update(await cluster.copies(guest))
        assert list(seen.values()).count("running") <= 1, f"it runs twice: {seen}"
        known = await cluster.guest(name)
        return list(seen.items()) == [(known["node"], "running")] and known["state"] == "running"

    try:
        await cluster.until("one running copy, where the coordinator says", settled)
    except AssertionError as error:
        raise AssertionError(f"{error}; processes {seen}; coordinator {await cluster.guest(name)}") from None
    return next(iter(seen))


def numbers(log: bytes) -> list[int]:
    return [int(number) for number in re.findall(rb"^t (\d+)\n", log, re.MULTILINE)]


async def check_counting(cluster: Cluster, guest: str, node: str) -> None:
    """It still counts, and has counted every number once."""
    before = len(numbers(await cluster.log(guest, node)))

    async def further() -> bool:
        return len(numbers(await cluster.log(guest, node))) > before + 3

    await cluster.until("the guest goes on counting", further)
    log = await cluster.log(guest, node)
    found = numbers(log)
    assert b"bad" not in log
    assert found == list(range(1, len(found) + 1))


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("point", POINTS if os.environ.get("WHERRY_FAULTS") == "all" else ORDINARY)
async def test_fault_at_a_phase(cluster: Cluster, point: str, victim: str) -> None:
    guest = (await cluster.run_guest("t", SOURCE))["id"]
    cluster.hold(point)
    operation = await cluster.migrate("t", TARGET)
    await cluster.reached(point)
    assert list((await cluster.copies(guest)).values()).count("running") <= 1
    await strike(cluster, victim)
    cluster.release(point)
    await trio.sleep(0.3)  # time for the others to notice and act on their own
    assert list((await cluster.copies(guest)).values()).count("running") <= 1
    await repair(cluster, victim)
    ended = await cluster.wait_operation(operation, within=90)
    node = await check_one_running_copy(cluster, guest, "t")
    await check_counting(cluster, guest, node)
    if ended["state"] == "succeeded":
        assert node == TARGET
    # And it can be migrated again: nothing of the broken attempt stands in the way.
    await cluster.until("both nodes are alive", cluster.all_alive)
    other = SOURCE if node == TARGET else TARGET
    again = await cluster.wait_operation(await cluster.migrate("t", other, verify=True), within=90)
    assert again["state"] == "succeeded", again
    assert await check_one_running_copy(cluster, guest, "t") == other
    await check_counting(cluster, guest, other)
