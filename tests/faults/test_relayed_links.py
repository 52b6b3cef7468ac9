"""Nodes that cannot dial one another: their link goes through the coordinator, encrypted end to end."""

from __future__ import annotations

from pathlib import Path

from tests.faults.checks import check_counting, check_one_running_copy
from tests.faults.cluster import running


async def test_a_guest_migrates_between_nodes_that_cannot_dial_each_other(tmp_path: Path) -> None:
    async with running(tmp_path / "c", ["n1"]) as cluster:
        await cluster.add_node("n2", cut=True)  # n1 is the lower id and would dial n2

        async def relayed() -> bool:
            return "linked (relayed)" in cluster.nodes["n2"].log.read_text()

        await cluster.until("the link is relayed", relayed)
        guest = await cluster.run_guest("t", "n1")
        operation = await cluster.wait_operation(await cluster.migrate("t", "n2", verify=True))
        assert operation["state"] == "succeeded", operation
        assert operation["result"]["source_checksum"] == operation["result"]["target_checksum"] != ""
        assert await check_one_running_copy(cluster, guest["id"], "t") == "n2"
        await check_counting(cluster, guest["id"], "n2")
        assert "linked (relayed)" in cluster.nodes["n1"].log.read_text()
