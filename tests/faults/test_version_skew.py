"""Nodes of other versions: what fits moves both ways, what does not is refused before a page is sent, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.migration.skew import STATE_VERSION, refusal
from tests.faults.checks import check_counting, check_one_running_copy, check_tidy
from tests.faults.cluster import Cluster, running
from tests.faults.test_migration_faults import SOURCE, TARGET


def test_the_rule() -> None:
    assert refusal(2, 1, 2, source="a", target="b") == ""
    assert refusal(1, 1, 2, source="a", target="b") == ""
    for written, oldest, newest in [(2, 1, 1), (1, 2, 3), (0, 1, 1)]:
        said = refusal(written, oldest, newest, source="wherry 7", target="")
        assert f"version {written} (wherry 7)" in said
        assert str(newest) in said
        assert "software unknown" in said


async def become(cluster: Cluster, name: str, claim: str) -> None:
    """Restart a node's agent as one of another version."""
    node = cluster.nodes[name]
    await node.kill()
    own = node.arguments[1:] if node.arguments[0] == "node" else node.arguments[2:]
    node.arguments = ["tests.faults.skewed", claim, *own]
    await node.start()
    await cluster.until("both nodes are alive", cluster.all_alive)


async def move(cluster: Cluster, ident: str, to: str, **params: str) -> None:
    ended = await cluster.wait_operation(await cluster.migrate("t", to, **params))
    assert ended["state"] == "succeeded", ended["error"]
    assert await check_one_running_copy(cluster, ident, "t") == to
    await check_tidy(cluster, ident, to)
    await check_counting(cluster, ident, to)


async def check_refused(cluster: Cluster, ident: str, to: str, words: list[str], **params: str) -> None:
    """The guest stays, nothing has been sent, and the error says these words."""
    node = (await cluster.guest("t"))["node"]
    ended = await cluster.wait_operation(await cluster.migrate("t", to, **params))
    assert ended["state"] == "failed", ended
    for word in words:
        assert word in ended["error"]["message"], ended["error"]
    assert not ended["progress"].get("pages_sent"), ended["progress"]
    assert await check_one_running_copy(cluster, ident, "t") == node
    await check_tidy(cluster, ident, node)
    await check_counting(cluster, ident, node)


@pytest.mark.slow
async def test_nodes_of_different_versions(tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        await cluster.until("both nodes are alive", cluster.all_alive)
        ident = str((await cluster.run_guest("t", SOURCE))["id"])
        ours, theirs = f"version {STATE_VERSION}", f"version {STATE_VERSION + 1}"

        await become(cluster, TARGET, "first")
        await move(cluster, ident, TARGET)
        await move(cluster, ident, SOURCE)
        await check_refused(cluster, ident, TARGET, ["no post-copy"], mode="postcopy")

        await become(cluster, TARGET, "older")
        await check_refused(cluster, ident, TARGET, [ours, f"version {STATE_VERSION - 1}", "wherry"])

        await become(cluster, TARGET, "newer")  # it reads ours, and writes what we do not read
        await move(cluster, ident, TARGET)
        await check_refused(cluster, ident, SOURCE, [theirs, ours, "wherry"])

        await become(cluster, SOURCE, "newer")
        await move(cluster, ident, SOURCE)

        await become(cluster, TARGET, "next")  # ours is too old for it, but the source is not ours now
        await move(cluster, ident, TARGET)
