"""What a protected pull streams back: whole epochs or nothing, and what the target lacks is not waited for."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio
import trio.testing

from node.core import CoreDataError
from node.machine import Machine
from node.migration.protect import RETRY_S, TAKEN, Image, Protector, copy_memory
from node.ramview import PAGE, RamView
from protocol.messages import MigrationParams
from protocol.migration.modes import refusal
from tests.unit.test_agent_pull import PAGES, RAM, End


@pytest.fixture
def ends() -> Any:
    made = End(), End()
    yield made
    for end in made:
        end.close()


def framed(*bodies: bytes) -> bytes:
    return b"".join(len(body).to_bytes(4, "big") + body for body in bodies)


def batch(end: End, pages: dict[int, bytes]) -> bytes:
    """The pages, written to an end's memory, as a batch."""
    for page, byte in pages.items():
        end.bytes[page * PAGE : (page + 1) * PAGE] = byte * PAGE
    end.view.owe(sum(1 << page for page in pages).to_bytes(PAGES // 8, "little"))
    buffer = bytearray(1 << 20)
    return bytes(buffer[: end.view.serve(buffer, 0, (), 200).size])


def image(end: End) -> Image:
    return Image(RamView(end.machine.ram_fd, end.machine.share_fd), os.dup(end.machine.ram_fd))


async def test_an_epoch_changes_nothing_before_it_is_whole(ends: tuple[End, End]) -> None:
    source, target = ends
    source.bytes[:PAGE] = b"o" * PAGE
    made = image(source)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.take, theirs)
        first = framed(batch(target, {0: b"a", 5: b"b"}), batch(target, {9: b"c"}))
        for data in (first, framed(b""), framed(b"state 1")[:-1]):
            await ours.send_all(data)
            await trio.testing.wait_all_tasks_blocked()
            assert source.bytes[:PAGE] == b"o" * PAGE
            assert made.state == b""
        await ours.send_all(b"1")
        assert await ours.receive_some() == TAKEN
        assert (made.state, made.epochs) == (b"state 1", 1)
        assert (source.bytes[0], source.bytes[5 * PAGE], source.bytes[9 * PAGE]) == (97, 98, 99)
        await ours.send_all(framed(batch(target, {0: b"z"}), b"") + b"\0")  # cut in the middle
        await trio.testing.wait_all_tasks_blocked()
        await made.stop()
    assert (made.state, source.bytes[0]) == (b"state 1", 97)
    await made.close()


@pytest.mark.parametrize("bad", [framed(b"\xc1", b"", b"s"), (1 << 30).to_bytes(4, "big")])
async def test_what_no_target_sends_leaves_no_image_that_is_trusted(ends: tuple[End, End], bad: bytes) -> None:
    source, _ = ends
    made = image(source)
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(bad)
    await ours.send_eof()
    with pytest.raises(CoreDataError):
        await made.take(theirs)
    assert made.state == b""
    await made.close()


class Live:
    """A guest's process that is asked to stand still and to go on."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.asked: list[str] = []

    async def call(self, op: str) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        self.asked.append(op)
        return {"state": b"state %d" % self.asked.count("save")}


class Guest:
    tag = "guest"

    def __init__(self, machine: Machine) -> None:
        self.live = Live(machine)
        self.handle = self.live


async def test_what_was_not_taken_over_is_owed_to_the_next_epoch(
    ends: tuple[End, End], autojump_clock: trio.testing.MockClock
) -> None:
    """And pages that are still at the source are neither sent nor waited for."""
    source, target = ends
    target.machine.expect_pages(b"\xff\xff" + bytes(PAGES // 8 - 2))  # 0..15 are missing
    streams: list[Any] = []

    async def connect() -> Any:
        ours, theirs = trio.testing.memory_stream_pair()
        streams.append(theirs)
        return ours

    view = RamView(target.machine.ram_fd, target.machine.share_fd)
    guest: Any = Guest(target.machine)
    protector = Protector(guest, view, connect)
    protector.begin()
    target.bytes[20 * PAGE : 21 * PAGE] = b"w" * PAGE
    view.owe((1 << 20).to_bytes(PAGES // 8, "little"))  # as a hart's write would have it
    made = image(source)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(protector.run)
        await trio.testing.wait_all_tasks_blocked()
        await streams[0].aclose()  # without an answer
        await trio.sleep(2 * RETRY_S)
        nursery.start_soon(made.take, streams[1])
        while not made.epochs:
            await trio.lowlevel.checkpoint()  # a thread places it, for which the clock must not jump
        nursery.cancel_scope.cancel()
    assert source.bytes[20 * PAGE : 21 * PAGE] == b"w" * PAGE
    assert guest.live.asked[:4] == ["pause", "save", "resume", "pause"]
    assert target.view.absent == 16
    protector.close()
    await made.close()


def test_memory_is_copied_with_its_holes(ends: tuple[End, End]) -> None:
    source, target = ends
    for page in (0, 7, 8, PAGES - 1):
        source.bytes[page * PAGE : (page + 1) * PAGE] = bytes([page % 250 + 1]) * PAGE
    copy_memory(source.machine.ram_fd, target.machine.ram_fd)
    assert os.fstat(target.machine.ram_fd).st_blocks * 512 < RAM // 2
    assert target.bytes[:] == source.bytes[:]


def test_only_what_pulls_can_be_protected() -> None:
    assert refusal(MigrationParams(protect=True, mode="postcopy")) is None
    assert refusal(MigrationParams(protect=True, on_stall="postcopy")) is None
    for mode in ("auto", "precopy", "stop-and-copy"):
        refused = refusal(MigrationParams(protect=True, mode=mode))
        assert refused is not None
        assert refused[0] == "protect"
