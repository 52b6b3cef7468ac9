"""CPU models as a guest sees them: what Linux reads from the device tree, and that a state stays with its model."""

from __future__ import annotations

import pytest

from node.core import CoreError
from node.machine import Machine
from tests.guest.debian import debian_image, initrd_with
from tests.guest.guest import MIB, Guest
from tests.guest.programs import build, build_user
from tests.guest.test_debian import USER_SPACE, answer

LATER = {"zba", "zbb", "zbs", "zicbom", "zicboz", "zicond", "zfa", "zfhmin", "zawrs", "zacas", "zcb", "zimop"}
LATER |= {"sstc", "svinval", "svnapot", "svpbmt"}


# riscv_hwprobe's key IMA_EXT_0 (Linux, arch/riscv/include/uapi/asm/hwprobe.h): the extensions from bit 0 on.
BITS = """
f+d c v zba zbb zbs zicboz zbc zbkb zbkc zbkx zknd zkne zknh zksed zksh zkt zvbb zvbc zvkb zvkg zvkned zvknha zvknhb
zvksed zvksh zvkt zfh zfhmin zihintntl zvfh zvfhmin zfa ztso zacas zicond zihintpause zve32x zve32f zve64x zve64f zve64d
zimop zca zcb zcd zcf zcmop zawrs
"""
PROBED = BITS.split()
BASE_BEHAVIOR, IMA_EXT_0, ZICBOZ_BLOCK, TIME_FREQUENCY = 3, 4, 6, 8  # keys


def seen(model: str) -> tuple[set[str], dict[int, int]]:
    """What a Debian guest of that model says: the extensions of /proc/cpuinfo, and riscv_hwprobe's values by key."""
    image = debian_image()
    initrd = initrd_with(image, build_user("hwprobe"), "hwprobe")
    with Guest(ram=256 * MIB, harts=2, cpu=model).boot(image.kernel, initrd=initrd, cmdline="console=ttyS0") as guest:
        guest.read_until(USER_SPACE)
        guest.read_until(b"# ")
        lines = answer(guest, "grep -e ^isa -e ^mmu /proc/cpuinfo").splitlines()
        probed = answer(guest, "/hwprobe; echo status=$?")
        assert answer(guest, "dmesg | grep -ci -e 'oops' -e 'BUG:'").split()[-1] == "0"
    values = dict(line.split(":", 1) for line in lines if line.startswith(("isa", "mmu")))
    named = {key.strip(): value.strip() for key, value in values.items()}
    assert named["mmu"] == "sv57"
    base, *rest = named["isa"].split("_")
    assert base == "rv64imafdc"
    assert "status=0" in probed
    words = [line.split() for line in probed.splitlines()]
    return {*rest, "f+d", "c"}, {int(w[1], 16): int(w[2], 16) for w in words if w[:1] == ["hwprobe"]}


def check_hwprobe(found: set[str], probed: dict[int, int]) -> None:
    """Each extension that hwprobe knows is told by both or by neither."""
    assert probed[BASE_BEHAVIOR] & 1, "IMA"
    bits = {name for at, name in enumerate(PROBED) if probed[IMA_EXT_0] >> at & 1}
    assert bits == found & set(PROBED)
    assert probed[TIME_FREQUENCY] == 10_000_000
    assert probed[ZICBOZ_BLOCK] == (64 if "zicboz" in found else 0)


@pytest.mark.debian
@pytest.mark.slow
def test_linux_sees_the_extensions_of_rva22() -> None:
    found, probed = seen("rva22")
    assert LATER - found <= {"svadu"}, found  # Debian's 6.12 knows all of these
    assert not found & {"zkt", "v", "h", "svade"}
    check_hwprobe(found, probed)


@pytest.mark.debian
@pytest.mark.slow
def test_linux_sees_nothing_later_on_rv64gc() -> None:
    found, probed = seen("rv64gc")
    assert {"zicntr", "zicsr", "zifencei", "zihpm"} <= found
    assert not found & LATER, found
    check_hwprobe(found, probed)


@pytest.mark.parametrize(("saved", "loaded"), [("rva22", "rv64gc"), ("rv64gc", "rva22")])
def test_a_state_is_refused_by_another_model(saved: str, loaded: str) -> None:
    with Guest(ram=16 * MIB, cpu=saved) as guest:
        guest.boot(build("spin"))
        guest.read_until(b"\n", count=3)
        guest.machine.pause()
        state = guest.machine.save()
    with Machine(16 * MIB, 1, cpu=loaded) as other, pytest.raises(CoreError) as caught:
        other.load(state)
    assert caught.value.field == "cpu"
    assert f"CPU model {saved}" in str(caught.value)
    assert f"this machine is {loaded}" in str(caught.value)
    with Machine(16 * MIB, 1, cpu=saved) as same:
        same.load(state)
