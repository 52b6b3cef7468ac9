"""The translator beside the interpreter, step by step (build/csrc/wherry-lockstep): random programs, our own guest
programs with traps, page tables and several harts, firmware's beginnings of Debian.

WHERRY_LOCKSTEP_PROGRAMS: how many random programs (default 60); WHERRY_LOCKSTEP_SEED: number of the first (default 1).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.guest.commands import built
from tests.guest.debian import debian_image
from tests.guest.programs import build
from tests.isa import generate

PROGRAMS = int(os.environ.get("WHERRY_LOCKSTEP_PROGRAMS", "60"))
FIRST = int(os.environ.get("WHERRY_LOCKSTEP_SEED", "1"))
BATCH = 20


@pytest.fixture(scope="session")
def lockstep() -> Path:
    return built("lockstep")


def run(tool: Path, *words: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [str(tool), *(str(word) for word in words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def same(tool: Path, *words: object, timeout: float = 120) -> None:
    done = run(tool, *words, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(map(str, done.args))}\n{done.stdout[-4000:]}{done.stderr[-1000:]}"


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("first", range(FIRST, FIRST + PROGRAMS, BATCH))
def test_random_programs(first: int, extended: bool, lockstep: Path, tmp_path: Path) -> None:
    for seed in range(first, min(first + BATCH, FIRST + PROGRAMS)):
        elf = tmp_path / f"{seed}.elf"
        elf.write_bytes(generate.build(seed, bare=True, steps=1500, extended=extended))
        for every in (61, 100000):
            same(lockstep, "--elf", elf, "--memory", "16M", "--every", every, "--max-insns", 2000000)


@pytest.mark.parametrize(("program", "harts"), [("paging", 1), ("timer", 1), ("many", 4), ("litmus", 2), ("steps", 1)])
def test_guest_programs(program: str, harts: int, lockstep: Path) -> None:
    limits = ["--max-insns", 30000000, "--every", 10007, "--digest-every", 3000000]
    same(lockstep, "--kernel", build(program), "--memory", "64M", "--smp", harts, *limits)


@pytest.mark.parametrize(("program", "harts"), [("paging", 1), ("many", 4), ("litmus", 2)])
def test_giving_back_leaves_no_trace(program: str, harts: int, lockstep: Path) -> None:
    limits = ["--max-insns", 6000000, "--every", 10007, "--digest-every", 3000000, "--give-back", 3 * 10007]
    same(lockstep, "--kernel", build(program), "--memory", "64M", "--smp", harts, *limits)


@pytest.mark.debian
@pytest.mark.slow
@pytest.mark.parametrize("harts", [1, 2])
def test_debian_boots_alike(harts: int, lockstep: Path) -> None:
    """To user space and beyond (about a thousand million steps)."""
    image = debian_image()
    words = ["--kernel", image.kernel, "--initrd", image.initrd, "--smp", harts, "--digest-every", "100M"]
    same(lockstep, *words, "--max-insns", "1100M", timeout=400)


@pytest.mark.parametrize("step", [400, 777])
def test_a_difference_is_found_at_its_step(step: int, lockstep: Path, tmp_path: Path) -> None:
    elf = tmp_path / "program.elf"
    elf.write_bytes(generate.build(7, bare=True))
    words = ["--elf", elf, "--memory", "16M", "--every", 50, "--upset", step]
    done = run(lockstep, *words)
    assert done.returncode == 1
    assert f"at step {step}:" in done.stdout
    assert "x4 " in done.stdout
