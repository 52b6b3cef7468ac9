"""Page streams with real RAM: rounds arrive whole in any chunking, hostile batches are refused, rates are kept."""

from __future__ import annotations

import mmap
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from node.core import CoreDataError, CoreError
from node.machine import Machine
from node.migration.bucket import TokenBucket
from node.migration.channel import Channel, new_keys
from node.migration.pages import MAX_BATCH, PageReceiver, PageSender
from node.migration.squeeze import FASTEST, Squeezer
from node.ramview import PAGE, RamView

RAM = 16 << 20


class Memory:
    """A machine's RAM, its view and bytes to write into it."""

    def __init__(self) -> None:
        self.machine = Machine(RAM, 1)
        self.view = RamView(self.machine.ram_fd, self.machine.share_fd)
        self.bytes = mmap.mmap(self.machine.ram_fd, RAM)

    def fill(self, seed: int, pages: int) -> None:
        dice = random.Random(seed)
        for number in dice.sample(range(RAM // PAGE), pages):
            self.bytes[number * PAGE : (number + 1) * PAGE] = dice.randbytes(PAGE)

    def close(self) -> None:
        self.view.close()
        self.bytes.close()
        self.machine.close()


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Memory, Memory]]:
    source, target = Memory(), Memory()
    try:
        yield source, target
    finally:
        source.close()
        target.close()
        await trio.lowlevel.checkpoint()


class Slow(trio.abc.Stream):
    """Gives at most ``chunk`` bytes at a time."""

    def __init__(self, inner: trio.abc.Stream, chunk: int) -> None:
        self.inner, self.chunk = inner, chunk

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.inner.receive_some(min(self.chunk, max_bytes or self.chunk)))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.inner.aclose()


@pytest.mark.parametrize("squeezed", [False, True])
@pytest.mark.parametrize(("pages", "chunk"), [(3, 1), (900, 65536), (900, 4093), (0, 7)])
async def test_all_pages_arrive(pages: int, chunk: int, squeezed: bool) -> None:
    async with pair() as (source, target):
        source.fill(1, pages)
        ours, theirs = trio.testing.memory_stream_pair()
        source.view.track(True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(PageReceiver(target.view, Slow(theirs, chunk)).run)
            source.view.remember(100 if squeezed else 0)
            sender = PageSender(source.view, ours, TokenBucket(0), Squeezer() if squeezed else None)
            stats = await sender.send_round()
            again = await sender.send_round(last=True)
            await ours.aclose()
        assert source.view.checksum() == target.view.checksum()
        assert stats.pages == pages
        assert (again.pages, again.size) == (0, 0)
        assert target.bytes[:] == source.bytes[:]


async def channels() -> tuple[Channel, Channel, trio.SocketStream]:
    """A source's and a target's end, and the wire of the target's."""
    there, back = new_keys()
    left, right = (trio.SocketStream(end) for end in await tcp_pair())
    return Channel(left, seal=there, open=back), Channel(right, seal=back, open=there), right


async def tcp_pair() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        left = trio.socket.socket()
        await left.connect(listener.getsockname())
        right, _ = await listener.accept()
    return left, right


@pytest.mark.parametrize("rate", [0, 64 << 20])
@pytest.mark.parametrize("pages", [0, 3, 900, 4000])
async def test_all_pages_arrive_by_a_channel(pages: int, rate: int) -> None:
    async with pair() as (source, target):
        source.fill(1, pages)
        ours, theirs, _ = await channels()
        source.view.track(True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(PageReceiver(target.view, theirs).run)
            source.view.remember(RAM // PAGE)
            source.view.fills(True)
            sender = PageSender(source.view, ours, TokenBucket(rate), Squeezer(FASTEST))
            stats = await sender.send_round()
            again = await sender.send_round(last=True)
        ours.abort("cancelled", "")
        theirs.abort("cancelled", "")
        assert stats.pages == pages
        assert (again.pages, again.size) == (0, 0)
        assert target.bytes[:] == source.bytes[:]


async def test_pages_that_stand_in_a_file_of_both_are_named(tmp_path: Path) -> None:
    file = tmp_path / "kernel"
    file.write_bytes(random.Random(9).randbytes(300 * PAGE))
    async with pair() as (source, target):
        source.fill(1, 100)
        source.bytes[: 300 * PAGE] = file.read_bytes()
        source.bytes[5 * PAGE] ^= 1
        with file.open("rb") as open_file:
            source.view.files([open_file.fileno()])
            target.view.files([open_file.fileno()])
        assert source.view.find() == 299
        ours, theirs, _ = await channels()
        source.view.track(True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(PageReceiver(target.view, theirs).run)
            sender = PageSender(source.view, ours, TokenBucket(0), Squeezer(FASTEST))
            stats = await sender.send_round()
            await sender.send_round(last=True)
        ours.abort("cancelled", "")
        theirs.abort("cancelled", "")
        assert target.bytes[:] == source.bytes[:]
        assert stats.size < 105 * PAGE + 299 * 30


async def test_a_round_on_a_channel_that_nobody_reads_is_cancelled() -> None:
    """Its thread waits for the other end, which does nothing."""
    async with pair() as (source, _):
        source.fill(1, 4000)
        ours, theirs, wire = await channels()
        wire.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        source.view.track(True)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(PageSender(source.view, ours, TokenBucket(0), None).send_round)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        ours.abort("cancelled", "")
        theirs.abort("cancelled", "")


async def test_a_receiver_on_a_channel_is_cancelled() -> None:
    async with pair() as (_, target):
        ours, theirs, _ = await channels()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(PageReceiver(target.view, theirs).run)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        ours.abort("cancelled", "")


async def test_an_aborted_channel_ends_its_thread() -> None:
    """By another task, while the thread is in it: the file is closed when the thread is out of it."""
    async with pair() as (_, target):
        ours, theirs, wire = await channels()
        with pytest.raises(trio.BrokenResourceError):
            async with ended_by(lambda: theirs.abort("cancelled", "")):
                await PageReceiver(target.view, theirs).run()
        assert wire.socket.fileno() == -1
        ours.abort("cancelled", "")


@asynccontextmanager
async def ended_by(act: Callable[[], None]) -> AsyncIterator[None]:
    """``act`` is called once everything waits. What the body raises comes out as it is."""
    problems: list[Exception] = []

    async def soon() -> None:
        await trio.testing.wait_all_tasks_blocked()
        act()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(soon)
        try:
            yield
        except Exception as error:
            problems.append(error)
    if problems:
        raise problems.pop()


@pytest.mark.parametrize("wrong", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x04oops", b"\x00\x00"])
async def test_hostile_batches_on_a_channel(wrong: bytes) -> None:
    async with pair() as (_, target):
        ours, theirs, _ = await channels()
        await ours.send_all(wrong)
        await ours.send_eof()
        with pytest.raises(CoreDataError):
            await PageReceiver(target.view, theirs).run()
        ours.abort("cancelled", "")
        theirs.abort("cancelled", "")


async def test_the_rate_is_kept() -> None:
    async with pair() as (source, target):
        source.fill(2, 700)
        ours, theirs = trio.testing.memory_stream_pair()
        source.view.track(True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(PageReceiver(target.view, theirs).run)
            began = trio.current_time()
            stats = await PageSender(source.view, ours, TokenBucket(8 << 20), None).send_round()
            seconds = trio.current_time() - began
            await ours.aclose()
        assert seconds >= (stats.size - TokenBucket(8 << 20).burst) / (8 << 20)


async def test_a_round_that_is_ended_early_leaves_its_rest_to_the_next() -> None:
    async with pair() as (source, target):
        source.fill(4, 2000)
        ours, theirs = trio.testing.memory_stream_pair()
        source.view.track(True)
        sender = PageSender(source.view, ours, TokenBucket(0), None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(PageReceiver(target.view, theirs).run)
            nursery.start_soon(end_soon, sender)
            first = await sender.send_round()
            rest = await sender.send_round()
            await ours.aclose()
        assert 0 < first.pages < 2000
        assert first.pages + rest.pages >= 2000
        assert target.bytes[:] == source.bytes[:]


async def test_a_round_with_no_time_is_its_first_batch() -> None:
    async with pair() as (source, target):
        source.fill(4, 2000)
        ours, theirs = trio.testing.memory_stream_pair()
        source.view.track(True)
        sender = PageSender(source.view, ours, TokenBucket(0), None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(PageReceiver(target.view, theirs).run)
            first = await sender.send_round(seconds=0)
            rest = await sender.send_round()  # whose time is its own
            await ours.aclose()
        assert 0 < first.pages < rest.pages
        assert first.pages + rest.pages >= 2000
        assert target.bytes[:] == source.bytes[:]


async def end_soon(sender: PageSender) -> None:
    while not sender.sent:
        await trio.lowlevel.checkpoint()
    sender.end_round()


async def test_a_target_that_leaves_breaks_the_round() -> None:
    async with pair() as (source, _):
        source.fill(3, 10)
        ours, theirs = trio.testing.memory_stream_pair()
        source.view.track(True)
        await theirs.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await PageSender(source.view, ours, TokenBucket(0), None).send_round(seconds=10)


async def receive(target: Memory, data: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(data)
    await ours.send_eof()
    await PageReceiver(target.view, theirs).run()


async def test_hostile_batches() -> None:
    async with pair() as (source, target):
        source.fill(4, 5)
        source.view.track(True)
        source.view.round()
        buffer = bytearray(1 << 20)
        good = bytes(buffer[: source.view.pack(buffer).size])
        with pytest.raises(CoreDataError, match="at most"):
            await receive(target, (MAX_BATCH + 1).to_bytes(4, "big"))
        for cut in (1, len(good) // 2, len(good) - 1):
            with pytest.raises(CoreError):
                await receive(target, cut.to_bytes(4, "big") + good[:cut])
        for cut in (2, 4, len(good) + 3):  # the stream ends inside: nothing is placed
            with pytest.raises(CoreDataError, match="in the middle"):
                await receive(target, (len(good).to_bytes(4, "big") + good)[:cut])
        dice = random.Random(5)
        for _ in range(300):
            bad = bytearray(good)
            for _ in range(dice.randrange(1, 4)):
                bad[dice.randrange(min(64, len(bad)))] = dice.randrange(256)
            try:
                await receive(target, len(bad).to_bytes(4, "big") + bad)
            except CoreError:
                continue
