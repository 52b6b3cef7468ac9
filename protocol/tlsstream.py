"""TLS over a trio stream, for bulk: like ``trio.SSLStream``, but it moves large pieces.

``trio.SSLStream`` reads 16 KiB from its transport and returns one TLS record a time, which costs a trip through the
scheduler per record. This one reads up to ``READ_SIZE`` at once and returns every record that is complete. It speaks
TLS 1.3 only, so there is no renegotiation; a send may still have to read (key update), which one reader task settles
because :mod:`protocol.transport` always reads.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any, Final

import trio

READ_SIZE: Final = 256 << 10
_RECORD: Final = 16 << 10


class TlsStream(trio.abc.Stream):
    """Owns ``transport``. Errors: ``trio.BrokenResourceError`` with the ``ssl.SSLError`` as cause; EOF without TLS's
    close-notify is broken too, because bytes may have been cut off."""

    def __init__(self, transport: trio.abc.Stream, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.transport = transport
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._send_lock = trio.StrictFIFOLock()
        self._closed = False

    def set_priority(self, priority: int) -> None:
        """SO_PRIORITY of the socket below, where there is one: the queue of its host's interfaces (0: best effort, 2:
        bulk; pfifo_fast and prio send bulk last)."""
        if isinstance(self.transport, trio.SocketStream) and hasattr(socket, "SO_PRIORITY"):
            with contextlib.suppress(OSError):
                self.transport.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)

    def getpeercert(self) -> dict[str, Any] | None:
        """As ``ssl.SSLSocket.getpeercert``: empty or None unless the certificate was verified."""
        return self._tls.getpeercert()

    async def do_handshake(self) -> None:
        """Both ends prove themselves (in TLS 1.3 a client learns of its rejection at its first read only)."""
        while True:
            try:
                self._tls.do_handshake()
                await self._flush()
                return
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError as error:
                await self._flush()  # the alert tells the peer why
                raise trio.BrokenResourceError(str(error)) from error

    async def _flush(self) -> None:
        # The lock is taken before the BIO is read, so that records leave in the order in which they were made.
        async with self._send_lock:
            data = self._outgoing.read()
            if data:
                await self.transport.send_all(data)

    async def _fill(self) -> None:
        data = await self.transport.receive_some(READ_SIZE)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send everything."""
        self._check()
        if not data:
            await trio.lowlevel.checkpoint()
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.write(rest) :]
        except ssl.SSLError as error:
            raise trio.BrokenResourceError(str(error)) from error
        await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Ask the transport."""
        self._check()
        await self.transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """All plaintext that is there, at most ``max_bytes`` (default 256 KiB); b"" after the peer's close-notify."""
        self._check()
        limit = READ_SIZE if max_bytes is None else max_bytes
        await trio.lowlevel.checkpoint()
        while True:
            data, ended = self._drain(limit)
            if data or ended:
                if self._outgoing.pending:
                    await self._flush()
                return data
            await self._fill()
            self._check()

    def _drain(self, limit: int) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        size = 0
        try:
            while size < limit:
                part = self._tls.read(min(_RECORD, limit - size))
                if not part:
                    return b"".join(parts), True
                parts.append(part)
                size += len(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            return b"".join(parts), True
        except ssl.SSLError as error:
            if not parts:
                raise trio.BrokenResourceError(str(error)) from error
        return b"".join(parts), False

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    async def aclose(self) -> None:
        """Send close-notify if the transport takes it at once, and close."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()  # queues close-notify; the peer's is not waited for
        try:
            with trio.move_on_after(0.5):
                await self._flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await self.transport.aclose()
