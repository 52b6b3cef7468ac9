"""One run each of the bare core and of QEMU on the same guest: a bare-metal ELF, or a kernel with its initrd.

``wherry-core`` is the core as a command; no daemon is in the figure. QEMU is Debian's ``qemu-system-riscv64`` under
TCG.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import time
from pathlib import Path

from bench.harness import ROOT, tool_version

CORE = ROOT / "build" / "csrc" / "wherry-core"
MARKER = b"wherry: user"  # init's first words; the kernel may break into the rest of its line


class Missing(Exception):
    """A tool or an input that the benchmark needs is not there; the text says how to get it."""


def qemu() -> str | None:
    """Path of qemu-system-riscv64: on PATH, or where set-up unpacked Debian's package."""
    private = ROOT / "build" / "tools" / "bin" / "qemu-system-riscv64"
    return shutil.which("qemu-system-riscv64") or (str(private) if private.exists() else None)


def qemu_name() -> str:
    """ "qemu-system-riscv64 7.2.22 tcg", as the report names the peer."""
    path = qemu()
    words = tool_version([path, "--version"]).split() if path else []
    return f"qemu-system-riscv64 {words[3] if len(words) > 3 else '?'} tcg" if path else "qemu-system-riscv64 (missing)"


def build_program(name: str) -> Path:
    """Compile ``bench/programs/NAME.c`` for a bare RV64GC machine; the result is kept until a source is newer."""
    sources = [ROOT / "bench/programs/start.S", ROOT / f"bench/programs/{name}.c"]
    script = ROOT / "bench/programs/link.ld"
    target = ROOT / f"build/bench/{name}.elf"
    if target.exists() and all(target.stat().st_mtime > s.stat().st_mtime for s in [*sources, script]):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    python = ROOT / ".venv" / "bin" / "python"
    flags = "-target riscv64-freestanding -mcpu=generic_rv64+m+a+f+d+c -mcmodel=medany -O2 -nostdlib -ffreestanding"
    subprocess.run(
        [python, "-m", "ziglang", "cc", *flags.split(), "-fno-sanitize=all", "-T", script, *sources, "-o", target],
        check=True,
    )
    return target


def interpreter_elf(elf: Path) -> list[str]:
    return [str(CORE), "run", "--engine", "interpreter", "--elf", str(elf)]


def qemu_elf(elf: Path) -> list[str]:
    return [str(qemu()), "-M", "virt", "-nographic", "-bios", str(elf)]


def interpreter_linux(kernel: Path, initrd: Path, append: str) -> list[str]:
    return [
        *[str(CORE), "run", "--engine", "interpreter", "--memory", "256M"],
        *["--kernel", str(kernel), "--initrd", str(initrd), "--append", append],
    ]


def qemu_linux(kernel: Path, initrd: Path, append: str) -> list[str]:
    return [
        *[str(qemu()), "-M", "virt", "-m", "256M", "-nographic", "-no-reboot"],
        *["-kernel", str(kernel), "-initrd", str(initrd), "-append", append],
    ]


def integer_rate(argv: list[str]) -> float:
    """Iterations per second that ``bench/programs/integer.c`` printed, by the guest's own clock."""
    done = subprocess.run(argv, capture_output=True, timeout=120, stdin=subprocess.DEVNULL, check=False)
    for line in done.stdout.decode(errors="replace").splitlines():
        words = line.split()
        if len(words) == 4 and words[0] == "result":
            return int(words[1]) / (int(words[2]) / 10_000_000)
    raise RuntimeError(f"{argv[0]}: no result line; exit {done.returncode}: {done.stderr.decode()[-400:]}")


def seconds_to_marker(argv: list[str], marker: bytes = MARKER, timeout: float = 180.0) -> float:
    """Wall seconds from the start of the process until ``marker`` stands on its output; the process is killed then."""
    began = time.monotonic()
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout is not None
    seen = b""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while (left := began + timeout - time.monotonic()) > 0:
                if not selector.select(left):
                    break
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    break
                seen += data
                if marker in seen:
                    return time.monotonic() - began
        raise RuntimeError(f"{argv[0]}: {marker!r} not seen in {timeout:.0f} s; last output: {seen[-400:]!r}")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
