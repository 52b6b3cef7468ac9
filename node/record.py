"""What a node remembers of a guest on disk: ``guests/ID/spec.msgpack``, and ``migration.msgpack`` beside it.

Written to a temporary name and renamed: after a crash there is the old record or the new one. They are not synced to
the disk: that would lengthen a blackout, and a crash of the whole host takes along the guest process of which they
speak. The guest process is started from the first; the second says that this copy takes part in a migration and may
neither run nor vanish before the coordinator's store was asked (protocol/migration).

``reserve`` beside them holds blocks that these two may take when the disk is full: a guest must be able to leave a node
whose disk is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import msgpack

from protocol.codec import decode
from protocol.errors import RemoteProtocolError
from protocol.messages import GuestSpec, to_builtins

FORMAT = 1
_RESERVE = 64 * 1024  # bytes: a few records, in whole blocks of any file system
Role = Literal["run", "incoming"]


class DamagedRecord(Exception):
    """A record that cannot be read: it is left where it lies, for a person to look at."""


class Record:
    """``files``: role → path; ``cmdline``: whole; ``generation``: of this copy; ``source``: of a migration to here."""

    def __init__(
        self,
        spec: GuestSpec,
        generation: int,
        role: Role,
        files: dict[str, str],
        *,
        migration: str = "",
        source: int = 0,
    ) -> None:
        self.spec = spec
        self.generation = generation
        self.role: Role = role
        self.files = files
        self.migration = migration
        self.source = source

    def save(self, folder: Path) -> None:
        _write(
            folder / "spec.msgpack",
            msgpack.packb(
                {
                    "format": FORMAT,
                    "spec": to_builtins(self.spec),
                    "generation": self.generation,
                    "role": self.role,
                    "files": self.files,
                    "cmdline": command_line(self.spec),
                    "migration": self.migration,
                    "source": self.source,
                }
            ),
        )

    @classmethod
    def load(cls, folder: Path) -> Record:
        """Raises DamagedRecord; FileNotFoundError when there is none."""
        data = (folder / "spec.msgpack").read_bytes()
        try:
            value = msgpack.unpackb(data)
            if value["format"] != FORMAT:
                raise DamagedRecord(f"{folder}: format {value['format']} of spec.msgpack, {FORMAT} is known")
            return cls(
                decode(GuestSpec, value["spec"]),
                int(value["generation"]),
                "incoming" if value["role"] == "incoming" else "run",
                dict(value["files"]),
                migration=str(value["migration"]),
                source=int(value["source"]),
            )
        except (ValueError, KeyError, TypeError, RemoteProtocolError, msgpack.UnpackException) as error:
            raise DamagedRecord(f"{folder}: spec.msgpack cannot be read: {error}") from error


def command_line(spec: GuestSpec) -> str:
    """The image's, the guest's own, then what its init needs to configure itself (docs/architecture.md)."""
    parts = [spec.image.cmdline, spec.cmdline]
    parts += [f"wherry.nic={nic.mac},{nic.address},{nic.gateway},{nic.mtu}" for nic in spec.nics]
    parts.append(f"wherry.name={spec.name}")
    return " ".join(part for part in parts if part)


def write_atomically(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Readers see the old or the new content, also after this process was killed; with ``sync`` after a host crash."""
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(data)
        while left:  # a disk that is nearly full takes a part and says so only at the next call
            left = left[os.write(fd, left) :]
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)


def save_note(folder: Path, note: dict[str, Any] | None) -> None:
    """The record of a migration in which this copy takes part; None removes it, and with it the folder of an arrival
    that was given up before anything else was in it."""
    if note is None:
        (folder / "migration.msgpack").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
        if folder.exists():
            keep_reserve(folder)
    else:
        folder.mkdir(mode=0o700, exist_ok=True)
        _write(folder / "migration.msgpack", msgpack.packb(note))


def keep_reserve(folder: Path) -> None:
    """Make the reserve if it is not there. Without room there is none: no error, the next note tries again."""
    path = folder / "reserve"
    if path.exists():
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _RESERVE)
        finally:
            os.close(fd)
    except OSError:
        path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        reserve = path.with_name("reserve")
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not reserve.exists():
            raise
        reserve.unlink()
        write_atomically(path, data)


def load_note(folder: Path) -> dict[str, Any] | None:
    try:
        note = msgpack.unpackb((folder / "migration.msgpack").read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, msgpack.UnpackException) as error:
        raise DamagedRecord(f"{folder}: migration.msgpack cannot be read: {error}") from error
    return note if isinstance(note, dict) else None


def remove_folder(folder: Path) -> None:
    """Renamed first, so that a crash in the middle leaves nothing that looks like a guest."""
    gone = folder.with_name(folder.name + ".gone")
    shutil.rmtree(gone, ignore_errors=True)
    try:
        folder.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)
