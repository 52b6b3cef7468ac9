"""A guest that writes faster than the link carries, between real daemons (tests/guest/programs/writer.c).

The link is limited to 2,000 pages a second, the guest fills many more with random data, of a pool that takes a second
to send: pre-copy alone never ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node.guest import adopt
from tests.faults.checks import check_one_running_copy, check_tidy
from tests.faults.cluster import Cluster, running

SOURCE, TARGET = "n1", "n2"
LIMIT = 8 << 20
pytestmark = pytest.mark.slow


async def throttle(cluster: Cluster, guest: str, node: str) -> int:
    """Percent that its harts rest there."""
    handle = await adopt(cluster.folder / node / "guests" / guest)
    try:
        return int((await handle.call("status"))["throttle"])
    finally:
        handle.close()


async def writes(cluster: Cluster, guest: str) -> None:
    async def twice_round() -> bool:
        return (await cluster.log(guest, SOURCE)).count(b"w\n") >= 2

    await cluster.until("it has written its pool", twice_round)


async def dry_run(cluster: Cluster, **params: Any) -> dict[str, Any]:
    answer = await cluster.api.post("/v1/guests/web/migrate", json={"to": TARGET, "dry_run": True, **params})
    found: dict[str, Any] = answer.raise_for_status().json()["estimate"]
    return found


async def test_only_throttling_moves_it(tmp_path: Path) -> None:
    async with running(tmp_path, [SOURCE, TARGET]) as cluster:
        await cluster.add_image("writer")
        guest = await cluster.run_guest("web", SOURCE, image="writer")

        await writes(cluster, guest["id"])
        told = await dry_run(cluster, bandwidth=LIMIT, on_stall="abort")
        assert "does not converge" in told["reason"]
        told = await dry_run(cluster, bandwidth=LIMIT)
        assert (told["reason"], told["mode"]) == ("", "precopy")
        assert told["throttle"] >= 50
        assert 500 <= told["dirty_pages"] <= 2100
        assert told["resident_pages"] >= 2048
        assert told["predicted"]["bytes"] > 8 << 20
        assert not await cluster.unfinished()
        assert (await cluster.guest("web"))["state"] == "running"

        operation = await cluster.migrate("web", TARGET, bandwidth=LIMIT, on_stall="abort")
        ended = await cluster.wait_operation(operation)
        assert ended["state"] == "failed"
        assert "does not converge" in ended["error"]["message"]
        assert await check_one_running_copy(cluster, guest["id"], "web") == SOURCE
        await check_tidy(cluster, guest["id"], SOURCE)

        operation = await cluster.migrate("web", TARGET, bandwidth=LIMIT, verify=True)
        ended = await cluster.wait_operation(operation)
        assert ended["state"] == "succeeded", ended
        result = ended["result"]
        assert result["throttle"] >= 50
        assert result["mode"] == "precopy"
        assert result["source_checksum"] == result["target_checksum"] != ""
        assert not result["predicted"]["converges"]  # said after the first round, before it was throttled
        assert await check_one_running_copy(cluster, guest["id"], "web") == TARGET
        assert await throttle(cluster, guest["id"], TARGET) == 0
        assert b"bad" not in await cluster.log(guest["id"], TARGET)

        operation = await cluster.migrate("web", SOURCE, bandwidth=LIMIT, on_stall="postcopy")
        ended = await cluster.wait_operation(operation)
        assert ended["state"] == "succeeded", ended
        assert (ended["result"]["mode"], ended["result"]["throttle"]) == ("hybrid", 0)

        operation = await cluster.migrate("web", TARGET, bandwidth=LIMIT, mode="stop-and-copy")
        ended = await cluster.wait_operation(operation)
        assert ended["state"] == "succeeded", ended
        assert (ended["result"]["mode"], ended["result"]["rounds"]) == ("stop-and-copy", 0)
        assert ended["result"]["pages_sent"] >= 2048
        assert b"bad" not in await cluster.log(guest["id"], TARGET)
        await check_tidy(cluster, guest["id"], TARGET)


async def test_nobody_leaves_a_guest_throttled(tmp_path: Path) -> None:
    async with running(tmp_path, [SOURCE, TARGET]) as cluster:
        await cluster.add_image("writer")
        guest = await cluster.run_guest("web", SOURCE, image="writer")

        async def slow() -> bool:
            return await throttle(cluster, guest["id"], SOURCE) > 0

        async def fast() -> bool:
            return not await slow()

        # So little is allowed that it takes the highest throttle, and much longer than the test.
        wish = {"bandwidth": 2 << 20, "max_blackout_ms": 1.0, "max_rounds": 1000}
        operation = await cluster.migrate("web", TARGET, **wish)
        await cluster.until("it is throttled", slow, 90)
        (await cluster.api.post(f"/v1/operations/{operation}")).raise_for_status()
        await cluster.until("a cancelled migration leaves it as fast as before", fast, 4)
        assert await check_one_running_copy(cluster, guest["id"], "web") == SOURCE
        await check_tidy(cluster, guest["id"], SOURCE)

        await cluster.migrate("web", TARGET, **wish)
        await cluster.until("it is throttled again", slow, 90)
        await cluster.nodes[SOURCE].kill()
        await cluster.until("an agent that is gone does not keep it throttled", fast)
        await cluster.nodes[SOURCE].start()
        assert await check_one_running_copy(cluster, guest["id"], "web") == SOURCE
        assert await throttle(cluster, guest["id"], SOURCE) == 0
