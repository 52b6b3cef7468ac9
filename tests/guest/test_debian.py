"""Debian's own kernel on the bare core: to a prompt, through copies in the middle of its boot, idle and ended."""

from __future__ import annotations

import os
import random
import resource
import select
from pathlib import Path

import pytest

from node.machine import RESTORE_LAZY, RESTORE_ON_DEMAND
from tests.guest.debian import debian_image
from tests.guest.guest import MIB, Guest

pytestmark = [pytest.mark.debian, pytest.mark.slow]
USER_SPACE = b"root@wherry:"  # the prompt: the kernel may break into init's own line with a message
MAC = bytes.fromhex("025700000001")


def boot(harts: int = 1) -> Guest:
    image = debian_image()
    return Guest(ram=256 * MIB, harts=harts, nics=[MAC]).boot(
        image.kernel, initrd=image.initrd, cmdline="console=ttyS0 wherry.nic=02:57:00:00:00:01,10.1.2.3/24,,1400"
    )


def answer(guest: Guest, command: str) -> str:
    """What a command prints on the guest's shell."""
    turn = guest.output.count(b"<<end>>")
    guest.write(f"{command}; echo '<<'end'>>'\n".encode())
    guest.read_until(b"<<end>>", count=turn + 1)
    return guest.output.decode(errors="replace").split("<<end>>")[turn].split("'end'>>'")[-1]


def test_boots_to_a_shell_and_powers_off() -> None:
    with boot(harts=2) as guest:
        guest.read_until(USER_SPACE)
        guest.read_until(b"# ")
        assert "Linux" in answer(guest, "uname -a")
        assert answer(guest, "nproc").split()[-1] == "2"
        assert "10.1.2.3/24" in answer(guest, "ip address show eth0")
        assert "org.qemu.guest_agent.0" in answer(guest, "cat /sys/class/virtio-ports/*/name")
        assert answer(guest, "dmesg | grep -ci -e 'oops' -e 'rcu.*stall' -e 'BUG:'").split()[-1] == "0"
        guest.write(b"poweroff -f\n")
        assert guest.wait_end().arg == 0


def test_carried_to_a_new_machine_all_along_its_boot() -> None:
    guest = boot(harts=2)
    for mark in (b"Linux version", b"Memory:", b"Freeing initrd", b"Run /init", USER_SPACE, b"# "):
        guest.read_until(mark)
        other = guest.copy(rounds=2)
        guest.machine.close()
        guest = other
    with guest:
        digest = answer(guest, "sha256sum /usr/bin/busybox | cut -c-64").split()[-1]
        other = guest.copy()
        with other:
            assert answer(other, "sha256sum /usr/bin/busybox | cut -c-64").split()[-1] == digest
            assert answer(other, "dmesg | grep -ci -e 'oops' -e 'rcu.*stall' -e 'BUG:'").split()[-1] == "0"


def test_goes_on_from_snapshots_at_random_times(tmp_path: Path) -> None:
    """In the middle of its boot and of a computation, with pages that come in as they are touched."""
    seed = int(os.environ.get("WHERRY_TEST_SEED", "20261123"))
    chance = random.Random(seed)
    guest = boot(harts=2)
    old = []

    def snapshot_and_go_on(number: int) -> Guest:
        select.select([], [], [], chance.uniform(0, 0.5))  # a random moment of real time is the point
        path = tmp_path / str(number)
        guest.snapshot(path)
        old.append(guest)
        return guest.restored(path, chance.choice([RESTORE_LAZY, RESTORE_ON_DEMAND]))

    try:
        for number, mark in enumerate([b"Memory:", b"Run /init", USER_SPACE]):
            guest.read_until(mark)
            guest = snapshot_and_go_on(number)
        guest.read_until(b"# ")
        digest = answer(guest, "sha256sum /usr/bin/busybox | cut -c-64").split()[-1]
        guest.write(b"for i in 1 2 3 4 5 6; do sha256sum /usr/bin/busybox; done; echo all-'done'\n")
        guest = snapshot_and_go_on(3)
        guest.read_until(b"all-done")
        assert guest.output.count(digest.encode() + b"  /usr/bin/busybox") == 6, seed
        assert answer(guest, "dmesg | grep -ci -e 'oops' -e 'rcu.*stall' -e 'BUG:'").split()[-1] == "0"
        guest.write(b"poweroff -f\n")
        assert guest.wait_end().arg == 0
    finally:
        for one in [*old, guest]:
            one.machine.close()


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def test_an_idle_guest_costs_under_two_percent_of_a_core() -> None:
    with boot() as guest:
        guest.read_until(b"# ")
        answer(guest, "sleep 3")  # what the start left to do is done
        before = cpu_seconds()
        seconds = 5.0
        select.select([], [], [], seconds)  # the measurement itself: real time has to pass
        assert (cpu_seconds() - before) / seconds < 0.02
