"""Builds the bench's own C programs for the host (bench/programs), once for each text of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from bench.harness import ROOT

SOURCES = ROOT / "bench" / "programs" / "net"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wshadow", "-D_GNU_SOURCE")


def build(name: str, *more: str, folder: Path = SOURCES) -> Path:
    """The executable of ``NAME.c``; ``more``: further sources, include folders, libraries."""
    source = folder / f"{name}.c"
    digest = hashlib.sha256(repr((FLAGS, more)).encode() + source.read_bytes()).hexdigest()[:16]
    made = ROOT / "build" / "bench" / f"{name}-{digest}"
    if not made.exists() or more:  # what else is linked may have changed
        made.parent.mkdir(parents=True, exist_ok=True)
        partial = made.with_suffix(".partial")
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, *FLAGS, "-o", str(partial), str(source), *more], check=True)
        partial.rename(made)
    return made
