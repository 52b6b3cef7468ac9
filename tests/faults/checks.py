"""What must hold of a guest after a fault: one running copy where the coordinator says, nothing lost or left over.

The guest counts aloud (tests/guest/programs/ticker.c); its console travels with it and must have every number once.
"""

from __future__ import annotations

import re

from tests.faults.cluster import Cluster


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


async def check_crashed(cluster: Cluster, guest: str, name: str) -> str:
    """Its process was killed: the coordinator knows, with a reason, and no process is left. Returns the node."""

    async def known() -> bool:
        return (await cluster.guest(name))["state"] == "crashed" and not cluster.processes(guest)

    await cluster.until("the crash is known and no process is left", known)
    found = await cluster.guest(name)
    assert "killed" in found["reason"], found
    return str(found["node"])


async def check_tidy(cluster: Cluster, guest: str, node: str) -> None:
    """Nothing of a migration is left: no folder elsewhere, no note, no operation, no process but the owner's."""

    async def tidy() -> bool:
        return (
            cluster.folders(guest) == [node]
            and set(cluster.processes(guest)) <= {node}
            and not (cluster.folder / node / "guests" / guest / "migration.msgpack").exists()
            and not await cluster.unfinished()
        )

    try:
        await cluster.until("nothing is left over", tidy)
    except AssertionError as error:
        left = (cluster.folders(guest), cluster.processes(guest), await cluster.unfinished())
        raise AssertionError(f"{error}; it belongs to {node}; folders, processes, operations: {left}") from None


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


def numbers(log: bytes) -> list[int]:
    """What it has counted so far."""
    return [int(number) for number in re.findall(rb"^t (\d+)\n", log, re.MULTILINE)]
