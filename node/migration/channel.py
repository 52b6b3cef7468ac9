"""A channel: a TCP connection of its own for the pages of one migration, sealed (protocol/SPEC.md, 11.6).

A link carries everything else between two agents and shares its flow control; pages would fill it, and TLS of an event
loop is slower than the wire. So the target gives a ticket and two keys over the link, and the source connects to where
the target accepts links. Each way is a sequence of records: length of what follows (u32 BE), then AES-256-GCM of at
most 256 KiB of data under that way's key, the nonce the record's number (96 bits BE) and nothing else authenticated: a
record that is changed, left out, repeated or in the wrong order does not open. An empty one ends the way, so that a
cut is not taken for the end. The first record of each way is a greeting, the target's first: a connection that only
seems to stand (a middlebox took it, or cuts it once data flows) is found out while the link can still carry the pages.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import select
import socket
import struct
import termios
from collections.abc import Callable
from typing import Final, TypeVar

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node import tickets

KEY_BYTES: Final = 32
RECORD: Final = 256 << 10
GREETING: Final = b"wherry-1"
_TAG: Final = 16
_LENGTH: Final = 4
_AHEAD: Final = 4096  # bytes of the next record that may be received with one
_BUFFER: Final = 4 << 20  # asked of the kernel for each way: a target that is busy placing must not stop the wire
_threads = trio.CapacityLimiter(64)  # each is there as long as a round or a copy lasts, and mostly waits
T = TypeVar("T")
DIAL_TIMEOUT: Final = 3.0


def new_keys() -> tuple[bytes, bytes]:
    """From the source to the target, and back."""
    return secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES)


def sealed_size(size: int) -> int:
    """Bytes of the records of so many bytes."""
    return size + -(-size // RECORD) * (_LENGTH + _TAG)


class Channel:
    """One end. Has what page senders and receivers ask of a stream; raises trio.BrokenResourceError where the
    connection breaks or something on it was not sealed by the other end."""

    def __init__(self, raw: trio.SocketStream, *, seal: bytes, open: bytes) -> None:
        self._raw = raw
        self._seal, self._open = AESGCM(seal), AESGCM(open)
        self._sent = self._received = 0
        self._buffer = bytearray(_LENGTH + RECORD + _TAG + _AHEAD)
        self._have = 0
        self._ended = False
        self._in_thread = self._aborted = False
        for option in (trio.socket.SO_SNDBUF, trio.socket.SO_RCVBUF):
            raw.setsockopt(trio.socket.SOL_SOCKET, option, _BUFFER)

    async def greet(self, *, first: bool) -> None:
        """Before anything else; ``first`` at the target. Raises trio.BrokenResourceError."""
        if first:
            await self.send_all(GREETING)
        if await self.receive_some() != GREETING:
            raise trio.BrokenResourceError("the other end did not greet")
        if not first:
            await self.send_all(GREETING)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Seal and send."""
        await self.send_sealed(self.seal(data, bytearray(sealed_size(len(data)))))

    async def send_eof(self) -> None:
        """Nothing more comes from this end."""
        into = bytearray(_LENGTH + _TAG)
        self._record(memoryview(b""), memoryview(into))
        await self.send_sealed(into)

    def seal(self, data: bytes | bytearray | memoryview, into: bytearray) -> memoryview:
        """``data`` as records, at the beginning of ``into`` (:func:`sealed_size` bytes or more), to be sent in the
        order in which they were sealed. For a thread: the GIL is released meanwhile, the wire need not wait for it."""
        view, out, end = memoryview(data), memoryview(into), 0
        for start in range(0, len(view), RECORD):
            end += self._record(view[start : start + RECORD], out[end:])
        return out[:end]

    async def send_sealed(self, records: bytes | bytearray | memoryview) -> None:
        """What :meth:`seal` gave, or a part of it."""
        try:
            await self._raw.send_all(records)
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("the channel was closed here") from None

    def _record(self, data: memoryview, out: memoryview) -> int:
        """Bytes of it."""
        length = len(data) + _TAG
        out[:_LENGTH] = length.to_bytes(_LENGTH, "big")
        self._seal.encrypt_into(self._sent.to_bytes(12, "big"), data, None, out[_LENGTH : _LENGTH + length])
        self._sent += 1
        return _LENGTH + length

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The next record, whole, whatever ``max_bytes`` says; empty at the end."""
        if self._ended:
            return b""
        await self._fill(_LENGTH)
        end = self._record_end()
        await self._fill(end)
        return self._open_record(end)

    def _record_end(self) -> int:
        """Of the record at the front of the buffer, whose length is there."""
        length = int.from_bytes(self._buffer[:_LENGTH], "big")
        if not _TAG <= length <= RECORD + _TAG:
            raise trio.BrokenResourceError(f"a record of {length} bytes")
        return _LENGTH + length

    def _open_record(self, end: int) -> bytes:
        try:
            with memoryview(self._buffer)[_LENGTH:end] as sealed:
                data = self._open.decrypt(self._received.to_bytes(12, "big"), sealed, None)
        except InvalidTag:
            raise trio.BrokenResourceError("a record that the other end did not seal") from None
        self._received += 1
        self._ended = not data
        self._buffer[: self._have - end] = self._buffer[end : self._have]
        self._have -= end
        return data

    def _room(self, count: int) -> memoryview:
        """Where the next bytes of the connection go when ``count`` are wanted in the buffer; not many more, for what is
        behind a record is moved to the front."""
        return memoryview(self._buffer)[self._have : max(count, self._have + _AHEAD)]

    def _came(self, got: int) -> None:
        if not got:
            raise trio.BrokenResourceError("the connection was closed")
        self._have += got

    async def _fill(self, count: int) -> None:
        while self._have < count:
            try:
                with self._room(count) as room:
                    got = await self._raw.socket.recv_into(room)
            except OSError as error:
                raise trio.BrokenResourceError(f"the connection broke: {error}") from error
            except trio.ClosedResourceError:
                raise trio.BrokenResourceError("the channel was closed here") from None
            self._came(got)

    # -- for a thread: no loop, no other task and no other thread between two records

    async def in_thread(self, work: Callable[[], T]) -> T:
        """What ``work`` gives or raises; it runs in a thread and has the channel's blocking calls to itself. Where this
        is cancelled the connection is broken off, which ends them."""
        results: list[T] = []
        problems: list[Exception] = []
        done = trio.Event()

        def guarded() -> None:
            """An exception that goes through trio's threads ends in a cycle, with all the buffers of its frames."""
            try:
                results.append(work())
            except Exception as error:
                problems.append(error)

        async def run() -> None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(guarded, limiter=_threads)
            done.set()

        self._in_thread = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                try:
                    await done.wait()
                except trio.Cancelled:
                    self._break_off()
                    raise
        except BaseException:
            problems.clear()  # as above
            raise
        finally:
            self._in_thread = False
            if self._aborted:
                self._raw.socket.close()
        if problems:
            raise problems.pop()
        return results.pop()

    def send_blocking(self, records: memoryview) -> None:
        """What :meth:`seal` gave, or a part of it."""
        sent = 0
        while sent < len(records):
            try:
                sent += os.write(self._raw.socket.fileno(), records[sent:])
            except BlockingIOError:
                self._wait(select.POLLOUT)
            except OSError as error:
                raise trio.BrokenResourceError(f"the connection broke: {error}") from error

    def receive_blocking(self) -> bytes:
        """The next record; empty at the end."""
        if self._ended:
            return b""
        self._fill_blocking(_LENGTH)
        end = self._record_end()
        self._fill_blocking(end)
        return self._open_record(end)

    def _fill_blocking(self, count: int) -> None:
        while self._have < count:
            try:
                with self._room(count) as room:
                    got = os.readv(self._raw.socket.fileno(), [room])
            except BlockingIOError:
                self._wait(select.POLLIN)
            except OSError as error:
                raise trio.BrokenResourceError(f"the connection broke: {error}") from error
            else:
                self._came(got)

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._raw.socket.fileno(), event)
        poll.poll()  # ended by _break_off too

    @property
    def queued(self) -> int:
        """Bytes that were sent and that the other end's host has not acknowledged."""
        return int(struct.unpack("i", fcntl.ioctl(self._raw.socket.fileno(), termios.TIOCOUTQ, bytes(4)))[0])

    def _break_off(self) -> None:
        with contextlib.suppress(OSError):
            self._raw.socket.shutdown(socket.SHUT_RDWR)

    def abort(self, code: str, message: str) -> None:
        """Close at once; who waits on it, here or there, is told that it is broken."""
        self._break_off()
        self._aborted = True
        if not self._in_thread:  # else its file must live until the thread is out of it
            self._raw.socket.close()

    async def aclose(self) -> None:
        """Close without a word: what was not ended is broken for the other end."""
        await trio.aclose_forcefully(self._raw)


async def dial(address: str, ticket: bytes, *, seal: bytes, open: bytes) -> Channel:
    """Connect to who gave the ticket. Raises OSError, ValueError (the address), trio.BrokenResourceError."""
    raw = await tickets.show(address, ticket)
    try:
        channel = Channel(raw, seal=seal, open=open)
        await channel.greet(first=False)
    except BaseException:
        await trio.aclose_forcefully(raw)
        raise
    return channel
