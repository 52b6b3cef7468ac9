"""Programs that are saved, carried to a new machine and continued there must not notice. Damaged and foreign state
documents are refused with the field named; dirty tracking tells exactly the pages that were written."""

from __future__ import annotations

from contextlib import suppress

import msgpack
import pytest

from node.core import CoreDataError, CoreError, CoreInvalid, CoreStateError
from node.machine import Machine
from tests.guest.guest import MIB, Guest
from tests.guest.programs import build


def steps(copies: int, rounds: int = 0) -> bytes:
    """The output of the program "steps", moved to a new machine so often while it computes; ``rounds`` of pages are
    carried while it runs."""
    guest = Guest().boot(build("steps"))
    old = []
    try:
        guest.read_until(b"go?")
        guest.write(b"x")
        for i in range(copies):
            guest.read_until(b"step=", count=2 + 3 * i)
            old.append(guest)
            guest = guest.copy(rounds)
        guest.read_until(b"go?", count=2)
        old.append(guest)
        guest = guest.copy() if copies else guest
        guest.write(b"x")
        guest.wait_end()
        return guest.output
    finally:
        for one in [*old, guest]:
            one.machine.close()


def test_a_copied_guest_continues_identically() -> None:
    assert steps(0) == steps(1) == steps(5)


def test_pages_carried_while_the_guest_writes_them() -> None:
    assert steps(0) == steps(1, rounds=8) == steps(4, rounds=2)


def test_copying_in_the_middle_of_interrupts_and_input() -> None:
    guest = Guest().boot(build("echo"))
    guest.read_until(b"ready")  # what comes before the driver has set up the FIFO is lost, as on a real one
    text = b"the quick brown fox jumps over the lazy dog "
    for _ in range(20):
        guest.write(text)
        other = guest.copy()
        guest.machine.close()
        guest = other
    guest.write(b".")
    with guest:
        guest.wait_end()
        assert guest.output == b"ready\n" + text.upper() * 20 + b".\nclaimed=1\n"


def test_copying_several_harts() -> None:
    guest = Guest(harts=4).boot(build("smp"))
    for _ in range(3):
        if guest.end is not None:
            break
        try:
            other = guest.copy()
        except CoreStateError:  # it ended before: nothing to copy
            break
        guest.machine.close()
        guest = other
    with guest:
        guest.wait_end()
        assert guest.values() == {"counter": "80000", "ipis": "4", "again": "0"}


@pytest.fixture(scope="module")
def state() -> bytes:
    with Guest(harts=2).boot(build("spin")) as guest:
        guest.read_until(b"n=3")
        guest.machine.pause()
        return guest.machine.save()


def refuse(document: bytes, *, ram: int = 64 * MIB, harts: int = 2) -> CoreError:
    with Machine(ram, harts) as machine:
        with pytest.raises(CoreError) as caught:
            machine.load(document)
        with pytest.raises(CoreStateError):  # half a state never runs
            machine.start()
    return caught.value


def changed(state: bytes, **fields: object) -> bytes:
    return msgpack.packb({**msgpack.unpackb(state), **fields})


def test_the_document_describes_itself(state: bytes) -> None:
    document = msgpack.unpackb(state)
    assert document["format"] == 1
    assert len(document["harts"]) == 2
    assert {"plic", "aclint", "uart", "rtc", "finisher"} < set(document["devices"])
    with Machine(64 * MIB, 2) as machine:  # a newer minor version's keys are passed over
        machine.load(changed(state, later={"any": [1, None, "x"]}))


@pytest.mark.parametrize("field", ["format", "ram_bytes", "boot", "mtime", "harts", "devices", "input"])
def test_a_missing_field_is_named(state: bytes, field: str) -> None:
    document = msgpack.unpackb(state)
    del document[field]
    assert refuse(msgpack.packb(document)).field == field


def test_other_versions_and_topologies_are_refused(state: bytes) -> None:
    assert refuse(changed(state, format=2)).field == "format"
    assert refuse(state, ram=32 * MIB).field == "ram_bytes"
    assert refuse(state, harts=3).field == "harts"
    assert refuse(changed(state, boot=1)).field == "boot"
    devices = msgpack.unpackb(state)["devices"]
    del devices["uart"]
    assert "uart" in str(refuse(changed(state, devices=devices)))
    more = {**msgpack.unpackb(state)["devices"], "virtio2:net": {}}
    assert refuse(changed(state, devices=more)).field == "devices"


def test_truncated_states_are_refused(state: bytes) -> None:
    for cut in [*range(40), *range(40, len(state), max(1, len(state) // 40)), len(state) - 1]:
        error = refuse(state[:cut])
        assert isinstance(error, CoreDataError), cut


def test_damaged_states_are_refused_or_loaded_but_never_worse(state: bytes) -> None:
    import random

    random_bytes = random.Random(4711)
    for _ in range(150):
        damaged = bytearray(state)
        for _ in range(random_bytes.randint(1, 8)):
            damaged[random_bytes.randrange(len(damaged))] = random_bytes.randrange(256)
        with Machine(64 * MIB, 2) as machine:
            try:
                machine.load(bytes(damaged))
            except (CoreDataError, CoreInvalid):
                continue
            machine.start()  # nonsense in registers is the guest's affair
            with suppress(CoreStateError):  # it ended itself
                machine.pause()


def test_save_needs_a_paused_machine() -> None:
    with Guest().boot(build("spin")) as guest, pytest.raises(CoreStateError):
        guest.machine.save()


class Lcg:
    """The page generator of programs/dirty.c."""

    def __init__(self) -> None:
        self.state = 1

    def pages(self, count: int) -> set[int]:
        found = set()
        for _ in range(count):
            self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
            found.add((0x84000000 - 0x80000000) // 4096 + (self.state >> 33 & 0x3FFF))
        return found


def test_dirty_tracking_is_exact() -> None:
    """Each round holds the pages the program wrote since the last one, and besides them only its own few."""
    with Guest(ram=160 * MIB).boot(build("dirty")) as guest:
        guest.read_until(b"ready")
        view, pages, buffer = guest.view(), Lcg(), bytearray(4 * MIB)
        view.track(True)
        view.round()
        while view.pack(buffer).more:
            pass
        for turn, count in enumerate([1, 50, 0, 200, 7, 200, 200, 1], start=1):
            guest.write(bytes([count]))
            guest.read_until(b"done", count=turn)
            total = view.round()
            batch = view.pack(buffer)
            assert not batch.more
            told: set[int] = set()
            for first, run, _data in msgpack.unpackb(memoryview(buffer)[: batch.size]):
                told.update(range(first, first + run))
            assert len(told) == total
            expected = pages.pages(count)
            assert expected <= told
            own = told - expected
            assert all(page < 0x84000000 - 0x80000000 >> 12 for page in own), own
            assert len(own) <= 4
        view.close()
        guest.write(b"q")
        guest.wait_end()
