"""The set of guests of a node, with real guest processes: repeated and fenced orders, limits, reboots, adoption."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.core import CoreFull
from node.guestcopy import Guest
from node.guests import Guests
from node.record import Record, load_note, save_note
from protocol.errors import Refused
from protocol.messages import GuestSpec, ImageFile, ImageRef
from tests.guest.programs import build

MIB = 1 << 20


class FakePorts:
    """Remembers which guests may speak."""

    def __init__(self) -> None:
        self.enabled: dict[str, bool] = {}

    def attach(self, guest: Guest, *, enabled: bool) -> None:
        self.enabled[guest.id] = enabled

    def detach(self, guest: Guest) -> None:
        self.enabled.pop(guest.id, None)

    def enable(self, guest: Guest, on: bool) -> None:
        self.enabled[guest.id] = on

    def announce(self, guest: Guest) -> None:
        pass

    def hold(self, guest: Guest) -> None:
        pass

    def release(self, guest: Guest) -> None:
        pass

    def moved(self, guest: Guest, node: int, generation: int) -> None:
        pass


class Node:
    """A set of guests and what it told."""

    def __init__(self, folder: Path, nursery: trio.Nursery, memory: int) -> None:
        self.ports = FakePorts()
        self.program = "ticker"
        self.disk = folder.parent / "disk.img"
        self.changed = trio.Event()
        self.guests = Guests(
            folder, nursery, ports=self.ports, fetch=self.fetch, on_change=self.on_change, memory=memory
        )

    async def fetch(self, file: ImageFile) -> Path:
        await trio.lowlevel.checkpoint()
        if file.sha256 == "f" * 64:
            raise Refused("unavailable", "nobody has it")
        if file.role == "disk":
            self.disk.write_bytes(bytes(4096))
            return self.disk
        return build(self.program)

    def on_change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, guest: str, *states: str) -> Guest:
        with trio.fail_after(30):
            while (found := self.guests.find(guest)) is None or found.state not in states:
                await self.changed.wait()
        return found


@asynccontextmanager
async def node(folder: Path, *, memory: int = 0, leave: bool = False) -> AsyncIterator[Node]:
    """``leave``: the guests' processes stay when it ends, as when an agent stops."""
    async with trio.open_nursery() as nursery:
        made = Node(folder / "guests", nursery, memory)
        try:
            await made.guests.adopt_all()
            yield made
        finally:
            for guest in made.guests:
                if guest.handle is not None and not leave:
                    guest.handle.kill()
            nursery.cancel_scope.cancel()
            made.guests.close()


def spec(name: str = "g1", *, memory: int = 32 * MIB, sha256: str = "0" * 64) -> GuestSpec:
    image = ImageRef(name="x", digest="0" * 64, kind="linux", files=[ImageFile(role="kernel", sha256=sha256, size=1)])
    return GuestSpec(guest=name, name=name, image=image, memory=memory, cpus=1, seed=1)


async def type_into(guest: Guest, keys: bytes) -> None:
    async with await guest.live.attach(0) as console:
        await console.send_all(keys)
        with trio.fail_after(20):
            await guest.ended.wait()


async def test_run_is_idempotent_and_fenced(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        status = await n.guests.run(spec(), 2)
        assert (status.state, status.generation) == ("running", 2)
        assert n.ports.enabled == {"g1": True}
        assert (await n.guests.run(spec(), 2)).pid == status.pid
        for order in (
            n.guests.run(spec(), 1),
            n.guests.stop("g1", 1, True, 0),
            n.guests.forget("g1", 1),
        ):
            with pytest.raises(Refused) as caught:
                await order
            assert caught.value.code == "fenced"
        newer = await n.guests.run(spec(), 3)
        assert newer.pid != status.pid
        assert newer.generation == 3


async def test_a_repeated_order_does_not_restart_what_has_ended(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        await n.guests.run(spec(), 1)
        guest = n.guests.get("g1")
        await type_into(guest, b"f")
        assert (guest.state, guest.reason) == ("stopped", "powered off with code 7")
        assert (await n.guests.run(spec(), 1)).state == "stopped"
        assert (await n.guests.run(spec(), 2)).state == "running"


async def test_stop_and_forget(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        await n.guests.run(spec(), 1)
        assert (await n.guests.stop("g1", 1, False, 5.0)).state == "stopped"
        assert n.ports.enabled == {}
        assert (await n.guests.stop("g1", 1, False, 5.0)).state == "stopped"
        await n.guests.forget("g1", 1)
        await n.guests.forget("g1", 1)
        assert n.guests.statuses() == []
        assert not (tmp_path / "guests" / "g1").exists()
        with pytest.raises(Refused) as caught:
            await n.guests.stop("g1", 1, True, 0)
        assert caught.value.code == "not_found"


async def test_reboot_is_a_new_process_of_the_same_generation(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        first = await n.guests.run(spec(), 4)
        guest = n.guests.get("g1")
        await type_into(guest, b"r")
        await n.until("g1", "starting")
        await n.until("g1", "running")
        assert guest.status().pid != first.pid
        assert guest.generation == 4


async def test_crash_is_told_and_kept(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        n.program = "crash"
        await n.guests.run(spec(), 1)
        reason = (await n.until("g1", "crashed")).reason
        assert reason
    async with node(tmp_path) as n:
        assert (n.guests.get("g1").state, n.guests.get("g1").reason) == ("crashed", reason)


async def test_killed_process_is_a_crash(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        await n.guests.run(spec(), 1)
        await n.guests.run(spec("g2"), 1)
        n.guests.get("g1").live.kill()
        assert "killed" in (await n.until("g1", "crashed")).reason
        assert n.guests.get("g2").state == "running"


async def test_memory_is_counted(tmp_path: Path) -> None:
    async with node(tmp_path, memory=80 * MIB) as n:
        await n.guests.run(spec("g1"), 1)
        await n.guests.run(spec("g2"), 1)
        with pytest.raises(Refused, match=r"16777216 of 83886080 are free") as caught:
            await n.guests.run(spec("g3"), 1)
        assert caught.value.code == "full"
        assert n.guests.find("g3") is None
        with pytest.raises(Refused):
            n.guests.add_incoming(spec("g4"), 1, "m1", 2)
        await n.guests.stop("g1", 1, True, 0)
        await n.guests.run(spec("g3"), 1)


async def test_image_that_nobody_has(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        with pytest.raises(Refused, match="nobody has it"):
            await n.guests.run(spec(sha256="f" * 64), 1)
        assert n.guests.get("g1").state == "crashed"
        assert (await n.guests.run(spec(), 2)).state == "running"


async def test_a_guest_without_ports_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(guest: Guest, *, enabled: bool) -> None:
        raise CoreFull(-9, "port", "no more ports")

    async with node(tmp_path) as n:
        with monkeypatch.context() as patch:
            patch.setattr(n.ports, "attach", full)
            with pytest.raises(Refused, match="no more ports") as caught:
                await n.guests.run(spec(), 1)
        assert caught.value.code == "full"
        assert (n.guests.get("g1").state, n.guests.get("g1").handle) == ("crashed", None)
        assert (await n.guests.run(spec(), 2)).state == "running"


async def test_full_disk_while_a_guests_disk_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, part: Path, sha256: str) -> None:
        part.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    files = [ImageFile(role=role, sha256="0" * 64, size=1) for role in ("kernel", "disk")]
    image = ImageRef(name="x", digest="0" * 64, kind="disk", files=files)
    wish = GuestSpec(guest="g1", name="g1", image=image, memory=32 * MIB, cpus=1)
    async with node(tmp_path) as n:
        with monkeypatch.context() as patch:
            patch.setattr("node.disks._copy", full)
            with pytest.raises(Refused, match="disk is full") as caught:
                await n.guests.run(wish, 1)
        assert caught.value.code == "full"
        assert not [name for name in os.listdir(tmp_path / "guests" / "g1") if name.startswith("disk0")]
        assert (await n.guests.run(wish, 2)).state == "running"


async def test_adopted_by_the_next_agent(tmp_path: Path) -> None:
    async with node(tmp_path, leave=True) as n:
        pid = (await n.guests.run(spec(), 5)).pid
    async with node(tmp_path) as n:
        status = n.guests.get("g1").status()
        assert (status.pid, status.state, status.generation) == (pid, "running", 5)
        assert n.ports.enabled == {"g1": True}
        await n.guests.stop("g1", 5, True, 0)


async def test_a_paused_copy_in_a_migration_is_left_paused(tmp_path: Path) -> None:
    async with node(tmp_path, leave=True) as n:
        await n.guests.run(spec(), 1)
        await n.guests.get("g1").live.call("pause")
        save_note(tmp_path / "guests" / "g1", {"migration": "m1"})
    async with node(tmp_path) as n:
        assert n.guests.get("g1").state == "migrating"
        assert n.ports.enabled == {"g1": False}
        assert (await n.guests.get("g1").live.call("status"))["state"] == "paused"


async def test_an_arrival_whose_process_is_gone_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "guests" / "g1").mkdir(parents=True)
    Record(spec(), 1, "incoming", {}, migration="m1", source=2).save(tmp_path / "guests" / "g1")
    save_note(tmp_path / "guests" / "g1", {"migration": "m1"})
    (tmp_path / "guests" / "half").mkdir()
    async with node(tmp_path) as n:
        assert n.guests.statuses() == []
    assert os.listdir(tmp_path / "guests") == []


async def test_damaged_records_are_left_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, data in (("a", b""), ("b", b"\x80"), ("c", b"\xc1\xff"), ("d", b"\x81\xa6format\x02")):
        (tmp_path / "guests" / name).mkdir(parents=True)
        (tmp_path / "guests" / name / "spec.msgpack").write_bytes(data)
    async with node(tmp_path) as n:
        assert n.guests.statuses() == []
    assert caplog.text.count("cannot be adopted") == 4
    assert (tmp_path / "guests" / "a" / "spec.msgpack").exists()


def test_notes(tmp_path: Path) -> None:
    assert load_note(tmp_path) is None
    save_note(tmp_path, {"a": 1})
    assert load_note(tmp_path) == {"a": 1}
    save_note(tmp_path, None)
    assert load_note(tmp_path) is None
