"""The real GDB, run in batch mode; fetched by deploy/tools.sh where it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@cache
def gdb_multiarch() -> str:
    """Its path; skips the test, with the reason, where it can not be had."""
    path = f"{ROOT / 'build/tools/bin'}:{os.environ['PATH']}"
    if found := shutil.which("gdb-multiarch", path=path):
        return found
    done = subprocess.run(
        ["sh", ROOT / "deploy/tools.sh", "gdb"], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        pytest.skip(f"no gdb-multiarch: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return shutil.which("gdb-multiarch", path=path) or pytest.skip("no gdb-multiarch")


def batch(*commands: str, timeout: float = 120) -> str:
    """The output of GDB's commands; those of -batch mode end by detaching."""
    arguments = [part for command in ("set pagination off", *commands) for part in ("-ex", command)]
    done = subprocess.run(
        [gdb_multiarch(), "-q", "-nx", "-batch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout,
    )
    return done.stdout
