"""The local image library: blobs and manifests by SHA-256, names as pointers to manifests.

``blobs/sha256/HEX``, ``manifests/HEX.json`` (canonical JSON; its hash is the image's digest), ``tags/NAME`` (the
digest). Every file appears by rename, blobs only after their hash was checked, so a crash leaves a temporary
file at most.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from wherry.errors import ImageError

NAME = re.compile(r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")
_SHA = re.compile(r"^[0-9a-f]{64}$")
_ROLES = ("kernel", "initrd", "disk", "firmware")
_KINDS = ("linux", "disk", "firmware")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class File:
    """One file of an image; ``size`` in bytes."""

    role: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Image:
    """A manifest (docs/architecture.md, "State folders"). ``min_memory`` in bytes, ``created`` in Unix seconds."""

    name: str
    kind: str
    files: tuple[File, ...]
    cmdline: str = ""
    min_memory: int = 0
    created: int = 0
    source: dict[str, Any] = field(default_factory=dict)
    arch: str = "riscv64"
    format: int = 1

    def canonical(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def renamed(self, name: str) -> Image:
        return replace(self, name=name)

    @classmethod
    def parse(cls, text: bytes) -> Image:
        """A manifest from outside. Raises :class:`ImageError` that names the field."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ImageError(f"manifest: no JSON: {error}") from None
        if not isinstance(data, dict):
            raise ImageError("manifest: must be an object")
        if data.get("format") != 1:
            raise ImageError(f"manifest format: {data.get('format')!r}; this release reads 1")
        files = data.get("files")
        _check(isinstance(files, list) and 1 <= len(files) <= 8, "files", files, "a list of 1 to 8")
        parsed = [_parse_file(item) for item in files or ()]
        for key in ("name", "kind", "cmdline"):
            _check(isinstance(data.get(key, ""), str), key, data.get(key), "text")
        for key in ("min_memory", "created"):
            number = data.get(key, 0)
            _check(type(number) is int and number >= 0, key, number, "a number that is not negative")
        _check(NAME.match(data.get("name", "")) is not None, "name", data.get("name"), NAME.pattern)
        _check(data.get("kind") in _KINDS, "kind", data.get("kind"), " ".join(_KINDS))
        _check(data.get("arch") == "riscv64", "arch", data.get("arch"), "riscv64")
        _check(isinstance(data.get("source", {}), dict), "source", data.get("source"), "an object")
        known = {
            key: data[key] for key in ("name", "kind", "cmdline", "min_memory", "created", "source") if key in data
        }
        return cls(files=tuple(parsed), **known)


def _parse_file(item: Any) -> File:
    _check(isinstance(item, dict), "files", item, "objects")
    role, sha256, size = item.get("role"), item.get("sha256"), item.get("size")
    _check(role in _ROLES, "files.role", role, " ".join(_ROLES))
    _check(isinstance(sha256, str) and _SHA.match(sha256) is not None, "files.sha256", sha256, "64 hex digits")
    _check(type(size) is int and 0 <= size < 1 << 63, "files.size", size, "a byte count")
    return File(role, sha256, size)


def _check(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ImageError(f"manifest {name}: {str(value)[:80]!r}; allowed: {allowed}")


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 and size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()


class Library:
    """The images of one ``$WHERRY_HOME``. Safe for several processes: nothing is changed in place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("blobs/sha256", "manifests", "tags"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def blob(self, sha256: str) -> Path:
        if not _SHA.match(sha256):
            raise ImageError(f"blob {sha256[:80]!r}: not a SHA-256 in hex")
        return self.root / "blobs" / "sha256" / sha256

    def add_blob(self, role: str, source: Path) -> File:
        """Copy a file in. Returns its entry for a manifest."""
        hasher = hashlib.sha256()
        size = 0
        try:
            with source.open("rb") as file, self._temporary() as (out, part):
                while chunk := file.read(_CHUNK):
                    hasher.update(chunk)
                    size += len(chunk)
                    out.write(chunk)
                self._settle(out, part, self.blob(hasher.hexdigest()))
        except OSError as error:
            raise ImageError(f"{source}: {error.strerror}") from None
        return File(role, hasher.hexdigest(), size)

    def adopt(self, part: Path, file: File) -> None:
        """Move a file in that claims to be ``file``. Raises :class:`ImageError` on another hash or size."""
        digest, size = hash_file(part)
        if (digest, size) != (file.sha256, file.size):
            raise ImageError(f"{file.role}: hash mismatch: expected {file.sha256}, got {digest} ({size} bytes)")
        part.rename(self.blob(file.sha256))

    def tag(self, image: Image) -> None:
        """Store the manifest and let the image's name point to it."""
        if not NAME.match(image.name):
            raise ImageError(f"image name {image.name!r}: allowed: {NAME.pattern}")
        for file in image.files:
            if not self.blob(file.sha256).is_file():
                raise ImageError(f"image {image.name}: blob {file.sha256} ({file.role}) is not in the library")
        self._write(self.root / "manifests" / f"{image.digest}.json", image.canonical())
        self._write(self.root / "tags" / image.name, image.digest.encode() + b"\n")

    def get(self, name: str) -> Image:
        """The image that ``name`` points to. Raises :class:`ImageError` when there is none or it is damaged."""
        if not NAME.match(name):
            raise ImageError(f"image name {name!r}: allowed: {NAME.pattern}")
        try:
            digest = (self.root / "tags" / name).read_text().strip()
            text = (self.root / "manifests" / f"{digest}.json").read_bytes()
        except FileNotFoundError:
            have = " ".join(self.names()) or "none"
            raise ImageError(f"image {name!r}: not in the library; there are: {have}") from None
        if hashlib.sha256(text).hexdigest() != digest:
            raise ImageError(f"image {name!r}: its manifest does not have the digest {digest}")
        return Image.parse(text)

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.root / "tags").iterdir() if NAME.match(path.name))

    def images(self) -> list[Image]:
        return [self.get(name) for name in self.names()]

    def verify(self, image: Image) -> None:
        """Hash every blob again. Raises :class:`ImageError` on the first that differs."""
        for file in image.files:
            digest, _ = hash_file(self.blob(file.sha256))
            if digest != file.sha256:
                raise ImageError(f"image {image.name}: {file.role} {file.sha256} is damaged: its hash is {digest}")

    def remove(self, name: str) -> int:
        """Drop a name and whatever no other name needs. Returns the bytes that were freed."""
        image = self.get(name)
        (self.root / "tags" / name).unlink()
        rest = self.images()
        if image.digest not in {other.digest for other in rest}:
            (self.root / "manifests" / f"{image.digest}.json").unlink(missing_ok=True)
        used = {file.sha256 for other in rest for file in other.files}
        freed = 0
        for file in {f.sha256: f for f in image.files}.values():
            if file.sha256 not in used:
                self.blob(file.sha256).unlink(missing_ok=True)
                freed += file.size
        return freed

    def _temporary(self) -> _Temporary:
        return _Temporary(self.root)

    @staticmethod
    def _settle(out: Any, part: Path, target: Path) -> None:
        out.flush()
        os.fsync(out.fileno())
        part.rename(target)

    def _write(self, target: Path, data: bytes) -> None:
        with self._temporary() as (out, part):
            out.write(data)
            self._settle(out, part, target)


class _Temporary:
    """A file in the library's folder that vanishes unless it was renamed."""

    def __init__(self, folder: Path) -> None:
        handle, name = tempfile.mkstemp(prefix=".part-", dir=folder)
        self._file = os.fdopen(handle, "wb")
        self._path = Path(name)

    def __enter__(self) -> tuple[Any, Path]:
        return self._file, self._path

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)
