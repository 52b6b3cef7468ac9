"""The commands of the C core, built once a session before tests run them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def built(target: str = "wherry-core") -> Path:
    """``wherry-core`` or ``lockstep``: what ``make -C csrc TARGET`` makes."""
    subprocess.run(["make", "-s", "-C", str(ROOT / "csrc"), target], check=True, timeout=900)
    return ROOT / "build" / "csrc" / {"lockstep": "wherry-lockstep"}.get(target, target)
