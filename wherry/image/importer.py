"""From files to an image: kernel + initrd, a raw disk, or firmware. What cannot boot is refused here, not later."""

from __future__ import annotations

import shutil
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

from wherry.errors import ImageError
from wherry.image.store import File, Image, Library

_HEADER = struct.Struct("<IIQQQIIQ8s4sI")  # Documentation/arch/riscv/boot-image-header.rst
_MAGIC2 = b"RSC\x05"
_MIB = 1 << 20


def image_size(kernel: Path) -> int:
    """Bytes that a RISC-V ``Image`` takes in memory (``image_size`` of its header, BSS included).

    Raises :class:`ImageError` that says what the file is instead.
    """
    with kernel.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) == _HEADER.size and (fields := _HEADER.unpack(head))[9] == _MAGIC2:
        return max(int(fields[3]), kernel.stat().st_size)
    what = "an unknown format"
    if head[:4] == b"\x7fELF":
        what = "an ELF file (objcopy -O binary makes an Image; firmware ELF goes with --firmware)"
    elif head[:2] == b"\x1f\x8b":
        what = "gzip (unpack it first)"
    elif head[56:60] == b"ARMd":
        what = "an Image for arm64"
    elif len(head) < _HEADER.size:
        what = f"{len(head)} bytes long"
    raise ImageError(f"kernel {kernel}: no RISC-V Image (magic {_MAGIC2!r} at 0x38): it is {what}")


def store_linux(
    library: Library,
    name: str,
    kernel: Path,
    initrd: Path | None,
    cmdline: str,
    source: dict[str, Any],
    *,
    disk: Path | None = None,
) -> Image:
    """Store a kernel with an optional initrd under ``name``, with a raw disk that its guests get (/dev/vda)."""
    needed = image_size(kernel) + 48 * _MIB  # what a minimal Linux needs to run at all
    files = [library.add_blob("kernel", kernel)]
    if initrd is not None:
        # The archive and its unpacked copy are in memory together until the kernel frees the first.
        needed += 2 * initrd.stat().st_size
        files.append(library.add_blob("initrd", initrd))
    if disk is not None:
        _check_raw(disk)
        files.append(library.add_blob("disk", disk))
    return _store(library, name, "linux", files, cmdline, -(-needed // (16 * _MIB)) * 16 * _MIB, source)


def _check_raw(disk: Path) -> None:
    if disk.stat().st_size == 0 or disk.stat().st_size % 512:
        raise ImageError(f"disk {disk}: {disk.stat().st_size} bytes; a raw disk is a positive multiple of 512")
    with disk.open("rb") as file:
        if file.read(4) == b"QFI\xfb":
            raise ImageError(f"disk {disk}: is qcow2; convert it to raw first")


def store_disk(library: Library, name: str, disk: Path, firmware: Path | None, source: dict[str, Any]) -> Image:
    """Store a raw disk, with the firmware that boots it where given."""
    _check_raw(disk)
    files = [library.add_blob("disk", disk)]
    if firmware is not None:
        files.append(library.add_blob("firmware", firmware))
    return _store(library, name, "disk", files, "", 64 * _MIB, source)


def store_firmware(library: Library, name: str, firmware: Path, source: dict[str, Any]) -> Image:
    """Store M-mode firmware: ELF64 for RISC-V, or raw code for the start of RAM."""
    size = firmware.stat().st_size
    with firmware.open("rb") as file:
        head = file.read(20)
    if size == 0:
        raise ImageError(f"firmware {firmware}: is empty")
    if head[:4] == b"\x7fELF" and (head[4:6] != b"\x02\x01" or head[18:20] != b"\xf3\x00"):
        raise ImageError(f"firmware {firmware}: an ELF file, but not for 64-bit RISC-V")
    files = [library.add_blob("firmware", firmware)]
    return _store(library, name, "firmware", files, "", -(-(size + _MIB) // (16 * _MIB)) * 16 * _MIB, source)


def _store(
    library: Library, name: str, kind: str, files: list[File], cmdline: str, min_memory: int, source: dict[str, Any]
) -> Image:
    image = Image(
        name=name,
        kind=kind,
        files=tuple(files),
        cmdline=cmdline,
        min_memory=min_memory,
        created=int(time.time()),
        source=source,
    )
    library.tag(image)
    return image


def export_tar(library: Library, image: Image, target: Path) -> None:
    """One tar file: ``manifest.json`` and ``blobs/sha256/HEX``. Written beside ``target`` and renamed when whole."""
    import io
    import tarfile

    partial = target.with_name(target.name + ".part")
    try:
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
            text = image.canonical()
            info = tarfile.TarInfo("manifest.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
            for file in image.files:
                info = tarfile.TarInfo(f"blobs/sha256/{file.sha256}")
                info.size = file.size
                with library.blob(file.sha256).open("rb") as blob:
                    tar.addfile(info, blob)
        partial.rename(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ImageError(f"{target}: {error.strerror}") from None


def import_tar(library: Library, source: Path, name: str = "") -> Image:
    """The reverse of :func:`export_tar`; every blob is checked against the manifest before anything is kept."""
    import tarfile

    try:
        with tarfile.open(source) as tar, tempfile.TemporaryDirectory(dir=library.root) as scratch:
            image = Image.parse(_member(tar, "manifest.json", 1 << 20).read())
            for file in image.files:
                part = Path(scratch) / file.sha256
                with part.open("wb") as out:
                    shutil.copyfileobj(_member(tar, f"blobs/sha256/{file.sha256}", file.size), out)
                library.adopt(part, file)
    except (tarfile.TarError, EOFError) as error:
        first = str(error).partition("\n")[0].rstrip(":")  # then comes what each kind of compression says
        raise ImageError(f"{source}: not an exported image: {first}") from None
    image = image.renamed(name) if name else image
    library.tag(image)
    return image


def _member(tar: Any, name: str, limit: int) -> Any:
    try:
        info = tar.getmember(name)
    except KeyError:
        raise ImageError(f"{tar.name}: has no {name}") from None
    file = tar.extractfile(info) if info.isfile() else None
    if file is None or info.size > limit:
        raise ImageError(f"{tar.name}: {name} is no plain file of at most {limit} bytes")
    return file
