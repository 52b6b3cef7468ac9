"""A guest with a disk moves: what it was told is durable is on the disk where it runs, whatever happened on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.checks import check_one_running_copy, check_tidy
from tests.faults.cluster import Cluster, running
from tests.faults.disklog import BLOCK, check_log, disk_file, image_disk
from tests.faults.test_migration_faults import SOURCE, TARGET, watched
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
            assert moved["state"] == "succeeded", moved
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
