"""A channel: a TCP connection of its own for the pages of one migration, sealed (protocol/SPEC.md, 9.3).

A link carries everything else between two agents and shares its flow control; pages would fill it, and TLS of an event
loop is slower than the wire. So the target gives a ticket and two keys over the link, and the source connects to where
the target accepts links. Each way is a sequence of records: length of what follows (u32 BE), then AES-256-GCM of at
most 256 KiB of data under that way's key, the nonce the record's number (96 bits BE) and nothing else authenticated: a
record that is changed, left out, repeated or in the wrong order does not open. An empty one ends the way, so that a
cut is not taken for the end. The first record of each way is a greeting, the target's first: a connection that only
seems to stand (a middlebox took it, or cuts it once data flows) is found out while the link can still carry the pages.
"""

from __future__ import annotations

import secrets
from typing import Final

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
RECORD: Final = 256 << 10
GREETING: Final = b"wherry-1"
_TAG: Final = 16
_BUFFER: Final = 4 << 20  # asked of the kernel for each way: a target that is busy placing must not stop the wire


def new_keys() -> tuple[bytes, bytes]:
    """From the source to the target, and back."""
    return secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES)


class Channel:
    """One end. Has what page senders and receivers ask of a stream; raises trio.BrokenResourceError where the
    connection breaks or something on it was not sealed by the other end."""

    def __init__(self, raw: trio.SocketStream, *, seal: bytes, open: bytes) -> None:
        self._raw = raw
        self._seal, self._open = AESGCM(seal), AESGCM(open)
        self._sent = self._received = 0
        self._buffer = bytearray()
        self._ended = False
        for option in (trio.socket.SO_SNDBUF, trio.socket.SO_RCVBUF):
            raw.setsockopt(trio.socket.SOL_SOCKET, option, _BUFFER)

    async def greet(self, *, first: bool) -> None:
        """Before anything else; ``first`` at the target. Raises trio.BrokenResourceError."""
        if first:
            await self._send(memoryview(GREETING))
        if await self.receive_some() != GREETING:
            raise trio.BrokenResourceError("the other end did not greet")
        if not first:
            await self._send(memoryview(GREETING))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Seal and send."""
        view = memoryview(data)
        for start in range(0, len(view), RECORD):
            await self._send(view[start : start + RECORD])

    async def send_eof(self) -> None:
        """Nothing more comes from this end."""
        await self._send(memoryview(b""))

    async def _send(self, data: memoryview) -> None:
        sealed = self._seal.encrypt(self._sent.to_bytes(12, "big"), data, None)
        self._sent += 1
        try:
            await self._raw.send_all(len(sealed).to_bytes(4, "big") + sealed)
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("the channel was closed here") from None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The next record, whole, whatever ``max_bytes`` says; empty at the end."""
        if self._ended:
            return b""
        length = int.from_bytes(await self._take(4), "big")
        if not _TAG <= length <= RECORD + _TAG:
            raise trio.BrokenResourceError(f"a record of {length} bytes")
        try:
            data = self._open.decrypt(self._received.to_bytes(12, "big"), await self._take(length), None)
        except InvalidTag:
            raise trio.BrokenResourceError("a record that the other end did not seal") from None
        self._received += 1
        self._ended = not data
        return data

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                data = await self._raw.receive_some(RECORD)
            except trio.ClosedResourceError:
                raise trio.BrokenResourceError("the channel was closed here") from None
            if not data:
                raise trio.BrokenResourceError("the connection was closed")
            self._buffer += data
        taken = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return taken

    def abort(self, code: str, message: str) -> None:
        """Close at once; who waits on it, here or there, is told that it is broken."""
        self._raw.socket.close()

    async def aclose(self) -> None:
        """Close without a word: what was not ended is broken for the other end."""
        await trio.aclose_forcefully(self._raw)
