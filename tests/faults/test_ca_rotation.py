"""A rotation of the CA among real daemons: a guest runs and moves meanwhile, and daemons are killed in the middle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from cryptography import x509

from tests.faults.checks import check_counting, check_one_running_copy, check_tidy
from tests.faults.cluster import Cluster, running


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(tmp_path / "c", ["n1", "n2", "n3"]) as made:
        yield made


async def ca(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = (await cluster.api.get("/v1/ca")).raise_for_status().json()
    return found


async def step(cluster: Cluster, name: str, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await cluster.api.post(f"/v1/ca/{name}", json=body or None)).raise_for_status().json()
    return found


def roots(cluster: Cluster, node: str) -> int:
    return len(x509.load_pem_x509_certificates((cluster.folder / node / "identity" / "ca.pem").read_bytes()))


async def until_follows(cluster: Cluster, names: set[str]) -> None:
    async def so() -> bool:
        return {n["name"] for n in (await ca(cluster))["nodes"] if n["follows"]} == names

    await cluster.until(f"{names} follow the CA", so)


async def move(cluster: Cluster, to: str) -> None:
    """Both nodes may still be on their way back to a coordinator that was started again."""
    answers: list[httpx.Response] = []

    async def taken() -> bool:
        answers.append(await cluster.api.post("/v1/guests/t/migrate", json={"to": to}))
        return answers[-1].status_code != 503

    await cluster.until("both nodes are connected", taken)
    operation = await cluster.finish(answers[-1])
    assert operation["state"] == "succeeded", operation


async def test_a_guest_runs_and_moves_through_a_rotation_with_kills(cluster: Cluster) -> None:
    guest = await cluster.run_guest("t", "n1")
    await until_follows(cluster, {"n1", "n2", "n3"})
    await cluster.nodes["n3"].kill()  # it is away when the rotation begins, and knows the old CA alone

    # The coordinator is killed while a migration is held: the rotation begins in the middle of it and survives.
    cluster.hold("source.copy")
    moving = await cluster.migrate("t", "n2")
    await cluster.reached("source.copy")
    begun = await step(cluster, "rotate")
    await cluster.coordinator.kill()
    cluster.release("source.copy")
    await cluster.coordinator.start()
    found = await ca(cluster)
    assert (found["state"], found["fingerprint"]) == ("overlap", begun["fingerprint"])
    await cluster.wait_operation(moving)  # done or undone, as the tests of migrations say
    await until_follows(cluster, {"n1", "n2"})
    where = await check_one_running_copy(cluster, guest["id"], "t")
    if where == "n1":
        await move(cluster, "n2")

    # n2 is killed and comes back: new certificate on both ends. n3 has the old one and dials and is dialled with it.
    await cluster.nodes["n2"].kill()
    await cluster.nodes["n2"].start()
    refused = await cluster.api.post("/v1/ca/finish")
    assert refused.status_code == 409
    assert "n3 (is away)" in refused.json()["error"]["message"]
    assert roots(cluster, "n3") == 1
    await cluster.nodes["n3"].start()
    await until_follows(cluster, {"n1", "n2", "n3"})
    await move(cluster, "n3")
    await check_counting(cluster, guest["id"], "n3")

    # The coordinator is killed right after the end; agents that never heard of it are told at their next session.
    await cluster.nodes["n1"].kill()
    done = await step(cluster, "finish")
    await cluster.coordinator.kill()
    await cluster.coordinator.start()
    assert (await ca(cluster))["state"] == "single"
    assert (await ca(cluster))["fingerprint"] == done["fingerprint"] == begun["fingerprint"]
    await cluster.nodes["n1"].start()

    async def told() -> bool:
        return [roots(cluster, name) for name in ("n1", "n2", "n3")] == [1, 1, 1]

    await cluster.until("every node trusts the new CA alone", told)
    await until_follows(cluster, {"n1", "n2", "n3"})
    await move(cluster, "n1")
    await check_counting(cluster, guest["id"], await check_one_running_copy(cluster, guest["id"], "t"))
    await check_tidy(cluster, guest["id"], "n1")


@pytest.mark.parametrize("moment", ["asked", "half"])
async def test_an_agent_that_is_killed_while_it_follows_does_so_when_it_comes_back(
    cluster: Cluster, moment: str
) -> None:
    """Killed as the rotation is asked for, and at the first sight of the new root among its files."""
    await until_follows(cluster, {"n1", "n2", "n3"})

    async def half() -> bool:
        return moment == "asked" or roots(cluster, "n1") == 2

    async with trio.open_nursery() as nursery:
        nursery.start_soon(step, cluster, "rotate")
        await cluster.until("the moment", half)
        await cluster.nodes["n1"].kill()
    await cluster.nodes["n1"].start()
    await until_follows(cluster, {"n1", "n2", "n3"})
    assert (await step(cluster, "finish"))["state"] == "single"
    await until_follows(cluster, {"n1", "n2", "n3"})


async def test_a_node_left_behind_joins_again_as_itself(cluster: Cluster) -> None:
    guest = await cluster.run_guest("t", "n2")
    await cluster.nodes["n2"].kill()
    await step(cluster, "rotate")
    await until_follows(cluster, {"n1", "n3"})
    with pytest.raises(httpx.HTTPStatusError):
        await step(cluster, "finish")
    await step(cluster, "finish", force=True)
    node = cluster.nodes["n2"]
    await node.start()  # it serves its guest, but there is no way to the coordinator
    assert not node.ready["registered"]
    assert "join again" in node.log.read_text()
    await check_counting(cluster, guest["id"], "n2")
    await node.stop()
    identity = cluster.folder / "n2" / "identity"
    for file in identity.iterdir():
        file.unlink()
    identity.rmdir()
    token = (await cluster.api.post("/v1/join-tokens", json={"ttl_s": 600})).raise_for_status().json()["token"]
    arguments = list(node.arguments)
    node.arguments = [*arguments, "--join", f"{token}@127.0.0.1:{cluster.controls['n2'].port}"]
    await node.start()
    node.arguments = arguments
    assert await check_one_running_copy(cluster, guest["id"], "t") == "n2"
    assert (await cluster.guest("t"))["pid"] == guest["pid"]
    await move(cluster, "n3")
