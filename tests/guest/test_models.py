"""CPU models as a guest sees them: what Linux reads from the device tree, and that a state stays with its model."""

from __future__ import annotations

import pytest

from node.core import CoreError
from node.machine import Machine
from tests.guest.debian import debian_image
from tests.guest.guest import MIB, Guest
from tests.guest.programs import build
from tests.guest.test_debian import USER_SPACE, answer

LATER = {"zba", "zbb", "zbs", "zicbom", "zicboz", "zicond", "zfa", "zfhmin", "zawrs", "zacas", "zcb", "zimop"}
LATER |= {"sstc", "svinval", "svnapot", "svpbmt"}


def extensions(model: str) -> set[str]:
    """What /proc/cpuinfo of a Debian guest of that model names."""
    image = debian_image()
    with Guest(ram=256 * MIB, cpu=model).boot(image.kernel, initrd=image.initrd, cmdline="console=ttyS0") as guest:
        guest.read_until(USER_SPACE)
        guest.read_until(b"# ")
        lines = answer(guest, "grep -e ^isa -e ^mmu /proc/cpuinfo").splitlines()
        assert answer(guest, "dmesg | grep -ci -e 'oops' -e 'BUG:'").split()[-1] == "0"
    values = dict(line.split(":", 1) for line in lines if line.startswith(("isa", "mmu")))
    named = {key.strip(): value.strip() for key, value in values.items()}
    assert named["mmu"] == "sv57"
    base, *rest = named["isa"].split("_")
    assert base == "rv64imafdc"
    return set(rest)


@pytest.mark.debian
@pytest.mark.slow
def test_linux_sees_the_extensions_of_rva22() -> None:
    found = extensions("rva22")
    assert LATER - found <= {"svadu"}, found  # Debian's 6.12 knows all of these
    assert not found & {"zkt", "v", "h", "svade"}


@pytest.mark.debian
@pytest.mark.slow
def test_linux_sees_nothing_later_on_rv64gc() -> None:
    found = extensions("rv64gc")
    assert {"zicntr", "zicsr", "zifencei", "zihpm"} <= found
    assert not found & LATER, found


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
