"""Machines that begin in M-mode at the reset vector: Debian's OpenSBI, alone and with Debian's kernel behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.core import CoreError
from tests.guest.debian import debian_image
from tests.guest.guest import MIB, Guest, opened
from tests.guest.opensbi import opensbi
from tests.guest.programs import build


def with_kernel(guest: Guest, firmware: Path, kernel: Path, initrd: Path | None = None, cmdline: str = "") -> Guest:
    with opened(firmware) as fd, opened(kernel) as kernel_fd:
        if initrd is None:
            guest.machine.load_firmware_linux(fd, kernel_fd, cmdline=cmdline)
        else:
            with opened(initrd) as initrd_fd:
                guest.machine.load_firmware_linux(fd, kernel_fd, initrd_fd, cmdline)
    guest.machine.start()
    return guest


@pytest.mark.parametrize("name", ["fw_jump.elf", "fw_jump.bin", "fw_dynamic.elf"])
def test_opensbi_knows_the_board(name: str) -> None:
    with Guest(ram=128 * MIB, harts=2, firmware=True).boot(opensbi(name)) as guest:
        guest.read_until(b"Boot HART MEDELEG")
        lines = dict(
            [part.strip() for part in line.split(" : ", 1)]
            for line in guest.output.decode().splitlines()
            if " : " in line
        )
        assert lines["Platform HART Count"] == "2"
        assert lines["Platform IPI Device"] == "aclint-mswi"
        assert lines["Platform Timer Device"] == "aclint-mtimer @ 10000000Hz"
        assert lines["Platform Console Device"] == "uart8250"
        devices = lines["Platform Reboot Device"], lines["Platform Shutdown Device"]
        assert devices in (("sifive_test", "sifive_test"), ("syscon-reboot", "syscon-poweroff"))  # 1.1, 1.6
        assert lines["Domain0 Next Address"] == ("0x0000000080200000" if "jump" in name else "0x0000000000000000")


@pytest.mark.parametrize("harts", [2, 4])
def test_harts_under_opensbi(harts: int) -> None:
    """The program of test_smp, whose IPIs, fences and hart states are OpenSBI's now; moved in the middle."""
    guest = with_kernel(Guest(harts=harts, firmware=True), opensbi("fw_dynamic.elf"), build("litmus"))
    try:
        for part in ("lrsc", "sfence", "ipi"):
            guest.read_until(f"begin {part}\n".encode())
            other = guest.copy(rounds=1)
            guest.machine.close()
            guest = other
        guest.wait_end()
        values = guest.values()
        parts = ["amo", "lrsc", "spinlock", "mp", "sb", "fencei", "sfence", "ipi", "hsm", "counters"]
        assert {values[part] for part in parts} == {"0"}, guest.output.decode()
    finally:
        guest.machine.close()


@pytest.mark.debian
@pytest.mark.slow
def test_debian_behind_opensbi() -> None:
    image = debian_image()
    guest = Guest(ram=256 * MIB, harts=2, firmware=True, nics=[bytes.fromhex("025700000001")])
    with_kernel(guest, opensbi("fw_dynamic.elf"), image.kernel, image.initrd, "console=ttyS0")
    with guest:
        guest.read_until(b"# ")
        assert b"SBI implementation ID=0x1 " in guest.output  # OpenSBI's number, not ours
        guest.write(b"nproc; ls /sys/bus/virtio/devices | wc -l; date +%Y; poweroff -f\n")
        assert guest.wait_end().arg == 0
        answers = guest.output.decode(errors="replace").splitlines()
        assert answers.count("2") >= 1  # harts
        assert answers.count("3") == 1  # console, rng, net
        assert any(line.isdigit() and int(line) >= 2024 for line in answers)  # the RTC's


def test_firmware_may_not_overlap_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "firmware"
    path.write_bytes(bytes(2 * MIB + 1))
    with Guest(firmware=True) as guest, pytest.raises(CoreError) as caught:
        with_kernel(guest, path, build("hello"))
    assert caught.value.field == "memory"
    assert "room for 2 MiB" in str(caught.value)
    with Guest() as guest, pytest.raises(CoreError) as caught:
        with_kernel(guest, path, build("hello"))
    assert caught.value.field == "boot"
