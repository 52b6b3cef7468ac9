"""Pulls with real RAM, both ends: everything arrives once, what is waited for first, whatever breaks in between."""

from __future__ import annotations

import contextlib
import mmap
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import pytest
import trio
import trio.testing

from node.core import CoreDataError
from node.machine import Machine
from node.migration.bucket import BURST_S, TokenBucket
from node.migration.frames import FrameReader, framed
from node.migration.pull import RELEASE_S, Puller
from node.migration.serve import AHEAD, AROUND, ENTRY, MOST_WINDOW, PIECE, Ahead, PageServer, Window
from node.ramview import PAGE, RamView
from protocol.errors import RemoteError

RAM = 16 << 20
PAGES = RAM // PAGE
Stream = trio.StapledStream[Any, Any]


class End:
    """One end's RAM."""

    def __init__(self) -> None:
        self.machine = Machine(RAM, 1)
        self.view = RamView(self.machine.ram_fd, self.machine.share_fd)
        self.bytes = mmap.mmap(self.machine.ram_fd, RAM)

    def close(self) -> None:
        self.view.close()
        self.bytes.close()
        self.machine.close()


class Pair:
    """A paused source with random pages, a target that lacks the pages of ``lacks``. ``fault(n)`` may replace the
    n-th connection's stream at the target."""

    def __init__(self, lacks: set[int]) -> None:
        dice = random.Random(7)
        self.source, self.target = End(), End()
        for page in range(0, PAGES, 3):
            self.source.bytes[page * PAGE : (page + 1) * PAGE] = dice.randbytes(PAGE)
        for page in set(range(PAGES)) - lacks:
            start = page * PAGE
            if page % 3 == 0:
                self.target.bytes[start : start + PAGE] = self.source.bytes[start : start + PAGE]
        self.bitmap = sum(1 << page for page in lacks).to_bytes(PAGES // 8, "little")
        self.target.machine.expect_pages(self.bitmap)
        self.pushing = True
        self.served: list[tuple[int, int, int, int]] = []
        self.pulled = trio.Event()
        self.troubles: list[str] = []
        self.server = PageServer(
            self.source.view,
            push=lambda: self.pushing,
            tell=lambda *figures: self.served.append(figures),
            pulled=self._all_pulled,
        )
        self.fault: Callable[[int, Stream, Stream], Awaitable[None]] | None = None
        self.refusals: list[RemoteError] = []
        self._connections = 0

    def close(self) -> None:
        self.source.close()
        self.target.close()

    def _trouble(self, text: str, lost: bool) -> None:
        assert lost == ("lost" in text)
        self.troubles.append(text)

    async def _all_pulled(self, *figures: int) -> None:
        self.figures = figures
        self.pulled.set()

    async def pull(self) -> None:
        async with trio.open_nursery() as nursery:

            async def serve(stream: Stream) -> None:
                async with stream:
                    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await self.server.serve(stream)

            async def connect() -> Any:
                if self.refusals:
                    raise self.refusals.pop(0)
                ours, theirs = trio.testing.memory_stream_pair()
                nursery.start_soon(serve, theirs)
                if self.fault is not None:
                    nursery.start_soon(self.fault, self._connections, ours, theirs)
                self._connections += 1
                return ours

            async def figures() -> list[int]:
                return [3, 250, 900]

            puller = Puller(
                self.target.view, self.target.machine.wanted_fd, connect, trouble=self._trouble, figures=figures
            )
            await puller.run()
            nursery.cancel_scope.cancel()
        assert self.target.view.absent == 0
        assert self.target.bytes[:] == self.source.bytes[:]


@pytest.fixture
def pair() -> Any:
    made = Pair({page for page in range(PAGES) if page % 2})
    yield made
    made.close()


async def test_everything_arrives_and_the_source_knows(pair: Pair) -> None:
    await pair.pull()
    assert pair.pulled.is_set()
    assert pair.figures == (3, 250, 900)
    pages, zero, size, left = (sum(column) for column in zip(*pair.served, strict=True))
    assert pages + zero == PAGES // 2
    assert size > pages * PAGE
    assert pair.served[-1][3] == 0
    assert left >= 0


async def test_nothing_goes_by_itself_before_it_may_but_what_is_likely(pair: Pair) -> None:
    pair.pushing = False
    likely = (1 << 9 | 1 << 15).to_bytes(PAGES // 8, "little")
    pair.source.view.owe(pair.bitmap)
    pair.source.view.first([bytes(PAGES // 8), likely])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.pull)
        with trio.fail_after(10):
            while pair.target.view.absent > PAGES // 2 - 2:
                await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert pair.target.view.absent == PAGES // 2 - 2
        assert not pair.pulled.is_set()
        pair.pushing = True
        pair.server.poke()
    assert pair.pulled.is_set()


async def test_a_broken_connection_is_made_anew(pair: Pair, autojump_clock: trio.testing.MockClock) -> None:
    async def cut(number: int, ours: Stream, theirs: Stream) -> None:
        if number < 3:
            with trio.fail_after(60):
                while pair.target.view.absent > PAGES // 2 * (3 - number) // 4:
                    await trio.lowlevel.checkpoint()
            await theirs.aclose()

    pair.fault = cut
    await pair.pull()
    assert any("missing" in text for text in pair.troubles)
    assert pair.troubles[-1] == ""  # and it was told that pages come again


async def test_a_source_without_the_pages_is_told_and_asked_again(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    pair.refusals = [RemoteError("not_found", "what migration?"), RemoteError("conflict", "not yet")]
    await pair.pull()
    assert f"{PAGES // 2} pages are lost" in pair.troubles[0]


async def test_a_source_that_has_forgotten_is_fine_when_nothing_is_missing() -> None:
    pair = Pair({5})
    try:
        await pair.pull()
        pair.refusals = [RemoteError("not_found", "it was long ago")]
        await pair.pull()
        assert pair.refusals == []
    finally:
        pair.close()


HELLO = framed(msgpack.packb(["absent", bytes(PAGES // 8)]))


@pytest.mark.parametrize(
    "said",
    [
        framed(b"\xc1"),
        framed(msgpack.packb(7)),
        framed(msgpack.packb(["wanted", b""])),  # not as the first
        framed(msgpack.packb(["absent", b"short"])),
        framed(msgpack.packb(["absent", 5])),
        HELLO + framed(msgpack.packb(["got", 1])),  # nothing was sent
        HELLO + framed(msgpack.packb(["got", -1])),
        HELLO + framed(msgpack.packb(["wanted", b"1234567"])),
        HELLO + framed(msgpack.packb(["what", 1])),
        (1 << 30).to_bytes(4, "big"),
    ],
)
async def test_the_server_refuses_what_no_target_says(pair: Pair, said: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(said)
    await ours.send_eof()
    with pytest.raises(CoreDataError):
        await pair.server.serve(theirs)
    assert not pair.pulled.is_set()


async def test_pages_outside_of_memory_are_nobodys(pair: Pair) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    far = (1 << 63).to_bytes(8, "little") + PAGES.to_bytes(8, "little")
    await ours.send_all(HELLO + framed(msgpack.packb(["wanted", far])) + framed(msgpack.packb(["done"])))
    await pair.server.serve(theirs)
    assert pair.pulled.is_set()


@pytest.mark.parametrize("chunk", [1, 3, 4096])
async def test_frames_in_any_chunking(chunk: int) -> None:
    bodies = [b"", b"a", bytes(300), b"end"]
    data = b"".join(framed(body) for body in bodies)
    ours, theirs = trio.testing.memory_stream_pair()
    reader, found = FrameReader(theirs, 300), []
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            for start in range(0, len(data), chunk):
                await ours.send_all(data[start : start + chunk])
                await trio.testing.wait_all_tasks_blocked()
            await ours.send_eof()

        nursery.start_soon(send)
        while (frame := await reader.next()) is not None:
            found.append(bytes(frame))
    assert found == bodies


def test_the_window_follows_the_link() -> None:
    """At most 64 KiB more than the link carries in a round trip, which it learns."""
    window, now = Window(), 0.0
    assert window.size == AHEAD
    queue: list[tuple[float, int]] = []
    free_at = 0.0
    rate, delay = 12.5e6, 0.02  # 100 Mbit/s, 20 ms there and back
    for _ in range(2000):
        while window.open:
            window.sent(32768, now)
            free_at = max(free_at, now) + 32768 / rate
            queue.append((free_at + delay, 32768))
        now, size = queue.pop(0)
        window.got(size, now)
    carried = rate * (delay + 32768 / rate)
    assert AHEAD + 0.5 * carried < window.size <= AHEAD + 1.2 * carried
    assert now < 1.3 * 2000 * 32768 / rate  # the link is nearly always busy
    assert window.size <= MOST_WINDOW
    with pytest.raises(CoreDataError):
        window.got(window.flying + 1, now)


async def test_a_guest_that_has_ended_releases_its_source(pair: Pair) -> None:
    """What is missing is not brought any more, and the source hears that it may let go."""
    pair.pushing = False
    ours, theirs = trio.testing.memory_stream_pair()

    async def connect() -> Any:
        nonlocal ours, theirs
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(serve, theirs)
        return ours

    async def serve(stream: Stream) -> None:
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await pair.server.serve(stream)

    puller = Puller(pair.target.view, pair.target.machine.wanted_fd, connect)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(puller.run)
        await trio.testing.wait_all_tasks_blocked()
        puller.release()
    assert pair.pulled.is_set()
    assert pair.target.view.absent == PAGES // 2
    assert puller.connections == 2


async def test_a_source_that_cannot_be_told_is_left_to_the_coordinator(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    async def connect() -> Any:
        raise RemoteError("unavailable", "nobody there")

    puller = Puller(pair.target.view, pair.target.machine.wanted_fd, connect)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(puller.run)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        puller.release()
    assert RELEASE_S <= trio.current_time() - began < RELEASE_S + 5
    assert not pair.pulled.is_set()


async def test_a_pull_goes_over_to_a_better_stream(pair: Pair) -> None:
    """What the old one still carries is nobody's, also where its first words come late."""
    pair.pushing = False
    ended: list[str] = []

    async def serve(name: str, stream: Stream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await pair.server.serve(stream, squeezed=True)
        await stream.aclose()
        ended.append(name)

    async def connect() -> Any:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(serve, "link", theirs)
        return ours

    async with trio.open_nursery() as nursery:
        puller = Puller(pair.target.view, pair.target.machine.wanted_fd, connect)
        nursery.start_soon(puller.run)
        await trio.testing.wait_all_tasks_blocked()
        late, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(serve, "late", theirs)
        await trio.testing.wait_all_tasks_blocked()
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(serve, "channel", theirs)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(puller.go_over, ours)
        await trio.testing.wait_all_tasks_blocked()
        assert ended == ["link"]
        await late.send_all(HELLO)
        await trio.testing.wait_all_tasks_blocked()
        assert ended == ["link", "late"]
        pair.pushing = True
        pair.server.poke()
    assert ended == ["link", "late", "channel"]
    assert puller.connections == 2
    assert pair.target.bytes[:] == pair.source.bytes[:]


def test_more_goes_ahead_of_a_guest_that_goes_on() -> None:
    ahead = Ahead()
    page, counts = 100, []
    for _ in range(6):
        counts.append(ahead.of(page))
        page += 1 + counts[-1]
        assert ahead.of(5000 + page * 3) == AROUND  # somewhere else meanwhile
    assert counts == [8, 16, 32, 64, 64, 64]


async def test_what_nobody_waits_for_keeps_to_the_bandwidth(pair: Pair, autojump_clock: trio.testing.MockClock) -> None:
    rate = 1 << 20
    pair.server = PageServer(
        pair.source.view,
        push=lambda: True,
        tell=lambda *figures: pair.served.append(figures),
        pulled=pair._all_pulled,
        bucket=TokenBucket(rate),
    )
    began = trio.current_time()
    await pair.pull()
    size = sum(figures[2] for figures in pair.served)
    assert trio.current_time() - began >= (size - 2 * PIECE * ENTRY) / rate - BURST_S
