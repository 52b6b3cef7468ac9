"""Where things lie on this machine (docs/architecture.md, "State folders")."""

from __future__ import annotations

import os
from pathlib import Path

from wherry.errors import WherryError

STATE_VERSION = 1


def home() -> Path:
    """``$WHERRY_HOME``, by default ``~/.local/share/wherry``; not created here."""
    given = os.environ.get("WHERRY_HOME")
    return Path(given).absolute() if given else Path.home() / ".local" / "share" / "wherry"


def open_state(folder: Path) -> Path:
    """Create ``folder`` (mode 0700) with its ``VERSION``, or check the one that is there.

    Raises :class:`WherryError` when a newer release wrote it: an older one must not guess at its layout.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        marker = folder / "VERSION"
        if not marker.exists():
            marker.write_text(f"{STATE_VERSION}\n")
        text = marker.read_text().strip()
    except OSError as error:
        raise WherryError(f"{folder}: {error.strerror}") from None
    _check(folder, text)
    return folder


def check_state(folder: Path) -> None:
    """The same check for who only reads; nothing is created. No ``VERSION`` is no objection."""
    try:
        text = (folder / "VERSION").read_text().strip()
    except OSError:
        return
    _check(folder, text)


def _check(folder: Path, text: str) -> None:
    if not text.isdigit() or int(text) > STATE_VERSION:
        raise WherryError(f"{folder}/VERSION is {text!r}: written by a newer release, this one reads {STATE_VERSION}")
