"""Machine states of other versions: found out before the first page is sent.

A state document has a version (``format`` in csrc/board/snapshot.c). A node writes ``STATE_VERSION`` and reads what
``OLDEST_STATE`` wrote and later ones; nodes one release apart are to understand each other. ``migration.prepare`` says
what the source writes, its answer what the target reads; either end refuses, so that software that does not look yet is
no danger. So far there has been version 1 only.
"""

from __future__ import annotations

STATE_VERSION = 1
OLDEST_STATE = 1


def refusal(written: int, oldest: int, newest: int, *, source: str, target: str) -> str:
    """Why a state of version ``written`` cannot go to a node that reads ``oldest`` to ``newest``, or "". ``source``,
    ``target``: their software."""
    if oldest <= written <= newest:
        return ""
    reads = f"version {newest}" if oldest >= newest else f"versions {oldest} to {newest}"
    return (
        f"the source's machine states are of version {written} ({source or 'software unknown'}), "
        f"the target reads {reads} ({target or 'software unknown'})"
    )
