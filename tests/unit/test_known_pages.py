"""Pages that the target has: asked for, named, copied, checked there; whatever either end says, memory is the same."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from node.core import CoreDataError, CoreError
from node.migration import pages
from node.migration.bucket import TokenBucket
from node.migration.channel import Channel
from node.migration.known import Asker, Donors
from node.migration.pages import PageReceiver, PageSender, RoundStats
from node.migration.squeeze import FASTEST, Squeezer
from node.pageindex import NAME
from node.ramview import PAGE
from protocol.errors import LinkTimeout, Refused
from protocol.migration import RoundDone
from protocol.migration.plan import Plan
from tests.unit.test_agent_pages import RAM, Memory, channels

FILLED = 1500


@dataclass
class Ends:
    """A source with random pages, a target, and a donor at the target's host that has the same pages elsewhere."""

    source: Memory
    target: Memory
    donor: Memory
    known: Donors

    def sender(self, stream: Channel, asker: Asker) -> PageSender:
        self.source.view.track(True)
        self.source.view.remember(RAM // PAGE)
        return PageSender(self.source.view, stream, TokenBucket(0), Squeezer(FASTEST), asker)

    def change_donor(self, count: int) -> None:
        self.donor.bytes[: count * PAGE] = random.Random(7).randbytes(count * PAGE)


@asynccontextmanager
async def ends(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ends]:
    monkeypatch.setattr(pages, "WORTH_ASKING", 100)
    source, target, donor = Memory(), Memory(), Memory()
    dice = random.Random(3)
    for number in range(FILLED):
        content = dice.randbytes(PAGE)
        source.bytes[(number + 50) * PAGE : (number + 51) * PAGE] = content
        donor.bytes[number * PAGE : (number + 1) * PAGE] = content
    known = Donors([os.dup(donor.machine.ram_fd)], RAM // PAGE)
    await known.build("test")
    target.view.use_index(known.index)
    try:
        yield Ends(source, target, donor, known)
    finally:
        for memory in (source, target, donor):
            memory.close()
        await known.close()


async def moved(at: Ends, asker: Asker, between: Callable[[], None] = lambda: None) -> list[RoundStats]:
    """Two rounds and the last one; ``between`` the answers and the first pages that are named."""
    ours, theirs, _ = await channels()
    sender = at.sender(ours, asker)
    ask = asker.ask

    async def then() -> None:
        await ask()
        between()

    asker.ask = then  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(PageReceiver(at.target.view, theirs).run)
        stats = [await sender.send_round(), await sender.send_round(), await sender.send_round(last=True)]
    ours.abort("cancelled", "")
    theirs.abort("cancelled", "")
    return stats


async def test_what_the_target_has_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ends(monkeypatch) as at:
        asker = Asker(at.source.view, at.known.key, at.known.ask)
        first, second, last = await moved(at, asker)
        assert at.target.bytes[:] == at.source.bytes[:]
        assert first.probe is not None
        assert first.pages == FILLED
        assert asker.asked == asker.found == FILLED - first.probe[0] // PAGE
        assert first.size - first.probe[0] < asker.asked * (NAME + 20)
        assert (second.pages, last.pages) == (0, 0)


async def test_what_stayed_of_the_guest_is_looked_at_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ends(monkeypatch) as at:
        stay = Memory()
        stay.bytes[:] = at.source.bytes[:]
        for number in range(0, FILLED, 10):  # what the guest has written since
            at.source.bytes[(number + 50) * PAGE : (number + 51) * PAGE] = random.Random(number).randbytes(PAGE)
        own = Donors([os.dup(stay.machine.ram_fd)], RAM // PAGE, own=True)
        await own.build("test")
        at.target.view.use_index(own.index)
        asker = Asker(at.source.view, own.key, own.ask)
        _, second, last = await moved(at, asker)
        assert at.target.bytes[:] == at.source.bytes[:]
        assert 0 < asker.asked - asker.found <= FILLED // 10
        assert (second.pages, last.pages) == (0, 0)
        at.target.view.use_index(None)
        await own.close()
        stay.close()


async def test_what_the_donor_has_no_more_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ends(monkeypatch) as at:
        asker = Asker(at.source.view, at.known.key, at.known.ask)
        _, second, last = await moved(at, asker, lambda: at.change_donor(1000))
        assert at.target.bytes[:] == at.source.bytes[:]
        assert 700 < second.pages < 1000  # but those that had been sent before the questions
        assert last.pages == 0


async def test_a_donor_that_goes_leaves_its_memory_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ends(monkeypatch) as at:
        asker = Asker(at.source.view, at.known.key, at.known.ask)
        _, second, _ = await moved(at, asker, at.donor.machine.close)
        assert at.target.bytes[:] == at.source.bytes[:]
        assert second.pages == 0


async def test_a_target_that_has_nothing_is_asked_for_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ends(monkeypatch) as at:
        strangers = Donors([os.dup(Memory().machine.ram_fd)], RAM // PAGE)
        await strangers.build("test")
        asker = Asker(at.source.view, strangers.key, strangers.ask)
        first, second, _ = await moved(at, asker)
        assert at.target.bytes[:] == at.source.bytes[:]
        assert asker.found == 0
        assert 0 < asker.asked <= FILLED // 60
        assert (first.pages, second.pages) == (FILLED, 0)
        await strangers.close()


@pytest.mark.parametrize("lie", ["more", "fewer", "everything", "nothing", "late"])
async def test_lies(monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    """Whatever a target answers, what is sent is the source's memory; what it named in vain it gets."""
    async with ends(monkeypatch) as at:

        async def answer(names: bytes, numbers: bytes) -> bytes:
            bits = await at.known.ask(names, numbers)
            if lie == "late":
                raise LinkTimeout("migration.ask", 10.0)
            return {
                "more": bits + b"\xff",
                "fewer": bits[:-1],
                "everything": b"\xff" * len(bits),
                "nothing": bytes(len(bits)),
            }[lie]

        at.change_donor(FILLED)  # nothing that is asked for will be found
        first, second, last = await moved(at, Asker(at.source.view, at.known.key, answer))
        assert at.target.bytes[:] == at.source.bytes[:]
        assert (second.pages > 0) == (lie == "everything")
        assert (first.pages, last.pages) == (FILLED, 0)


@pytest.mark.parametrize(
    "answer",
    [
        bytes([2]) + (4).to_bytes(4, "big") + (RAM // PAGE).to_bytes(4, "little"),  # a page behind the last
        bytes([2]) + (6).to_bytes(4, "big") + bytes(6),
        bytes([2]) + (RAM // PAGE * 4 + 4).to_bytes(4, "big"),
    ],
)
async def test_answers_to_a_round_that_no_target_gives(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    async with ends(monkeypatch) as at:
        ours, theirs, _ = await channels()
        sender = at.sender(ours, Asker(at.source.view, at.known.key, at.known.ask))
        await theirs.send_all(answer)
        with pytest.raises(CoreDataError):
            await sender.send_round()
        ours.abort("cancelled", "")
        theirs.abort("cancelled", "")


async def test_a_target_that_leaves_in_the_middle_of_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ends(monkeypatch) as at:
        ours, theirs, _ = await channels()
        sender = at.sender(ours, Asker(at.source.view, at.known.key, at.known.ask))
        await theirs.send_all(bytes([2, 0, 0]))
        await theirs.send_eof()
        with pytest.raises(trio.BrokenResourceError):
            await sender.send_round()
        ours.abort("cancelled", "")
        theirs.abort("cancelled", "")


async def test_names_in_the_last_round_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would send those pages any more: such a guest must not run."""
    async with ends(monkeypatch) as at:
        ours, theirs = trio.testing.memory_stream_pair()
        await at.known.ask(bytes(NAME), bytes(4))  # nothing has that name
        batch = bytes([0xDD, 0, 0, 0, 1, 0x93, 3, 1, 0x91, 0])
        await ours.send_all(len(batch).to_bytes(4, "big") + batch)
        await ours.aclose()
        with pytest.raises(CoreDataError, match="named"):
            await PageReceiver(at.target.view, theirs).run()


async def test_questions_that_no_source_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ends(monkeypatch) as at:
        for names, numbers in ((bytes(NAME + 1), bytes(4)), (bytes(NAME), b""), (bytes(NAME), bytes(8))):
            with pytest.raises(Refused, match="names of 16 bytes"):
                await at.known.ask(names, numbers)
        await at.known.ask(bytes(RAM // PAGE * NAME), bytes(RAM // PAGE * 4))
        with pytest.raises(Refused, match="invalid"):
            await at.known.ask(bytes(NAME), bytes(4))  # more than the guest has pages
        at.target.view.use_index(None)
        await at.known.close()
        with pytest.raises(Refused, match="no pages"):
            await at.known.ask(bytes(NAME), bytes(4))
        with pytest.raises(CoreError):  # nor may any be named
            at.target.view.unpack(bytes([0xDD, 0, 0, 0, 1, 0x93, 3, 1, 0x91, 0]))


async def test_no_donors_no_key() -> None:
    none = Donors([], 100)
    await none.build("test")
    assert none.key == b""
    with pytest.raises(Refused):
        await none.ask(bytes(NAME), bytes(4))
    await none.close()


def test_a_round_of_names_tells_nothing_of_the_link() -> None:
    """The plan takes the rate from what was sent before the names."""
    from protocol.messages import MigrationParams

    plan = Plan(MigrationParams())
    plan.after(RoundDone(20000, 0, 500_000, 2.0, 10, (), probe=(300_000, 0.003)), 600)
    assert plan.rate == pytest.approx(100e6)
