"""Building the Debian image with the host's real apt, from its cache where it has one."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from tests.unit.test_initramfs import read_newc
from wherry import paths
from wherry.errors import AptError, SignatureProblem
from wherry.image import apt, debian
from wherry.image.store import Library

pytestmark = [pytest.mark.debian, pytest.mark.slow]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private copy of the user's cache, so that packages are fetched once and two runs never share apt's lock."""
    if shutil.which("apt-get") is None:
        pytest.skip("no apt on this host")
    copy = tmp_path_factory.mktemp("cache")
    archives = paths.home() / "cache" / "apt" / debian.SUITE / "archives"
    target = copy / debian.SUITE / "archives"
    target.mkdir(parents=True)
    for deb in archives.glob("*.deb"):
        target.joinpath(deb.name).symlink_to(deb)
    return copy


def build(cache: Path, library: Library, **options: object) -> tuple[dict[str, bytes], list[str]]:
    steps: list[str] = []
    try:
        made = debian.build(library, cache, debian.Options(**options), lambda text, _: steps.append(text))  # type: ignore[arg-type]
    except AptError as error:
        if "Failed to fetch" in str(error) or "Temporary failure" in str(error):
            pytest.skip(f"the mirror cannot be reached: {error}")
        raise
    return {file.role: library.blob(file.sha256).read_bytes() for file in made.files}, list(dict.fromkeys(steps))


@pytest.fixture(scope="module")
def built(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[str]]:
    return build(cache, Library(tmp_path_factory.mktemp("images")))


def test_build_is_whole_and_repeatable(cache: Path, built: tuple[dict[str, bytes], list[str]], tmp_path: Path) -> None:
    files, steps = built
    assert steps == ["package lists", "packages", "unpack", "initramfs", "store"]
    assert files["kernel"][0x38:0x3C] == b"RSC\x05"
    tree = read_newc(files["initrd"])
    for path in ("init", "usr/bin/busybox", "usr/sbin/qemu-ga", "usr/bin/ping", "usr/lib/modules/virtio_net.ko"):
        assert path in tree, path
    order = tree["etc/modules-order"][1].decode().split()
    assert order.index("failover.ko") < order.index("net_failover.ko") < order.index("virtio_net.ko")
    assert not any(path.startswith("usr/share/doc") for path in tree)
    assert not tree["usr/lib/modules/virtio_net.ko"][1].endswith(b"~Module signature appended~\n")
    again, _ = build(cache, Library(tmp_path / "two"))
    assert again == files


def test_shared_libraries_are_complete(built: tuple[dict[str, bytes], list[str]]) -> None:
    """Every DT_NEEDED of every program is in the image: apt's closure holds, and pruning took nothing that is used."""
    files, _ = built
    tree = read_newc(files["initrd"])
    names = {path.rsplit("/", 1)[-1] for path in tree}
    for path, (_, data, _) in tree.items():
        if data[:4] == b"\x7fELF" and not path.endswith(".ko"):
            assert needed(data) <= names, path


def needed(data: bytes) -> set[str]:
    """DT_NEEDED names of an ELF64 file (System V gABI)."""
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQQQ", data, offset + i * size) for i in range(count)]
    dynamic = next((s for s in segments if s[0] == 2), None)
    if dynamic is None:
        return set()
    tags = [struct.unpack_from("<QQ", data, dynamic[2] + i) for i in range(0, dynamic[5], 16)]
    strings = next(value for tag, value in tags if tag == 5)
    at = next(strings - s[3] + s[2] for s in segments if s[0] == 1 and s[3] <= strings < s[3] + s[6])
    return {data[at + v : data.index(0, at + v)].decode() for tag, v in tags if tag == 1}


def test_an_unknown_package_is_named(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(AptError, match="no-such-package-here"):
        build(cache, Library(tmp_path), packages=("no-such-package-here",))


def test_a_foreign_keyring_is_refused(cache: Path, tmp_path: Path) -> None:
    """The mirror's signatures are checked: with another keyring the same mirror is an error, and no list is kept."""
    keyring = tmp_path / "foreign.gpg"
    keyring.write_bytes(b"")
    fresh = tmp_path / "cache"
    with pytest.raises((SignatureProblem, AptError)) as caught:
        apt.Apt(fresh, suite=debian.SUITE, keyring=keyring).update()
    if "Temporary failure" in str(caught.value):
        pytest.skip("the mirror cannot be reached")
    assert isinstance(caught.value, SignatureProblem)
    assert list((fresh / "lists").glob("*Packages*")) == []
