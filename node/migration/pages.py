"""The page stream of a migration (protocol.messages.MigrationPages): rounds of batches, packed and placed in C.

A batch is prefixed with its length (u32 BE). An empty one ends a round and is answered once everything before it lies
in the target's RAM: with one byte, or with the pages that do not, because they were named and are not there any more.
The last round ends with the stream's end and is not answered: the guest stands still, and the target says that all is
there when it says that it could run.

On a channel each end is one thread, which goes from the one batch to the next without anybody's help: pack, squeeze,
seal and send there, receive, open, unsqueeze and place here. The sockets' buffers, megabytes, let wire and processor
work at the same time. On a stream of the link, and where a rate is kept, the next batch is packed in a worker thread
while one is on its way; the threads have a limiter of their own, for a migration must not keep the agent's other work
waiting. A round that is small is packed at once, without a thread: in the blackout each change of thread would count.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import NamedTuple, Protocol

import trio

from node.core import CoreDataError, CoreError
from node.migration.bucket import SLICE, TokenBucket
from node.migration.channel import Channel, sealed_size
from node.migration.frames import PageStream
from node.migration.squeeze import MAGIC, Squeezer, Unsqueezer
from node.ramview import PAGE, Batch, RamView

BATCH = 1 << 20
MAX_BATCH = 4 << 20
BUSY = 128 << 10  # bytes on their way from which on the link, and not this end, is what is waited for
SMALL = 128 * PAGE
FIRST_PASS = 16 << 20  # of a post-copy: what a guest needs in its first moments, and some seconds of a slow link ...
FIRST_SHARE = 16  # ... but of a small guest not more than this part of its memory: it is to be short
WORTH_ASKING = (4 << 20) // PAGE  # pages of a round; fewer are sent as soon as asked for
ARRIVED, MISSED = 1, 2  # what a round's end is answered with; the second: and so many bytes of page numbers
_ROUND_TIMEOUT_MS = 2000

limiter = trio.CapacityLimiter(4)
log = logging.getLogger("wherry.node.migration")


class RoundStats(NamedTuple):
    """``size``: bytes on the stream, questions with them. ``probe``: as in protocol.migration.RoundDone."""

    pages: int
    zero_pages: int
    size: int
    probe: tuple[int, float] | None = None

    def and_more(self, more: RoundStats) -> RoundStats:
        pages, zero, size = self.pages + more.pages, self.zero_pages + more.zero_pages, self.size + more.size
        return RoundStats(pages, zero, size, self.probe or more.probe)


class Questions(Protocol):
    """What the target is asked before pages go (node/migration/known.py). ``size``: bytes that it took."""

    @property
    def size(self) -> int: ...
    async def ask(self) -> None: ...


class _Packet(NamedTuple):
    """``data``: what goes, with its length in front, ``size`` bytes of it before a channel sealed them."""

    batch: Batch
    data: memoryview
    size: int


def framed(buffer: bytearray, size: int, squeezer: Squeezer | None) -> memoryview:
    """The batch of so many bytes in ``buffer`` from 4 on as it goes: squeezed where that is worth it, its length in
    front."""
    batch = memoryview(buffer)[4 : 4 + size]
    frame = squeezer.squeeze(batch) if squeezer is not None else batch
    if isinstance(frame, bytes):
        return memoryview(len(frame).to_bytes(4, "big") + frame)
    buffer[:4] = size.to_bytes(4, "big")
    return memoryview(buffer)[: 4 + size]


class PageSender:
    """The source's end. ``bucket`` limits the rounds of a running guest: one that is paused is not kept waiting, unless
    it was paused for all of its pages (``send_round`` says). ``squeezer`` None: the target does not know frames.
    ``questions``: to be asked in the first round, if that is not a small one."""

    def __init__(
        self,
        view: RamView,
        stream: PageStream,
        bucket: TokenBucket,
        squeezer: Squeezer | None,
        questions: Questions | None = None,
    ) -> None:
        self._view = view
        self._questions = questions
        self._squeezer = squeezer
        self._stream = stream
        self._channel = stream if isinstance(stream, Channel) else None
        self._bucket = bucket
        self._buffers = (bytearray(4 + BATCH), bytearray(4 + BATCH))
        self._records = tuple(bytearray(sealed_size(4 + BATCH) if self._channel else 0) for _ in self._buffers)
        self._limited = True
        self._ending = False
        self._until = math.inf
        self.sent = 0  # bytes of all rounds, counted while they go out

    async def send_round(
        self, *, last: bool = False, limited: bool = True, kinds: int | None = None, seconds: float = math.inf
    ) -> RoundStats:
        """One round: fetch and clear the dirty bits, send those pages, wait until the target has them (``last``: until
        they are on their way, and end the stream). ``kinds``: only so many of RamView.first's, a short pass of them
        but for the last round; the rest stays in the set. After ``seconds`` it ends as by :meth:`end_round`. Raises
        CoreError (this host), trio.BrokenResourceError (the target)."""
        self._limited, self._ending = limited, False
        self._until = time.perf_counter() + seconds
        if last:
            dirty = self._view.round(_ROUND_TIMEOUT_MS)  # the harts are parked: it does not wait
        else:
            dirty = await trio.to_thread.run_sync(self._view.round, _ROUND_TIMEOUT_MS, limiter=limiter)
        stats = RoundStats(0, 0, 0)
        if kinds is not None:
            if last and self._squeezer is not None:
                self._squeezer = Squeezer()  # these are others than those before, in which nothing may have been found
            stats = await self._send_kinds(kinds, math.inf if last else self._first_pass)
        elif dirty:
            questions, self._questions = self._questions, None
            if questions is not None and not last and dirty >= WORTH_ASKING:
                stats = await self._send_asking(questions)
            else:
                stats = await self._send_set(dirty)
        if last:
            await self._stream.send_eof()
        else:
            await self._arrived()
        return stats

    async def _send_asking(self, questions: Questions) -> RoundStats:
        """A first batch, to see what the link takes; then questions; then the rest, of which pages may be named."""
        began = trio.current_time()
        packet = await self._pack(0)
        await self._send(packet.data)
        await self._arrived()
        probe = packet.size, trio.current_time() - began
        if self._squeezer is not None:
            self._squeezer.sent(*probe)
        stats = RoundStats(packet.batch.data_pages, packet.batch.zero_pages, packet.size)
        if packet.batch.more and not self._over:
            await questions.ask()
            self.sent += questions.size
            stats = stats.and_more(await self._send_set(WORTH_ASKING))
        return stats._replace(size=stats.size + questions.size, probe=probe)

    async def _arrived(self) -> None:
        """The round ends: wait until the target has its pages. Those that were named in vain are dirty again. Raises
        CoreDataError."""
        await self._stream.send_all(bytes(4))
        answer = await self._receive(bytearray(), 1)
        if answer[0] == MISSED:
            answer = await self._receive(answer, 5)
            size = int.from_bytes(answer[1:5], "big")
            if size > 4 * self._view.pages:
                raise CoreDataError(-5, "answer", f"{size} bytes of pages are missing")
            self._view.resend(bytes((await self._receive(answer, 5 + size))[5:]))
            log.info("%d pages were named in vain", size // 4)

    async def _receive(self, have: bytearray, count: int) -> bytearray:
        while len(have) < count:
            data = await self._stream.receive_some(count - len(have))
            if not data:
                raise trio.BrokenResourceError("the target closed the page stream")
            have += data
        return have

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
            data = framed(self._buffers[0], batch.size, self._squeezer)
            await self._send(self._sealed(0, data))
            pages, zero, size = pages + batch.data_pages, zero + batch.zero_pages, size + len(data)
        return RoundStats(pages, zero, size)

    @property
    def _over(self) -> bool:
        """The round under way is to end behind the batch that is being sent."""
        return self._ending or time.perf_counter() >= self._until

    def end_round(self) -> None:
        """The round under way ends behind the next batch; what is left of its set joins the next one's."""
        self._ending = True

    async def _send_set(self, dirty: int) -> RoundStats:
        small = dirty * PAGE <= SMALL
        if self._channel is not None and not small and not (self._limited and self._bucket.rate):
            return await self._channel.in_thread(self._send_set_blocking)
        pages = zero = size = 0
        packet = await self._pack(0, small=small)
        for turn in count(1):
            batch = packet.batch
            pages, zero, size = pages + batch.data_pages, zero + batch.zero_pages, size + packet.size
            if not batch.more or self._over:
                await self._send(packet.data)
                break
            packet = await self._pack_while_sending(turn % 2, packet.data)
        return RoundStats(pages, zero, size)

    def _send_set_blocking(self) -> RoundStats:
        pages = zero = size = 0
        assert self._channel is not None
        link = LinkWatch(self._channel)
        while True:
            packet = self._make(0, self._squeezer)
            link.ready()
            for start in range(0, len(packet.data), SLICE):  # in slices, so that the count of bytes moves while they do
                part = packet.data[start : start + SLICE]
                link.channel.send_blocking(part)
                self.sent += len(part)
            if self._squeezer is not None:
                self._squeezer.sent(*link.took(len(packet.data)))
            batch = packet.batch
            pages, zero, size = pages + batch.data_pages, zero + batch.zero_pages, size + packet.size
            if not batch.more or self._over:
                return RoundStats(pages, zero, size)

    def _sealed(self, which: int, data: memoryview) -> memoryview:
        """As it goes over the wire, until the buffer ``which`` is used again. For any thread; in order."""
        return self._channel.seal(data, self._records[which]) if self._channel is not None else data

    async def _send(self, data: memoryview) -> None:
        """What is sealed, in slices, so that the count of bytes moves while they do, and that the limit holds over
        short times too."""
        step = self._bucket.slice
        send = self._channel.send_sealed if self._channel is not None else self._stream.send_all
        for start in range(0, len(data), step):
            part = data[start : start + step]
            if self._limited and self._bucket.rate:
                await trio.sleep_until(self._bucket.take(len(part), trio.current_time()))
            await send(part)
            self.sent += len(part)

    async def _pack(self, which: int, *, small: bool = False) -> _Packet:
        if small:
            return self._make(which, None)
        return await trio.to_thread.run_sync(self._make, which, self._squeezer, limiter=limiter)

    def _make(self, which: int, squeezer: Squeezer | None) -> _Packet:
        buffer = self._buffers[which]
        batch = self._view.pack(buffer, 4)
        data = framed(buffer, batch.size, squeezer)
        return _Packet(batch, self._sealed(which, data), len(data))

    async def _pack_while_sending(self, which: int, ready: memoryview) -> _Packet:
        packed: list[_Packet] = []
        problems: list[Exception] = []

        async def pack() -> None:
            try:
                packed.append(await self._pack(which))
            except CoreError as error:
                problems.append(error)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pack)
            try:
                await self._send(ready)
            except trio.BrokenResourceError as error:  # not out of the nursery: whoever waits knows it by its name
                problems.append(error)
            sending = trio.current_time() - began
        if problems:
            raise problems.pop()  # popped: no cycle through this frame keeps the buffers of those below
        if self._squeezer is not None:
            self._squeezer.sent(len(ready), sending)
        return packed[0]


class LinkWatch:
    """How fast the link takes what a thread sends, by what the other end acknowledges: sending itself says nothing as
    long as there is room in the sockets' buffers. What it took while it had nothing left to take says nothing either:
    then it waited for this end, as it does when a batch is squeezed too long."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._queued = self._left = channel.queued
        self._at = time.perf_counter()

    def ready(self) -> None:
        """The next batch is: what is left of those before it."""
        self._left = self.channel.queued

    def took(self, size: int) -> tuple[int, float]:
        """``size`` bytes were sent just now: bytes and seconds for Squeezer.sent."""
        queued, now = self.channel.queued, time.perf_counter()
        taken, seconds = self._queued + size - queued, now - self._at
        busy = self._left > BUSY
        self._queued, self._at = queued, now
        return (taken, seconds) if busy else (size, 0.0)


class PageReceiver:
    """The target's end: places batches until the stream ends, each while the next one comes."""

    def __init__(self, view: RamView, stream: PageStream) -> None:
        self._view = view
        self._stream = stream
        self._cutter = Cutter()
        self._unsqueezer = Unsqueezer(MAX_BATCH)

    async def run(self) -> None:
        """Returns when the source has sent everything. Raises CoreDataError on what no source sends,
        trio.BrokenResourceError when the stream broke off; the incoming guest must not be run then."""
        if isinstance(self._stream, Channel):
            channel = self._stream
            await channel.in_thread(lambda: self._run_blocking(channel))
        else:
            await self._run(self._stream)

    def _run_blocking(self, channel: Channel) -> None:
        while data := channel.receive_blocking():
            self._cutter.push(data)
            while (batch := self._cutter.cut()) is not None:
                if batch:
                    self._place(batch)
                else:
                    answer = self._answer()
                    channel.send_blocking(channel.seal(answer, bytearray(sealed_size(len(answer)))))
        self._end()

    async def _run(self, stream: PageStream) -> None:
        send, receive = trio.open_memory_channel[bytes](1)
        problems: list[Exception] = []

        async def until_wrong(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            except (CoreError, trio.BrokenResourceError) as error:
                problems.append(error)
                nursery.cancel_scope.cancel()

        async def place() -> None:
            async for batch in receive:
                if not batch:
                    await stream.send_all(self._answer())
                elif len(batch) <= SMALL and batch[:4] != MAGIC:
                    self._place(batch)
                else:
                    await trio.to_thread.run_sync(self._place, batch, limiter=limiter)

        async def take() -> None:
            async with send:
                while data := await stream.receive_some(65536):
                    self._cutter.push(data)
                    while (batch := self._cutter.cut()) is not None:
                        await send.send(batch)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_wrong, place)
            nursery.start_soon(until_wrong, take)
        if problems:
            raise problems.pop()  # popped: no cycle through this frame keeps the buffers of those below
        self._end()

    def _answer(self) -> bytes:
        missed = self._view.missed()
        return bytes([MISSED]) + len(missed).to_bytes(4, "big") + missed if missed else bytes([ARRIVED])

    def _end(self) -> None:
        self._cutter.end()
        if self._view.missed():
            raise CoreDataError(-5, "pages", "some were named in the last round, and are not here")

    def _place(self, batch: bytes) -> None:
        self._view.unpack(self._unsqueezer.unsqueeze(batch))


class Cutter:
    """Batches out of a stream, however it was cut. Each is joined once: at hundreds of megabytes a copy counts."""

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._start = 0  # of the first piece, so many bytes have been taken
        self._have = 0  # bytes that have not
        self._length: int | None = None  # of the batch that comes

    def push(self, data: bytes | bytearray) -> None:
        self._pieces.append(data)
        self._have += len(data)

    def cut(self) -> bytes | None:
        """The next batch, empty at the end of a round; None: it has not come whole. Raises CoreDataError."""
        if self._length is None:
            if self._have < 4:
                return None
            length = int.from_bytes(self._take(4), "big")
            if length > MAX_BATCH:
                raise CoreDataError(-5, "batch", f"{length} bytes, at most {MAX_BATCH} are allowed")
            self._length = length
        if self._have < self._length:
            return None
        length, self._length = self._length, None
        return self._take(length)

    def end(self) -> None:
        """The stream has ended. Raises CoreDataError when that is in the middle of a batch."""
        if self._have or self._length is not None:
            raise CoreDataError(-5, "batch", "the stream ended in the middle of one")

    def _take(self, count: int) -> bytes:
        self._have -= count
        taken = []
        while count:
            piece = memoryview(self._pieces[0])[self._start : self._start + count]
            taken.append(piece)
            count -= len(piece)
            self._start += len(piece)
            if self._start == len(self._pieces[0]):
                self._pieces.popleft()
                self._start = 0
        return b"".join(taken)
