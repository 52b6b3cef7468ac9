"""Fault hooks for tests (docs/architecture.md): stop a migration at a phase until a file is removed.

With WHERRY_HOLD_DIR set, entering a phase writes ``DIR/ROLE.PHASE.reached`` and waits while ``DIR/ROLE.PHASE.hold``
exists. Unset, :func:`hold` is one comparison.
"""

from __future__ import annotations

import os
from pathlib import Path

import trio

_DIRECTORY = os.environ.get("WHERRY_HOLD_DIR", "")
_POLL_S = 0.02


async def hold(role: str, phase: str) -> None:
    """``role``: source or target; ``phase``: prepare, copy, switch, commit, done."""
    if not _DIRECTORY:
        return
    base = Path(_DIRECTORY)
    (base / f"{role}.{phase}.reached").touch()
    while (base / f"{role}.{phase}.hold").exists():  # noqa: ASYNC110 - a file has no event
        await trio.sleep(_POLL_S)
