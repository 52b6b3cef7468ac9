"""wherry-core run --elf as test suites use it: tohost and its calls, signatures, limits, and what is wrong."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from tests.guest.commands import built
from tests.guest.programs import build

TALK, SPIN, BAD_CALL = 0x100, 0x200, 0x400
PLACEHOLDER = struct.pack("<Q", 0x123456789ABCDEF0)
ENGINES = ["interpreter", "jit"]


@pytest.fixture(scope="session")
def core() -> Path:
    return built()


def program(folder: Path, order: int) -> Path:
    elf = build("htif", firmware=True).read_bytes()
    assert elf.count(PLACEHOLDER) == 1
    path = folder / "program.elf"
    path.write_bytes(elf.replace(PLACEHOLDER, struct.pack("<Q", order)))
    return path


def run(core: Path, elf: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [core, "run", "--elf", elf, "--memory", "16M", *options]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60, check=False)


def words(path: Path) -> list[int]:
    lines = path.read_text().splitlines()
    assert all(len(line) == 8 for line in lines)
    return [int(line, 16) for line in lines]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1), (4, 4), (77, 77), (255, 255)])
def test_the_exit_status_is_what_tohost_says(core: Path, tmp_path: Path, engine: str, code: int, status: int) -> None:
    signature = tmp_path / "signature"
    done = run(core, program(tmp_path, code), "--engine", engine, "--signature", signature, "--max-insns", "100000000")
    assert done.returncode == status, done.stderr
    assert (f"failed with code {code} in tohost" in done.stderr) == (code != 0)
    assert words(signature) == [0x01020304 * n for n in range(1, 17)], "a failed program's signature is kept, too"


def test_a_signature_range_by_symbols_and_addresses(core: Path, tmp_path: Path) -> None:
    elf, signature = program(tmp_path, 0), tmp_path / "signature"
    done = run(core, elf, "--signature", signature, "--signature-range", "other_begin:other_end")
    assert done.returncode == 0, done.stderr
    assert words(signature)[:2] == [0x11111111, 0x22222222]
    first = int.from_bytes(elf.read_bytes()[0x1000:0x1004], "little")  # the first instruction, at the start of RAM
    done = run(core, elf, "--signature", signature, "--signature-range", "0x80000000:0x80000004")
    assert done.returncode == 0
    assert words(signature) == [first]


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        ("begin_signature", 2, "BEGIN:END"),
        ("nowhere:end_signature", 3, "no symbol nowhere"),
        ("end_signature:begin_signature", 3, "no range of whole words in RAM"),
        ("0x80000002:0x80000008", 3, "no range of whole words in RAM"),
        ("0x1000:0x2000", 3, "no range of whole words in RAM"),
        ("0x80000000:0x90000000", 3, "no range of whole words in RAM"),
    ],
)
def test_a_range_that_cannot_be(core: Path, tmp_path: Path, given: str, status: int, says: str) -> None:
    done = run(core, program(tmp_path, 0), "--signature", tmp_path / "s", "--signature-range", given)
    assert done.returncode == status
    assert says in done.stderr
    assert not (tmp_path / "s").exists()


def test_console_and_write_calls(core: Path, tmp_path: Path) -> None:
    signature = tmp_path / "signature"
    done = run(core, program(tmp_path, TALK), "--signature", signature)
    assert done.returncode == 0
    assert done.stdout == "!by a call\n"
    assert words(signature)[3] == len("by a call\n")


def test_bad_calls_are_answered(core: Path, tmp_path: Path) -> None:
    signature = tmp_path / "signature"
    done = run(core, program(tmp_path, BAD_CALL), "--signature", signature)
    assert done.returncode == 0
    assert words(signature)[2:4] == [2**32 - 14, 2**32 - 38]  # EFAULT, ENOSYS
    assert done.stdout == ""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_program_without_end_meets_its_limit(core: Path, tmp_path: Path, engine: str) -> None:
    done = run(core, program(tmp_path, SPIN), "--engine", engine, "--max-insns", "1000000")
    assert done.returncode == 4


def test_what_is_no_program(core: Path, tmp_path: Path) -> None:
    assert "No such file" in run(core, tmp_path / "none").stderr
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    done = run(core, empty)
    assert done.returncode == 3
    assert "firmware" in done.stderr
