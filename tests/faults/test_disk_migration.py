"""A guest with a disk moves: what it was told is durable is on the disk where it runs, whatever happened on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.checks import check_one_running_copy, check_tidy
from tests.faults.cluster import Cluster, running
from tests.faults.disklog import BLOCK, ask, begun, check_log, disk_file, flushed, image_disk
from tests.faults.test_migration_faults import SOURCE, TARGET, repair, strike, watched
from tests.faults.test_version_skew import become


async def start(cluster: Cluster, name: str) -> tuple[str, int]:
    """Id and generation of a guest that logs."""
    await cluster.until("both nodes are alive", cluster.all_alive)
    started = await cluster.run_guest(name, SOURCE, image="logger")
    return started["id"], started["generation"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["precopy", "postcopy", "hybrid", "stop-and-copy"])
async def test_a_disk_moves(mode: str, tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        await cluster.add_image("logger", disk=image_disk())
        guest, _ = await start(cluster, "logs")
        await check_log(cluster, guest, SOURCE)
        for there, back in ((TARGET, SOURCE), (SOURCE, TARGET)):
            async with watched(cluster):
                moved = await cluster.wait_operation(await cluster.migrate("logs", there, mode=mode))
            assert moved["state"] == "succeeded", moved["error"]
            assert await check_one_running_copy(cluster, guest, "logs") == there
            await check_tidy(cluster, guest, there)
            await check_log(cluster, guest, there)
            assert not disk_file(cluster, guest, back).exists()
            # The image's 3000 records are on both sides already: only what the guest wrote was sent.
            assert 0 < moved["result"]["disk_bytes"] < 2000 * BLOCK, moved["result"]


@pytest.mark.slow
async def test_what_cannot_move_a_disk(tmp_path: Path) -> None:
    """A target whose software knows no disks, and a wish that cannot be kept, are refused before anything is sent."""
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        await cluster.add_image("logger", disk=image_disk())
        guest, _ = await start(cluster, "logs")
        wish = {"to": TARGET, "mode": "postcopy", "protect": True}
        refused = await cluster.wait_operation(await cluster.migrate("logs", **wish))
        assert refused["state"] == "failed"
        assert "its disk is not streamed back" in refused["error"]["message"], refused
        await become(cluster, TARGET, "first")
        refused = await cluster.wait_operation(await cluster.migrate("logs", TARGET))
        assert refused["state"] == "failed"
        assert "does not move disks" in refused["error"]["message"], refused
        assert not refused["progress"].get("bytes_sent")
        assert await check_one_running_copy(cluster, guest, "logs") == SOURCE
        await check_tidy(cluster, guest, SOURCE)
        await check_log(cluster, guest, SOURCE)


@pytest.mark.slow
async def test_a_disk_that_is_written_all_the_while(tmp_path: Path) -> None:
    """As fast as the guest can, anywhere: it is slowed down as far as it takes, and moves; also over a slow link, and
    where the target cannot be dialled. Before that it is told what it would take."""
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        await cluster.add_node("far", cut=True)
        await cluster.add_image("logger", disk=image_disk())
        guest, _ = await start(cluster, "logs")
        await check_log(cluster, guest, SOURCE)
        told = await dry_run(cluster, "logs", TARGET)
        assert 0 < told["disk_bytes"] < 2000 * BLOCK, told
        assert told["disk_rate"] > 100_000, told
        assert told["predicted"]["bytes"] > told["disk_bytes"]
        await ask(cluster, guest, SOURCE, b"d", rb"^(begin|f) \d+\n")
        for to, limit in ((TARGET, 0), ("far", 0), (SOURCE, 30_000_000)):
            async with watched(cluster):
                operation = await cluster.migrate("logs", to, bandwidth=limit)
                moved = await cluster.wait_operation(operation, within=90)
            assert moved["state"] == "succeeded", moved["error"]
            assert await check_one_running_copy(cluster, guest, "logs") == to
            await check_tidy(cluster, guest, to)
            assert await ask(cluster, guest, to, b"c") == b"whole"
            assert moved["result"]["disk_bytes"] > 1000 * BLOCK, moved["result"]


async def dry_run(cluster: Cluster, name: str, to: str) -> dict[str, Any]:
    answer = await cluster.api.post(f"/v1/guests/{name}/migrate", json={"to": to, "dry_run": True})
    told: dict[str, Any] = answer.raise_for_status().json()["estimate"]
    return told


COLD_POINTS = [
    ("target.mirror", "target agent"),
    ("source.mirror", "source agent"),
    ("source.switch", "link"),
    ("source.commit", "source agent"),
    ("target.commit", "target agent"),
    ("source.handed", "source agent"),
]


@pytest.mark.slow
async def test_a_stopped_guest_takes_its_disk_along(tmp_path: Path) -> None:
    """Whatever is struck on the way: it starts where it belongs, with all that it was told is durable."""
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        await cluster.add_image("logger", disk=image_disk())
        guest, generation = await start(cluster, "logs")
        here, there = SOURCE, TARGET
        for point, victim in (("", ""), *COLD_POINTS):
            await check_log(cluster, guest, here)
            told = flushed(await cluster.log(guest, here))[-1]
            await cluster.finish(await cluster.api.post("/v1/guests/logs/stop", json={"force": True}))
            generation = (await cluster.guest("logs"))["generation"]
            if point:
                cluster.hold(point)
            operation = await cluster.migrate("logs", there, mode="cold")
            if point:
                await cluster.reached(point)
                await strike(cluster, at(victim, here), guest)
                cluster.release(point)
                await repair(cluster, at(victim, here))
            ended = await cluster.wait_operation(operation, within=90)
            known = await cluster.guest("logs")
            assert known["state"] in ("stopped", "crashed"), known
            assert (known["generation"] == generation + 1) is (known["node"] == there)
            assert (ended["state"] == "succeeded") is (known["node"] == there), ended
            assert point or known["node"] == there
            await cluster.until("both nodes are alive", cluster.all_alive)
            await cluster.until("nothing is left at the other", lambda n=known["node"]: only(cluster, guest, n))
            again = await cluster.finish(await cluster.api.post("/v1/guests/logs/start", json={}))
            assert again["state"] == "succeeded", again
            assert (await cluster.guest("logs"))["node"] == known["node"]
            assert await begun(cluster, guest, known["node"]) >= told
            if known["node"] == there:
                here, there = there, here


async def only(cluster: Cluster, guest: str, node: str) -> bool:
    return cluster.folders(guest) == [node]


def at(victim: str, source: str) -> str:
    """The cases are told of a guest that goes from SOURCE to TARGET."""
    if source == SOURCE or victim == "link":
        return victim
    return {"source agent": "target agent", "target agent": "source agent"}[victim]
