"""The guest agent protocol against a fake agent, whole and byte at a time, with old answers and hostile ones."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from node.channel.qga import Executed, GuestAgent, Parser, QgaError, QgaUnavailable, encode


class FakeAgent:
    """qemu-ga's side of a channel: parses lines, drops up to 0xFF, answers. ``results`` by command."""

    def __init__(self, stream: trio.StapledStream, results: dict[str, list[Any]], chunk: int = 65536) -> None:
        self.stream = stream
        self.results = results
        self.chunk = chunk
        self.seen: list[dict[str, Any]] = []

    async def run(self) -> None:
        buffer = b""
        while data := await self.stream.receive_some(65536):
            buffer += data
            if b"\xff" in buffer:
                buffer = buffer[buffer.rfind(b"\xff") + 1 :]
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                await self.answer(json.loads(line))

    async def answer(self, request: dict[str, Any]) -> None:
        self.seen.append(request)
        command = request["execute"]
        if command == "guest-sync-delimited":
            await self.send(b"\xff" + json.dumps({"return": request["arguments"]["id"]}).encode() + b"\n")
            return
        results = self.results.get(command)
        if not results:
            return
        result = results.pop(0) if len(results) > 1 else results[0]
        await self.send(json.dumps(result).encode() + b"\n")

    async def send(self, data: bytes) -> None:
        for at in range(0, len(data), self.chunk):
            await self.stream.send_all(data[at : at + self.chunk])


Body = Callable[[GuestAgent, FakeAgent], Awaitable[None]]


async def with_agent(body: Body, results: dict[str, list[Any]], *, before: bytes = b"", chunk: int = 65536) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    fake = FakeAgent(theirs, results, chunk)
    async with trio.open_nursery() as nursery:
        await theirs.send_all(before)
        nursery.start_soon(fake.run)
        await body(GuestAgent(ours), fake)
        nursery.cancel_scope.cancel()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


EXEC = {
    "guest-exec": [{"return": {"pid": 9}}],
    "guest-exec-status": [
        {"return": {"exited": False}},
        {"return": {"exited": False}},
        {"return": {"exited": True, "exitcode": 3, "out-data": b64(b"out\x00"), "err-data": b64(b"err")}},
    ],
}


@pytest.mark.parametrize("chunk", [1, 7, 65536])
@pytest.mark.parametrize("before", [b"", b'{"return": 1}\n', b'{"ret', b"\xff\xff garbage\n"])
async def test_exec(chunk: int, before: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async def body(agent: GuestAgent, fake: FakeAgent) -> None:
        done = await agent.execute(["ls", "-l", "/"], b"in\x00put")
        assert done == Executed(3, b"out\x00", b"err", False)
        started = next(r for r in fake.seen if r["execute"] == "guest-exec")
        assert started["arguments"] == {
            "path": "ls",
            "arg": ["-l", "/"],
            "capture-output": True,
            "input-data": b64(b"in\x00put"),
        }

    results = {name: list(answers) for name, answers in EXEC.items()}
    await with_agent(body, results, before=before, chunk=chunk)


async def test_signal_and_truncation(autojump_clock: trio.testing.MockClock) -> None:
    async def body(agent: GuestAgent, fake: FakeAgent) -> None:
        done = await agent.execute(["x"])
        assert (done.exit_code, done.truncated) == (-9, True)

    status = {"return": {"exited": True, "signal": 9, "out-truncated": True}}
    await with_agent(body, {"guest-exec": [{"return": {"pid": 1}}], "guest-exec-status": [status]})


async def test_the_guests_error(autojump_clock: trio.testing.MockClock) -> None:
    async def body(agent: GuestAgent, fake: FakeAgent) -> None:
        with pytest.raises(QgaError, match="No such file"):
            await agent.execute(["nope"])
        await agent.ping()  # the channel is still in step

    error = {"error": {"class": "GenericError", "desc": "Failed to execute child (No such file)"}}
    await with_agent(body, {"guest-exec": [error], "guest-ping": [{"return": {}}]})


async def test_silence_then_recovery(autojump_clock: trio.testing.MockClock) -> None:
    """A command that was not answered in time must not leave its late answer to the next one."""

    async def body(agent: GuestAgent, fake: FakeAgent) -> None:
        with pytest.raises(QgaUnavailable, match="within 2 s"):
            await agent.call("guest-slow", timeout=2)
        fake.results["guest-info"] = [{"return": {"version": "9"}}]
        await fake.send(b'{"return": "late"}\n')
        assert await agent.call("guest-info") == {"version": "9"}
        syncs = [r for r in fake.seen if r["execute"] == "guest-sync-delimited"]
        assert len(syncs) == 2

    await with_agent(body, {})


async def test_timeout_kills_in_the_guest(autojump_clock: trio.testing.MockClock) -> None:
    async def body(agent: GuestAgent, fake: FakeAgent) -> None:
        with pytest.raises(trio.TooSlowError):
            await agent.execute(["sleep", "9"], timeout=1)
        assert fake.seen[-1]["arguments"] == {"path": "kill", "arg": ["-9", "9"]}

    results = {"guest-exec": [{"return": {"pid": 9}}], "guest-exec-status": [{"return": {"exited": False}}]}
    await with_agent(body, results)


async def test_shutdown_waits_for_no_answer(autojump_clock: trio.testing.MockClock) -> None:
    async def body(agent: GuestAgent, fake: FakeAgent) -> None:
        await agent.shutdown()
        await trio.testing.wait_all_tasks_blocked()
        assert fake.seen[-1] == {"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}}

    await with_agent(body, {})


async def test_closed_channel() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    with pytest.raises(QgaUnavailable):
        await GuestAgent(ours).ping()


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b"[" * 100000 + b"\n", b'"\xfe"\n'])
def test_what_no_agent_sends(line: bytes) -> None:
    with pytest.raises(QgaUnavailable):
        Parser().feed(line)


def test_random_bytes_never_raise_anything_else() -> None:
    dice = random.Random(11)
    for _ in range(2000):
        parser = Parser()
        if dice.random() < 0.5:
            parser.resync()
        data = dice.randbytes(dice.randrange(40)) + dice.choice([b"", b"\n", b"\xff", b'{"return":1}\n'])
        try:
            parser.feed(data)
        except QgaUnavailable:
            continue


def test_line_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.channel.qga.MAX_LINE", 1000)
    with pytest.raises(QgaUnavailable, match="1000"):
        Parser().feed(b"x" * 1001)


def test_encode() -> None:
    assert encode("guest-ping") == b'{"execute": "guest-ping"}\n'
