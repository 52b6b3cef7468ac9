"""Small freestanding programs on the bare core: devices, interrupts, paging, SBI, M-mode, ends of every kind."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from node.core import CoreError
from node.machine import EV_CRASH, EV_POWEROFF, EV_REBOOT
from tests.guest.guest import MIB, Guest, opened
from tests.guest.programs import build


def run(name: str, *, harts: int = 1, typed: bytes = b"") -> dict[str, str]:
    with Guest(harts=harts) as guest:
        guest.boot(build(name))
        guest.write(typed)
        event = guest.wait_end()
        assert (event.kind, event.arg) == (EV_POWEROFF, 0), guest.output
        return guest.values()


def test_hello() -> None:
    with Guest() as guest:
        guest.boot(build("hello"))
        assert guest.wait_end().kind == EV_POWEROFF
        assert guest.output.startswith(b"hello from uart\nhello from dbcn\n")
        assert b"\n*\n" in guest.output
        assert guest.values() == {"dbcn": "16", "hart": "0", "fdt": "1", "satp": "0"}


@pytest.mark.parametrize(
    ("key", "kind", "code"), [(b"1", EV_POWEROFF, 1), (b"9", EV_POWEROFF, 9), (b"0", EV_REBOOT, 0)]
)
def test_exit_code(key: bytes, kind: int, code: int) -> None:
    with Guest() as guest:
        guest.boot(build("exitcode"))
        guest.read_until(b"code?")
        guest.write(key)
        event = guest.wait_end()
        assert (event.kind, event.arg) == (kind, code)


def test_crash_is_told() -> None:
    with Guest() as guest:
        guest.boot(build("crash"))
        event = guest.wait_end()
        assert event.kind == EV_CRASH
        assert "0x40000000" in event.text
        assert guest.output == b"falling\n"


def test_sbi_calls() -> None:
    ok, failed = "0,0", "-3,0"
    assert run("sbicalls", harts=2) == {
        "spec": "0,33554432",
        "probe_time": "0,1",
        "probe_pmu": ok,
        "base_99": "-2,0",
        "unknown": "-2,0",
        "status_0": ok,
        "status_1": "0,1",
        "status_9": failed,
        "start_self": "-6,0",
        "start_bad_address": "-5,0",
        "start_bad_hart": failed,
        "suspend_reserved": failed,
        "ipi_bad_base": failed,
        "ipi_bad_mask": failed,
        "ipi_overflow": failed,
        "fence_all": ok,
        "sfence_all": ok,
        "hfence": "-2,0",
        "srst_bad": failed,
        "write_outside": failed,
        "write_wraps": failed,
        "write_high": failed,
        "read_nothing": ok,
        "read_outside": failed,
    }


def test_timer() -> None:
    assert run("timer") == {"ticks": "20", "early": "0"}


def test_suspend_and_legacy_calls() -> None:
    with Guest() as guest:
        guest.boot(build("suspend"))
        guest.read_until(b"*\ntype\n")
        guest.write(b"abcd")
        guest.wait_end()
        assert guest.values() == {
            "retentive": "0",
            "late_enough": "1",
            "restarted_late_enough": "1",
            "satp": "0",
            "getchar": "-1",
            "typed": "1",
        }


def test_harts_count_together() -> None:
    assert run("smp", harts=4) == {"counter": "80000", "ipis": "4", "again": "0"}


def test_uart_input_by_interrupt() -> None:
    with Guest() as guest:
        guest.boot(build("echo"))
        guest.read_until(b"ready\n")
        for _ in range(40):
            guest.write(b"all work and no play makes jack a dull boy ")
        guest.write(b".")
        guest.wait_end()
        assert guest.output == b"ready\n" + b"ALL WORK AND NO PLAY MAKES JACK A DULL BOY " * 40 + b".\nclaimed=1\n"


def test_paging() -> None:
    assert run("paging") == {
        "alias": "1234",
        "physical": "1234",
        "faults": "0",
        "read_only_cause": "15",
        "read_only_tval": "4104",
        "absent_cause": "13",
        "not_canonical_cause": "13",
        "three_faults": "3",
        "ad_bits": "1",
        "after_fence": "4321",
        "access_cause": "5",
    }


def test_firmware_in_machine_mode() -> None:
    with Guest(harts=2, firmware=True) as guest:
        guest.boot(build("firmware", firmware=True))
        event = guest.wait_end()
        assert (event.kind, event.arg) == (EV_POWEROFF, 7), guest.output
        assert guest.values() == {"fdt": "1", "soft": "2", "timer": "1", "external": "10"}


def test_pause_stops_and_resume_goes_on() -> None:
    with Guest() as guest:
        guest.boot(build("spin"))
        for turn in range(1, 6):
            guest.read_until(b"\n", count=20 * turn)
            paused = guest.machine.pause()
            guest._take_events()
            guest._drain()
            before = guest.machine.stats()["instructions"], guest.output
            view = guest.view()
            sums = {view.checksum() for _ in range(3)}
            view.close()
            guest._drain()
            assert (guest.machine.stats()["instructions"], guest.output) == before
            assert len(sums) == 1
            assert guest.machine.resume() >= paused
        whole = guest.output.decode().split("\n")[:-1]  # the last line may be half written
        numbers = [int(line.removeprefix("n=")) for line in whole]
        assert numbers == list(range(len(numbers)))


HEADER_SIZE = slice(0x10, 0x18)  # image_size in the Image header


def altered(tmp_path: Path, where: slice, what: bytes) -> Path:
    image = bytearray(build("hello").read_bytes())
    image[where] = what
    path = tmp_path / "image"
    path.write_bytes(image)
    return path


def refused(path: Path, *, firmware: bool = False, initrd: Path | None = None, cmdline: str = "") -> CoreError:
    with Guest(ram=16 * MIB, firmware=firmware) as guest, pytest.raises(CoreError) as caught:
        guest.boot(path, initrd=initrd, cmdline=cmdline)
    return caught.value


def test_memory_smaller_than_the_kernel_is_refused(tmp_path: Path) -> None:
    error = refused(altered(tmp_path, HEADER_SIZE, (64 * MIB).to_bytes(8, "little")))
    assert error.field == "memory"
    assert "needs more than 68 MiB" in str(error)


def test_initrd_larger_than_memory_is_refused(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    with initrd.open("wb") as file:
        file.truncate(64 * MIB)
    assert refused(build("hello"), initrd=initrd).field == "memory"
    initrd.write_bytes(b"")
    assert refused(build("hello"), initrd=initrd).field == "initrd"


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (b"", "no RISC-V Image"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"\xfd7zXZ\0" + bytes(100), "xz"),
        (b"\x7fELF" + bytes(100), "ELF"),
        (bytes(0x38) + b"ARM\x64" + bytes(8), "arm64"),
        (bytes(200), "RSC"),
    ],
)
def test_what_is_no_kernel_is_refused_by_name(tmp_path: Path, head: bytes, text: str) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(head)
    error = refused(path)
    assert error.field == "kernel"
    assert text in str(error)


def test_damaged_image_headers_are_refused(tmp_path: Path) -> None:
    assert refused(altered(tmp_path, slice(0x18, 0x19), b"\x01")).field == "kernel"  # big-endian
    assert refused(altered(tmp_path, slice(0x08, 0x10), b"\xff" * 8)).field == "kernel"
    assert refused(altered(tmp_path, HEADER_SIZE, b"\xff" * 8)).field == "kernel"
    assert refused(build("hello"), cmdline="x" * 3000).field == "cmdline"


def test_damaged_firmware_is_refused(tmp_path: Path) -> None:
    elf = build("firmware", firmware=True).read_bytes()
    path = tmp_path / "firmware"
    for cut in range(1, 400, 7):
        path.write_bytes(elf[:cut])
        if cut >= 4:
            assert refused(path, firmware=True).field == "firmware"
    damaged = Random(99)
    for _ in range(200):
        noisy = bytearray(elf)
        for _ in range(4):
            noisy[damaged.randrange(4, 300)] = damaged.randrange(256)
        path.write_bytes(noisy)
        with Guest(ram=16 * MIB, firmware=True) as guest, opened(path) as fd, suppress(CoreError):
            guest.machine.load_firmware(fd)
    path.write_bytes(b"")
    assert refused(path, firmware=True).field == "firmware"
