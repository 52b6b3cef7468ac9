"""Guests that cannot be: unknown names, impossible sizes, targets that do not fit or vanish."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.badinput.here import Shell, still_works
from tests.faults.cluster import Cluster, running


async def test_wishes_that_cannot_be_granted(tmp_path: Path) -> None:
    async with running(tmp_path / "c", ["n1", "n2"]) as cluster:
        shell = Shell(tmp_path / "c")
        run = ("run", "--memory", "32M", "--name")
        await shell.fails(*run, "g", "--image", "zz", says=["image", "zz", "ticker"])
        await shell.fails(*run, "g", "--image", "ticker", "--network", "nowhere", says=["nowhere", "lan"])
        await shell.fails(*run, "g", "--image", "ticker", "--on", "n9", says=["n9", "n1", "n2"])
        await shell.fails(*run, "Bad/Name", "--image", "ticker", says=["name", "Bad/Name"])
        await shell.fails(
            *("run", "--name", "g", "--image", "ticker", "--memory", "2G"),
            says=["memory", "n1", "n2", "2048 MiB", "1024 MiB"],
        )
        await shell.fails(
            *("run", "--name", "g", "--image", "ticker", "--memory", "33M", "--cpus", "1", "--on", "n1"),
            says=["memory", "2 MiB"],
        )
        await shell.fails(*run, "g", "--image", "ticker", "--cpus", "64", says=["cpus", "64"])
        await shell.misused(*run, "g", "--image", "ticker", "--cpus", "65", says=["--cpus", "65", "64"])
        await shell.misused("run", "--memory", "much", "--name", "g", "--image", "x", says=["--memory", "much"])
        assert json.loads(await shell.good("ps", "--json")) == []

        await shell.fails("stop", "ghost", says=["ghost"])
        await shell.fails("console", "ghost", says=["ghost"])
        await shell.fails("exec", "ghost", "--", "true", says=["ghost"])
        await shell.fails("drain", "n9", says=["n9", "n1"])
        for method, path, body, status, words in (
            ("POST", "/v1/guests/ghost/start", {}, 404, ["ghost"]),
            ("POST", "/v1/guests/ghost/migrate", {}, 404, ["ghost"]),
            ("DELETE", "/v1/guests/ghost", None, 404, ["ghost"]),
            ("GET", "/v1/guests/ghost/log", None, 404, ["ghost"]),
            ("POST", "/v1/nodes/n9/uncordon", None, 404, ["n9", "n1"]),
            ("DELETE", "/v1/nodes/n9", None, 404, ["n9", "n1"]),
            ("DELETE", "/v1/networks/nowhere", None, 404, ["nowhere", "lan"]),
            ("POST", "/v1/networks", {"name": "lan"}, 409, ["lan"]),
            ("POST", "/v1/networks", {"name": "x", "subnet": "10.0.0.0/33"}, 422, ["subnet", "10.0.0.0/33"]),
            ("DELETE", "/v1/images/zz", None, 404, ["zz", "ticker"]),
            ("GET", "/v1/operations/none", None, 404, ["none"]),
        ):
            answer = await cluster.api.request(method, path, json=body)
            assert answer.status_code == status, (path, answer.text)
            assert all(word in answer.text for word in words), (path, answer.text)

        # The second of one name takes nothing from the first: not its addresses, not its process.
        first = await cluster.run_guest("g", "n1")
        await shell.fails(*run, "g", "--image", "ticker", says=["name", "g"])
        assert (await cluster.guest("g"))["pid"] == first["pid"]
        await shell.fails("start", "g", says=["g", "running"])
        await shell.good("rm", "--force", "g")
        await still_works(cluster, shell, "g")


async def moves_on(cluster: Cluster, name: str, node: str) -> None:
    """The guest executes, on this node, and nowhere else."""
    guest = await cluster.guest(name)
    assert (guest["state"], guest["node"]) == ("running", node)
    assert [where for where, state in (await cluster.copies(guest["id"])).items() if state == "running"] == [node]
    before = len(await cluster.log(guest["id"], node))

    async def grew() -> bool:
        return len(await cluster.log(guest["id"], node)) > before

    await cluster.until(f"{name} goes on", grew, within=20)


async def test_targets_that_cannot_take_it(tmp_path: Path) -> None:
    async with running(tmp_path / "c", ["n1", "n2"]) as cluster:
        shell = Shell(tmp_path / "c")
        guest = await cluster.run_guest("g", "n1")
        await shell.fails("migrate", "g", "--to", "n1", says=["to", "g", "n1", "already"])
        await shell.fails("migrate", "g", "--to", "n9", says=["to", "n9"])
        await shell.misused("migrate", "g", "--max-blackout", "soon", says=["--max-blackout", "soon"])
        await shell.misused("migrate", "g", "--bandwidth", "fast", says=["--bandwidth", "fast"])

        await shell.good("run", "--name", "big", "--image", "ticker", "--memory", "1000M", "--on", "n2")
        await shell.fails("migrate", "g", "--to", "n2", says=["n2", "g", "memory", "32 MiB", "1024 MiB"])
        await shell.fails("migrate", "g", says=["no node fits", "n2"])
        await shell.fails("drain", "n1", says=["g"])
        await shell.good("uncordon", "n1")
        await moves_on(cluster, "g", "n1")
        assert (await cluster.guest("g"))["generation"] == guest["generation"]

        await shell.good("rm", "--force", "big")
        assert "now on n2" in await shell.good("migrate", "g", "--to", "n2")
        await moves_on(cluster, "g", "n2")


@pytest.mark.parametrize("held", ["", "target.prepare", "target.copy"])
async def test_target_that_vanishes(tmp_path: Path, held: str) -> None:
    """Killed before anybody noticed, or while it reserves, or while pages come: the guest stays where it is."""
    async with running(tmp_path / "c", ["n1", "n2"]) as cluster:
        shell = Shell(tmp_path / "c")
        guest = await cluster.run_guest("g", "n1")
        if held:
            cluster.hold(held)
            operation = await cluster.migrate("g", "n2")
            await cluster.reached(held)
            await cluster.nodes["n2"].kill()
            ended = await cluster.wait_operation(operation)
            assert ended["state"] == "failed"
            assert ended["error"]["message"]
            cluster.release(held)
        else:
            await cluster.nodes["n2"].kill()
            await shell.fails("migrate", "g", "--to", "n2", says=["g", "n2"])
        await moves_on(cluster, "g", "n1")
        assert (await cluster.guest("g"))["generation"] == guest["generation"]
        await cluster.nodes["n2"].start()
        await cluster.until("n2 is back", cluster.all_alive)
        assert list(cluster.processes(guest["id"])) == ["n1"]  # the reserved copy is gone
        assert "now on n2" in await shell.good("migrate", "g", "--to", "n2")
        await moves_on(cluster, "g", "n2")
