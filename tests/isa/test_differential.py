"""Random programs on our hart and on qemu-riscv64 user mode: registers, flags and memory must be equal.

WHERRY_ISA_PROGRAMS: how many (default 120, 2000 in make fuzz). WHERRY_ISA_SEED: number of the first (default 1). A
failing seed is named; rerun it alone with WHERRY_ISA_SEED=n WHERRY_ISA_PROGRAMS=1.
"""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.guest.commands import built
from tests.isa import generate

ROOT = Path(__file__).resolve().parents[2]
QEMU = shutil.which("qemu-riscv64") or shutil.which("qemu-riscv64-static")
CPU = "rv64,zba=true,zbb=true,zbs=true"
# The extensions after Zb* came to QEMU with 7.1 to 9.1; deploy/tools.sh fetches one that has them all.
NEWER = ROOT / "build" / "tools" / "new" / "usr" / "bin" / "qemu-riscv64"
LATER = ["zfa", "zfhmin", "zicond", "zca", "zcb", "zcd", "zcmop", "zimop", "zaamo", "zalrsc", "zacas", "zawrs"]
NEWER_CPU = ",".join([CPU, "zicboz=true", *(f"{name}=true" for name in LATER)])
PROGRAMS = int(os.environ.get("WHERRY_ISA_PROGRAMS", "2000" if os.environ.get("WHERRY_FUZZ") else "120"))
FIRST = int(os.environ.get("WHERRY_ISA_SEED", "1"))
BATCH = 20
# A random program is too short to become hot: with --icount the translator translates what it meets.
ENGINES = {"interpreter": ["--engine", "interpreter"]}
if platform.machine() == "x86_64":
    ENGINES["jit"] = ["--engine", "jit", "--icount"]


@pytest.fixture(scope="session")
def core() -> Path:
    return built()


def run_reference(elf: Path, qemu: str | Path | None = QEMU, cpu: str = CPU) -> bytes:
    assert qemu is not None
    done = subprocess.run([str(qemu), "-cpu", cpu, str(elf)], capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def run_ours(core: Path, elf: Path, engine: str = "interpreter") -> bytes:
    signature = elf.with_suffix(".sig")
    command = [core, "run", "--elf", elf, "--memory", "16M", "--max-insns", "50000000", "--signature", signature]
    command += ENGINES[engine]
    done = subprocess.run([str(c) for c in command], capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr.decode(errors="replace"))
    words = [int(line, 16) for line in signature.read_text().split()]
    return struct.pack(f"<{len(words)}I", *words)


def differences(ours: bytes, reference: bytes) -> list[str]:
    names = [f"x{i}" for i in range(32)] + [f"f{i}" for i in range(32)] + ["fcsr"]
    out = [f"length {len(ours)} != {len(reference)}"] if len(ours) != len(reference) else []
    for at in range(0, min(len(ours), len(reference)), 8):
        a, b = ours[at : at + 8], reference[at : at + 8]
        if a != b:
            name = names[at // 8] if at // 8 < len(names) else f"memory+{at - 520:#x}"
            out.append(f"{name}: ours {a[::-1].hex()} reference {b[::-1].hex()}")
    return out


def compare_engines(core: Path, seed: int, bare: Path, reference: bytes) -> None:
    for engine in ENGINES:
        found = differences(run_ours(core, bare, engine), reference)
        assert not found, f"seed {seed}, {engine}:\n" + "\n".join(found[:20])


@pytest.mark.skipif(QEMU is None, reason="qemu-riscv64 (Debian package qemu-user or qemu-user-static) is not installed")
@pytest.mark.parametrize("first", range(FIRST, FIRST + PROGRAMS, BATCH))
def test_random_programs(first: int, core: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Where Debian's QEMU differs a newer one decides: 7.2 counts zeros of words in all 64 bits now and then."""
    for seed in range(first, min(first + BATCH, FIRST + PROGRAMS)):
        bare, linux = tmp_path / f"bare-{seed}.elf", tmp_path / f"linux-{seed}.elf"
        bare.write_bytes(generate.build(seed, bare=True))
        linux.write_bytes(generate.build(seed, bare=False))
        linux.chmod(0o755)
        reference = run_reference(linux)
        if differences(run_ours(core, bare), reference):
            reference = run_reference(linux, request.getfixturevalue("newer"), NEWER_CPU)
        compare_engines(core, seed, bare, reference)


@pytest.fixture(scope="session")
def newer() -> Path:
    fetched = subprocess.run(["sh", ROOT / "deploy" / "tools.sh", "qemu-user-new"], capture_output=True, check=False)
    if fetched.returncode:
        pytest.skip(f"no QEMU that knows the extensions after Zb*: {fetched.stderr.decode().strip()}")
    return NEWER


@pytest.mark.parametrize("first", range(FIRST, FIRST + PROGRAMS, BATCH))
def test_random_programs_of_later_extensions(first: int, core: Path, newer: Path, tmp_path: Path) -> None:
    for seed in range(first, min(first + BATCH, FIRST + PROGRAMS)):
        bare, linux = tmp_path / f"bare-{seed}.elf", tmp_path / f"linux-{seed}.elf"
        bare.write_bytes(generate.build(seed, bare=True, extended=True))
        linux.write_bytes(generate.build(seed, bare=False, extended=True))
        linux.chmod(0o755)
        compare_engines(core, seed, bare, run_reference(linux, newer, NEWER_CPU))


@pytest.mark.parametrize("engine", ["interpreter", "jit"])
@pytest.mark.parametrize(
    "word", [0x0E7350B3, 0x20B52533, 0x4045F553, 0xF0150553, 0x28C5B52F, 0x0045200F, 0x81C5C573, 0x00259507, 0x80488048]
)
def test_the_baseline_model_refuses_later_instructions(word: int, engine: str, core: Path, tmp_path: Path) -> None:
    """Legal on rva22, a trap with the instruction in mtval on rv64gc; run often enough to be hot."""
    elf = tmp_path / "one.elf"
    elf.write_bytes(generate.build_one(word))
    for cpu, want in (("rva22", [0, 0]), ("rv64gc", [2, word & 0xFFFF if word & 3 != 3 else word])):
        command = [core, "run", "--elf", elf, "--cpu", cpu, "--engine", engine, "--memory", "16M"]
        command += ["--max-insns", "10000000", "--signature", tmp_path / "signature"]
        done = subprocess.run([str(c) for c in command], capture_output=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr
        low, high, value, above = (int(line, 16) for line in (tmp_path / "signature").read_text().split())
        assert [high << 32 | low, above << 32 | value] == want, cpu


def test_a_difference_is_seen(core: Path, tmp_path: Path) -> None:
    """The comparison itself: two different programs must not look equal."""
    dumps = []
    for seed in (1, 2):
        elf = tmp_path / f"{seed}.elf"
        elf.write_bytes(generate.build(seed, bare=True))
        dumps.append(run_ours(core, elf))
    assert len(dumps[0]) == generate.DUMP_BYTES
    assert differences(dumps[0], dumps[1])
