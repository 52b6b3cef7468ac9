"""The source's end of a pull (protocol.messages.MigrationPull): a paused guest's memory, given out page by page.

What the target's guest waits for goes at once and alone, so that nothing else is placed before the guest goes on; the
pages behind it follow, the more of them the longer the guest has been going through memory in order. In between the
rest is pushed, in pieces, of which only so much may be under way as keeps the link busy: the wire's own content (rate
times round trip, both as they were measured) and 64 KiB more. A page that is waited for thus has at most 64 KiB of
others in front of it that the link has not begun to carry. The target says which bytes it has; nothing else bounds the
buffers between.

The memory does not change, so that a broken connection costs nothing but what was on its way: the next one begins with
what the target lacks then. One connection at a time: a new one ends the old one, which nobody reads any more.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

import msgpack
import trio

from node.core import CoreDataError
from node.migration.bucket import TokenBucket
from node.migration.first import first_to_end
from node.migration.frames import FrameReader, PageStream
from node.migration.pages import framed
from node.migration.squeeze import Squeezer
from node.ramview import EVERYTHING, LATER, RamView

AHEAD = 64 << 10
CALM_S = 0.03  # for so long behind a page that was waited for the rest goes in single pieces
AROUND = 8  # data pages that go behind one that is waited for, at first ...
MOST_AROUND = 64  # ... and of a guest that goes on there
RUNS = 8  # places at which a guest may be going through memory
ASKED = 8  # pages that are waited for in one batch
PIECE = 8  # data pages pushed at a time ...
SMALLER = 4  # ... and while the guest waits again and again: both ends are busy with a piece, too
ENTRY = 4096 + 22  # bytes of a data page in a batch
MOST_WINDOW = 4 << 20
MOST_FRAME = (2 << 20) + 64  # the bitmap of the largest guest
TELL_S = 0.25
_RATE_OVER = 0.02  # seconds that a look at the rate takes at least


class Window:
    """How many bytes may be under way. Pure: times and acknowledgements come in."""

    def __init__(self) -> None:
        self.flying = 0
        self._sent: deque[tuple[int, float]] = deque()  # end of a frame in bytes of the connection, when it left
        self._total = self._got = self._since_bytes = 0
        self._since = math.nan
        self._round_trip = math.inf
        self._rate = 0.0

    @property
    def size(self) -> float:
        carried = self._rate * self._round_trip if self._rate else 0.0
        return min(AHEAD + carried, MOST_WINDOW)

    @property
    def open(self) -> bool:
        return self.flying < self.size

    def sent(self, size: int, now: float) -> None:
        if not self.flying:
            self._since, self._since_bytes = now, self._got  # a pause before says nothing about the rate
        self._total += size
        self.flying += size
        self._sent.append((self._total, now))

    def got(self, size: int, now: float) -> None:
        """Raises CoreDataError when more was got than sent."""
        if size > self.flying:
            raise CoreDataError(-5, "got", f"{size} bytes, {self.flying} are under way")
        self.flying -= size
        self._got += size
        while self._sent and self._sent[0][0] <= self._got:
            self._round_trip = min(self._round_trip, now - self._sent.popleft()[1])
        if now - self._since >= _RATE_OVER:
            self._rate = max((self._got - self._since_bytes) / (now - self._since), self._rate * 0.5)
            self._since, self._since_bytes = now, self._got


class Ahead:
    """How many pages to send behind one that was waited for. Pure.

    A guest that waits for the page right behind what was sent ahead is going through memory: twice as many go then.
    """

    def __init__(self) -> None:
        self._runs: OrderedDict[int, int] = OrderedDict()  # page behind what was sent: how many these were

    def of(self, page: int) -> int:
        count = min(2 * self._runs.pop(page, AROUND // 2), MOST_AROUND)
        self._runs[page + 1 + count] = count
        if len(self._runs) > RUNS:
            self._runs.popitem(last=False)
        return count


class PageServer:
    """``push()``: may pages go that nobody asked for? ``tell(pages, zero_pages, bytes, left)`` comes now and then,
    ``pulled(waits, median_us, longest_us)`` once the target says that it has all; it is answered when this returns.
    ``bucket`` limits what nobody waits for."""

    def __init__(
        self,
        view: RamView,
        *,
        push: Callable[[], bool],
        tell: Callable[[int, int, int, int], None],
        pulled: Callable[[int, int, int], Awaitable[None]],
        bucket: TokenBucket | None = None,
    ) -> None:
        self._view = view
        self._push = push
        self._tell = tell
        self._pulled = pulled
        self._bucket = bucket or TokenBucket(0)
        self._connection: trio.CancelScope | None = None
        self._idle = trio.Event()
        self._idle.set()
        self._closed = False
        self._made = self._served = 0  # connections, in the order in which they came; the one that is served
        self._asked_at = self._bulk_at = -math.inf
        self._buffer = bytearray(4 + 5 + MOST_AROUND * ENTRY)
        self._work = trio.Event()

    def poke(self) -> None:
        """What ``push`` says may have changed."""
        self._work.set()

    async def close(self) -> None:
        """End the connection; nobody is in the view when this returns."""
        self._closed = True
        if self._connection is not None:
            self._connection.cancel()
        await self._idle.wait()

    async def serve(self, stream: PageStream, *, squeezed: bool = False) -> None:
        """One connection, to its end; an older one ends when this one's first message is there. ``squeezed``: the
        target understands frames. Raises CoreDataError for what no target sends, trio.BrokenResourceError."""
        self._made += 1
        number = self._made
        reader = FrameReader(stream, MOST_FRAME)
        kind, lacks = await _message(reader)
        if kind != "absent" or not isinstance(lacks, bytes):
            raise CoreDataError(-5, "pull", "it begins with what is absent")
        while self._connection is not None and self._served < number:
            self._connection.cancel()
            await self._idle.wait()
        if self._closed or self._served > number:
            raise trio.BrokenResourceError("the target has a newer connection, or needs none")
        self._served = number
        self._connection, self._idle = trio.CancelScope(), trio.Event()
        try:
            with self._connection:
                await self._serve(stream, reader, lacks, Squeezer() if squeezed else None)
        finally:
            self._connection = None
            self._idle.set()

    async def _serve(self, stream: PageStream, reader: FrameReader, lacks: bytes, squeezer: Squeezer | None) -> None:
        self._view.owe(lacks)
        self._left = int.from_bytes(lacks, "little").bit_count()
        self._window, self._ahead, self._squeezer = Window(), Ahead(), squeezer
        self._wanted: list[int] = []
        self._follow: list[tuple[int, int]] = []
        self._pages = self._zero = self._bytes = 0
        self._told = trio.current_time()
        try:
            await first_to_end(lambda: self._send(stream), lambda: self._receive(reader))
        finally:
            self._report()
        await stream.send_eof()

    async def _receive(self, reader: FrameReader) -> None:
        while True:
            kind, value = await _message(reader)
            if kind == "done":
                self._report()  # before: the result is to have these figures
                await self._pulled(*_figures(value))
                return
            if kind == "got" and isinstance(value, int) and value >= 0:
                self._window.got(value, trio.current_time())
            elif kind == "wanted" and isinstance(value, bytes) and len(value) % 8 == 0:
                self._wanted += memoryview(value).cast("Q").tolist()
            elif kind == "":
                raise trio.BrokenResourceError("the target closed the pull")
            else:
                raise CoreDataError(-5, "pull", f"{kind!r} makes no sense here")
            self._work.set()

    async def _send(self, stream: PageStream) -> None:
        more = likely = True  # there are pages; those that are needed soon go even before the commit
        while True:
            now = trio.current_time()
            if self._wanted:
                self._asked_at = now
                asked, self._wanted = self._wanted[:ASKED], self._wanted[ASKED:]
                self._follow = [(page + 1, self._ahead.of(page)) for page in asked]
                more = await self._send_batch(stream, asked, 1)
            elif self._follow:
                page, count = self._follow.pop()
                more = await self._send_batch(stream, (page,), count)
            elif now >= self._bulk_at and likely and self._window.open:
                likely = await self._send_batch(stream, (), PIECE, LATER)
            elif now >= self._bulk_at and more and self._push() and self._room():
                more = await self._send_batch(stream, (), SMALLER if self._calm(now) else PIECE)
            else:
                self._work = trio.Event()
                with trio.move_on_at(self._bulk_at if self._bulk_at > now else math.inf):
                    await self._work.wait()

    def _room(self) -> bool:
        """A guest that has just waited will wait again: its next page shall find a short way."""
        return not self._window.flying if self._calm(trio.current_time()) else self._window.open

    def _calm(self, now: float) -> bool:
        return now - self._asked_at < CALM_S

    async def _send_batch(
        self, stream: PageStream, wanted: tuple[int, ...] | list[int], most: int, kinds: int = EVERYTHING
    ) -> bool:
        """False: nothing is left."""
        batch = self._view.serve(self._buffer, 4, wanted, most, kinds=kinds)
        if not batch.data_pages and not batch.zero_pages:
            return batch.more and kinds == EVERYTHING  # else: they are on their way already
        data = framed(self._buffer, batch.size, self._squeezer)  # too short for it to be worth a thread
        now = trio.current_time()
        self._window.sent(len(data), now)
        self._bulk_at = self._bucket.take(len(data), now)
        await stream.send_all(data)
        self._pages += batch.data_pages
        self._zero += batch.zero_pages
        self._bytes += len(data)
        self._left -= batch.data_pages + batch.zero_pages
        if now - self._told >= TELL_S:
            self._report()
        return batch.more

    def _report(self) -> None:
        self._tell(self._pages, self._zero, self._bytes, self._left)
        self._pages = self._zero = self._bytes = 0
        self._told = trio.current_time()


def _figures(value: object) -> tuple[int, int, int]:
    """What a target says with its last word, believed as far as it is three numbers."""
    numbers = value if isinstance(value, list) and len(value) == 3 else [0, 0, 0]
    waits, median, longest = (min(max(n, 0), 1 << 53) if type(n) is int else 0 for n in numbers)
    return waits, median, longest


async def _message(reader: FrameReader) -> tuple[str, object]:
    """Kind and value; ("", None) at the end."""
    frame = await reader.next()
    if frame is None:
        return "", None
    try:
        value = msgpack.unpackb(frame, max_array_len=4)
    except (ValueError, msgpack.UnpackException) as error:
        raise CoreDataError(-5, "pull", f"a damaged message: {error}") from None
    if not isinstance(value, list) or not value or not isinstance(value[0], str) or len(value) > 2:
        raise CoreDataError(-5, "pull", "a message is [kind] or [kind, value]")
    return value[0], value[1] if len(value) == 2 else None
