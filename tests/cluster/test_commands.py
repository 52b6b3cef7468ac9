"""The commands against real daemons and a Debian guest: what a user types, what comes back, and each refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from wherry import paths
from wherry.demo.daemons import Daemons
from wherry.image.store import Library

pytestmark = [pytest.mark.debian, pytest.mark.slow]
BOOT_S = 120


@pytest.fixture
async def daemons() -> AsyncIterator[Daemons]:
    """A coordinator and two nodes; their folder has a short name, as unix sockets need."""
    library = paths.home() / "images"
    if not library.is_dir() or "debian" not in Library(library).names():
        pytest.skip("no Debian image: wherry image build debian")
    with tempfile.TemporaryDirectory(prefix="wherry-t-") as name:
        made = Daemons(Path(name))
        (made.folder / "images").symlink_to(library)
        try:
            await made.coordinator()
            for node in ("n1", "n2"):
                token = await trio.to_thread.run_sync(lambda: wherry(made.folder, "token", "create", "--json"))
                await made.node(node, json.loads(token.stdout)["join"])
            yield made
        finally:
            with trio.CancelScope(shield=True):
                await made.stop()


def wherry(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "WHERRY_HOME": str(folder)}
    command = [sys.executable, "-P", "-m", "wherry", *arguments]
    return subprocess.run(
        command, env=environment, input=stdin, capture_output=True, text=True, check=False, timeout=120
    )


async def until_booted(folder: Path) -> None:
    with trio.fail_after(BOOT_S):
        while True:
            done = await trio.to_thread.run_sync(lambda: wherry(folder, "ps", "--json"))
            if json.loads(done.stdout)[0]["booted_s"] is not None:
                return


async def test_a_guests_life(daemons: Daemons) -> None:
    async def run(*arguments: str, code: int = 0, stdin: str = "") -> str:
        done = await trio.to_thread.run_sync(lambda: wherry(daemons.folder, *arguments, stdin=stdin))
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    # Refusals before anything runs: one line that names the value, and nothing is left behind.
    assert "no image named zz" in await run("run", "--name", "a", "--image", "zz", code=1)
    base = ("run", "--name", "web", "--image", "debian")
    assert "nowhere" in await run(*base, "--network", "nowhere", code=1)
    assert "n9" in await run(*base, "--on", "n9", code=1)
    assert "memory" in await run(*base, "--memory", "32M", code=1)
    assert "n1" in await run(*base, "--memory", "60G", code=1)
    assert json.loads(await run("ps", "--json")) == []

    # A viewer sees and does nothing, and no more once it is revoked.
    viewer = (await run("token", "create", "--role", "viewer", "--ttl", "1h")).strip()
    assert json.loads(await run("--token", viewer, "ps", "--json")) == []
    assert "needs the role operator" in await run("--token", viewer, *base, code=1)
    await run("token", "revoke", viewer.split("_")[1])
    assert "not valid" in await run("--token", viewer, "ps", code=1)

    explained = await run(*base, "--network", "lan", "--on", "n2", "--explain")
    assert [line.split()[:2] for line in explained.splitlines() if line.startswith("->")] == [["->", "n2"]]
    assert "running on n1" in await run(*base, "--network", "lan", "--on", "n1")
    assert "web" in await run(*base, code=1)  # the name is taken
    await until_booted(daemons.folder)

    assert await run("exec", "web", "--", "sh", "-c", "cat; hostname", code=0) == "web\n"
    assert await run("exec", "-i", "web", "--", "cat", stdin="through") == "through"
    assert await run("exec", "web", "--", "sh", "-c", "echo why >&2; exit 7", code=7) == "why\n"
    assert "10.0.0." in await run("exec", "web", "--", "ip", "-4", "addr", "show", "eth0")
    assert "root@web:" in await run("log", "web")
    assert "marker-42" in await run("console", "web", stdin="echo marker-$((6 * 7))\n")

    assert "n1" in await run("migrate", "web", "--to", "n1", code=1)  # it is there already
    assert "n9" in await run("migrate", "web", "--to", "n9", code=1)
    moved = await run("migrate", "web", "--to", "n2", "--verify")
    assert "now on n2, generation 2" in moved
    assert "equal" in moved
    assert await run("exec", "web", "--", "hostname") == "web\n"
    assert "moved: web" in await run("drain", "n2")
    assert "cordoned" in await run("nodes")
    assert "takes guests again" in await run("uncordon", "n2")

    await run("stop", "web")
    (stopped,) = json.loads(await run("ps", "--json"))
    assert stopped["state"] == "stopped"
    await run("start", "web")
    (started,) = json.loads(await run("ps", "--json"))
    assert started["state"] == "running"
    assert started["nics"] == stopped["nics"]
    assert "no guest" in await run("rm", "other", code=1)
    await run("rm", "--force", "web")
    assert json.loads(await run("ps", "--json")) == []
    kinds = {json.loads(line)["kind"] for line in (await run("events", "--json")).splitlines()}
    assert {"node.joined", "guest.running", "guest.booted"} <= kinds
