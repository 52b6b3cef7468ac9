"""The emulators that ``make bench-core`` compares with: Debian's own QEMU and the newest one that Debian packages.

The newest comes from the backports of a newer release than the host may run, so it is unpacked with everything it
needs, the C library too, into ``build/tools/newest`` and started by its own dynamic linker. The private apt of the
image builder (``wherry/image/apt.py``) fetches it: from the host's mirror, with the installed archive keyring,
signatures checked, the host's apt state untouched.
"""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.harness import ROOT, tool_version
from wherry.errors import ImageError
from wherry.image import apt

SUITE, BACKPORTS = "trixie", "trixie-backports"
FOLDER = ROOT / "build" / "tools" / "newest"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # Debian's names


@dataclass(frozen=True)
class Peer:
    """A QEMU for riscv64. ``name`` as reports give it; ``argv`` is what its command line begins with."""

    name: str
    argv: tuple[str, ...]


class PeerMissing(Exception):
    """A peer cannot be had; the text says which and why."""


def _named(argv: tuple[str, ...]) -> Peer:
    """The peer with the version that it tells of itself. Raises PeerMissing where it does not start."""
    words = tool_version([*argv, "--version"]).split()
    if words[:3] != ["QEMU", "emulator", "version"] or len(words) < 4:
        raise PeerMissing(f"{argv[-1]} does not tell its version: {' '.join(words)[:200]!r}")
    return Peer(f"qemu-system-riscv64 {words[3]} tcg", argv)


def debian() -> Peer:
    """The host release's own package: installed, or unpacked by ``deploy/tools.sh qemu-system``."""
    private = ROOT / "build" / "tools" / "bin" / "qemu-system-riscv64"
    found = shutil.which("qemu-system-riscv64") or (str(private) if private.exists() else None)
    if found is None:
        raise PeerMissing("Debian's own qemu-system-riscv64 (package qemu-system-misc): sh deploy/tools.sh qemu-system")
    return _named((found,))


def newest() -> Peer:
    """The newest that Debian packages; fetched once. Raises PeerMissing with apt's reason."""
    root = fetched(FOLDER, SUITE, (BACKPORTS,), ["qemu-system-riscv"])
    return _named((*program(root, "usr/bin/qemu-system-riscv64"), "-L", str(root / "usr/share/qemu")))


def fetched(folder: Path, suite: str, more_suites: tuple[str, ...], packages: list[str]) -> Path:
    """The root of ``packages`` and all that they need, unpacked into ``folder`` if they were not before. Raises
    PeerMissing."""
    root, what = folder / "root", f"{', '.join(packages)} of {(more_suites or (suite,))[-1]}"
    if (folder / "complete").exists():
        return root
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise PeerMissing(f"{what}: no rule for hosts of type {platform.machine()}")
    print(f"peers: fetching {what}, with all libraries", file=sys.stderr)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        driver = apt.Apt(folder / "apt", suite=suite, more_suites=more_suites, architecture=architecture)
        driver.update()
        apt.unpack(driver.download(packages), root)
        shutil.rmtree(driver.folder)
    except (ImageError, OSError) as error:
        raise PeerMissing(f"{what}: {error}") from error
    (folder / "complete").touch()
    return root


def program(root: Path, path: str) -> tuple[str, ...]:
    """What a command line of a program in such a root begins with: its own dynamic linker. Raises PeerMissing."""
    linkers = sorted((root / "usr/lib").glob("*-linux-gnu/ld-linux*"))
    linkers += sorted((root / "lib").glob("*-linux-gnu/ld-linux*"))  # releases before usr was merged
    if not linkers or not (root / path).exists():
        missing = path if linkers else "dynamic linker"
        raise PeerMissing(f"{root} holds no {missing}; remove {root.parent} and try again")
    triplet = linkers[0].parent.name
    search = f"{root}/usr/lib/{triplet}:{root}/lib/{triplet}"
    return (str(linkers[0]), "--library-path", search, str(root / path))


def find() -> tuple[list[Peer], list[str]]:
    """The peers that are there, of different versions, and the reasons of those that are missing."""
    found: list[Peer] = []
    missing: list[str] = []
    for make in (debian, newest):
        try:
            peer = make()
        except PeerMissing as reason:
            missing.append(str(reason))
        else:
            if peer.name not in {other.name for other in found}:
                found.append(peer)
    return found, missing
