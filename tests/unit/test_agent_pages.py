"""Page streams with real RAM: rounds arrive whole in any chunking, hostile batches are refused, rates are kept."""

from __future__ import annotations

import mmap
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from node.core import CoreDataError, CoreError
from node.machine import Machine
from node.migration.bucket import TokenBucket
from node.migration.pages import MAX_BATCH, PageReceiver, PageSender
from node.migration.squeeze import Squeezer
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
            await PageSender(source.view, ours, TokenBucket(0), None).send_round()


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
