"""The QEMU guest agent protocol (qemu: qga/qapi-schema.json), host side, over the channel org.qemu.guest_agent.0.

One JSON object a line each way, one command at a time. The channel outlives agents and hosts on both ends, so old
answers may still lie in it: ``guest-sync-delimited`` is sent behind a 0xFF byte (which makes the guest's parser drop
what it had) and everything up to the 0xFF before its answer is dropped here. After a command that got no answer in time
the next one synchronises again.

:class:`Parser` is pure (bytes in, objects out); :class:`GuestAgent` drives it over a trio stream.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import secrets
from typing import Any, NamedTuple

import trio

MAX_LINE = 48 << 20  # qemu-ga keeps 16 MiB of each output of a command, base64 makes 22 of it
POLL_FIRST, POLL_LAST = 0.01, 0.25  # seconds between two looks at a running command


class QgaError(Exception):
    """The guest agent answered with an error; the text is its own."""


class QgaUnavailable(Exception):
    """No guest agent answers, or what answers is none."""


class Executed(NamedTuple):
    """``exit_code``: -signal when a signal ended the command."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool


class Parser:
    """Splits the channel into answers. Raises QgaUnavailable on what no guest agent would send."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skipping = False
        self._lenient = False

    def resync(self) -> None:
        """Drop everything up to the next 0xFF. That may be an old one: until :meth:`synced` lines that are no answers
        are dropped as well."""
        self._buffer.clear()
        self._skipping = self._lenient = True

    def synced(self) -> None:
        """The answer to our own sync has come: from here on every line counts."""
        self._lenient = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        if self._lenient and b"\xff" in data:
            data = data[data.rfind(b"\xff") + 1 :]
            self._buffer.clear()
            self._skipping = False
        elif self._skipping:
            return []
        self._buffer += data
        answers = []
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).lstrip(b"\xff").strip()
            del self._buffer[: end + 1]
            if not line:
                continue
            try:
                answers.append(self._object(line))
            except QgaUnavailable:
                if not self._lenient:
                    raise
        if len(self._buffer) > MAX_LINE:
            self._buffer.clear()
            raise QgaUnavailable(f"the guest agent sent a line of more than {MAX_LINE} bytes")
        return answers

    @staticmethod
    def _object(line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            raise QgaUnavailable(f"the guest agent sent no JSON: {line[:40]!r}") from None
        if not isinstance(answer, dict):
            raise QgaUnavailable(f"the guest agent sent {type(answer).__name__}, an object is wanted")
        return answer


def encode(command: str, arguments: dict[str, Any] | None = None) -> bytes:
    request: dict[str, Any] = {"execute": command}
    if arguments:
        request["arguments"] = arguments
    return json.dumps(request).encode() + b"\n"


class GuestAgent:
    """``stream``: raw bytes of the agent channel; closed by :meth:`aclose`. One command at a time, others wait."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._parser = Parser()
        self._lock = trio.Lock()
        self._synced = False
        self._answers: list[dict[str, Any]] = []

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def call(self, command: str, arguments: dict[str, Any] | None = None, *, timeout: float = 5.0) -> Any:
        """The value of "return". Raises QgaError (the guest's error), QgaUnavailable (no answer in ``timeout`` s)."""
        async with self._lock:
            with trio.move_on_after(timeout):
                if not self._synced:
                    await self._synchronise()
                self._synced = False  # until the answer is here: a cancelled command leaves its answer in the channel
                await self._send(encode(command, arguments))
                answer = await self._receive()
                self._synced = True
                if "error" in answer:
                    error = answer["error"]
                    raise QgaError(str(error.get("desc", error)) if isinstance(error, dict) else str(error))
                return answer.get("return")
        raise QgaUnavailable(f"no guest agent answered {command} within {timeout:g} s")

    async def ping(self, timeout: float = 5.0) -> None:
        await self.call("guest-ping", timeout=timeout)

    async def shutdown(self) -> None:
        """Ask for a power-off. The agent sends no answer when it works, so none is waited for."""
        async with self._lock:
            with trio.move_on_after(5.0):
                if not self._synced:
                    await self._synchronise()
                self._synced = False
                await self._send(encode("guest-shutdown", {"mode": "powerdown"}))
                return
        raise QgaUnavailable("no guest agent took guest-shutdown")

    async def execute(self, argv: list[str], stdin: bytes = b"", *, timeout: float = 60.0) -> Executed:
        """Run a command in the guest and wait for it. On timeout it is killed there and TooSlowError raised."""
        arguments: dict[str, Any] = {"path": argv[0], "arg": argv[1:], "capture-output": True}
        if stdin:
            arguments["input-data"] = base64.b64encode(stdin).decode()
        started = await self.call("guest-exec", arguments, timeout=min(timeout, 20.0))
        pid = started.get("pid") if isinstance(started, dict) else None
        if not isinstance(pid, int):
            raise QgaUnavailable("the guest agent answered guest-exec without a pid")
        pause = POLL_FIRST
        deadline = trio.current_time() + timeout if math.isfinite(timeout) else math.inf
        while True:
            status = await self.call("guest-exec-status", {"pid": pid}, timeout=20.0)
            if isinstance(status, dict) and status.get("exited"):
                return _executed(status)
            if trio.current_time() >= deadline:
                await self._kill(pid)
                raise trio.TooSlowError
            await trio.sleep(pause)
            pause = min(pause * 1.5, POLL_LAST)

    async def _kill(self, pid: int) -> None:
        try:
            await self.call("guest-exec", {"path": "kill", "arg": ["-9", str(pid)]})
        except (QgaError, QgaUnavailable):
            return  # it may have ended by itself, or the guest has no kill: the caller hears of the timeout anyway

    async def _synchronise(self) -> None:
        number = secrets.randbelow(2**31)
        self._parser.resync()
        self._answers.clear()
        await self._send(b"\xff" + encode("guest-sync-delimited", {"id": number}))
        while True:
            answer = await self._receive()
            if answer.get("return") == number:
                self._parser.synced()
                self._synced = True
                return

    async def _send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise QgaUnavailable("the channel to the guest is closed") from None

    async def _receive(self) -> dict[str, Any]:
        while not self._answers:
            try:
                data = await self._stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                raise QgaUnavailable("the channel to the guest is closed")
            self._answers += self._parser.feed(bytes(data))
        return self._answers.pop(0)


def _executed(status: dict[str, Any]) -> Executed:
    def output(name: str) -> bytes:
        try:
            return base64.b64decode(str(status.get(name, "")), validate=False)
        except (binascii.Error, ValueError):
            raise QgaUnavailable(f"the guest agent's {name} is no base64") from None

    def number(name: str) -> int:
        value = status.get(name, 0)
        return value if isinstance(value, int) else 0

    code = -number("signal") if number("signal") else number("exitcode")
    truncated = bool(status.get("out-truncated")) or bool(status.get("err-truncated"))
    return Executed(code, output("out-data"), output("err-data"), truncated)
