"""A cpio archive in the "newc" format, as Linux unpacks for its initramfs.

Format: the kernel's driver-api/early-userspace/buffer-format.

Deterministic: paths sorted, inode numbers counted, times and owners zero, so that equal contents give equal bytes and
one image digest. Written uncompressed by default: an emulated processor copies an archive several times faster than it
inflates one (measured with QEMU's TCG: the Debian image's prompt comes 0.3-1.1 s sooner, at 8 MB more to store).
"""

from __future__ import annotations

import gzip
import io
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

_MAX_FILE = 0xFFFFFFFF  # the header's fields have eight hex digits


@dataclass(frozen=True)
class Entry:
    """One inode. ``mode`` includes the type bits; ``data`` is the contents or a symlink's target."""

    mode: int
    data: bytes = b""
    rdev: tuple[int, int] = (0, 0)


@dataclass
class Archive:
    """Paths (relative, no leading slash) to entries; parents are added as folders when written."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def add_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self._put(path, Entry(stat.S_IFREG | mode, data))

    def add_folder(self, path: str, mode: int = 0o755) -> None:
        self._put(path, Entry(stat.S_IFDIR | mode))

    def add_link(self, path: str, target: str) -> None:
        self._put(path, Entry(stat.S_IFLNK | 0o777, target.encode()))

    def add_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._put(path, Entry(stat.S_IFCHR | mode, b"", (major, minor)))

    def _put(self, path: str, entry: Entry) -> None:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise ValueError(f"archive path {path!r}: must be relative and stay inside")
        self.entries[str(pure)] = entry

    def add_tree(self, root: Path, skip: tuple[str, ...] = ()) -> None:
        """Everything under ``root``; a path that equals an item of ``skip`` or lies below it is left out."""
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if any(name == s or name.startswith(s + "/") for s in skip):
                continue
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                self.add_link(name, str(path.readlink()))
            elif stat.S_ISDIR(status.st_mode):
                self.add_folder(name, stat.S_IMODE(status.st_mode))
            elif stat.S_ISREG(status.st_mode):
                self.add_file(name, path.read_bytes(), stat.S_IMODE(status.st_mode))

    def write(self, *, compress: bool = False) -> bytes:
        """The archive's bytes. Raises ValueError for a file of 4 GiB or more."""
        entries = dict(self.entries)
        for name in list(entries):
            for parent in PurePosixPath(name).parents:
                if str(parent) != ".":
                    entries.setdefault(str(parent), Entry(stat.S_IFDIR | 0o755))
        out = io.BytesIO()
        for number, name in enumerate(sorted(entries), start=1):
            _write_entry(out, number, name, entries[name])
        _write_entry(out, 0, "TRAILER!!!", Entry(0))
        out.write(b"\0" * (-out.tell() % 512))
        return gzip.compress(out.getvalue(), compresslevel=6, mtime=0) if compress else out.getvalue()


def _write_entry(out: io.BytesIO, inode: int, name: str, entry: Entry) -> None:
    if len(entry.data) > _MAX_FILE:
        raise ValueError(f"{name}: {len(entry.data)} bytes; a newc file has less than 4 GiB")
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    numbers = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.rdev, len(encoded), 0)
    out.write(b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded)
    out.write(b"\0" * (-out.tell() % 4))
    out.write(entry.data)
    out.write(b"\0" * (-out.tell() % 4))
