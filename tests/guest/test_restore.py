"""Snapshot files of whole machines. A machine that goes on from one, however its pages come in, does what the first one
would have done; a file that is cut or damaged while a guest runs from it ends that guest with the reason, never with
zeros in its memory."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import msgpack
import pytest

from node.core import CoreDataError, CoreError, CoreInvalid, CoreStateError, CoreUnsupported
from node.machine import (
    ENGINE_JIT,
    EV_CRASH,
    EV_POWEROFF,
    RESTORE_EAGER,
    RESTORE_LAZY,
    RESTORE_ON_DEMAND,
    Machine,
    snapshot_info,
)
from tests.guest.commands import built
from tests.guest.guest import DEADLINE, MIB, Guest, carry, opened
from tests.guest.programs import build

ROOT = Path(__file__).parents[2]
HOW = [RESTORE_EAGER, RESTORE_LAZY, RESTORE_ON_DEMAND]
PAGE = 4096


def steps(path: Path, stops: int, how: int) -> bytes:
    """The output of the program "steps", through so many snapshots while it computes."""
    guest = Guest().boot(build("steps"))
    old = []
    try:
        guest.read_until(b"go?")
        guest.write(b"x")
        for i in range(stops):
            guest.read_until(b"step=", count=2 + 3 * i)
            old.append(guest)
            guest.snapshot(path / f"{i}.snapshot")
            guest = guest.restored(path / f"{i}.snapshot", how)
        guest.read_until(b"go?", count=2)
        limit = time.monotonic() + DEADLINE
        while how != RESTORE_ON_DEMAND and guest.machine.stats()["pages_absent"]:
            assert time.monotonic() < limit, "the filler, which works beside the harts, has not ended"
        guest.write(b"x")
        guest.wait_end()
        return guest.output
    finally:
        for one in [*old, guest]:
            one.machine.close()


@pytest.mark.parametrize("how", HOW)
def test_a_restored_guest_continues_identically(tmp_path: Path, how: int) -> None:
    assert steps(tmp_path, 3, how) == steps(tmp_path, 0, how)


@pytest.mark.parametrize("how", HOW)
def test_several_harts_in_the_middle_of_their_work(tmp_path: Path, how: int) -> None:
    guest = Guest(harts=4).boot(build("smp"))
    for i in range(3):
        path = tmp_path / f"{i}.snapshot"
        try:
            guest.snapshot(path)
        except CoreStateError:  # it ended before: nothing to save
            break
        other = guest.restored(path, how)
        guest.machine.close()
        guest = other
    with guest:
        guest.wait_end()
        assert guest.values() == {"counter": "80000", "ipis": "4", "again": "0"}


def test_a_guest_may_move_on_before_all_its_pages_have_come(tmp_path: Path) -> None:
    """The source of a copy was itself restored on demand: what is absent there is carried all the same."""
    first = Guest().boot(build("steps"))
    first.read_until(b"go?")
    first.write(b"x")
    first.read_until(b"step=", count=5)
    first.snapshot(tmp_path / "a")
    second = first.restored(tmp_path / "a", RESTORE_ON_DEMAND)
    view = second.view()
    assert view.absent > 0
    third = second.copy(rounds=2)
    assert view.absent == 0
    view.close()
    third.read_until(b"go?", count=2)
    third.write(b"x")
    third.wait_end()
    for guest in (first, second, third):
        guest.machine.close()
    assert third.output == steps(tmp_path, 0, RESTORE_EAGER)


def test_a_snapshot_of_a_guest_whose_pages_have_not_come(tmp_path: Path) -> None:
    with Guest().boot(build("steps")) as guest:
        guest.read_until(b"go?")
        guest.write(b"x")
        guest.read_until(b"step=", count=2)
        guest.snapshot(tmp_path / "a")
        with guest.restored(tmp_path / "a", RESTORE_ON_DEMAND) as second:
            second.snapshot(tmp_path / "b")
            assert second.machine.stats()["pages_absent"] == 0
            with second.restored(tmp_path / "b", RESTORE_LAZY) as third:
                third.read_until(b"step=", count=4)


# -- the state is the same to the last bit


def core(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(built()), "run", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)


def final(done: subprocess.CompletedProcess[str]) -> str:
    """The line "hash STEPS DIGEST" at the end of a run: registers, devices and RAM."""
    assert done.returncode == 0, done.stderr
    return next(line for line in reversed(done.stderr.splitlines()) if line.startswith("hash "))


@pytest.mark.parametrize(("program", "harts"), [("mixed", 1), ("smp", 4), ("paging", 1)])
def test_stopped_at_random_instructions_it_ends_in_the_same_state(tmp_path: Path, program: str, harts: int) -> None:
    seed = int(os.environ.get("WHERRY_TEST_SEED", "20261123"))
    chance = random.Random(f"{seed} {program}")
    machine = ["--kernel", build(program), "--memory", "32M", "--smp", harts, "--icount"]
    never = ["--hash-every", 10**15]
    whole = final(core(*machine, *never))
    assert final(core(*machine, *never, "--engine", "jit")) == whole
    total = int(whole.split()[1])
    for turn in range(6):
        stops = sorted({chance.randrange(1, total) for _ in range(chance.randint(1, 3))})
        source: list[object] = machine
        for stop in stops:
            path = tmp_path / f"{turn}-{stop}"
            engine = chance.choice(["interpreter", "jit"])
            taken = core(*source, "--engine", engine, "--snapshot-to", path, "--snapshot-at-insns", stop)
            assert taken.returncode == 0, taken.stderr
            source = ["--restore", path, chance.choice(["--lazy", "--on-demand", "--eager"])]
        for engine in ("interpreter", "jit"):
            assert final(core(*source, *never, "--engine", engine)) == whole, (seed, stops, engine)


# -- what is refused


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("snapshot") / "a"
    with Guest(ram=32 * MIB).boot(build("spin")) as guest:
        guest.read_until(b"n=3")
        guest.snapshot(path)
    return path


def refuse(path: Path, *, ram: int = 32 * MIB, harts: int = 1) -> CoreError:
    with opened(path) as fd, Machine(ram, harts) as machine, pytest.raises(CoreError) as caught:
        machine.restore(fd)
    return caught.value


def test_a_snapshot_tells_what_machine_it_is_of(snapshot: Path) -> None:
    with opened(snapshot) as fd:
        info = snapshot_info(fd)
    assert (info["ram_bytes"], info["harts"], info["boot"], info["seed"]) == (32 * MIB, 1, 0, 1)
    assert 0 < info["pages"] < 100
    assert snapshot.stat().st_size < 150 * PAGE  # zero pages take no room


def test_other_machines_are_refused(snapshot: Path) -> None:
    for error in (refuse(snapshot, ram=64 * MIB), refuse(snapshot, harts=2)):
        assert isinstance(error, CoreInvalid)
        assert "32 MiB, 1 harts" in str(error)
    with opened(snapshot) as fd, Machine(32 * MIB, 1) as machine:
        machine.restore(fd)
        with pytest.raises(CoreStateError):
            machine.restore(fd)


def test_cut_and_damaged_files_are_refused(snapshot: Path, tmp_path: Path) -> None:
    content = snapshot.read_bytes()
    chance = random.Random(4711)
    bad = tmp_path / "bad"
    for cut in [0, 1, 31, 4095, 4096, len(content) - 1, *(chance.randrange(len(content)) for _ in range(20))]:
        bad.write_bytes(content[:cut])
        assert isinstance(refuse(bad), CoreDataError), cut
    bad.write_bytes(b"\0" * PAGE + content[PAGE:])
    assert "never finished" in str(refuse(bad))
    bad.write_bytes(content[:8] + (99).to_bytes(4, "little") + content[12:])
    assert "newer version" in str(refuse(bad))


def test_a_damaged_page_is_found_by_an_eager_restore(snapshot: Path, tmp_path: Path) -> None:
    content = bytearray(snapshot.read_bytes())
    content[PAGE + 17] ^= 1
    bad = tmp_path / "bad"
    bad.write_bytes(content)
    with opened(bad) as fd, Machine(32 * MIB, 1) as machine, pytest.raises(CoreDataError, match="page at 0x80"):
        machine.restore(fd, RESTORE_EAGER)


# -- what happens to the file while a guest runs from it


def test_a_deleted_file_goes_on_to_serve(snapshot: Path, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(snapshot.read_bytes())
    with Machine(32 * MIB, 1) as machine:
        with opened(path) as fd:
            machine.restore(fd, RESTORE_ON_DEMAND)
        path.unlink()
        machine.start()
        machine.pause()
        assert machine.stats()["pages_absent"] > 0
        again = tmp_path / "b"
        with open(again, "xb") as file:
            machine.snapshot(file.fileno())
    with opened(again) as fd:
        assert snapshot_info(fd)["pages"] > 0


@pytest.mark.parametrize("harm", ["cut", "changed"])
@pytest.mark.parametrize("harts", [1, 4])
def test_a_file_harmed_meanwhile_ends_the_guest_with_the_reason(tmp_path: Path, harm: str, harts: int) -> None:
    """The program goes through its memory again and again: it would notice zeros, and print other sums."""
    path = tmp_path / "a"
    with Guest(harts=harts).boot(build("steps")) as guest:
        guest.read_until(b"go?")
        guest.write(b"x")
        guest.read_until(b"go?", count=2)
        guest.snapshot(path)
        whole = guest.output
        guest = Guest(harts=harts)
        with guest, opened(path) as fd:
            guest.machine.restore(fd, RESTORE_ON_DEMAND)
            if harm == "cut":
                os.truncate(path, PAGE)
            else:
                path.write_bytes(bytes(path.stat().st_size))
            guest.machine.start()
            event = guest.wait_end()
            assert event.kind == EV_CRASH
            assert event.text.startswith("memory could not be restored: ")
            assert ("cut" if harm == "cut" else "is damaged") in event.text
            assert b"step=" not in guest.output
            assert whole.count(b"step=") == 20
            with pytest.raises(CoreStateError):
                guest.machine.resume()


def test_pages_carried_from_a_lost_file_are_an_error(snapshot: Path, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(snapshot.read_bytes())
    with Guest(ram=32 * MIB) as guest, Guest(ram=32 * MIB) as other, opened(path) as fd:
        guest.machine.restore(fd, RESTORE_ON_DEMAND)
        guest.machine.start()
        guest.machine.pause()
        os.truncate(path, 0)
        source, target = guest.view(), other.view()
        source.track(True)
        assert source.round() > 0
        with pytest.raises(CoreError):
            carry(source, target)
        source.close()
        target.close()
        assert guest.wait_end().kind == EV_CRASH


# -- warm start


def jit(ram: int = 64 * MIB) -> Machine:
    try:
        return Machine(ram, 1, seed=1, engine=ENGINE_JIT)
    except CoreUnsupported as error:
        pytest.skip(f"no translator on this host: {error}")


def test_hot_code_of_one_machine_is_translated_by_the_next(tmp_path: Path) -> None:
    with jit() as first, jit() as second, jit() as third, opened(build("busy")) as program:
        assert first.hot_list() == msgpack.packb([2, b""])
        first.load_linux(program)
        first.start()
        hot = first.hot_list()
        while len(hot) < 10:  # as soon as something is hot
            hot = first.hot_list()
        first.pause()
        path = tmp_path / "a"
        with open(path, "xb") as file:
            first.snapshot(file.fileno())
        heads = msgpack.unpackb(hot)[1]
        assert len(heads) % 8 == 0
        with opened(path) as fd:
            second.restore(fd, RESTORE_EAGER)
            third.restore(fd, RESTORE_ON_DEMAND)
        assert set(blocks(second.hot_list())) == set(blocks(first.hot_list()))  # the file brought the list
        assert third.warm(hot, 10_000) == len(heads) // 8
        user = (int.from_bytes(heads[:8], "little") ^ 1).to_bytes(8, "little")
        assert third.warm(msgpack.packb([2, user]), 10_000) == 1
        assert third.warm(msgpack.packb([1, heads[:8]]), 10_000) == 1  # as older hosts write it
        assert set(blocks(hot)) <= set(blocks(third.hot_list()))
        third.start()
        third.pause()


def blocks(hot: bytes) -> list[bytes]:
    heads = msgpack.unpackb(hot)[1]
    return [heads[at : at + 8] for at in range(0, len(heads), 8)]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xc0",
        msgpack.packb([0, b""]),
        msgpack.packb([3, b""]),
        msgpack.packb([1, bytes(7)]),
        msgpack.packb([1, bytes(8)]),  # not in RAM
        msgpack.packb([1, (0x80200001).to_bytes(8, "little")]),  # odd
        msgpack.packb([1, (0x84000000).to_bytes(8, "little")]),  # behind RAM
        msgpack.packb([1, (0x80200000).to_bytes(8, "little") * 8193]),
        msgpack.packb([1, b""]) + b"\0",
    ],
)
def test_a_list_that_makes_no_sense_is_refused(bad: bytes) -> None:
    with Machine(64 * MIB, 1) as machine, pytest.raises(CoreDataError, match="hot"):
        machine.warm(bad, 10)


def test_a_list_of_code_that_is_not_there_changes_nothing() -> None:
    with jit() as machine, opened(build("hello")) as program:
        everywhere = b"".join((0x80000000 + at).to_bytes(8, "little") for at in range(0, 64 * MIB, 64 * MIB // 4096))
        machine.warm(msgpack.packb([1, everywhere]), 5_000)
        machine.load_linux(program)
        machine.warm(msgpack.packb([1, everywhere]), 5_000)
        machine.start()
        while (event := machine.next_event()) is None or event.kind not in (EV_POWEROFF, EV_CRASH):
            pass
        assert (event.kind, event.arg) == (EV_POWEROFF, 0)
