"""The coordinator as a process: its ready line, its stop, its refusals to start, and kill -9 at the decision."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from coordinator.config import parse_address
from coordinator.service import Ready
from protocol import messages as m
from protocol.errors import LinkError
from tests.unit.control import Control
from tests.unit.fake_agent import FakeAgent

ROOT = Path(__file__).parents[2]


class Process:
    """One run of ``python -P -m coordinator``."""

    def __init__(self, process: trio.Process, ready: Ready, raw: dict[str, Any]) -> None:
        self.process, self.ready, self.raw = process, ready, raw

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)


def command(folder: Path, *flags: str) -> list[str]:
    base = [sys.executable, "-P", "-m", "coordinator", "--state", str(folder / "coordinator")]
    return [*base, "--cli-file", str(folder / "cli.json"), *flags]


@asynccontextmanager
async def process(folder: Path, *flags: str, **environment: str) -> AsyncIterator[Process]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    argv = command(folder, *(flags or ("--link", "127.0.0.1:0", "--api", "127.0.0.1:0")))
    with (folder / "stderr").open("ab") as errors:
        async with trio.open_nursery() as nursery:
            running: trio.Process = await nursery.start(_run, argv, env, errors)
            try:
                line = await _line(running)
                assert line.startswith("ready "), (folder / "stderr").read_text()
                raw = json.loads(line[6:])
                ready = Ready(raw["api"], raw["link"], raw["join"], raw["token"], raw["cli"])
                yield Process(running, ready, raw)
            finally:
                if running.returncode is None:
                    running.kill()


async def _run(
    argv: list[str], env: dict[str, str], errors: Any, *, task_status: trio.TaskStatus[trio.Process]
) -> None:
    running = await trio.lowlevel.open_process(argv, env=env, stdout=subprocess.PIPE, stderr=errors)
    task_status.started(running)
    await running.wait()


async def _line(running: trio.Process) -> str:
    assert running.stdout is not None
    got = b""
    with trio.fail_after(30):
        while not got.endswith(b"\n"):
            data = await running.stdout.receive_some()
            if not data:
                break
            got += data
    return got.decode()


@asynccontextmanager
async def control(run: Process, folder: Path) -> AsyncIterator[Control]:
    headers = {"Authorization": f"Bearer {run.ready.token}"}
    async with httpx.AsyncClient(base_url=run.ready.api, headers=headers, timeout=20, trust_env=False) as http:
        yield Control(run.ready, folder, http)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_ready_line_access_file_and_clean_stop(tmp_path: Path, number: signal.Signals) -> None:
    async with process(tmp_path) as run:
        assert set(run.raw) == {"api", "link", "join", "token", "cli", "pid"}
        assert run.raw["pid"] == run.process.pid
        assert run.ready.join.endswith(f"@{run.ready.link}")
        access = json.loads((tmp_path / "cli.json").read_text())
        assert access == {"api": run.ready.api, "token": run.ready.token, "ca": None}
        assert stat.S_IMODE((tmp_path / "cli.json").stat().st_mode) == 0o600
        async with control(run, tmp_path) as c:
            n1 = FakeAgent(run.ready, "n1", tmp_path)
            await n1.join(run.ready.join.split("@")[0])
            assert (await c.get("/v1/nodes"))["nodes"][0]["state"] == "lost"
        run.process.send_signal(number)
        with trio.fail_after(10):
            assert await run.process.wait() == 0
    async with process(tmp_path) as again:
        assert again.ready.token == run.ready.token, "the local user's access stays good"


async def fails(folder: Path, *flags: str) -> tuple[int, str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with trio.fail_after(30):
        done = await trio.run_process(
            command(folder, *flags), env=env, check=False, capture_stdout=True, capture_stderr=True
        )
    return done.returncode, done.stderr.decode()


async def test_a_busy_port_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        for flags in (
            ("--link", f"127.0.0.1:{port}", "--api", "127.0.0.1:0"),
            ("--link", "127.0.0.1:0", "--api", f"127.0.0.1:{port}"),
        ):
            status, text = await fails(tmp_path, *flags)
            assert status == 1
            assert f"127.0.0.1:{port}" in text
            assert "Address already in use" in text
            assert "Traceback" not in text


async def test_a_newer_state_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "coordinator").mkdir()
    (tmp_path / "coordinator" / "VERSION").write_text("2\n")
    status, text = await fails(tmp_path, "--link", "127.0.0.1:0", "--api", "127.0.0.1:0")
    assert status == 1
    assert "version 2" in text
    assert sorted(p.name for p in (tmp_path / "coordinator").iterdir()) == ["VERSION", "coordinator.lock"]


async def test_two_coordinators_cannot_share_a_state_folder(tmp_path: Path) -> None:
    async with process(tmp_path):
        status, text = await fails(tmp_path, "--link", "127.0.0.1:0", "--api", "127.0.0.1:0")
        assert status == 1
        assert "another coordinator" in text


@pytest.mark.parametrize("flags", [("--nonsense",), ("--link", "a:b"), ("--api", "h:70000"), ("--lost-after", "0")])
async def test_wrong_usage_is_status_2(tmp_path: Path, flags: tuple[str, ...]) -> None:
    status, text = await fails(tmp_path, *flags)
    assert status == 2
    assert "usage:" in text


async def test_the_api_is_https_beyond_loopback(tmp_path: Path) -> None:
    async with process(tmp_path, "--link", "127.0.0.1:0", "--api", "0.0.0.0:0", "--advertise", "127.0.0.1") as run:
        assert run.ready.api.startswith("https://127.0.0.1:")
        ca = json.loads((tmp_path / "cli.json").read_text())["ca"]
        async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=ca), trust_env=False) as http:
            answer = await http.get(f"{run.ready.api}/v1/info", headers={"Authorization": f"Bearer {run.ready.token}"})
            assert answer.status_code == 200


@pytest.mark.parametrize(("phase", "decided"), [("decide-before", "pending"), ("decide-after", "committed")])
async def test_kill_9_at_the_decision(tmp_path: Path, phase: str, decided: str) -> None:
    """Killed before the commit, nobody owns it anew; killed after it, everybody hears the same after the restart."""
    holds = tmp_path / "holds"
    holds.mkdir()
    hold = holds / f"arbiter.{phase}.hold"
    hold.touch()
    async with process(tmp_path, WHERRY_HOLD_DIR=str(holds)) as run, control(run, tmp_path) as c:
        await c.image()
        n1, n2 = await c.node("n1"), await c.node("n2")
        async with n1.connected(), n2.connected():
            await c.done(await c.run("web", on="n1"))
            operation = await c.post("/v1/guests/web/migrate", {"to": "n2"})
            await n1.until(lambda: bool(n1.asked_for(m.MigrationStart)))
            start = n1.asked_for(m.MigrationStart)[0]
            reached = holds / f"arbiter.{phase}.reached"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_commit_into_the_void, n1, start)
                with trio.fail_after(5):
                    while not reached.exists():  # noqa: ASYNC110  another process writes it
                        await trio.sleep(0.01)
                run.kill()
    hold.unlink()
    async with process(tmp_path) as run, control(run, tmp_path) as c:
        for agent in (n1, n2):
            agent.ready = run.ready
        assert (await c.guest("web"))["generation"] == (2 if decided == "committed" else 1)
        async with n1.connected(), n2.connected():
            word = await n2.decide(start.migration, start.guest, 1, "query")
            assert word.decision == decided
            final = await n1.decide(start.migration, start.guest, 1, "commit")
            assert final == m.Decision(decision="committed", generation=2, owner=n2.node)
            assert n1.link is not None
            await n1.link.notify(m.MigrationResult(migration=start.migration, outcome="committed"))
            await c.done(operation)
            assert (await c.guest("web"))["node"] == "n2"


async def _commit_into_the_void(agent: FakeAgent, start: m.MigrationStart) -> None:
    with pytest.raises(LinkError):
        await agent.decide(start.migration, start.guest, 1, "commit")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("h", ("h", 7)),
        ("h:1", ("h", 1)),
        (":1", ("0.0.0.0", 1)),
        ("[::1]:2", ("::1", 2)),
        ("[::1]", ("::1", 7)),
        ("::1", ("::1", 7)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, 7) == address
