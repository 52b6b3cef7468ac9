"""Cross-compile the guest programs of tests/guest/programs with zig (from PyPI), once per content.

Freestanding RV64GC: ``build(name)`` gives a flat Image for the board's direct boot, ``build(name, firmware=True)`` an
ELF that starts in M-mode at the start of RAM. Results are kept in build/guest/ under the hash of their sources.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent / "programs"
BUILD = Path(__file__).parents[2] / "build" / "guest"
DIRECT_BASE, FIRMWARE_BASE = 0x80200000, 0x80000000
FLAGS = [
    *("-target", "riscv64-freestanding", "-mcpu=baseline_rv64+m+a+f+d+c", "-mcmodel=medany", "-O2", "-g0"),
    *(
        "-ffreestanding",
        "-nostdlib",
        "-fno-pic",
        "-fno-stack-protector",
        "-fno-sanitize=all",
        "-Wall",
        "-Wextra",
        "-Werror",
    ),
]


class BuildFailed(Exception):
    """The compiler refused; the text is its output."""


@cache
def build(name: str, *, firmware: bool = False) -> Path:
    """The path of the built program."""
    digest = hashlib.sha256(repr((FLAGS, firmware)).encode())
    for part in ("start.S", "rt.h", "link.ld", f"{name}.c"):
        digest.update((SOURCES / part).read_bytes())
    stem = BUILD / f"{name}-{digest.hexdigest()[:16]}"
    elf, image = stem.with_suffix(".elf"), stem.with_suffix(".bin")
    result = elf if firmware else image
    if not result.exists():
        _compile(name, elf, firmware)
        if not firmware:
            image.write_bytes(flatten(elf.read_bytes(), DIRECT_BASE))
    return result


@cache
def build_user(name: str) -> Path:
    """A static Linux program of tests/guest/programs/user, which needs no library."""
    source = SOURCES / "user" / f"{name}.c"
    digest = hashlib.sha256(repr(FLAGS).encode() + source.read_bytes())
    made = BUILD / f"user-{name}-{digest.hexdigest()[:16]}"
    if not made.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        _zig(name, made, [str(source)])
    return made


def _compile(name: str, elf: Path, firmware: bool) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    script = elf.with_suffix(".ld")
    base = FIRMWARE_BASE if firmware else DIRECT_BASE
    script.write_text((SOURCES / "link.ld").read_text().replace("@BASE@", hex(base)))
    defines = ["-DMMODE"] if firmware else []
    _zig(name, elf, [*defines, f"-Wl,-T,{script}", "start.S", f"{name}.c"])


def _zig(name: str, made: Path, arguments: list[str]) -> None:
    partial = made.with_suffix(".partial")
    command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, *arguments]
    done = subprocess.run([*command, "-o", str(partial)], cwd=SOURCES, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(f"{name}: {done.stderr}")
    partial.rename(made)


def flatten(elf: bytes, base: int) -> bytes:
    """The loadable segments of an ELF64 file as one block that begins at physical address ``base``."""
    (offset,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    flat = bytearray()
    for i in range(count):
        kind, _, at, _, address, length = struct.unpack_from("<IIQQQQ", elf, offset + i * size)
        if kind == 1 and length:
            start = address - base
            flat.extend(bytes(max(0, start + length - len(flat))))
            flat[start : start + length] = elf[at : at + length]
    return bytes(flat)
