"""Privileged execution on both engines and on qemu-system-riscv64: traps, page tables, PMP, interrupts, CSRs.

The peer is the newest QEMU that Debian packages (bench/peers.py). Each case's registers, page-table entries and memory
afterwards must be equal, but for DIFFERENCES. WHERRY_PRIVILEGED: how many programs of 224 cases (default 6),
WHERRY_ISA_SEED: the first.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import peers
from tests.guest.commands import built
from tests.guest.programs import build
from tests.isa import privileged as p
from tests.isa.test_differential import ENGINES

PROGRAMS = int(os.environ.get("WHERRY_PRIVILEGED", "300" if os.environ.get("WHERRY_FUZZ") else "6"))
FIRST = int(os.environ.get("WHERRY_ISA_SEED", "1"))
# smaia, ssaia: without them QEMU takes the lowest-numbered of several interrupts, where 3.1.9 has an order of its own.
HAVE = ["smaia", "ssaia", "svpbmt", "svnapot", "svinval", "sstc", "svadu", "svade", "zicbom", "zicboz", "zawrs", "zbb"]
# pmu-mask: all the counters that we have.
CPU = ",".join(["rv64", *(f"{name}=on" for name in HAVE), "h=off", "pmu-mask=0xfffffff8"])
Record = dict[str, int]
Difference = Callable[[p.Case, Record, Record], bool]

# Where the peer differs and the specification decides, or allows both. Each is as narrow as its reason.
DIFFERENCES: dict[str, Difference] = {
    # CMO spec 1.0, 2.5.3: tval is "the value in rs1"; QEMU aligns it to the block.
    "cache block tval": lambda case, a, b: (
        case.code & 0x707F == 0x200F
        and a | {"mtval": 0, "stval": 0} == b | {"mtval": 0, "stval": 0}
        and {a["mtval"] & -64, a["stval"] & -64} == {b["mtval"], b["stval"]}
    ),
    # Privileged spec, table 3.7: a page fault comes before an access fault, and an atomic needs the right to store from
    # the start. QEMU splits one that it can't do in one go into a load and a store: the load may meet an access fault
    # first, or set A, and not D, before it or the store is refused.
    "atomic in two parts": lambda case, a, b: (
        case.code & 0x7F == 0x2F
        and (
            (15 in {a["mcause"], a["scause"]} and 7 in {b["mcause"], b["scause"]})
            or {k for k in a if a[k] != b[k]} <= {"leaf", "pointer"}
        )
    ),
    # Privileged spec, 3.7.1.3: an access may be made in several parts, each of which PMP checks, and a fault tells the
    # part. Ours at the end of a page is two; QEMU holds PMP against all of its bytes as if they followed the first ones
    # in physical memory, too.
    "access across pages": lambda case, a, b: (
        across_pages(case) and ({5, 7} & {b["mcause"], b["scause"]} != set() and case.a0 in {b["mtval"], b["stval"]})
    ),
}


def across_pages(case: p.Case) -> bool:
    """A plain load or store whose offset is 0, as the generator makes them."""
    size = 1 << (case.code >> 12 & 3)
    return case.code & 0x7F in {0x03, 0x23} and case.a0 % 4096 + size > 4096


@pytest.fixture(scope="session")
def core() -> Path:
    return built()


@pytest.fixture(scope="session")
def qemu() -> list[str]:
    try:
        return list(peers.newest().argv)
    except peers.PeerMissing as missing:
        pytest.skip(str(missing))


def records(output: bytes) -> list[Record]:
    size = 8 * len(p.OUT)
    assert len(output) == size * p.CASES, f"{len(output)} bytes of {size * p.CASES}"
    return [
        dict(zip(p.OUT, struct.unpack_from(f"<{len(p.OUT)}Q", output, at), strict=True))
        for at in range(0, len(output), size)
    ]


def ours(core: Path, elf: Path, engine: str) -> list[Record]:
    command = [core, "run", "--elf", elf, "--memory", "16M", "--max-insns", "400000000", *ENGINES[engine]]
    done = subprocess.run([str(c) for c in command], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr.decode(errors="replace"))
    return records(done.stdout)


def theirs(qemu: list[str], elf: Path) -> list[Record]:
    machine = ["-M", "virt", "-cpu", CPU, "-m", "16M", "-bios", str(elf), "-display", "none", "-monitor", "none"]
    done = subprocess.run([*qemu, *machine, "-serial", "stdio"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr.decode(errors="replace"))
    return records(done.stdout)


def differences(cases: list[p.Case], mine: list[Record], other: list[Record]) -> list[str]:
    found = []
    for number, (case, a, b) in enumerate(zip(cases, mine, other, strict=True)):
        unlike = [f"{key}: ours {a[key]:#x} reference {b[key]:#x}" for key in p.OUT if a[key] != b[key]]
        if unlike and not any(allowed(case, a, b) for allowed in DIFFERENCES.values()):
            found.append(f"case {number} {case}\n  " + "\n  ".join(unlike))
    return found


@pytest.mark.parametrize("seed", range(FIRST, FIRST + PROGRAMS))
def test_random_privileged_programs(seed: int, core: Path, qemu: list[str], tmp_path: Path) -> None:
    elf = tmp_path / "program.elf"
    elf.write_bytes(p.program(build("privileged", firmware=True).read_bytes(), seed))
    cases, reference = p.cases(seed), theirs(qemu, elf)
    for engine in ENGINES:
        found = differences(cases, ours(core, elf, engine), reference)
        assert not found, f"seed {seed}, {engine}: {len(found)} cases\n" + "\n".join(found[:8])


def test_the_cases_reach_what_they_are_about(core: Path, tmp_path: Path) -> None:
    """Enough of each outcome: no kind of case may die out unseen."""
    elf = tmp_path / "program.elf"
    causes: dict[int, int] = {}
    for seed in range(1, 4):
        elf.write_bytes(p.program(build("privileged", firmware=True).read_bytes(), seed))
        for record in ours(core, elf, "interpreter"):
            cause = record["scause"] or record["mcause"]
            causes[cause] = causes.get(cause, 0) + 1
    top = 1 << 63
    for cause in (1, 2, 3, 5, 7, 8, 9, 11, 12, 13, 15, top | 1, top | 3, top | 5, top | 7, top | 9):
        assert causes.get(cause, 0) >= 2, (hex(cause), causes)
