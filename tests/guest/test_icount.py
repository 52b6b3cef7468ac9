"""Machines whose time is their instructions: the same seed and inputs give the same run, on each engine."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.machine import ICOUNT_FREE, ICOUNT_PACED
from tests.guest.commands import built
from tests.guest.debian import debian_image
from tests.guest.guest import MIB, Guest
from tests.guest.programs import build

ENGINES = ["interpreter", "jit"]
NEVER = 10**15  # --hash-every: only the hash at the end


@pytest.fixture(scope="module")
def core() -> Path:
    return built()


class Run:
    """One run of the core as a command; ``hashes``: (steps, digest) as they were printed."""

    def __init__(self, core: Path, *words: object, text: bytes = b"", timeout: float = 120) -> None:
        command = [str(core), "run", "--icount", *(str(word) for word in words)]
        done = subprocess.run(command, input=text, capture_output=True, timeout=timeout, check=False)
        self.code, self.output, self.errors = done.returncode, done.stdout, done.stderr.decode()
        lines = [line.split() for line in self.errors.splitlines()]
        self.hashes = [(int(line[1]), line[2]) for line in lines if line[:1] == ["hash"]]


@pytest.mark.parametrize(
    ("program", "harts"), [("litmus", 4), ("paging", 1), ("steps", 1), ("many", 7), ("ordering", 2)]
)
def test_the_same_run_on_each_engine(program: str, harts: int, core: Path) -> None:
    words = ["--kernel", build(program), "--memory", "64M", "--smp", harts, "--max-insns", 20_000_000]
    first = Run(core, *words, "--hash-every", 1_000_000, "--engine", "interpreter")
    assert len(first.hashes) >= 1
    for engine, every in [("interpreter", 1_000_000), ("jit", 1_000_000), ("jit", 500_000)]:
        again = Run(core, *words, "--hash-every", every, "--engine", engine)
        assert [h for h in again.hashes if h[0] % 1_000_000 == 0 or h == again.hashes[-1]] == first.hashes
        assert (again.output, again.code) == (first.output, first.code)


def test_another_seed_is_another_run(core: Path) -> None:
    words = ["--kernel", build("hello"), "--memory", "16M", "--hash-every", NEVER]
    runs = [Run(core, *words, "--seed", seed) for seed in (1, 2, 1)]
    assert runs[0].hashes == runs[2].hashes != runs[1].hashes
    assert runs[0].output == runs[1].output


@pytest.mark.parametrize("recorder", ENGINES)
def test_inputs_are_played_back(recorder: str, core: Path, tmp_path: Path) -> None:
    log = tmp_path / "inputs"
    words = ["--kernel", build("echo"), "--memory", "16M", "--hash-every", NEVER]
    first = Run(core, *words, "--record", log, "--engine", recorder, text=b"some words.")
    for engine in ENGINES:
        again = Run(core, *words, "--replay", log, "--engine", engine, text=b"other words")
        assert (again.code, again.output, again.hashes) == (first.code, first.output, first.hashes)
    assert b"SOME WORDS" in first.output


def bad_logs(good: bytes) -> Iterator[tuple[bytes, str]]:
    yield b"", "not a file of 1 byte"
    yield b"\xc1" + good[1:], "not a log"
    yield good[:-1], "damaged"
    yield good + b"\x01", "damaged"
    yield good.replace(b"wherry-inputs\x01", b"wherry-inputs\x02"), "version 2"
    yield good.replace(b"\xa4seed\x01", b"\xa4seed\x02"), "2 in the log of inputs, 1 in this machine"
    yield good + bytes([0x95, 0, 0, 0, 0, 0xC4, 1, 65]), "damaged"  # turns go back
    yield good + bytes([0x95, 0x7F, 0, 9, 0, 0xC4, 1, 65]), "damaged"  # no such kind
    yield good + bytes([0x95, 0x7F, 0, 2, 0, 0xC4, 1, 65]), "damaged"  # no such NIC
    yield good + bytes([0x95, 0x7F, 0, 0, 9, 0xC4, 1, 65]), "damaged"  # no such channel


def test_a_bad_log_is_refused(core: Path, tmp_path: Path) -> None:
    log = tmp_path / "inputs"
    words = ["--kernel", build("echo"), "--memory", "16M"]
    assert Run(core, *words, "--record", log, text=b"some words.").code == 0
    good = log.read_bytes()
    for bad, why in bad_logs(good):
        assert bad != good
        log.write_bytes(bad)
        run = Run(core, *words, "--replay", log)
        assert run.code == 3, (why, run.errors)
        assert why in run.errors
    log.write_bytes(good)
    astray = Run(core, "--kernel", build("steps"), "--memory", "16M", "--replay", log)
    assert astray.code == 5
    assert "not the one that was recorded" in astray.errors


def test_pauses_leave_no_trace() -> None:
    """A machine with a thread of its own, paused all the time, ends as one that is left alone."""
    outputs = []
    for disturbed in (False, True):
        with Guest(ram=64 * MIB, harts=4, icount=ICOUNT_FREE).boot(build("litmus")) as guest:
            guest.read_until(b"begin lrsc\n")
            for _ in range(50 if disturbed else 0):
                guest.machine.pause()
                guest.machine.resume()
            guest.wait_end()
            outputs.append(guest.output)
    assert outputs[0] == outputs[1]
    assert b"counters=0\n" in outputs[0]


def outcome(guest: Guest) -> tuple[bytes, object]:
    """What the guest printed, and a checksum of all RAM, at its end."""
    guest.wait_end()
    view = guest.view()
    try:
        return guest.output, view.checksum()
    finally:
        view.close()


def test_a_paced_machine_waits_and_computes_the_same() -> None:
    """Twenty sleeps of 2 ms: they take as long by the host's clock, and leave no trace; nor do pauses in the middle."""
    outcomes = []
    for icount, disturbed in ((ICOUNT_FREE, False), (ICOUNT_PACED, False), (ICOUNT_PACED, True)):
        with Guest(ram=16 * MIB, icount=icount) as guest:
            begun = time.monotonic()
            guest.boot(build("timer"))
            for _ in range(20 if disturbed else 0):
                guest.machine.pause()
                guest.machine.resume()
            outcomes.append(outcome(guest))
            if icount == ICOUNT_PACED:
                assert time.monotonic() - begun >= 0.039
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert b"ticks=20" in outcomes[0][0]


def test_what_interrupts_the_wait_of_a_paced_machine_is_played_back(tmp_path: Path) -> None:
    """A word that comes between two timers: the log says when, and a machine that does not wait finds the same end."""
    log = tmp_path / "inputs"
    with Guest(ram=16 * MIB, icount=ICOUNT_PACED) as guest, log.open("wb") as file:
        guest.machine.record(file.fileno())
        guest.boot(build("ticker"))
        guest.read_until(b"t 3\n")
        guest.write(b"x")
        guest.read_until(b"t 6\n")
        guest.write(b"q")
        recorded = outcome(guest)
    for icount in (ICOUNT_FREE, ICOUNT_PACED):
        with Guest(ram=16 * MIB, icount=icount) as guest, log.open("rb") as file:
            guest.machine.replay(file.fileno())
            guest.boot(build("ticker"))
            assert outcome(guest) == recorded


def test_a_paced_machine_is_copied_while_it_waits() -> None:
    with Guest(ram=16 * MIB, icount=ICOUNT_PACED).boot(build("ticker")) as guest:
        guest.read_until(b"t 3\n")
        with guest.copy(rounds=1) as second:
            second.read_until(b"t 6\n")
            second.write(b"q")
            second.wait_end()
            assert b"bad" not in second.output


@pytest.mark.debian
@pytest.mark.slow
def test_debian_boots_the_same_way_each_time(core: Path) -> None:
    """Whole: RAM, registers, devices, on both engines and twice on one."""
    image = debian_image()
    words = ["--kernel", image.kernel, "--initrd", image.initrd, "--smp", 2, "--max-insns", 1_200_000_000]
    words += ["--hash-every", 400_000_000]
    runs = [Run(core, *words, "--engine", engine, timeout=300) for engine in ("interpreter", "jit", "jit")]
    assert len(runs[0].hashes) == 3
    assert runs[0].hashes == runs[1].hashes == runs[2].hashes
    assert b"wherry: user" in runs[0].output
    assert runs[0].output == runs[1].output == runs[2].output
