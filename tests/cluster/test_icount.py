"""wherry run --icount against real daemons: what is shown and refused, time from instructions, a move."""

from __future__ import annotations

import json

import pytest
import trio

from tests.cluster.test_commands import daemons, until_booted, wherry
from wherry.demo.daemons import Daemons

pytestmark = [pytest.mark.debian, pytest.mark.slow]
__all__ = ["daemons"]  # the fixture
EPOCH = 1735689600  # 2025-01-01 00:00 UTC: when the wall clock of such a guest begins


async def test_a_guest_whose_time_is_its_instructions(daemons: Daemons) -> None:
    async def run(*arguments: str, code: int = 0) -> str:
        done = await trio.to_thread.run_sync(lambda: wherry(daemons.folder, *arguments))
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done.stdout if code == 0 else done.stderr

    async def uptime() -> float:
        return float((await run("exec", "web", "--", "cat", "/proc/uptime")).split()[0])

    base = ("run", "--name", "web", "--image", "debian", "--network", "lan", "--on", "n1")
    assert "seed goes with icount" in await run(*base, "--seed", "7", code=1)
    await run(*base, "--icount", "--seed", "7", "--cpus", "2")
    await until_booted(daemons.folder)
    (shown,) = json.loads(await run("ps", "--json"))
    assert (shown["icount"], shown["seed"], shown["cpus"]) == (True, 7, 2)

    # It waits as long as it thinks, so it reaches the network and does not run ahead.
    begun = trio.current_time()
    first = await uptime()
    await run("exec", "web", "--", "sh", "-c", "sleep 1; ip -4 addr show eth0 | grep -q 10.0.0.")
    slept = await uptime() - first
    assert slept >= 1
    assert trio.current_time() - begun >= 1

    moved = await run("migrate", "web", "--to", "n2", "--verify")
    assert "now on n2, generation 2" in moved
    assert "equal" in moved
    assert await uptime() > first + slept
    assert EPOCH < int(await run("exec", "web", "--", "date", "+%s")) < EPOCH + 3600
    (shown,) = json.loads(await run("ps", "--json"))
    assert (shown["icount"], shown["seed"], shown["node"]) == (True, 7, "n2")
    await run("rm", "--force", "web")
