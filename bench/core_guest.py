"""Runs ``bench/programs/core`` in a guest (ours or a peer's) and on the host, and reads what it prints.

One static binary per instruction set, built by the zig of the development packages from our C sources; every emulator
runs the same one. It travels in a second cpio archive behind the Debian image's own initrd, so that kernel and initrd
are the same in every row; ``rdinit=/core`` starts it instead of the image's init.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.core_runs import CORE
from bench.harness import ROOT
from bench.peers import Peer
from wherry.image.initramfs import Archive

SOURCES = ROOT / "bench" / "programs" / "core"
MEMORY = "256M"
FLAGS = ["-O2", "-static", "-s", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-fno-sanitize=all", "-fno-builtin"]
BUSYBOX = "/bin/busybox"  # of the Debian image
_LINE = re.compile(r"^bench (?P<name>[a-z0-9_]+) (?:(?P<word>missing|wrong)|(?P<value>[0-9.e+-]+) \S+ (?P<sum>\S+))$")


@dataclass
class Figures:
    """What one run printed: values and checksums by row; ``faults`` says what each row without a value lacks.

    ``shares``: processor time over wall time while a row was timed. Well below 1, others had the host's processors.
    """

    values: dict[str, float] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    shares: dict[str, float] = field(default_factory=dict)


def parse(text: str) -> Figures:
    """The result lines in console output; kernel messages between them, and half lines, are passed over.

    ``bench NAME VALUE UNIT CHECKSUM`` (checksum ``-``: none), ``bench NAME missing``, ``bench NAME wrong``; the last is
    ``bench done``. A row that comes twice keeps its first figure.
    """
    found = Figures()
    for line in text.splitlines():
        if line.strip() == "bench done":
            found.complete = True
        match = _LINE.match(line.strip())
        if match is None or match["name"] in found.values or match["name"] in found.faults:
            continue
        if match["word"]:
            found.faults[match["name"]] = match["word"]
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        found.values[match["name"]] = value
        if match["sum"] != "-":
            found.sums[match["name"]] = match["sum"]
    return found


def build(target: str, folder: Path = SOURCES, name: str = "core") -> Path:
    """The binary of a folder's sources for a zig target such as ``riscv64-linux-musl``, kept under the hash of sources
    and flags."""
    digest = hashlib.sha256(repr((target, FLAGS)).encode())
    sources = sorted(folder.glob("*.c"))
    for part in [*sources, *sorted(folder.glob("*.h"))]:
        digest.update(part.read_bytes())
    made = ROOT / "build" / "bench" / f"{name}-{target}-{digest.hexdigest()[:16]}"
    if not made.exists():
        print(f"bench: compiling for {target} (a first time builds libc too: a minute)", file=sys.stderr)
        made.parent.mkdir(parents=True, exist_ok=True)
        partial = made.with_suffix(".partial")
        command = [sys.executable, "-m", "ziglang", "cc", "-target", target, *FLAGS, *map(str, sources)]
        subprocess.run([*command, "-o", str(partial)], check=True)
        partial.rename(made)
    return made


def initrd(image: Path, binary: Path, name: str = "core") -> Path:
    """The image's initrd with ``/NAME`` behind it (the kernel unpacks archives one after the other)."""
    archive = Archive()
    archive.add_file(name, binary.read_bytes(), 0o755)
    archive.add_device("dev/console", 5, 1)
    made = ROOT / "build" / "bench" / f"{name}-initrd"
    first = image.read_bytes()
    made.write_bytes(first + b"\0" * (-len(first) % 512) + archive.write())
    return made


@dataclass(frozen=True)
class Emulator:
    """Something that boots a kernel: ours (``peer`` None) with an engine, or a peer. ``name`` is for the report."""

    name: str
    peer: Peer | None = None
    engine: str = ""

    def boot(self, kernel: Path, archive: Path, append: str, harts: int = 1, extra: tuple[str, ...] = ()) -> list[str]:
        """The command that boots, console on stdout."""
        common = ["-kernel", str(kernel), "-initrd", str(archive), "-append", append]
        if self.peer is not None:
            machine = ["-M", "virt", "-m", MEMORY, "-smp", str(harts), "-nographic", "-no-reboot"]
            return [*self.peer.argv, *machine, *common, *extra]
        ours = [f"-{word}" if word in ("-kernel", "-initrd", "-append") else word for word in common]
        engine = ["--engine", self.engine] if self.engine else []
        return [str(CORE), "run", *ours, "--memory", MEMORY, "--smp", str(harts), *engine, *extra]


def _processor_s(pid: int) -> float:
    """Processor seconds that the threads of a process have had; 0 where there is none of that number."""
    total = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(file.read_text().split()[0])
        except OSError:  # a thread that has just ended
            continue
    return total / 1e9


class _Clocks:
    """Watches output as it comes: processor and wall time between lines ``begin`` and ``took NS``, told with the row of
    the result line behind them. Where our wall time is not the NS that the program saw, we were not awake in time and
    know nothing.
    """

    def __init__(self, pid: int) -> None:
        self.shares: dict[str, float] = {}
        self._pid = pid
        self._began: tuple[float, float] | None = None
        self._share: float | None = None
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            words = line.split()
            if words == [b"begin"]:
                self._began, self._share = (_processor_s(self._pid), time.monotonic()), None
            elif words[:1] == [b"took"] and len(words) == 2 and words[1].isdigit() and self._began is not None:
                processor, wall = _processor_s(self._pid) - self._began[0], time.monotonic() - self._began[1]
                if abs(wall - int(words[1]) / 1e9) < 0.1 * wall:
                    self._share = processor / wall
                self._began = None
            elif words[:1] == [b"bench"] and len(words) == 5 and self._share is not None:
                self.shares[words[1].decode(errors="replace")] = self._share
                self._share = None


def run(argv: list[str], timeout: float) -> tuple[Figures, str]:
    """The figures that a command prints, and "" or how it failed with the last of its output. After ``timeout`` seconds
    it is killed with its whole group."""
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout is not None
    clocks, text, deadline = _Clocks(process.pid), b"", time.monotonic() + timeout
    failure = f"not done after {timeout:.0f} s"
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    code = process.wait()
                    failure = f"exit status {code}" if code else "ended early"
                    break
                text += data
                clocks.feed(data)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
    found = parse(text.decode(errors="replace"))
    found.shares = {name: share for name, share in clocks.shares.items() if name in found.values}
    last = " | ".join(line.strip() for line in text.decode(errors="replace").splitlines()[-6:] if line.strip())
    return found, "" if found.complete else f"{failure}; output: {last[-300:]}"


def measure(emulator: Emulator, kernel: Path, archive: Path, words: str, *, harts: int, timeout: float) -> Figures:
    """Boot the binary with ``words`` as its arguments and read its figures. How a run failed is a fault named "run"."""
    append = f"console=ttyS0 quiet panic=-1 rdinit=/core -- {words}"
    found, failure = run(emulator.boot(kernel, archive, append, harts), timeout)
    if failure:
        found.faults["run"] = failure
    return found


def measure_host(words: str, timeout: float) -> Figures:
    """The same sources compiled for this host, run on it."""
    found, failure = run([str(build(f"{platform.machine()}-linux-musl")), *words.split()], timeout)
    if failure:
        found.faults["run"] = failure
    return found
