"""gdb-multiarch itself: a program with symbols under wherry-core, and the kernel of a Debian guest."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.guest.commands import built
from tests.guest.debian import debian_image
from tests.guest.gdb import batch, gdb_multiarch
from tests.guest.programs import build


@contextmanager
def core(socket: Path, *arguments: str | Path, until: bytes = b"") -> Iterator[subprocess.Popen[bytes]]:
    """wherry-core with a debugger's socket; its output has been read up to ``until``."""
    gdb_multiarch()
    process = subprocess.Popen(
        [built(), "run", *arguments, "--gdb", socket], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        seen = b""
        while until not in seen and (more := process.stdout.read1(65536)):
            seen += more
        assert until in seen, seen[-2000:]
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_program_with_symbols(tmp_path: Path) -> None:
    image = build("debuggee")
    elf = image.with_suffix(".elf")
    socket = tmp_path / "gdb"
    with core(socket, "--kernel", image, "--smp", "2", until=b"ready\n") as process:
        assert socket.stat().st_mode & 0o777 == 0o600
        said = batch(
            f"file {elf}",
            f"target remote {socket}",
            "info threads",
            "break steps",
            "continue",
            "stepi",
            "p $t0",
            "delete",
            "watch *(long *)((char *)&watched + 8)",
            "continue",
            "p $pc == (void *)&at_amo",
            "delete",
            "thread 2",
            "p $mhartid",
            "p/x $sstatus >> 32",
            "x/2i &at_amo",
            "set {long}&quit = 5",
            "continue",
        )
        assert process.wait(30) == 0
    assert re.search(r"Thread 1 .*hart 0, supervisor, started", said), said
    assert re.search(r"Thread 2 .*hart 1, supervisor, started", said), said
    assert "hit Breakpoint 1, 0x" in said
    assert re.search(r"in (steps|at_\w+) \(\)", said), said  # newer GDBs name the label
    assert "= 7" in said
    assert "Hardware watchpoint 2" in said
    assert "= 1\n" in said
    assert "amoadd.d" in said
    assert "exited normally" in said


@pytest.mark.debian
def test_the_kernel_of_a_debian_guest(tmp_path: Path) -> None:
    image = debian_image()
    socket = tmp_path / "gdb"
    arguments = ("--kernel", image.kernel, "--initrd", image.initrd, "--smp", "2", "--memory", "512M")
    with core(socket, *arguments, until=b"# ") as process:
        said = batch(
            f"target remote {socket}",
            "info threads",
            "hbreak *$stvec",
            "continue",
            "p $pc == $stvec",
            "p $scause != 0",
            "x/3i $pc",
            "delete",  # or the other hart meets it while this one steps
            "stepi 3",
            "p $pc != $stvec",
            "p/x $satp >> 60",
            "info registers sp tp",
            "monitor stats",
            "detach",
        )
        assert process.poll() is None
    assert said.count("hart ") >= 2, said
    assert re.search(r"hit (Hardware assisted )?[Bb]reakpoint 1", said), said
    assert "$1 = 1" in said, said
    assert "$3 = 1" in said, said
    assert re.search(r"\$4 = 0x[89a]\n", said), said  # Sv39, Sv48 or Sv57
    assert re.search(r"sp\s+0x[0-9a-f]{8,}", said), said  # the kernel's, or of the user space that it was entered from
    assert re.search(r"hart 1: instructions \d{5,}", said), said
    assert "detached" in said
