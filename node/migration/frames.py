"""Frames of a pull (protocol.messages.MigrationPull): a length (u32 BE), then so many bytes."""

from __future__ import annotations

from typing import Protocol

from node.core import CoreDataError


class Readable(Protocol):
    """Anything that bytes come from; b"" at its end."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...


class PageStream(Readable, Protocol):
    """What pages go over: a stream of a link, or a channel. ``send_eof``: nothing more comes from this end;
    ``aclose``: what was not ended is broken for the other one."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
    async def send_eof(self) -> None: ...
    async def aclose(self) -> None: ...


class FrameReader:
    """Frames of a stream, each of at most ``most`` bytes."""

    def __init__(self, stream: Readable, most: int) -> None:
        self._stream = stream
        self._most = most
        self._buffer = bytearray()
        self._start = 0

    async def next(self) -> memoryview | None:
        """The next frame, valid until the next call; None at the stream's end. Raises CoreDataError for a frame that is
        too long or cut off, trio.BrokenResourceError."""
        while (frame := self._whole()) is None:
            data = await self._stream.receive_some()
            if not data:
                if self._start < len(self._buffer):
                    raise CoreDataError(-5, "frame", "the stream ended in the middle of one")
                return None
            # A new one: a frame that was given out may still be looked at.
            self._buffer = self._buffer[self._start :] + data
            self._start = 0
        return frame

    def _whole(self) -> memoryview | None:
        have = len(self._buffer) - self._start
        if have < 4:
            return None
        length = int.from_bytes(self._buffer[self._start : self._start + 4], "big")
        if length > self._most:
            raise CoreDataError(-5, "frame", f"{length} bytes, at most {self._most} are allowed")
        if have < 4 + length:
            return None
        first = self._start + 4
        self._start = first + length
        return memoryview(self._buffer)[first : self._start]

    @property
    def ready(self) -> bool:
        """There is a whole frame already."""
        have = len(self._buffer) - self._start
        return have >= 4 and have - 4 >= int.from_bytes(self._buffer[self._start : self._start + 4], "big")


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body
