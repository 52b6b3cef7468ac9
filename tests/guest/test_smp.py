"""Several harts at once (programs/litmus.c): atomics, locks, what fences forbid, remote fences, interrupts and states;
undisturbed, paused in the middle of each part, and carried to a new machine in the middle of each part.

What the program looks for does happen where it may: without its fence the store-buffering part fails on an x86 host.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

import pytest

from node.core import CoreStateError
from node.machine import ENGINE_INTERPRETER, ENGINE_JIT
from tests.guest.guest import Guest
from tests.guest.programs import build

ENGINES = [ENGINE_INTERPRETER, ENGINE_JIT]
ORDERINGS = ["lb", "corr", "iriw", "seqlock"]
PARTS = ["amo", "lrsc", "spinlock", "mp", "sb", "fencei", "sfence", "ipi", "hsm"]


def paused(guest: Guest) -> Guest:
    with suppress(CoreStateError):  # it ended meanwhile
        for _ in range(10):
            guest.machine.pause()
            guest.machine.resume()
    return guest


def carried(guest: Guest) -> Guest:
    try:
        other = guest.copy(rounds=2)
    except CoreStateError:  # it ended meanwhile
        return guest
    guest.machine.close()
    return other


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("harts", [2, 4])
@pytest.mark.parametrize("disturb", [None, paused, carried])
def test_harts_see_of_each_other_what_they_may(engine: int, harts: int, disturb) -> None:  # type: ignore[no-untyped-def]
    guest = Guest(harts=harts, engine=engine).boot(build("litmus"))
    try:
        for part in PARTS:
            guest.read_until(f"begin {part}\n".encode())
            if disturb is not None:
                guest = disturb(guest)
        guest.wait_end()
        values = guest.values()
        assert {values.pop(part) for part in [*PARTS, "counters"]} == {"0"}, guest.output.decode()
        assert values["faulted"] == str(harts - 1)
        assert int(values["ran"]) >= 200
    finally:
        guest.machine.close()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("harts", [2, 4])
def test_forbidden_outcomes_are_never_seen(engine: int, harts: int) -> None:
    """WHERRY_LITMUS: so many minutes of it instead of one run."""
    until = time.monotonic() + 60 * float(os.environ.get("WHERRY_LITMUS", "0"))
    while True:
        with Guest(harts=harts, engine=engine).boot(build("ordering")) as guest:
            guest.wait_end()
            values = {name: int(value) for name, value in guest.values().items()}
        assert {values[part] for part in ORDERINGS} == {0}, values
        assert sum(values[f"{part}_met"] for part in ORDERINGS) > 0, values
        if time.monotonic() >= until:
            break


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("harts", [1, 3, 64])
def test_as_many_harts_as_asked_for(engine: int, harts: int) -> None:
    """Started, interrupted by timers and by each other, fenced and stopped."""
    with Guest(harts=harts, engine=engine).boot(build("many")) as guest:
        guest.wait_end()
        values = {name: int(value) for name, value in guest.values().items()}
        assert values == {"harts": harts, "counted": 2000 * harts, "timers": harts, "ipis": harts}


def test_a_pause_of_busy_harts_is_short() -> None:
    """At most 1 ms, unless other processes have the host's cores: then a hart that is not running must get one first,
    so that only the best quarter of the pauses is judged."""
    with Guest(harts=4).boot(build("busy")) as guest:
        guest.read_until(b"busy=4\n")
        took = []
        for _ in range(200):
            begun = time.perf_counter()
            guest.machine.pause()
            took.append(time.perf_counter() - begun)
            guest.machine.resume()
        assert sorted(took)[len(took) // 4] < 0.001
