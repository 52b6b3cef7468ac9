"""Post-copy at the machine: a guest goes on before its pages are there, misses none, and can always be ended."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from node.core import CoreDataError, CoreStateError, CoreTimeout
from node.machine import CH_UART, Machine
from node.ramview import EVERYTHING, NEEDED, PAGE, RamView
from tests.guest.guest import MIB, Guest
from tests.guest.programs import build


class Pump:
    """Carries pages from a paused guest to one that runs on without them."""

    def __init__(self, source: RamView, target: RamView, bell: int) -> None:
        self._source, self._target, self._bell = source, target, bell
        self._buffer = bytearray(1 << 20)
        lacks, self.absent = target.pull_begin()
        source.owe(lacks)

    def step(self, wait: float) -> bool:
        """Bring what is waited for; False: nobody has asked within ``wait`` seconds."""
        wanted = self._target.wanted()
        if not wanted and select.select([self._bell], [], [], wait)[0]:
            wanted = self._target.wanted()
        for page in wanted:
            self._place([page], 1)
        return bool(wanted)

    def finish(self) -> None:
        while self._place([], 64):
            pass

    def _place(self, wanted: list[int], most: int) -> bool:
        batch = self._source.serve(self._buffer, 0, wanted, most, kinds=EVERYTHING)
        return self._target.place(memoryview(self._buffer)[: batch.size]).more


@contextmanager
def switched(guest: Guest) -> Iterator[tuple[Guest, Pump]]:
    """The guest stops here and a machine that lacks all of its pages is ready to go on."""
    other = Guest(**guest.config)  # type: ignore[arg-type]
    source, target = guest.view(), other.view()
    try:
        source.track(True)
        guest.machine.pause()
        source.round()
        other.machine.expect_pages(source.left())
        other.machine.load(guest.machine.save())
        guest._drain()
        other.output = guest.output
        yield other, Pump(source, target, other.machine.wanted_fd)
    finally:
        source.close()
        target.close()
        guest.machine.close()


@pytest.mark.parametrize("rest", [False, True], ids=["demand only", "with a push"])
def test_a_guest_goes_on_with_pages_that_come_when_they_are_wanted(rest: bool) -> None:
    guest = Guest(ram=32 * MIB).boot(build("ticker"))
    guest.read_until(b"t 5\n")
    with switched(guest) as (other, pump), other:
        assert pump.absent > 1000
        other.machine.start()
        for _ in range(40):
            pump.step(0.5)
        assert 0 < other.machine.stats()["pages_absent"] < pump.absent
        if rest:
            pump.finish()
            assert other.machine.stats()["pages_absent"] == 0
        other.write(b"c")
        while pump.step(0.2) or b"whole" not in other.output:
            other._take_events()
            assert b"bad" not in other.output
        other.write(b"q")
        while other.end is None:
            pump.step(0.05)
            other._take_events()
        stats = other.machine.stats()
        assert stats["pages_restored"] == pump.absent
        assert stats["fault_wait_ns"] >= stats["fault_wait_max_ns"] > 0
        assert 0 < stats["fault_wait_median_ns"] < 1.25 * stats["fault_wait_max_ns"]
        assert rest or stats["pages_faulted"] > 1000


def test_several_harts_wait_for_different_pages() -> None:
    guest = Guest(harts=4).boot(build("smp"))
    with switched(guest) as (other, pump), other:
        other.machine.start()
        while other.end is None:
            pump.step(0.05)
            other._take_events()
        assert other.values() == {"counter": "80000", "ipis": "4", "again": "0"}


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_guest_that_waits_for_a_page_can_be_ended(how: str) -> None:
    guest = Guest(ram=32 * MIB).boot(build("ticker"))
    guest.read_until(b"t 5\n")
    with switched(guest) as (other, pump), other:
        other.machine.start()
        assert select.select([other.machine.wanted_fd], [], [], 30)[0], "somebody waits"
        if how == "stop":
            other.machine.stop()
            assert other.machine.stats()["pages_absent"] == pump.absent


def test_a_guest_that_waits_for_a_page_does_not_keep_a_pause_waiting() -> None:
    """It is refused, and the guest goes on where it was; once the page is there it can stand still."""
    guest = Guest(ram=32 * MIB).boot(build("ticker"))
    guest.read_until(b"t 5\n")
    with switched(guest) as (other, pump), other:
        other.machine.start()
        assert select.select([other.machine.wanted_fd], [], [], 30)[0], "somebody waits"
        with pytest.raises(CoreTimeout):
            other.machine.pause()
        pump.finish()
        other.machine.pause()
        other.machine.resume()
        other.write(b"c")
        while b"whole" not in other.output:
            other._take_events()
        assert b"bad" not in other.output


def test_what_is_touched_of_late_is_known_while_it_runs() -> None:
    with Guest(ram=32 * MIB).boot(build("ticker")) as guest:
        guest.read_until(b"t 20\n")
        counts = [int.from_bytes(guest.machine.recent_pages(kind), "little").bit_count() for kind in range(3)]
        assert counts[0] == 0  # it has no queues
        assert counts[1] > 0
        view = guest.view()
        try:
            view.track(True)
            guest.machine.pause()
            left = view.round()
            view.first([guest.machine.recent_pages(kind) for kind in range(3)])
            buffer = bytearray(4 << 20)
            assert view.serve(buffer, 0, (), 900, kinds=NEEDED).data_pages == 0
            soon = view.serve(buffer, 0, (), 900, kinds=NEEDED + 1)
            assert 0 < soon.data_pages + soon.zero_pages <= counts[1]
            assert int.from_bytes(view.left(), "little").bit_count() == left - soon.data_pages - soon.zero_pages
        finally:
            view.close()


def test_what_makes_no_sense_is_refused() -> None:
    with Machine(16 * MIB, 1) as machine:
        with pytest.raises(CoreDataError, match="absent"):
            machine.expect_pages(bytes(8))
        machine.expect_pages(bytes(16 * MIB // PAGE // 8))
        with pytest.raises(CoreStateError):
            machine.expect_pages(bytes(16 * MIB // PAGE // 8))
        assert machine.channel_read(CH_UART, 0) == (0, b"")
