"""Guest processes: spawn, control, adopt, move by hand, end; what they cost; what a bad client can do to them."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgpack
import pytest
import trio

from node.core import CoreDataError, CoreError, CoreExists, CoreInvalid, CoreStateError, CoreUnsupported
from node.guest import GuestGone, GuestHandle, adopt, spawn
from node.record import Record
from protocol.messages import GuestSpec, ImageFile, ImageRef, Nic
from tests.guest.programs import build

MIB = 1 << 20


def record(program: str = "ticker", *, role: str = "run", nics: int = 0, memory: int = 32 * MIB) -> Record:
    kernel = build(program)
    image = ImageRef(
        name=program, digest="0" * 64, kind="linux", files=[ImageFile(role="kernel", sha256="0" * 64, size=1)]
    )
    cards = [Nic(network="lan", vni=7, mac=f"52:54:00:00:00:0{n}", address=f"10.0.0.{n + 2}/24") for n in range(nics)]
    spec = GuestSpec(guest="g1", name="g1", image=image, memory=memory, cpus=1, nics=cards, seed=1)
    return Record(spec, 3, "incoming" if role == "incoming" else "run", {"kernel": str(kernel)})


def prepare(folder: Path, what: Record) -> None:
    folder.mkdir(exist_ok=True)
    what.save(folder)


def anonymous_kib(pid: int) -> int:
    """Memory of a process that no file and no memfd stands behind."""
    found = re.search(r"^Pss_Anon:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


@asynccontextmanager
async def process(folder: Path, what: Record) -> AsyncIterator[GuestHandle]:
    prepare(folder, what)
    handle = await spawn(folder)
    try:
        yield handle
    finally:
        handle.kill()
        handle.close()


async def read_until(stream: trio.abc.ReceiveStream, text: bytes) -> bytes:
    data = b""
    with trio.fail_after(30):
        while text not in data:
            more = await stream.receive_some(65536)
            assert more, f"ended without {text!r}: {data[-200:]!r}"
            data += more
    return data


async def test_life(tmp_path: Path) -> None:
    async with process(tmp_path / "g", record(nics=2)) as handle:
        assert handle.info["state"] == "loaded"
        assert handle.info["generation"] == 3
        assert set(handle.fds) == {"ram", "share", "wanted"} | {
            f"nic{n}.{part}" for n in range(2) for part in ("ring", "to_switch", "to_guest")
        }
        started = await handle.call("start", generation=3)
        assert started["at"] > 0
        async with await handle.attach(0) as console:
            assert (await read_until(console, b"t 3\n")).startswith(b"ticker\nt 1\n")
            await handle.call("pause")
            with pytest.raises(CoreStateError):
                await handle.call("pause")
            await handle.call("resume")
            await console.send_all(b"q")
            with trio.fail_after(20):
                end = await handle.wait_end()
        assert (end.reason, end.code) == ("poweroff", 0)
        log = (tmp_path / "g" / "console.log").read_bytes()
        assert log.startswith(b"ticker\nt 1\n")
        with pytest.raises(GuestGone):
            await handle.call("status")
        with pytest.raises(GuestGone):
            await adopt(tmp_path / "g")


@pytest.mark.parametrize(("key", "reason", "code"), [(b"f", "poweroff", 7), (b"r", "reboot", 0)])
async def test_reason_of_the_end(tmp_path: Path, key: bytes, reason: str, code: int) -> None:
    async with process(tmp_path / "g", record()) as handle:
        await handle.call("start")
        async with await handle.attach(0) as console:
            await console.send_all(key)
            with trio.fail_after(20):
                end = await handle.wait_end()
        assert (end.reason, end.code) == (reason, code)


async def test_crash_keeps_its_text(tmp_path: Path) -> None:
    async with process(tmp_path / "g", record("crash")) as handle:
        await handle.call("start")
        with trio.fail_after(20):
            end = await handle.wait_end()
        assert end.reason == "crash"
        assert end.text
        assert json.loads((tmp_path / "g" / "exit.json").read_text())["generation"] == 3


async def test_signals(tmp_path: Path) -> None:
    async with process(tmp_path / "g", record()) as handle:
        await handle.call("start")
        os.kill(handle.pid, signal.SIGINT)
        assert (await handle.call("status"))["state"] == "running"
        os.kill(handle.pid, signal.SIGTERM)
        with trio.fail_after(20):
            assert (await handle.wait_end()).reason == "stopped"


async def test_killed(tmp_path: Path) -> None:
    async with process(tmp_path / "g", record()) as handle:
        await handle.call("start")
        handle.kill()
        with trio.fail_after(20):
            assert (await handle.wait_end()).reason == "killed"


async def test_adoption_and_one_process_only(tmp_path: Path) -> None:
    async with process(tmp_path / "g", record()) as handle:
        await handle.call("start")
        again = await adopt(tmp_path / "g")
        assert again.pid == handle.pid
        assert again.info["state"] == "running"
        again.close()
        with pytest.raises(CoreExists):
            await spawn(tmp_path / "g")
        assert (await handle.call("status"))["state"] == "running"


async def test_it_runs_in_its_own_session_and_outlives_the_handle(tmp_path: Path) -> None:
    async with process(tmp_path / "g", record()) as handle:
        assert os.getsid(handle.pid) == handle.pid
        await handle.call("start")
        first = await adopt(tmp_path / "g")
        first.close()
        assert (await handle.call("status"))["state"] == "running"


@pytest.mark.parametrize(
    ("files", "field"), [({"kernel": "/nonexistent"}, "kernel"), ({}, "image"), ({"kernel": "/dev/null"}, "kernel")]
)
async def test_bad_image(tmp_path: Path, files: dict[str, str], field: str) -> None:
    what = record()
    what.files = files
    folder = tmp_path / "g"
    folder.mkdir()
    what.save(folder)
    with pytest.raises(CoreError) as caught:
        await spawn(folder)
    assert caught.value.field == field
    assert json.loads((folder / "exit.json").read_text())["reason"] == "setup"


async def move(source: GuestHandle, target: GuestHandle) -> bytes:
    """A cold migration by hand: all pages and the state. Returns the state."""
    await source.call("pause")
    state: bytes = (await source.call("save"))["state"]
    here, there = source.open_view(), target.open_view()
    try:
        here.track(True)
        here.round()
        buffer, more = bytearray(1 << 20), True
        while more:
            batch = here.pack(buffer)
            there.unpack(buffer[: batch.size])
            more = batch.more
        assert here.checksum() == there.checksum()
    finally:
        here.close()
        there.close()
    await target.call("load", state=state)
    return state


async def test_moved_guest_goes_on_with_its_console(tmp_path: Path) -> None:
    async with (
        process(tmp_path / "a", record(nics=1)) as source,
        process(tmp_path / "b", record(nics=1, role="incoming")) as target,
    ):
        with pytest.raises(CoreStateError):
            await target.call("start")
        await source.call("start")
        async with await source.attach(0) as console:
            await read_until(console, b"t 5\n")
        await move(source, target)
        assert (await target.call("start", generation=4))["at"] > 0
        source.kill()
        async with await target.attach(0) as console:
            data = await read_until(console, b"t 20\n")
        assert b"bad" not in data
        numbers = [int(n) for n in re.findall(rb"t (\d+)\n", data)]
        assert numbers == list(range(1, len(numbers) + 1))  # nothing lost, nothing twice
        assert (await target.call("status"))["generation"] == 4
        assert (await target.call("log"))["data"].startswith(b"ticker\nt 1\n")


async def test_damaged_state_is_refused(tmp_path: Path) -> None:
    async with process(tmp_path / "a", record()) as source:
        await source.call("start")
        await source.call("pause")
        state: bytes = (await source.call("save"))["state"]
    async with process(tmp_path / "b", record(role="incoming")) as target:
        for bad in (b"", b"\xc1", state[:-1], msgpack.packb([1, b"", b""]), msgpack.packb([1, state, b""])):
            with pytest.raises((CoreInvalid, CoreDataError)):
                await target.call("load", state=bad)
        with pytest.raises(CoreUnsupported):
            await target.call("load", state=msgpack.packb([2, b"", b""]))
        await target.call("load", state=state)


async def test_bad_clients_cost_only_their_connection(tmp_path: Path) -> None:
    dice = random.Random(7)
    async with process(tmp_path / "g", record()) as handle:
        await handle.call("start")
        for attempt in range(60):
            async with await trio.open_unix_socket(str(tmp_path / "g" / "guest.sock")) as client:
                if attempt % 3 == 0:
                    body = dice.randbytes(dice.randrange(64))
                    await client.send_all(len(body).to_bytes(4, "big") + body)
                elif attempt % 3 == 1:
                    await client.send_all(dice.randbytes(40))
                else:
                    await client.send_all(b"\x00\x00\x00\x09\x81\xa2op\xa5hello"[: dice.randrange(1, 13)])
        with pytest.raises(CoreInvalid):
            await handle.call("nonsense")
        with pytest.raises(CoreInvalid):
            await handle.call("attach", channel=99)
        assert (await handle.call("status"))["state"] == "running"


async def test_request_byte_at_a_time(tmp_path: Path) -> None:
    body = msgpack.packb({"op": "status"})
    async with (
        process(tmp_path / "g", record()),
        await trio.open_unix_socket(str(tmp_path / "g" / "guest.sock")) as client,
    ):
        for byte in len(body).to_bytes(4, "big") + body:
            await client.send_all(bytes([byte]))
        with trio.fail_after(10):
            answer = await client.receive_some(65536)
        assert msgpack.unpackb(answer[4:])["state"] == "loaded"


async def test_reader_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    async with process(tmp_path / "g", record()) as handle:
        await handle.call("start")
        stuck = await handle.attach(0)
        async with await handle.attach(0) as console:
            await read_until(console, b"t 30\n")
        await stuck.aclose()


async def test_long_folder_names(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    async with process(folder, record()) as handle:
        assert (await handle.call("status"))["state"] == "loaded"


async def test_costs_at_most_12_mib_beside_its_ram(tmp_path: Path) -> None:
    async with process(tmp_path / "g", record()) as handle:
        await handle.call("start")
        async with await handle.attach(0) as console:
            await read_until(console, b"t 10\n")
        assert anonymous_kib(handle.pid) <= 12 * 1024


async def test_debugger_at_its_socket(tmp_path: Path) -> None:
    async with process(tmp_path / "g", record()) as handle:
        await handle.call("start")
        assert (tmp_path / "g" / "gdb.sock").stat().st_mode & 0o777 == 0o600
        async with await handle.debug() as debugger:
            await debugger.send_all(b"$?#3f")
            assert (await read_until(debugger, b"#")).startswith(b"+$T05thread:1;")
            assert (await handle.call("status"))["debugger"]
            with pytest.raises(CoreStateError, match="debugger is attached"):
                await handle.call("pause")
            with pytest.raises(CoreExists):
                await handle.debug()
        with trio.fail_after(20):
            while (await handle.call("status"))["debugger"]:
                pass
        async with await handle.attach(0) as console:
            await read_until(console, b"t 3\n")  # it runs again
            await handle.call("pause")
            await handle.call("resume")
            async with await handle.debug() as debugger:
                await debugger.send_all(b"$k#6b")
                with trio.fail_after(20):
                    end = await handle.wait_end()
    assert (end.reason, end.code, end.text) == ("poweroff", 137, "killed by the debugger")


async def test_hot_code_is_a_hint_for_the_process_that_goes_on(tmp_path: Path) -> None:
    async with (
        process(tmp_path / "a", record("busy")) as source,
        process(tmp_path / "b", record(role="incoming")) as target,
    ):
        await source.call("start", generation=3)
        hot = (await source.call("hot"))["hot"]
        assert isinstance(hot, bytes)
        assert (await target.call("warm", hot=hot, most_ms=250))["blocks"] >= 0
        everywhere = b"".join((0x80000000 + page * 4096).to_bytes(8, "little") for page in range(8000))
        assert (await target.call("warm", hot=msgpack.packb([1, everywhere]), most_ms=250))["blocks"] <= 8000
        with pytest.raises(CoreDataError):
            await target.call("warm", hot=b"nonsense", most_ms=250)
        for wrong in ({"hot": "text", "most_ms": 1}, {"hot": hot, "most_ms": 100_000}, {"hot": hot}):
            with pytest.raises(CoreInvalid):
                await target.call("warm", **wrong)
        with pytest.raises(CoreStateError):  # it runs: somebody would wait for the answer
            await source.call("warm", hot=hot, most_ms=1)
