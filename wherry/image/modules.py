"""Kernel modules: which files a guest needs and in which order they are loaded.

Dependencies are read from the ``.modinfo`` section of each module (``depends=a,b``), so that no depmod is needed and a
kernel that builds a driver in simply has no module for it. ELF parsing follows the System V gABI; every offset is
checked.
"""

from __future__ import annotations

import gzip
import lzma
import struct
from dataclasses import dataclass
from pathlib import Path

from wherry.errors import ImageError

_ELF64 = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_MAX_MODULE = 64 << 20
_SIGNED = b"~Module signature appended~\n"


@dataclass(frozen=True)
class Module:
    """A module ready to load. ``data`` is the plain ELF object."""

    name: str
    depends: tuple[str, ...]
    data: bytes


def _section_bytes(data: bytes, wanted: bytes, what: str) -> bytes:
    try:
        header = _ELF64.unpack_from(data)
        ident, offset, entry_size, count, names_index = header[0], header[6], header[11], header[12], header[13]
        if ident[:6] != b"\x7fELF\x02\x01" or entry_size != _SECTION.size or names_index >= count:
            raise ImageError(f"{what}: not a little-endian ELF64 object")
        if offset + count * entry_size > len(data):
            raise struct.error
        sections = [_SECTION.unpack_from(data, offset + i * entry_size) for i in range(count)]
    except struct.error:
        raise ImageError(f"{what}: the ELF headers point outside the file") from None
    names_at, names_size = sections[names_index][4], sections[names_index][5]
    names = data[names_at : names_at + names_size]
    for section in sections:
        name_at, at, size = section[0], section[4], section[5]
        if names[name_at:].split(b"\0", 1)[0] == wanted:
            if at + size > len(data):
                raise ImageError(f"{what}: section {wanted.decode()} lies outside the file")
            return data[at : at + size]
    raise ImageError(f"{what}: no section {wanted.decode()}; not a kernel module")


def modinfo(data: bytes, what: str = "module") -> dict[str, list[str]]:
    """The ``key=value`` strings of a module, values in file order."""
    found: dict[str, list[str]] = {}
    for item in _section_bytes(data, b".modinfo", what).split(b"\0"):
        key, sign, value = item.partition(b"=")
        if sign:
            found.setdefault(key.decode(errors="replace"), []).append(value.decode(errors="replace"))
    return found


def read_module(path: Path) -> bytes:
    """The plain object of a ``.ko``, ``.ko.xz`` or ``.ko.gz``."""
    raw = path.read_bytes()
    try:
        if path.suffix == ".xz":
            data = lzma.LZMADecompressor().decompress(raw, max_length=_MAX_MODULE + 1)
        elif path.suffix == ".gz":
            with gzip.open(path) as file:
                data = file.read(_MAX_MODULE + 1)
        else:
            data = raw
    except (lzma.LZMAError, OSError, EOFError) as error:
        raise ImageError(f"{path.name}: {error}") from None
    if len(data) > _MAX_MODULE:
        raise ImageError(f"{path.name}: a module of more than {_MAX_MODULE >> 20} MiB")
    return data


def without_signature(data: bytes) -> bytes:
    """The module less what sign-file appended: signature, 12-byte descriptor, marker (linux/module_signature.h).

    A module without one, or with a descriptor that does not fit, comes back as it is.
    """
    end = len(data) - len(_SIGNED) - 12
    if not data.endswith(_SIGNED) or end < 0:
        return data
    (length,) = struct.unpack_from(">I", data, end + 8)
    return data[: end - length] if length <= end else data


def _canonical(name: str) -> str:
    return name.replace("-", "_")  # the kernel treats both alike: virtio-rng.ko is module virtio_rng


def index(tree: Path) -> dict[str, Path]:
    """Module name to file for everything under ``tree`` (``lib/modules/VERSION``)."""
    found: dict[str, Path] = {}
    for path in sorted(tree.rglob("*.ko*")):
        stem, dot, suffix = path.name.partition(".ko")
        if dot and suffix in ("", ".xz", ".gz"):
            found[_canonical(stem)] = path
    return found


def load_order(tree: Path, wanted: list[str]) -> list[Module]:
    """``wanted`` and all they depend on, dependencies first. A wanted module without a file counts as built in; a
    dependency without one is an :class:`ImageError`, as is a cycle."""
    files = index(tree)
    order: dict[str, Module] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        name = _canonical(name)
        if name in order:
            return
        if name in path:
            raise ImageError(f"modules depend on each other: {' -> '.join([*path, name])}")
        if name not in files:
            raise ImageError(f"module {path[-1]} depends on {name}, which has no file in {tree}")
        data = read_module(files[name])
        depends = tuple(d for value in modinfo(data, name).get("depends", []) for d in value.split(",") if d)
        path.append(name)
        for dependency in depends:
            visit(dependency)
        path.pop()
        order[name] = Module(name, depends, data)

    for name in wanted:
        if _canonical(name) in files:
            visit(name)
    return list(order.values())
