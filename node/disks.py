"""The file behind a guest's disk: ``disk0.img`` in the guest's folder, at first a copy of the image's.

What the guest writes is in this file and nowhere else, so it goes with the guest (node/migration/disks.py) and is
removed with its folder.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from protocol.errors import Refused

DISK = "disk0.img"
CHUNK = 256 << 10


def own_disk(blob: Path, disk: Path, *, sha256: str = "") -> Path:
    """The guest's own copy of an image's disk; an existing one is kept (a restart). With ``sha256`` it is made anew,
    for a guest that arrives: what lies there is of a copy that is gone, and the source sends only what differs from
    the image, so that every byte is checked. Zeros become holes. Raises OSError, Refused("invalid")."""
    if disk.exists() and not sha256:
        return disk
    disk.unlink(missing_ok=True)
    part = disk.with_suffix(".part")
    try:
        _copy(blob, part, sha256)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.rename(disk)
    return disk


def _copy(blob: Path, part: Path, sha256: str) -> None:
    digest, zeros = hashlib.sha256(), bytes(CHUNK)
    out = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        at = 0
        with blob.open("rb", buffering=0) as file:
            while data := file.read(CHUNK):
                if sha256:
                    digest.update(data)
                if data != zeros[: len(data)]:
                    left = memoryview(data)
                    while left:
                        left = left[os.pwrite(out, left, at + len(data) - len(left)) :]
                at += len(data)
        os.ftruncate(out, at)
    finally:
        os.close(out)
    if sha256 and digest.hexdigest() != sha256:
        raise Refused("invalid", f"the image's disk {blob.name[:12]} is damaged on this node: remove {blob}")


def used(disk: Path) -> int:
    """Bytes of it that have content."""
    return disk.stat().st_blocks * 512


def sync_folder(folder: Path) -> None:
    """The folder, what is in it and its name outlive a host's crash from now on. Raises OSError."""
    files = [path for path in folder.iterdir() if path.suffix in (".img", ".msgpack")]
    for path in [*files, folder, folder.parent]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
