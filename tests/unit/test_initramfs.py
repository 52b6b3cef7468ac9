"""The newc writer, read back by a reader that knows only the format."""

from __future__ import annotations

import gzip
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.image import rootfs
from wherry.image.initramfs import Archive
from wherry.image.modules import Module

Parsed = dict[str, tuple[int, bytes, tuple[int, int]]]


def read_newc(data: bytes) -> Parsed:
    """Path to (mode, contents, rdev); asserts what the format demands."""
    found: Parsed = {}
    inodes: set[int] = set()
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        inode, mode, size, major, minor, name_size = fields[0], fields[1], fields[6], fields[9], fields[10], fields[11]
        name_at = at + 110
        assert data[name_at + name_size - 1] == 0
        name = data[name_at : name_at + name_size - 1].decode()
        body = name_at + name_size + (-(name_at + name_size) % 4)
        if name == "TRAILER!!!":
            assert not data[body:].strip(b"\0")
            assert len(data) % 512 == 0
            return found
        assert inode not in inodes
        inodes.add(inode)
        found[name] = (mode, data[body : body + size], (major, minor))
        at = body + size + (-(body + size) % 4)


def test_every_kind_of_entry() -> None:
    archive = Archive()
    archive.add_file("usr/bin/tool", b"#!x", 0o755)
    archive.add_link("bin", "usr/bin")
    archive.add_folder("tmp", 0o1777)
    archive.add_device("dev/console", 5, 1)
    found = read_newc(archive.write())
    assert list(found) == ["bin", "dev", "dev/console", "tmp", "usr", "usr/bin", "usr/bin/tool"]
    assert found["usr/bin/tool"] == (stat.S_IFREG | 0o755, b"#!x", (0, 0))
    assert found["bin"] == (stat.S_IFLNK | 0o777, b"usr/bin", (0, 0))
    assert found["tmp"][0] == stat.S_IFDIR | 0o1777
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))


names = st.text("abcdef", min_size=1, max_size=8)


@given(st.dictionaries(names, st.binary(max_size=40), max_size=12), st.booleans())
def test_round_trip_and_determinism(files: dict[str, bytes], compress: bool) -> None:
    one, two = Archive(), Archive()
    for name, data in files.items():
        one.add_file(name, data)
    for name, data in reversed(files.items()):
        two.add_file(name, data)
    written = one.write(compress=compress)
    assert written == two.write(compress=compress)
    plain = gzip.decompress(written) if compress else written
    assert {name: data for name, (_, data, _) in read_newc(plain).items()} == files


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../b", ""])
def test_paths_stay_inside(path: str) -> None:
    with pytest.raises(ValueError, match="archive path"):
        Archive().add_file(path, b"")


def test_tree_with_pruning(tmp_path: Path) -> None:
    (tmp_path / "usr/share/doc/x").mkdir(parents=True)
    (tmp_path / "usr/share/doc/x/copyright").write_text("c")
    (tmp_path / "usr/share/document").write_text("kept")
    (tmp_path / "link").symlink_to("usr/share")
    archive = Archive()
    archive.add_tree(tmp_path, skip=("usr/share/doc",))
    assert set(archive.entries) == {"usr", "usr/share", "usr/share/document", "link"}


def busybox_with(*names: str) -> bytes:
    table = b"\0".join(name.encode() for name in ("[", "[[", *names)) + b"\0"
    return b"\x7fELF code " + table + b"\0 more"


APPLETS = sorted({"ls", "mount", "ping", "sh", "init", "poweroff"} | {f"tool{i}" for i in range(120)})


def test_applets() -> None:
    assert rootfs.applets(busybox_with(*APPLETS))[2:] == APPLETS
    assert rootfs.applets(b"\x7fELF nothing here") == []


def test_built_archive(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/busybox").write_bytes(busybox_with(*APPLETS))
    (tmp_path / "usr/bin/ping").write_bytes(b"the real one")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/old.so").write_bytes(b"so")
    archive = rootfs.build(tmp_path, [Module("virtio_mmio", (), b"m"), Module("virtio_net", ("virtio_mmio",), b"n")])
    found = read_newc(archive.write())
    assert found["usr/bin/ls"][1] == b"busybox"
    assert found["usr/bin/ping"][1] == b"the real one"
    assert b"alias ping=/usr/bin/ping\n" in found["etc/profile"][1]
    assert found["usr/sbin/init"][1] == b"../bin/busybox"
    assert "usr/bin/init" not in found
    assert found["lib"][1] == b"usr/lib"
    assert found["usr/lib/old.so"][1] == b"so"
    assert found["etc/modules-order"][1] == b"virtio_mmio.ko\nvirtio_net.ko\n"
    assert found["usr/lib/modules/virtio_net.ko"][1] == b"n"
    assert stat.S_IMODE(found["init"][0]) == 0o755
