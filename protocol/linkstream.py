"""A byte stream inside a link as a trio stream, so that anything that speaks to a socket can speak to it, TLS included.

Bounded memory: at most one window of received bytes waits here; a sender waits for credit and for room in the link's
output. Closing sends CLOSE and, when the peer still sends, RESET, so that it stops.
"""

from __future__ import annotations

import operator
from collections import deque
from typing import Final, Protocol

import trio

from protocol.errors import LinkError, LocalProtocolError, RemoteError
from protocol.session import Session

CHUNK: Final = 256 << 10


class StreamBroken(trio.BrokenResourceError, LinkError):
    """The peer reset the stream, or the link is gone. ``code`` tells which error it named."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(f"{code}: {message}")


class Carrier(Protocol):
    """What a stream needs of its link."""

    @property
    def session(self) -> Session: ...
    @property
    def closed(self) -> bool: ...
    @property
    def congested(self) -> bool: ...
    async def wait_room(self) -> None: ...
    def flush(self) -> None: ...
    def stream_consumed(self, number: int, amount: int) -> None: ...
    def drop_stream(self, number: int, code: str, message: str) -> None: ...


class LinkStream(trio.abc.HalfCloseableStream):
    """Made by :meth:`Link.open_stream` and for stream handlers.

    In a handler the first send or receive accepts the stream; until then raising ``Refused`` tells the opener why.
    Raises :class:`StreamBroken` (a ``trio.BrokenResourceError``), ``trio.ClosedResourceError`` and
    ``trio.BusyResourceError``.
    """

    def __init__(self, link: Carrier, stream: int, *, offered: bool) -> None:
        self.link = link
        self.id = stream
        self._offered = offered
        self._chunks: deque[bytes] = deque()
        self._accepted = False
        self._head_start = 0  # bytes of the first chunk that are read already
        self._finished = False
        self._broken: StreamBroken | None = None
        self._sent_eof = False
        self._closed = False
        self._readable = trio.Event()
        self._writable = trio.Event()
        self._opened = trio.Event()
        self._sending = False
        self._receiving = False

    # ---- what the link tells

    def feed(self, data: bytes) -> None:
        """Bytes of the peer."""
        if self._closed:
            self.link.stream_consumed(self.id, len(data))
            return
        self._chunks.append(data)
        self._readable.set()

    def finish(self) -> None:
        """The peer closed its half."""
        self._finished = True
        self._readable.set()

    def writable(self) -> None:
        """Credit came, or the stream was accepted."""
        self._accepted = True
        self._opened.set()
        self._writable.set()

    def fail(self, code: str, message: str) -> None:
        """Reset by the peer, or the link ended."""
        if self._broken is None:
            self._broken = StreamBroken(code, message)
        self._readable.set()
        self._writable.set()
        self._opened.set()

    # ---- life

    async def wait_opened(self) -> None:
        """For the opener: until the peer accepts; :class:`RemoteError` when it refuses."""
        await self._opened.wait()
        if not self._accepted and self._broken is not None:
            raise RemoteError(self._broken.code, str(self._broken).partition(": ")[2])

    def accept(self) -> None:
        """For a handler: take the stream now. Sending or receiving does it too."""
        if self._offered:
            self._offered = False
            try:
                self.link.session.accept_stream(self.id)
            except LocalProtocolError:
                self.fail("cancelled", "the opener gave up")
            self.link.flush()

    def _check(self, *, sending: bool) -> None:
        if self._closed or (sending and self._sent_eof):
            raise trio.ClosedResourceError("this stream was closed")
        self.accept()
        if sending and self._broken is not None:
            raise self._broken

    # ---- trio.abc.HalfCloseableStream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; waits for the peer's credit."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check(sending=True)
            # The session keeps the bytes until they are written; a caller may reuse a mutable buffer before that.
            rest = memoryview(data if isinstance(data, bytes) else bytes(data))
            while rest:
                await self._wait_room()
                size = min(len(rest), CHUNK, self.link.session.credit(self.id), self.link.session.max_data)
                self.link.session.send_data(self.id, rest[:size])
                self.link.flush()
                rest = rest[size:]
        finally:
            self._sending = False

    async def _wait_room(self) -> None:
        while True:
            self._check(sending=True)
            if not self.link.session.credit(self.id):
                self._writable = trio.Event()
                await self._writable.wait()
            elif self.link.congested:
                await self.link.wait_room()
            else:
                return

    async def wait_send_all_might_not_block(self) -> None:
        """Until there is credit."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        await self._wait_room()

    async def send_eof(self) -> None:
        """Close our half."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        self._half_close()

    def _half_close(self) -> None:
        self.accept()
        if not self._sent_eof:
            self._sent_eof = True
            if self._broken is None and not self.link.closed and self.id in self.link.session.streams:
                self.link.session.close_stream(self.id)
                self.link.flush()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes, b"" at the end. A RESET behind the peer's CLOSE does not take bytes back."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            self._check(sending=False)
            while not self._chunks:
                if self._finished:
                    return b""
                if self._broken is not None:
                    raise self._broken
                self._readable = trio.Event()
                await self._readable.wait()
                if self._closed:
                    raise trio.ClosedResourceError("this stream was closed")
            data = self._take(max_bytes)
            self.link.stream_consumed(self.id, len(data))
            return data
        finally:
            self._receiving = False

    def _take(self, max_bytes: int | None) -> bytes:
        head, start = self._chunks[0], self._head_start
        end = len(head) if max_bytes is None else min(start + max_bytes, len(head))
        if end == len(head):
            self._chunks.popleft()
            self._head_start = 0
        else:
            self._head_start = end
        return head if end - start == len(head) else head[start:end]

    def abort(self, code: str, message: str = "") -> None:
        """End both halves at once and tell the peer why."""
        self._closed = self._sent_eof = True
        self._offered = False
        self.link.drop_stream(self.id, code, message)
        self.fail(code, message)

    async def aclose(self) -> None:
        """Close both halves; does not wait for the peer."""
        if not self._closed:
            self._half_close()
            self._closed = True
            self._chunks.clear()
            self.link.drop_stream(self.id, "cancelled", "closed by its reader")
            self._readable.set()
            self._writable.set()
        await trio.lowlevel.checkpoint()
