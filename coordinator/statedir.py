"""The state folder: its version, its lock, the local user's access file.

The lock is held on an open file for as long as the process lives, so it cannot be left behind by a crash.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from coordinator.ca import write_private
from coordinator.errors import StartError, StateVersionError

VERSION = 1


def open_folder(folder: Path) -> int:
    """Make or check the folder and lock it; returns the lock's descriptor, to be kept open.

    :class:`StateVersionError` for a folder of a newer version, :class:`StartError` for one in use or not writable.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(folder / "coordinator.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StartError(f"state folder {folder}: {exc.strerror}") from exc
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise StartError(f"another coordinator uses the state folder {folder}") from exc
        try:
            _check_version(folder)
        except OSError as exc:
            raise StartError(f"state folder {folder}: {exc.strerror}") from exc
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_version(folder: Path) -> None:
    path = folder / "VERSION"
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        write_private(path, f"{VERSION}\n".encode())
        return
    except (OSError, UnicodeDecodeError) as exc:
        raise StartError(f"{path} cannot be read: {exc}") from exc
    if not text.isascii() or not text.isdigit():
        raise StartError(f"{path} holds {text[:20]!r}, not a version number")
    if int(text) > VERSION:
        raise StateVersionError(
            f"state folder {folder} has version {text}, this coordinator knows up to {VERSION}; upgrade wherry"
        )


def read_access(path: Path) -> str | None:
    """The token of an earlier access file, if there is one."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    token = value.get("token") if isinstance(value, dict) else None
    return token if isinstance(token, str) else None


def write_access(path: Path, *, api: str, token: str, ca: Path | None) -> None:
    data = {"api": api, "token": token, "ca": str(ca) if ca else None}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, (json.dumps(data, indent=1) + "\n").encode())
    except OSError as exc:
        raise StartError(f"access file {path}: {exc.strerror}") from exc
