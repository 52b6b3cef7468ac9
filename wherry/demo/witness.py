"""Does exactly one copy of each guest run? Asked of the guest processes themselves, not of the coordinator.

Every few milliseconds each process's control socket is asked for its state (docs/architecture.md, "Guest process").
Two processes of one guest exist during each migration; two that are ``running`` at one instant must never. Since two
answers are never of the same instant, "A runs, B runs" alone may be a hand-over between the questions; all are asked
again, and only "A runs, B runs, A runs" counts: a source never runs again after its target did.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import trio

from wherry.demo.daemons import guest_processes

_LENGTH = struct.Struct(">I")
_PERIOD_S = 0.02
_MAX_ANSWER = 1 << 20


def overlaps(first: Mapping[str, str], second: Mapping[str, str]) -> set[tuple[str, str]]:
    """Pairs of copies that both ran: running in ``first`` and again in ``second``, a later look at the same copies."""
    steady = sorted(name for name in first if first[name] == "running" and second.get(name) == "running")
    return {(a, b) for i, a in enumerate(steady) for b in steady[i + 1 :]}


@dataclass
class Witness:
    """``samples`` counts looks at a guest with two processes or more; ``doubles`` what must not be."""

    folder: Path
    looks: int = 0
    samples: int = 0
    doubles: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            processes = guest_processes(self.folder)
            by_guest: dict[str, list[Path]] = {}
            for path in processes.values():
                by_guest.setdefault(path.name, []).append(path)
            for guest, paths in by_guest.items():
                self.looks += 1
                if len(paths) > 1:
                    await self._compare(guest, paths)
            await trio.sleep(_PERIOD_S)

    async def _compare(self, guest: str, paths: list[Path]) -> None:
        self.samples += 1
        first = {str(path): await state_of(path) for path in paths}
        second = {str(path): await state_of(path) for path in paths}
        for pair in overlaps(first, second):
            self.doubles.append(f"guest {guest}: {pair[0]} and {pair[1]} both run")


async def state_of(folder: Path) -> str:
    """The state that a guest process tells; "" where it does not answer within a second."""
    with trio.move_on_after(1.0), suppress(OSError, ValueError, trio.BrokenResourceError, msgpack.UnpackException):
        async with await trio.open_unix_socket(str(folder / "guest.sock")) as stream:
            request = msgpack.packb({"op": "status"})
            await stream.send_all(_LENGTH.pack(len(request)) + request)
            (length,) = _LENGTH.unpack(await _exactly(stream, _LENGTH.size))
            if length <= _MAX_ANSWER:
                answer = msgpack.unpackb(await _exactly(stream, length))
                return str(answer.get("state", "")) if isinstance(answer, dict) else ""
    return ""


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = await stream.receive_some(count - len(data))
        if not chunk:
            raise OSError("the guest process closed the connection")
        data += chunk
    return data
