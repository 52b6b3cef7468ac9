"""wherry gdb and wherry top against real daemons and a Debian guest."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.cluster.test_commands import daemons, until_booted, wherry
from tests.guest.gdb import gdb_multiarch
from tests.guest.rsp import Rsp
from wherry.demo.daemons import Daemons

pytestmark = [pytest.mark.debian, pytest.mark.slow]
__all__ = ["daemons"]  # the fixture


@pytest.fixture
async def guest(daemons: Daemons) -> Daemons:
    done = await call(daemons, "run", "--name", "web", "--image", "debian", "--cpus", "2", "--on", "n1")
    assert done.returncode == 0, done.stderr
    await until_booted(daemons.folder)
    return daemons


async def call(daemons: Daemons, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await trio.to_thread.run_sync(lambda: wherry(daemons.folder, *arguments))


@pytest.fixture(autouse=True)
def debugger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(gdb_multiarch()).parent}:{os.environ['PATH']}")


@contextmanager
def tunnel(folder: Path) -> Iterator[Path]:
    """``wherry gdb`` in the background; the path of its socket."""
    path = folder / "web.gdb"
    command = [sys.executable, "-P", "-m", "wherry", "gdb", "web", "--socket", str(path)]
    process = subprocess.Popen(
        command, env={**os.environ, "WHERRY_HOME": str(folder)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().decode() == f"target remote {path}\n"
        yield path
    finally:
        process.terminate()
        process.communicate()


def connect(path: Path) -> Rsp:
    """A session by hand, in which the guest stands still."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    rsp = Rsp(sock)
    assert (rsp.ask("?"), rsp.ask("qfThreadInfo")) == ("T05thread:1;", "m1,2")
    return rsp


async def test_a_debugger_holds_its_guest(guest: Daemons) -> None:
    with tunnel(guest.folder) as path:
        assert path.stat().st_mode & 0o777 == 0o600
        session = await trio.to_thread.run_sync(connect, path)
        refused = await call(guest, "migrate", "web", "--to", "n2")
        assert refused.returncode == 1
        assert "a debugger is attached" in refused.stderr + refused.stdout
        second = await call(guest, "gdb", "web", "--exec", "--", "-nx", "-batch")
        assert "debugger is attached already" in second.stderr
        session.close()
        hostname = await call(guest, "exec", "web", "--", "hostname")
        assert hostname.stdout == "web\n"  # it goes on
    moved = await call(guest, "migrate", "web", "--to", "n2")
    assert moved.returncode == 0, moved.stderr


async def test_gdb_by_one_command(guest: Daemons) -> None:
    commands = ("info threads", "hbreak *$stvec", "continue", "p $pc == $stvec", "detach")
    arguments = [part for command in commands for part in ("-ex", command)]
    done = await call(guest, "gdb", "web", "--exec", "--", "-nx", "-batch", *arguments)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"hart \d, (user|supervisor)", done.stdout)) == 2, done.stdout + done.stderr
    assert "$1 = 1" in done.stdout, done.stdout + done.stderr
    assert (await call(guest, "exec", "web", "--", "hostname")).stdout == "web\n"
    missing = await call(guest, "gdb", "nobody")
    assert missing.returncode == 1
    assert "nobody" in missing.stderr


async def test_top_shows_what_a_guest_does(guest: Daemons) -> None:
    async def rates() -> dict[str, float]:
        done = await call(guest, "top", "--json")
        assert done.returncode == 0, done.stderr
        (stats,) = json.loads(done.stdout)
        assert (stats["name"], stats["node"]) == ("web", "n1")
        return stats["rates"] or {}

    async with trio.open_nursery() as nursery:
        busy = ("exec", "--timeout", "60s", "web", "--", "timeout", "15", "sh", "-c", "while :; do :; done")
        nursery.start_soon(call, guest, *busy)
        with trio.fail_after(60):
            while (now := await rates()).get("cpu_percent", 0) < 20 or now["mips"] < 5:  # a turn takes a second
                pass
        assert now["exits"] > 0
    table = (await call(guest, "top", "--once")).stdout.splitlines()
    assert table[0].split()[:4] == ["NAME", "NODE", "STATE", "MIPS"]
    assert table[1].split()[:3] == ["web", "n1", "running"]
