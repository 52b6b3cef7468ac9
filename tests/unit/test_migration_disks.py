"""Migrations with disks: the order of rounds, what converges, who keeps which disk; the node's ends over a stream."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from node.core import CoreDataError
from node.disks import own_disk, used
from node.diskview import BLOCK, DiskView
from node.migration.bucket import TokenBucket
from node.migration.disks import DiskReceiver, DiskSender, TargetFull
from protocol import migration as mig
from protocol.errors import Refused
from protocol.messages import MigrationParams
from protocol.migration.plan import Curve
from protocol.migration.rehearse import rehearse

MB = 1 << 20


def kinds(effects: list[mig.Effect]) -> list[str]:
    return [type(e).__name__ for e in effects if not isinstance(e, mig.ReportProgress)]


def source(**params: Any) -> mig.Source:
    machine = mig.Source("m", "g", 5, 2, MigrationParams(**params), disks=True)
    machine.handle(mig.Start(), 0)
    assert kinds(machine.handle(mig.TargetPrepared(), 0)) == ["SendDisks"]
    return machine


def mirrored(size: int, left: int, seconds: float = 0.1) -> mig.DisksDone:
    return mig.DisksDone(size, seconds, left)


def to_commit(machine: mig.Source) -> None:
    for event in (mig.Paused(100.0), mig.LastRoundDone(0, 0, 0, disk_bytes=9), mig.StateSaved(), mig.TargetReady()):
        machine.handle(event, 3)


def committed(**params: Any) -> mig.Source:
    machine = source(**params)
    machine.handle(mirrored(10 * MB, 0), 1)
    machine.handle(mig.RoundDone(256, 0, MB, 0.01, 1), 2)
    to_commit(machine)
    assert machine.phase is mig.SourcePhase.COMMIT
    effects = machine.handle(mig.StoreAnswered("committed", 6, 2), 4)
    assert kinds(effects) == ["FinishTarget", "Persist", "KeepDisks"]
    assert next(e for e in effects if isinstance(e, mig.Persist)).record.phase == "handed"
    return machine


def test_the_disk_goes_first_until_it_does_not_shrink() -> None:
    machine = source()
    assert kinds(machine.handle(mirrored(100 * MB, 40 * MB), 1)) == ["SendDisks"]
    assert kinds(machine.handle(mirrored(40 * MB, 16 * MB), 2)) == ["SendDisks"]
    assert kinds(machine.handle(mirrored(16 * MB, 15 * MB), 3)) == ["SendRound"]  # pages and the rest together
    assert machine.disk_bytes == 156 * MB


def test_what_waits_of_the_disk_keeps_the_guest_running() -> None:
    machine = source(max_blackout_ms=30)
    machine.handle(mirrored(100 * MB, 0), 1)
    busy = mig.RoundDone(256, 0, MB, 0.01, 10, disk_bytes=0, disk_left=50 * MB)
    assert kinds(machine.handle(busy, 2)) == ["SendRound"]
    assert machine.predicted_ms > 400
    calm = mig.RoundDone(10, 0, 40_960, 0.5, 1, disk_bytes=50 * MB, disk_left=4096)
    assert kinds(machine.handle(calm, 3)) == ["Persist", "PauseGuest"]


def test_a_disk_that_is_written_too_fast_throttles_or_ends_it() -> None:
    for mode in ("auto", "postcopy", "hybrid"):
        machine = source(mode=mode, max_blackout_ms=30)
        seen: list[str] = []
        event: Any = mirrored(10 * MB, 10 * MB)
        for turn in range(100):
            effects = kinds(machine.handle(event, turn))
            seen += effects
            if "SendDisks" in effects:
                event = mirrored(10 * MB, 10 * MB)
            elif "SendRound" in effects:
                event = mig.RoundDone(256, 0, MB, 0.1, 300, disk_bytes=10 * MB, disk_left=10 * MB)
            else:
                break
        assert "SetThrottle" in seen, mode
        assert "StopCopy" in seen, mode  # whatever it rests
        assert "PauseGuest" not in seen, mode


def test_postcopy_leaves_pages_but_nothing_of_the_disk() -> None:
    machine = source(mode="postcopy")
    assert kinds(machine.handle(mirrored(100 * MB, 50 * MB), 1)) == ["SendDisks"]
    assert kinds(machine.handle(mirrored(50 * MB, 8192), 2)) == ["SendRound"]
    done = mig.RoundDone(256, 0, MB, 0.01, 30_000, disk_left=4096)
    assert kinds(machine.handle(done, 3)) == ["Persist", "PauseGuest"]
    assert kinds(machine.handle(mig.Paused(1.0), 3)) == ["LeavePages", "SaveState"]


def test_a_disk_that_nobody_finds_different_is_no_stall() -> None:
    machine = source()
    for turn in range(100):
        assert kinds(machine.handle(mig.Copying(0, 0, disk_left=(100 - turn) * MB), turn)) == []
        assert kinds(machine.handle(mig.Tick(), turn)) == []
    assert "StopCopy" in kinds(machine.handle(mig.Tick(), 120))


def test_the_source_keeps_its_disk_until_the_target_runs() -> None:
    machine = committed()
    assert kinds(machine.handle(mig.TargetLost("the link broke"), 5)) == []
    assert machine.wakeup == 7
    assert kinds(machine.handle(mig.Tick(), 7)) == ["FinishTarget"]
    assert kinds(machine.handle(mig.StepFailed("FinishTarget", "x"), 8)) == []
    ended = machine.handle(mig.TargetFinished(100.1, 100.2, 100.1, 100.2), 9)
    assert kinds(ended) == ["Persist", "FreeGuest", "Forget", "Done"]


def test_a_target_that_has_ended_it_and_a_copy_that_was_removed_end_the_wait() -> None:
    machine = committed()
    assert "FreeGuest" in kinds(machine.handle(mig.TargetLost("not known", over=True), 5))
    machine = committed()
    assert kinds(machine.handle(mig.StepFailed("guest", "removed"), 5)) == ["Forget", "Done"]


def test_a_restarted_source_asks_on() -> None:
    record = mig.Record("source", "m", "g", 5, 2, "handed", False, True)
    machine, effects = mig.Source.recover(record, 0)
    assert effects == [mig.KeepDisks(), mig.FinishTarget("committed", 6)]
    ended = machine.handle(mig.TargetFinished(100.1, 100.2, 100.1, 100.2), 1)
    assert kinds(ended) == ["Persist", "FreeGuest", "Forget", "Done"]
    assert next(e for e in ended if isinstance(e, mig.Done)).result.blackout_ms == 0


def test_pages_that_are_all_pulled_do_not_remove_the_disk() -> None:
    record = mig.Record("source", "m", "g", 5, 2, "serve", True, True)
    machine, _ = mig.Source.recover(record, 0)
    assert kinds(machine.handle(mig.Pulled(), 1)) == ["Persist", "FinishTarget"]
    assert "FreeGuest" in kinds(machine.handle(mig.TargetFinished(1.0, 1.0, 1.0, 1.0), 2))


def test_an_owner_whose_memory_is_lost_keeps_the_disk() -> None:
    for disks, last in ((True, "KeepIncoming"), (False, "DestroyIncoming")):
        record = mig.Record("target", "m", "g", 5, 1, "incoming", False, disks)
        target, effects = mig.Target.recover(record, loaded=False, now=0)
        assert effects == [mig.AskStore("abort", "the target's agent was restarted")]
        assert kinds(target.handle(mig.StoreAnswered("committed", 6, 2), 1))[0] == last
    target, _ = mig.Target.recover(mig.Record("target", "m", "g", 5, 1, "committed", False, True), False, 0)
    assert target.handle(mig.StepFailed("StartGuest", "gone"), 1)[0] == mig.KeepIncoming(6)


def test_the_rehearsal_copies_the_disk_too() -> None:
    without = rehearse(MigrationParams(), Curve([(1.0, 100)]), first_bytes=50 * MB, rate=100e6)
    calm = rehearse(MigrationParams(), Curve([(1.0, 100)]), first_bytes=50 * MB, rate=100e6, disk_bytes=500 * MB)
    assert calm.bytes >= without.bytes + 500 * MB
    assert calm.total_s > without.total_s + 5
    assert calm.blackout_ms == pytest.approx(without.blackout_ms, abs=1)
    fast = rehearse(
        MigrationParams(on_stall="abort"),
        Curve([(1.0, 100)]),
        first_bytes=50 * MB,
        rate=100e6,
        disk_bytes=500 * MB,
        disk_rate=200e6,
    )
    assert "does not converge" in fast.reason


# ---- the node's ends


def files(folder: Path, size: int) -> tuple[int, int, int]:
    """Base, disk, copy: open, of this size, with the same content."""
    out = []
    content = os.urandom(size // 2).ljust(size, b"\0")
    for name in ("base", "disk", "copy.img"):
        (folder / name).write_bytes(content)
        out.append(os.open(folder / name, os.O_RDWR))
    return out[0], out[1], out[2]


class Pipe:
    """A stream as links and channels are, over memory."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(bytes(data))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._inner.receive_some(max_bytes))

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    def abort(self, code: str, message: str) -> None:
        self._inner.send_stream.close()


def ends(folder: Path) -> tuple[DiskSender, DiskReceiver, DiskView, DiskView]:
    (folder / "guest").mkdir()
    base, disk, copy = files(folder, 4 * MB + 512)
    near, far = trio.testing.memory_stream_pair()
    view, there = DiskView(disk, -1, base), DiskView(copy)
    view.track(True)
    sender = DiskSender(view, Pipe(near), TokenBucket(0))  # type: ignore[arg-type]
    receiver = DiskReceiver(there, folder / "guest", Pipe(far))  # type: ignore[arg-type]
    for fd in (base, copy):
        os.close(fd)
    return sender, receiver, view, there


async def test_rounds_over_a_stream(tmp_path: Path) -> None:
    sender, receiver, view, there = ends(tmp_path)
    disk = os.open(tmp_path / "disk", os.O_RDWR)
    os.pwrite(disk, os.urandom(9 * BLOCK), 3 * BLOCK + 17)
    os.pwrite(disk, b"end", 4 * MB + 500)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.run)
        size = await sender.send_round()
        assert 9 * BLOCK < size < 20 * BLOCK  # not the image's
        assert (tmp_path / "copy.img").read_bytes() == (tmp_path / "disk").read_bytes()
        assert await sender.send_round(last=True) == 0
    view.close()
    there.close()


async def test_the_limit_of_bandwidth_holds(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """In the clock's time, which passes only while everybody waits."""
    sender, receiver, view, there = ends(tmp_path)
    (tmp_path / "disk").write_bytes(os.urandom(4 * MB + 512))
    sender._bucket = TokenBucket(MB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.run)
        began = trio.current_time()
        size = await sender.send_round()
        assert trio.current_time() - began >= size / MB - 0.1
        await sender.send_round(last=True)
    assert (tmp_path / "copy.img").read_bytes() == (tmp_path / "disk").read_bytes()
    view.close()
    there.close()


async def test_the_reason_of_a_target_that_takes_no_more_comes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, receiver, view, there = ends(tmp_path)
    (tmp_path / "disk").write_bytes(os.urandom(4 * MB + 512))

    def full(batch: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(there, "unpack", full)
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(Refused, match="is full"):
                await receiver.run()

        nursery.start_soon(receive)
        with pytest.raises(TargetFull, match="the target's file system is full"):
            await sender.send_round()
        sender.stop()
    view.close()
    there.close()


async def test_what_no_source_sends_is_refused(tmp_path: Path) -> None:
    _, receiver, view, there = ends(tmp_path)
    for wrong in (b"\x91\x93\xcd\xff\xff\x01\xc0", b"\x91\x93\x00\x01\xc4\x01\x00", b"\xc0", b"\x28\xb5\x2f\xfd\x00"):
        with pytest.raises(CoreDataError):
            receiver._place(memoryview(wrong))
    view.close()
    there.close()


def test_own_disk_is_made_of_the_image_and_kept(tmp_path: Path) -> None:
    blob, disk = tmp_path / "blob", tmp_path / "disk0.img"
    content = b"x" * BLOCK + bytes(8 * MB) + b"y" * 512
    blob.write_bytes(content)
    own_disk(blob, disk)
    assert disk.read_bytes() == content
    assert used(disk) < 2 * MB  # zeros are holes
    disk.write_bytes(b"the guest's")
    assert own_disk(blob, disk).read_bytes() == b"the guest's"


def test_an_arrivals_disk_is_checked(tmp_path: Path) -> None:
    import hashlib

    blob, disk = tmp_path / "blob", tmp_path / "disk0.img"
    blob.write_bytes(b"image" * 1000)
    disk.write_bytes(b"of a copy that is gone")
    own_disk(blob, disk, sha256=hashlib.sha256(b"image" * 1000).hexdigest())
    assert disk.read_bytes() == blob.read_bytes()
    blob.write_bytes(b"imagE" * 1000)
    with pytest.raises(Refused, match="damaged"):
        own_disk(blob, disk, sha256=hashlib.sha256(b"image" * 1000).hexdigest())
    assert not disk.exists()
    assert not disk.with_suffix(".part").exists()


def test_time_that_went_in_comparing_says_nothing_of_the_link() -> None:
    machine = source()
    machine.handle(mig.DisksDone(10 * MB, 100.0, 0, looked=99.9), 1)
    assert machine.rate == pytest.approx(10 * MB / 0.1, rel=0.01)


def test_a_postcopy_that_leaves_no_page_waits_for_no_pull() -> None:
    machine = mig.Source("m", "g", 5, 2, MigrationParams(mode="postcopy"))
    machine.handle(mig.Start(), 0)
    machine.handle(mig.TargetPrepared(), 0)
    machine.handle(mig.RoundDone(256, 0, MB, 0.01, 0), 1)
    machine.handle(mig.Paused(1.0), 1)
    noted = machine.handle(mig.LastRoundDone(3, 0, 4096, left=0), 1)
    assert isinstance(noted[0], mig.Persist)
    assert not noted[0].record.postcopy
    machine.handle(mig.StateSaved(), 1)
    machine.handle(mig.TargetReady(), 1)
    assert kinds(machine.handle(mig.StoreAnswered("committed", 6, 2), 2)) == ["FinishTarget", "Persist", "FreeGuest"]
