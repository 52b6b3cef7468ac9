"""A node is emptied and the coordinator dies in the middle: the batch goes on when it is back and leaves no orphans."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.checks import check_counting, check_one_running_copy, check_tidy
from tests.faults.cluster import Cluster, running
from tests.faults.test_migration_faults import SOURCE, TARGET, watched

GUESTS = ["a", "b", "c"]


async def begin(cluster: Cluster, kind: str) -> str:
    """The operation's id."""
    path, body = {"drain": ("drain", {"parallel": 1}), "move-all": ("migrate", {"to": TARGET, "parallel": 1})}[kind]
    answer = await cluster.api.post(f"/v1/nodes/{SOURCE}/{path}", json=body)
    assert answer.status_code < 300, answer.text
    return str(answer.json().get("operation", answer.json())["id"])


async def moved(cluster: Cluster) -> list[str]:
    return [name for name in GUESTS if (await cluster.guest(name))["node"] == TARGET]


@pytest.mark.slow
@pytest.mark.parametrize("point", ["source.copy", "arbiter.decide-before", "arbiter.decide-after"])
@pytest.mark.parametrize("kind", ["drain", "move-all"])
async def test_a_batch_goes_on_when_the_coordinator_is_back(kind: str, point: str, tmp_path: Path) -> None:
    """It is killed when one guest has gone, one is at ``point`` and one has not begun."""
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        await cluster.until("both nodes are alive", cluster.all_alive)
        idents = {name: str((await cluster.run_guest(name, SOURCE))["id"]) for name in GUESTS}
        generations = {name: (await cluster.guest(name))["generation"] for name in GUESTS}
        async with watched(cluster):
            cluster.hold("source.prepare")
            operation = await begin(cluster, kind)
            await cluster.reached("source.prepare")
            cluster.release("source.prepare")

            async def one() -> bool:
                return len(await moved(cluster)) >= 1

            await cluster.until("one guest has gone", one)
            cluster.hold(point)
            await cluster.reached(point)
            assert len(await moved(cluster)) < len(GUESTS)
            await cluster.coordinator.kill()
            cluster.release(point)
            await cluster.coordinator.start()
            ended = await cluster.wait_operation(operation, within=120)
            # The guest that was on its way may have had to stay; then it is named, and nothing is left of the attempt.
            stayed = sorted(set(GUESTS) - set(await moved(cluster)))
            assert (ended["state"] == "succeeded") == (not stayed), ended
            assert len(stayed) <= 1
            assert all(name in ended["error"]["message"] for name in stayed), ended
            for name, ident in idents.items():
                node = await check_one_running_copy(cluster, ident, name)
                assert node == (SOURCE if name in stayed else TARGET)
                assert (await cluster.guest(name))["generation"] == generations[name] + (name not in stayed)
                await check_tidy(cluster, ident, node)
                await check_counting(cluster, ident, node)
            again = await cluster.wait_operation(await begin(cluster, kind), within=120)
            assert again["state"] == "succeeded", again["error"]
            assert await moved(cluster) == GUESTS
            for name, ident in idents.items():
                await check_one_running_copy(cluster, ident, name)
                await check_tidy(cluster, ident, TARGET)
        found = (await cluster.api.get("/v1/nodes")).raise_for_status().json()["nodes"]
        drained = next(node for node in found if node["name"] == SOURCE)
        assert drained["state"] == ("cordoned" if kind == "drain" else "alive")
