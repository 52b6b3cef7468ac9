"""Hold points for fault tests (``docs/architecture.md``). Without ``WHERRY_HOLD_DIR`` :func:`hold` does nothing."""

from __future__ import annotations

import os
from pathlib import Path

import trio

POLL_S = 0.02


async def hold(phase: str, *, role: str = "arbiter") -> None:
    """Write ``ROLE.PHASE.reached`` and wait while ``ROLE.PHASE.hold`` exists."""
    folder = os.environ.get("WHERRY_HOLD_DIR")
    if not folder:
        return
    base = Path(folder)
    (base / f"{role}.{phase}.reached").touch()
    while (base / f"{role}.{phase}.hold").exists():  # noqa: ASYNC110  another process removes the file
        await trio.sleep(POLL_S)
