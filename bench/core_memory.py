"""Rows ``rss_mib`` and ``restore_ms``: memory of idle guests beside their RAM, and how soon a saved one runs again."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from bench import cluster_runs as runs
from bench.core_guest import MEMORY, Emulator
from bench.core_runs import CORE, MARKER

PROMPT = b"root@wherry:"  # the image's console shell: booted, and idle from here
SETTLE = 26.0  # seconds an idle guest, ours or a peer's, is left alone before its memory is read: ours gives back what
# it does not need 10 to 20 s after its last work (csrc/board/idle.c)
_MEMFD = re.compile(r"memfd:")
_RESTORED = re.compile(r"^restore_ms ([0-9.]+) ", re.M)


async def guest_mib(folder: Path, count: int) -> list[float]:
    """MiB of private memory beside guest RAM and rings of ``count`` idle guests' processes on one node of a cluster."""
    found = []
    async with runs.cluster(folder, ["n1"], runs.image_library()) as client:
        for index in range(count):
            await runs.boot(client, f"g{index}", "n1")
            await trio.sleep(SETTLE)
            found.append(runs.private_kib((await client.guest(f"g{index}")).pid) / 1024)
    return found


@contextmanager
def _until(argv: list[str], marker: bytes, timeout: float = 180.0) -> Iterator[int]:
    """A running process that has written ``marker``; gives its pid, kills it at the end. RuntimeError without it."""
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout is not None
    seen, deadline = b"", time.monotonic() + timeout
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while marker not in seen:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise RuntimeError(f"{argv[0]}: {marker!r} not seen in {timeout:.0f} s")
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    raise RuntimeError(f"{argv[0]}: ended before {marker!r}: {seen[-300:]!r}")
                seen += data
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def rival_mib(emulator: Emulator, kernel: Path, initrd: Path) -> float:
    """MiB of private memory beside guest RAM of a peer with the same guest, booted and idle. Its RAM is put into a
    memfd so that it can be told apart."""
    ram = ("-object", f"memory-backend-memfd,id=ram,size={MEMORY},share=on", "-machine", "memory-backend=ram")
    argv = emulator.boot(kernel, initrd, "console=ttyS0", extra=ram)
    with _until(argv, MARKER) as pid:
        time.sleep(SETTLE)
        return private_mib(Path(f"/proc/{pid}/smaps").read_text())


def private_mib(smaps: str) -> float:
    """MiB of the private pages in a text of /proc/PID/smaps; mappings of memfds (guest RAM) are left out."""
    total, counted = 0, True
    for line in smaps.splitlines():
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            counted = _MEMFD.search(line) is None
        elif counted and line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1])
    return total / 1024


def snapshot(emulator: Emulator, kernel: Path, initrd: Path, file: Path) -> None:
    """Boot the Debian image and save it at its shell's prompt. Raises RuntimeError."""
    extra = ("--snapshot-to", str(file), "--on-marker", PROMPT.decode())
    argv = emulator.boot(kernel, initrd, "console=ttyS0", extra=extra)
    done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=180, check=False)
    if done.returncode != 0 or not file.exists():
        raise RuntimeError(f"no snapshot: exit status {done.returncode}: {done.stderr.decode()[-300:]}")


def restore_ms(emulator: Emulator, file: Path) -> float:
    """Milliseconds from the start of ``wherry-core``'s main to the first instructions of the restored guest, as it
    tells them itself. Raises RuntimeError."""
    engine = ["--engine", emulator.engine] if emulator.engine else []
    argv = [str(CORE), "run", "--restore", str(file), "--stats", "--max-insns", "1", *engine]
    done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    match = _RESTORED.search(done.stderr.decode(errors="replace"))
    if match is None:
        raise RuntimeError(f"no restore_ms: exit status {done.returncode}: {done.stderr.decode()[-300:]}")
    return float(match[1])
