"""Megabytes of a command's output through the whole chain: guest agent, its port, guest process, link, API, CLI."""

from __future__ import annotations

import hashlib
import json

import pytest
import trio

from tests.cluster.test_commands import daemons, until_booted, wherry
from wherry.demo.daemons import Daemons

pytestmark = [pytest.mark.debian, pytest.mark.slow]
__all__ = ["daemons"]
OUTPUT = "head -c 3000000 /dev/urandom | base64 -w 0 > /tmp/out; sha256sum /tmp/out >&2; cat /tmp/out"


async def test_long_output_arrives_whole(daemons: Daemons) -> None:
    async def run(*arguments: str) -> tuple[str, str]:
        done = await trio.to_thread.run_sync(lambda: wherry(daemons.folder, *arguments))
        assert done.returncode == 0, (arguments, done.stdout[-500:], done.stderr)
        return done.stdout, done.stderr

    await run("run", "--name", "web", "--image", "debian", "--memory", "256M", "--on", "n1")
    await until_booted(daemons.folder)
    for _ in range(3):
        stdout, stderr = await run("exec", "web", "--", "sh", "-c", OUTPUT)
        assert len(stdout) == 4_000_000
        assert hashlib.sha256(stdout.encode()).hexdigest() == stderr.split()[0]
    assert json.loads((await run("ps", "--json"))[0])[0]["state"] == "running"
