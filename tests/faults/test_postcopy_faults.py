"""Post-copy between real daemons: what happens to a guest whose memory is at another node when something breaks.

The guest (tests/guest/programs/ticker.c) writes each number that it says to a page and looks at older pages, so that a
page that was lost or came twice says "bad". The source is held before it pushes pages by itself (``source.serve``): the
guest runs with what it touches, most of its memory is missing.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from node.guest import adopt
from node.machine import CH_UART
from tests.faults.checks import check_counting, check_crashed, check_one_running_copy, check_tidy, numbers
from tests.faults.cluster import Cluster, running
from tests.faults.test_migration_faults import (
    SOURCE,
    TARGET,
    check_migrates_again,
    noticed,
    repair,
    strike,
    watched,
)

BANDWIDTH = 400_000  # bytes/s: the first pass takes what goes in 0.4 s, and most of the memory is to be left
VICTIMS = ["source agent", "target agent", "coordinator", "link", "silent link"]


async def begin(cluster: Cluster, name: str) -> tuple[dict[str, Any], str]:
    """The guest, running at the target with pages missing, and the operation."""
    await cluster.until("both nodes are alive", cluster.all_alive)
    guest = await cluster.run_guest(name, SOURCE)
    cluster.hold("source.serve")
    operation = await cluster.migrate(name, TARGET, mode="postcopy", bandwidth=BANDWIDTH)
    await cluster.reached("source.serve")

    async def runs() -> bool:
        return (await cluster.copies(guest["id"])) == {SOURCE: "paused", TARGET: "running"}

    await cluster.until("it runs at the target, and the source keeps its memory", runs)
    return guest, operation


async def absent(cluster: Cluster, guest: str, node: str = TARGET) -> int:
    """Pages that this copy lacks."""
    handle = await adopt(cluster.folder / node / "guests" / guest)
    try:
        return int((await handle.call("status"))["stats"]["pages_absent"])
    finally:
        handle.close()


async def check_hoard(cluster: Cluster, guest: str, node: str) -> None:
    """The guest looks at all of its memory, and finds what it had written."""
    handle = await adopt(cluster.folder / node / "guests" / guest)
    try:
        said = b""
        async with await handle.attach(CH_UART, kept=False) as console:
            await console.send_all(b"c")
            with trio.fail_after(60):
                while b"whole" not in said and b"bad" not in said:
                    said += await console.receive_some(65536)
    finally:
        handle.close()
    assert b"bad" not in said


async def remove(cluster: Cluster, guest: str, name: str) -> None:
    await cluster.finish(await cluster.api.delete(f"/v1/guests/{name}"))
    assert cluster.processes(guest) == {}

    async def gone() -> bool:
        return cluster.folders(guest) == []

    await cluster.until("nothing is left of it", gone)


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("victim", VICTIMS)
async def test_a_pull_goes_on(victim: str, late: bool, tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        guest, operation = await begin(cluster, "t")
        ident = guest["id"]
        async with watched(cluster):
            assert await absent(cluster, ident) > 100
            await strike(cluster, victim, ident)
            if late:
                await noticed(cluster, victim, operation)
            cluster.release("source.serve")
            await repair(cluster, victim)
            assert await check_one_running_copy_of(cluster, ident, "t") == TARGET
            ended = await cluster.wait_operation(operation, within=90)
            assert ended["state"] == "succeeded", ended
            now = await cluster.guest("t")
            assert (now["node"], now["generation"], now["reason"]) == (TARGET, guest["generation"] + 1, "")
            assert await absent(cluster, ident) == 0
            await check_tidy(cluster, ident, TARGET)
            await check_counting(cluster, ident, TARGET)
            await check_hoard(cluster, ident, TARGET)
            await check_migrates_again(cluster, ident, "t", TARGET)
        await remove(cluster, ident, "t")


async def check_one_running_copy_of(cluster: Cluster, guest: str, name: str) -> str:
    """Here the paused copy goes last."""

    async def freed() -> bool:
        return set(cluster.processes(guest)) == {TARGET}

    await cluster.until("the source has freed its copy", freed)
    return await check_one_running_copy(cluster, guest, name)


@pytest.mark.slow
async def test_the_paused_process_dies_with_pages_missing(tmp_path: Path) -> None:
    """Its agent has the memory mapped and goes on giving it out."""
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        guest, operation = await begin(cluster, "t")
        ident = guest["id"]
        async with watched(cluster):
            os.kill(cluster.processes(ident)[SOURCE], signal.SIGKILL)
            await cluster.until("it is gone", lambda: _gone(cluster, ident))
            cluster.release("source.serve")
            assert await check_one_running_copy_of(cluster, ident, "t") == TARGET
            assert (await cluster.wait_operation(operation))["state"] == "succeeded"
            await check_tidy(cluster, ident, TARGET)
            await check_counting(cluster, ident, TARGET)
            await check_hoard(cluster, ident, TARGET)
        await remove(cluster, ident, "t")


async def _gone(cluster: Cluster, guest: str) -> bool:
    return set(cluster.processes(guest)) == {TARGET}


@pytest.mark.slow
async def test_the_source_dies_with_pages_missing(tmp_path: Path) -> None:
    """The guest is there, waits where it needs a page, says why, and can be removed or started anew."""
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        guest, _ = await begin(cluster, "t")
        ident = guest["id"]
        await strike(cluster, "source agent", ident)
        os.kill(cluster.processes(ident)[SOURCE], signal.SIGKILL)
        await repair(cluster, "source agent")

        async def told() -> bool:
            now = await cluster.guest("t")
            return now["state"] == "paused" and "lost" in now["reason"] and "wherry start" in now["reason"]

        await cluster.until("the loss is told", told)
        assert set(cluster.processes(ident)) == {TARGET}
        stopped = await cluster.finish(await cluster.api.post("/v1/guests/t/stop", json={"force": True}))
        assert stopped["state"] == "succeeded", stopped
        again = await cluster.finish(await cluster.api.post("/v1/guests/t/start", json={}))
        assert again["state"] == "succeeded", again
        assert await check_one_running_copy(cluster, ident, "t") in (SOURCE, TARGET)
        await remove(cluster, ident, "t")


@pytest.mark.slow
async def test_the_target_dies_with_pages_missing(tmp_path: Path) -> None:
    """The guest is lost as with any process that is killed; its paused copy goes too."""
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        guest, operation = await begin(cluster, "t")
        ident = guest["id"]
        os.kill(cluster.processes(ident)[TARGET], signal.SIGKILL)
        await cluster.wait_operation(operation)
        assert await check_crashed(cluster, ident, "t") == TARGET
        again = await cluster.finish(await cluster.api.post("/v1/guests/t/start", json={}))
        assert again["state"] == "succeeded", again
        await remove(cluster, ident, "t")


@pytest.mark.slow
async def test_a_guest_that_reboots_needs_its_old_memory_no_more(tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        guest, operation = await begin(cluster, "t")
        ident = guest["id"]
        handle = await adopt(cluster.folder / TARGET / "guests" / ident)
        async with await handle.attach(CH_UART) as console:
            await console.send_all(b"r")
            await handle.wait_end()
        handle.close()
        assert await check_one_running_copy_of(cluster, ident, "t") == TARGET
        assert (await cluster.wait_operation(operation))["state"] == "succeeded"
        await check_tidy(cluster, ident, TARGET)
        await check_counting(cluster, ident, TARGET)


@pytest.mark.slow
async def test_a_guest_that_lacks_pages_stays_where_it_is(tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        guest, operation = await begin(cluster, "t")
        answer = await cluster.api.post("/v1/guests/t/migrate", json={"to": SOURCE})
        if answer.status_code < 300:
            refused = await cluster.finish(answer)
            assert refused["state"] == "failed", refused
        cluster.release("source.serve")
        assert (await cluster.wait_operation(operation))["state"] == "succeeded"
        await check_tidy(cluster, guest["id"], TARGET)
        await check_counting(cluster, guest["id"], TARGET)
        with trio.fail_after(60):
            await check_migrates_again(cluster, guest["id"], "t", TARGET)


async def begin_protected(cluster: Cluster, name: str) -> tuple[dict[str, Any], str]:
    """As :func:`begin`, and epochs have come back."""
    cluster.hold("source.serve")
    await cluster.until("both nodes are alive", cluster.all_alive)
    guest = await cluster.run_guest(name, SOURCE)
    operation = await cluster.migrate(name, TARGET, mode="postcopy", protect=True, bandwidth=BANDWIDTH)
    await cluster.reached("source.serve")
    before = await said(cluster, guest["id"], TARGET)

    async def counts() -> bool:
        return await said(cluster, guest["id"], TARGET) > before + 20

    await cluster.until("it counts at the target", counts)
    return guest, operation


async def said(cluster: Cluster, guest: str, node: str) -> int:
    """The last number that it has said."""
    return numbers(await cluster.log(guest, node))[-1]


@pytest.mark.slow
async def test_a_protected_guest_outlives_its_target(tmp_path: Path) -> None:
    """The source runs it again, a moment before its death; nothing that it had written is missing."""
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        guest, operation = await begin_protected(cluster, "t")
        ident = guest["id"]
        async with watched(cluster):
            count = await said(cluster, ident, TARGET)
            os.kill(cluster.processes(ident)[TARGET], signal.SIGKILL)

            async def back() -> bool:
                now = await cluster.guest("t")
                return (now["node"], now["state"]) == (SOURCE, "running")

            await cluster.until("the source runs it", back)
            assert (await cluster.guest("t"))["generation"] == guest["generation"] + 2
            assert (await cluster.wait_operation(operation))["state"] == "failed"
            assert await said(cluster, ident, SOURCE) > count - 200  # what it said last may be said again
            assert await check_one_running_copy(cluster, ident, "t") == SOURCE
            await check_tidy(cluster, ident, SOURCE)
            await check_counting(cluster, ident, SOURCE)
            await check_hoard(cluster, ident, SOURCE)
            cluster.release("source.serve")
            await check_migrates_again(cluster, ident, "t", SOURCE)
        await remove(cluster, ident, "t")


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
async def test_a_protected_pull_goes_on(victim: str, tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        guest, operation = await begin_protected(cluster, "t")
        ident = guest["id"]
        async with watched(cluster):
            await strike(cluster, victim, ident)
            cluster.release("source.serve")
            await repair(cluster, victim)
            assert await check_one_running_copy_of(cluster, ident, "t") == TARGET
            assert (await cluster.wait_operation(operation, within=90))["state"] == "succeeded"
            await check_tidy(cluster, ident, TARGET)
            await check_counting(cluster, ident, TARGET)
            await check_hoard(cluster, ident, TARGET)
