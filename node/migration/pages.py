"""The page stream of a migration (protocol.messages.MigrationPages): rounds of batches, packed and placed in C.

A batch is prefixed with its length (u32 BE). An empty one ends a round and is answered with one byte once everything
before it lies in the target's RAM. The last round ends with the stream's end and is not answered: the guest stands
still, and the target says that all is there when it says that it could run.

While one batch is on the wire the next is packed in a worker thread, so that wire and processor both work; the threads
have a limiter of their own, for a migration must not keep the agent's other work waiting. A batch that is small is
packed or placed at once, without a thread: in the blackout each change of thread would count.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import trio

from node.core import CoreDataError, CoreError
from node.migration.bucket import TokenBucket
from node.ramview import PAGE, Batch, RamView

BATCH = 1 << 20
MAX_BATCH = 4 << 20
SMALL = 128 * PAGE
FIRST_PASS = 16 << 20  # of a post-copy: what a guest needs in its first moments, and some seconds of a slow link ...
FIRST_SHARE = 16  # ... but of a small guest not more than this part of its memory: it is to be short
_ROUND_TIMEOUT_MS = 2000

limiter = trio.CapacityLimiter(4)


class PageStream(Protocol):
    """A stream of a link, or a channel."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...
    async def send_eof(self) -> None: ...


class RoundStats(NamedTuple):
    """``size``: bytes on the stream."""

    pages: int
    zero_pages: int
    size: int


class PageSender:
    """The source's end. ``bucket`` limits the rounds of a running guest: one that is paused is not kept waiting, unless
    it was paused for all of its pages (``send_round`` says)."""

    def __init__(self, view: RamView, stream: PageStream, bucket: TokenBucket) -> None:
        self._view = view
        self._stream = stream
        self._bucket = bucket
        self._buffers = (bytearray(4 + BATCH), bytearray(4 + BATCH))
        self._limited = True
        self.sent = 0  # bytes of all rounds, counted while they go out

    async def send_round(self, *, last: bool = False, limited: bool = True, kinds: int | None = None) -> RoundStats:
        """One round: fetch and clear the dirty bits, send those pages, wait until the target has them (``last``: until
        they are on their way, and end the stream). ``kinds``: only so many of RamView.first's, a short pass of them
        but for the last round; the rest stays in the set. Raises CoreError (this host), trio.BrokenResourceError (the
        target)."""
        self._limited = limited
        if last:
            dirty = self._view.round(_ROUND_TIMEOUT_MS)  # the harts are parked: it does not wait
        else:
            dirty = await trio.to_thread.run_sync(self._view.round, _ROUND_TIMEOUT_MS, limiter=limiter)
        stats = RoundStats(0, 0, 0)
        if kinds is not None:
            stats = await self._send_kinds(kinds, math.inf if last else self._first_pass)
        elif dirty:
            stats = await self._send_set(dirty)
        if last:
            await self._stream.send_eof()
            return stats
        await self._stream.send_all(bytes(4))
        if not await self._stream.receive_some(1):
            raise trio.BrokenResourceError("the target closed the page stream")
        return stats

    @property
    def _first_pass(self) -> int:
        return min(FIRST_PASS, self._view.pages * PAGE // FIRST_SHARE)

    async def _send_kinds(self, kinds: int, most: float) -> RoundStats:
        """Of the set only what is likely to be needed first (RamView.first); the rest stays in it."""
        pages = zero = size = 0
        while size < most:
            batch = self._view.serve(self._buffers[0], 4, (), SMALL // PAGE, kinds=kinds)
            if not batch.data_pages and not batch.zero_pages:
                break
            self._buffers[0][:4] = batch.size.to_bytes(4, "big")
            await self._send(memoryview(self._buffers[0])[: 4 + batch.size])
            pages, zero, size = pages + batch.data_pages, zero + batch.zero_pages, size + 4 + batch.size
        return RoundStats(pages, zero, size)

    async def _send_set(self, dirty: int) -> RoundStats:
        pages = zero = size = 0
        inline = dirty * PAGE <= SMALL
        current = 0
        batch = await self._pack(current, inline)
        while True:
            pages, zero, size = pages + batch.data_pages, zero + batch.zero_pages, size + 4 + batch.size
            ready = memoryview(self._buffers[current])[: 4 + batch.size]
            if not batch.more:
                await self._send(ready)
                return RoundStats(pages, zero, size)
            current = 1 - current
            batch = await self._pack_while_sending(current, ready)

    async def _send(self, data: memoryview) -> None:
        """In slices, so that the count of bytes moves while they do, and that the limit holds over short times too."""
        step = self._bucket.slice
        for start in range(0, len(data), step):
            part = data[start : start + step]
            if self._limited and self._bucket.rate:
                await trio.sleep_until(self._bucket.take(len(part), trio.current_time()))
            await self._stream.send_all(part)
            self.sent += len(part)

    async def _pack(self, which: int, inline: bool) -> Batch:
        buffer = self._buffers[which]
        if inline:
            batch = self._view.pack(buffer, 4)
        else:
            batch = await trio.to_thread.run_sync(self._view.pack, buffer, 4, limiter=limiter)
        buffer[:4] = batch.size.to_bytes(4, "big")
        return batch

    async def _pack_while_sending(self, which: int, ready: memoryview) -> Batch:
        packed: list[Batch] = []
        problems: list[Exception] = []

        async def pack() -> None:
            try:
                packed.append(await self._pack(which, False))
            except CoreError as error:
                problems.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pack)
            try:
                await self._send(ready)
            except trio.BrokenResourceError as error:  # not out of the nursery: whoever waits knows it by its name
                problems.append(error)
        if problems:
            raise problems[0]
        return packed[0]


class PageReceiver:
    """The target's end: places batches until the stream ends."""

    def __init__(self, view: RamView, stream: PageStream) -> None:
        self._view = view
        self._stream = stream
        self._buffer = bytearray()

    async def run(self) -> None:
        """Returns when the source has sent everything. Raises CoreDataError on what no source sends,
        trio.BrokenResourceError when the stream broke off; the incoming guest must not be run then."""
        while (header := await self._take(4)) is not None:
            length = int.from_bytes(header, "big")
            if length == 0:
                await self._stream.send_all(b"\x01")
                continue
            if length > MAX_BATCH:
                raise CoreDataError(-5, "batch", f"{length} bytes, at most {MAX_BATCH} are allowed")
            batch = await self._take(length)
            if batch is None:
                raise CoreDataError(-5, "batch", "the stream ended in the middle of one")
            if length <= SMALL:
                self._view.unpack(batch)
            else:
                await trio.to_thread.run_sync(self._view.unpack, batch, limiter=limiter)

    async def _take(self, count: int) -> bytearray | None:
        """Exactly ``count`` bytes; None when the stream ended instead of them."""
        while len(self._buffer) < count:
            data = await self._stream.receive_some(max(65536, count - len(self._buffer)))
            if not data:
                if self._buffer:
                    raise CoreDataError(-5, "batch", "the stream ended in the middle of one")
                return None
            self._buffer += data
        if len(self._buffer) == count:
            taken, self._buffer = self._buffer, bytearray()
            return taken
        taken = self._buffer[:count]
        del self._buffer[:count]
        return taken
