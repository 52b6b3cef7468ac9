"""What the death of an agent, a guest process or the coordinator means for guests that are not on the move: nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.checks import check_counting, check_one_running_copy
from tests.faults.cluster import Cluster, running
from tests.faults.processes import Daemon


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(tmp_path / "c", ["n1"]) as made:
        yield made


async def test_guests_outlive_their_agent_and_are_adopted(cluster: Cluster) -> None:
    guest = await cluster.run_guest("t", "n1")
    await cluster.nodes["n1"].kill()
    await check_counting(cluster, guest["id"], "n1")
    await cluster.nodes["n1"].start()
    await check_one_running_copy(cluster, guest["id"], "t")
    assert (await cluster.guest("t"))["pid"] == guest["pid"]
    assert (await cluster.guest("t"))["generation"] == guest["generation"]
    await check_counting(cluster, guest["id"], "n1")
    stopped = await cluster.finish(await cluster.api.post("/v1/guests/t/stop", json={"force": True}))
    assert stopped["state"] == "succeeded", stopped
    assert await cluster.copies(guest["id"]) == {}


async def test_an_agent_that_is_stopped_leaves_its_guests_running(cluster: Cluster) -> None:
    guest = await cluster.run_guest("t", "n1")
    await cluster.nodes["n1"].stop()
    assert await cluster.copies(guest["id"]) == {"n1": "running"}
    await cluster.nodes["n1"].start()
    await check_one_running_copy(cluster, guest["id"], "t")


async def test_guests_do_not_notice_the_coordinator(cluster: Cluster) -> None:
    guest = await cluster.run_guest("t", "n1")
    await cluster.coordinator.kill()
    await check_counting(cluster, guest["id"], "n1")
    await cluster.coordinator.start()
    await check_one_running_copy(cluster, guest["id"], "t")
    assert (await cluster.guest("t"))["pid"] == guest["pid"]


async def test_a_guest_process_that_dies_takes_nobody_along(cluster: Cluster) -> None:
    victim, other = await cluster.run_guest("t", "n1"), await cluster.run_guest("u", "n1")
    os.kill(victim["pid"], signal.SIGKILL)

    async def crashed() -> bool:
        return bool((await cluster.guest("t"))["state"] == "crashed")

    await cluster.until("the crash is known", crashed)
    assert "killed" in (await cluster.guest("t"))["reason"]
    await check_counting(cluster, other["id"], "n1")
    started = await cluster.finish(await cluster.api.post("/v1/guests/t/start", json={}))
    assert started["state"] == "succeeded", started
    assert (await cluster.guest("t"))["generation"] == victim["generation"] + 1


async def test_two_agents_cannot_share_a_state_folder(cluster: Cluster) -> None:
    node = cluster.nodes["n1"]
    second = Daemon(node.arguments, cluster.folder / "second.log", cluster.environment)
    with pytest.raises(AssertionError, match="another agent uses it"):
        await second.start()
    await check_counting(cluster, (await cluster.run_guest("t", "n1"))["id"], "n1")
