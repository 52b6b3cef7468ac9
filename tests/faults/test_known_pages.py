"""Pages that the target has, between real daemons: what they are copied from goes or changes after the target said so.

The guest (tests/guest/programs/ticker.c) has 4 MiB that never change and 1 MiB that it writes page by page, and says
"bad" when a page is not what it wrote. The source is held when its questions have been answered (``source.asked``).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from node.ramview import PAGE
from tests.faults.checks import check_counting, check_one_running_copy, check_tidy
from tests.faults.cluster import MIB, Cluster, running
from tests.faults.test_migration_faults import SOURCE, TARGET
from tests.faults.test_postcopy_faults import check_hoard

ALL = 1280  # pages of the guest's that are no zeros


async def move(cluster: Cluster, name: str, to: str) -> dict[str, Any]:
    operation = await cluster.wait_operation(await cluster.migrate(name, to))
    assert operation["state"] == "succeeded", operation
    return dict(operation["result"])


async def held(cluster: Cluster, name: str, to: str) -> str:
    """The operation, when the target has said what it has."""
    cluster.hold("source.asked")
    operation = await cluster.migrate(name, to)
    await cluster.reached("source.asked")
    return operation


async def check_whole(cluster: Cluster, operation: str, ident: str, name: str, node: str) -> None:
    cluster.release("source.asked")
    assert (await cluster.wait_operation(operation))["state"] == "succeeded"
    assert await check_one_running_copy(cluster, ident, name) == node
    await check_tidy(cluster, ident, node)
    await check_counting(cluster, ident, node)
    await check_hoard(cluster, ident, node)


def found(cluster: Cluster, node: str) -> int:
    """Pages that the target of the last migration from there said it has."""
    said = re.findall(r"the target has (\d+) of \d+ pages", (cluster.folder / f"{node}.log").read_text())
    return int(said[-1]) if said else -1


def memories(cluster: Cluster, node: str) -> int:
    """Guests' memories that the agent of this node holds: one file each, however many descriptors."""
    fds = Path(f"/proc/{cluster.nodes[node].pid}/fd")
    files = set()
    for fd in fds.iterdir():
        try:
            if "memfd:wherry-ram" in os.readlink(fd):
                files.add(fd.stat().st_ino)
        except FileNotFoundError:
            continue  # closed meanwhile
    return len(files)


def scribble(process: int) -> None:
    """Write to every eighth page of a guest's memory. The guest may not survive it."""
    [ram] = [fd for fd in Path(f"/proc/{process}/fd").iterdir() if "memfd:wherry-ram" in os.readlink(fd)]
    with ram.open("r+b", buffering=0) as file:
        at = 0
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return  # holes from here on
            os.pwrite(file.fileno(), b"scribbled", at + 64)
            at += 8 * PAGE


async def test_a_guest_comes_back(tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        await cluster.until("both nodes are alive", cluster.all_alive)
        ident = (await cluster.run_guest("t", SOURCE))["id"]
        there = await move(cluster, "t", TARGET)
        assert memories(cluster, SOURCE) == 1  # what stays of it
        back = await move(cluster, "t", SOURCE)
        assert found(cluster, TARGET) > ALL // 2
        assert back["bytes_sent"] < there["bytes_sent"] * 0.8  # one megabyte of it is sent to see what the link takes
        await check_counting(cluster, ident, SOURCE)
        await check_hoard(cluster, ident, SOURCE)
        assert (memories(cluster, SOURCE), memories(cluster, TARGET)) == (1, 1)  # it, and what stays of it there
        await cluster.finish(await cluster.api.delete("/v1/guests/t"))

        async def gone() -> bool:
            return (memories(cluster, SOURCE), memories(cluster, TARGET)) == (0, 0)

        await cluster.until("no node has anything of a guest that was removed", gone)


async def test_what_stayed_is_given_back_in_the_middle(tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        await cluster.until("both nodes are alive", cluster.all_alive)
        ident = (await cluster.run_guest("t", SOURCE))["id"]
        await move(cluster, "t", TARGET)
        operation = await held(cluster, "t", SOURCE)
        assert found(cluster, TARGET) > ALL // 2
        wish = {"name": "large", "image": "ticker", "memory": (1024 - 32) * MIB, "networks": ["lan"], "on": SOURCE}
        assert (await cluster.finish(await cluster.api.post("/v1/guests", json=wish)))["state"] == "succeeded"
        assert "is given back" in (cluster.folder / f"{SOURCE}.log").read_text()
        await check_whole(cluster, operation, ident, "t", SOURCE)


async def test_the_guest_whose_pages_are_copied_ends_in_the_middle(tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        await cluster.until("both nodes are alive", cluster.all_alive)
        await cluster.run_guest("like", TARGET)
        ident = (await cluster.run_guest("t", SOURCE))["id"]
        operation = await held(cluster, "t", TARGET)
        assert found(cluster, SOURCE) > ALL // 2
        assert (await cluster.finish(await cluster.api.delete("/v1/guests/like?force=1")))["state"] == "succeeded"
        await check_whole(cluster, operation, ident, "t", TARGET)


async def test_the_guest_whose_pages_are_copied_writes_in_the_middle(tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        await cluster.until("both nodes are alive", cluster.all_alive)
        like = (await cluster.run_guest("like", TARGET))["id"]
        ident = (await cluster.run_guest("t", SOURCE))["id"]
        operation = await held(cluster, "t", TARGET)
        scribble(cluster.processes(like)[TARGET])
        await check_whole(cluster, operation, ident, "t", TARGET)
        assert re.search(r"[1-9]\d* pages were named in vain", (cluster.folder / f"{SOURCE}.log").read_text())


async def test_the_target_dies_when_it_has_answered(tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        await cluster.until("both nodes are alive", cluster.all_alive)
        await cluster.run_guest("like", TARGET)
        ident = (await cluster.run_guest("t", SOURCE))["id"]
        operation = await held(cluster, "t", TARGET)
        await cluster.nodes[TARGET].kill()
        cluster.release("source.asked")
        assert (await cluster.wait_operation(operation))["state"] == "failed"
        await cluster.nodes[TARGET].start()
        await cluster.until("both nodes are alive again", cluster.all_alive)
        assert await check_one_running_copy(cluster, ident, "t") == SOURCE
        await check_counting(cluster, ident, SOURCE)
        await check_hoard(cluster, ident, SOURCE)
        await move(cluster, "t", TARGET)
        await check_hoard(cluster, ident, TARGET)
