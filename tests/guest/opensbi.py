"""OpenSBI from Debian's package, unpacked into build/guest/opensbi once; tests skip where apt cannot fetch it."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "build" / "guest" / "opensbi"
FILES = "usr/lib/riscv64-linux-gnu/opensbi/generic"


@cache
def opensbi(name: str) -> Path:
    """The path of "fw_jump.elf", "fw_dynamic.bin" or the like."""
    path = FOLDER / FILES / name
    if path.exists():
        return path
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("no OpenSBI: this host has no apt to fetch the package opensbi with")
    FOLDER.mkdir(parents=True, exist_ok=True)
    fetched = subprocess.run(
        ["apt-get", "download", "-q", "opensbi"], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    packages = sorted(FOLDER.glob("opensbi_*.deb"))
    if fetched.returncode or not packages:
        pytest.skip(f"no OpenSBI: apt-get download opensbi: {fetched.stderr.strip().splitlines()[-1:]}")
    subprocess.run(["dpkg-deb", "-x", str(packages[-1]), str(FOLDER)], check=True)
    assert path.exists(), f"the package opensbi holds no {name}"
    return path
