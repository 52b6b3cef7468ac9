"""Rows of one switch by itself: ring to ring, memory of an idle peer and of a MAC (switchbench.c)."""

from __future__ import annotations

import statistics
import subprocess

from bench import net_programs
from bench.harness import ROOT, Row
from bench.net_measure import NoFigure

PEERS, MACS = 1000, 1_000_000
_ROOMS = ("base", "state", "memory", "switch")


def program() -> list[str]:
    """Linked with the objects that ``make -C csrc`` has left."""
    objects = [str(path) for room in _ROOMS for path in sorted((ROOT / "build/csrc/opt" / room).glob("*.o"))]
    libraries = ["-lcrypto", "-lm", "-ldl", "-pthread"]
    return [str(net_programs.build("switchbench", f"-I{ROOT}/csrc", *objects, *libraries))]


def _run(command: list[str], what: str, amount: int) -> list[int]:
    done = subprocess.run([*command, what, str(amount)], capture_output=True, text=True, check=False, timeout=120)
    words = done.stdout.split()
    if done.returncode or words[:1] != [what] or done.stderr:
        raise NoFigure(f"switchbench {what}: {(done.stderr or done.stdout).strip()[-200:]}")
    return [int(word) for word in words[1:]]


def measure(rows: dict[str, Row], rounds: int, seconds: float) -> list[str]:
    """Fill those of the rows that are wanted; returns what went wrong."""
    command, faults = program(), []
    try:
        if "ring_mpps" in rows:
            _ring(command, rows["ring_mpps"], rounds, int(1000 * min(2.0, seconds)))
        if "peer_state_kib" in rows:
            count, size = _run(command, "peers", PEERS)
            rows["peer_state_kib"].ours.append(round(size / count / 1024, 2))
        if "mac_state_b" in rows:
            count, size = _run(command, "macs", MACS)
            rows["mac_state_b"].ours.append(round(size / count, 2))
    except (NoFigure, subprocess.TimeoutExpired) as error:
        faults.append(str(error))
    return faults


def _ring(command: list[str], row: Row, rounds: int, ms: int) -> None:
    """Frames for a second of the worker's processor time; by the clock in the note."""
    wall = []
    for _ in range(rounds):
        frames, wall_ns, worker_ns = _run(command, "ring", ms)
        row.ours.append(round(frames * 1e3 / max(1, worker_ns), 3))
        wall.append(frames * 1e3 / wall_ns)
    row.note = f"{statistics.median(wall):.2f} M/s by the clock, the guests' side included"
