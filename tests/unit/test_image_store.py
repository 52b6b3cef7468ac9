"""The library: content by hash, names by pointer, and what becomes of damage and bad files."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import ImageError
from wherry.image import importer
from wherry.image.store import File, Image, Library

MIB = 1 << 20


def kernel(size: int = 4096, image_size: int = 2 * MIB) -> bytes:
    """A RISC-V Image's header and some code."""
    head = struct.pack("<IIQQQIIQ8s4sI", 0x13, 0x13, 0x200000, image_size, 0, 2, 0, 0, b"RISCV\0\0\0", b"RSC\x05", 0)
    return head + bytes(size - len(head))


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "images")


def write(tmp_path: Path, name: str, data: bytes) -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def stored(library: Library, tmp_path: Path, name: str = "linux", initrd: bytes = b"cpio") -> Image:
    files = write(tmp_path, "Image", kernel()), write(tmp_path, "initrd", initrd)
    return importer.store_linux(library, name, *files, "console=ttyS0", {"by": "test"})


def test_store_and_get(library: Library, tmp_path: Path) -> None:
    made = stored(library, tmp_path)
    found = library.get("linux")
    assert found == made
    assert [file.role for file in found.files] == ["kernel", "initrd"]
    assert library.blob(found.files[1].sha256).read_bytes() == b"cpio"
    assert (library.root / "tags" / "linux").read_text().strip() == made.digest
    assert found.min_memory % (16 * MIB) == 0
    assert found.min_memory >= 50 * MIB
    library.verify(found)


def test_damage_is_found(library: Library, tmp_path: Path) -> None:
    made = stored(library, tmp_path)
    library.blob(made.files[0].sha256).write_bytes(b"other")
    with pytest.raises(ImageError, match=r"kernel .* is damaged"):
        library.verify(made)
    (library.root / "manifests" / f"{made.digest}.json").write_bytes(made.canonical() + b" ")
    with pytest.raises(ImageError, match="digest"):
        library.get("linux")


def test_remove_keeps_what_others_use(library: Library, tmp_path: Path) -> None:
    one = stored(library, tmp_path, "one", b"one")
    two = stored(library, tmp_path, "two", b"two!")
    assert one.files[0] == two.files[0]
    assert library.remove("one") == 3
    assert library.names() == ["two"]
    library.verify(two)
    assert library.remove("two") == 4096 + 4
    assert list((library.root / "blobs/sha256").iterdir()) == []
    with pytest.raises(ImageError, match="not in the library; there are: none"):
        library.get("two")


@pytest.mark.parametrize("name", ["", "../x", "A", "a/b", ".a", "x" * 64])
def test_bad_names(library: Library, tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="image name"):
        stored(library, tmp_path, name)


def test_a_crash_leaves_no_half_blob(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path, "big", b"x" * 10)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ImageError, match="No space left"):
        library.add_blob("disk", source)
    assert [p for p in library.root.rglob("*") if p.is_file()] == []


def test_adopt_checks_the_hash(library: Library, tmp_path: Path) -> None:
    part = write(tmp_path, "part", b"data")
    with pytest.raises(ImageError, match="hash mismatch"):
        library.adopt(part, File("disk", "0" * 64, 4))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x7fELF" + bytes(100), "ELF"),
        (b"\x1f\x8b" + bytes(100), "gzip"),
        (bytes(56) + b"ARMd" + bytes(40), "arm64"),
        (b"tiny", "4 bytes long"),
        (bytes(200), "unknown format"),
    ],
)
def test_a_kernel_that_is_no_image(library: Library, tmp_path: Path, data: bytes, says: str) -> None:
    file = write(tmp_path, "Image", data)
    with pytest.raises(ImageError, match=f"no RISC-V Image.*{says}"):
        importer.store_linux(library, "bad", file, None, "", {})
    assert library.names() == []


def test_disks_and_firmware(library: Library, tmp_path: Path) -> None:
    made = importer.store_linux(
        library, "db", write(tmp_path, "k", kernel()), None, "", {}, disk=write(tmp_path, "d", bytes(1024))
    )
    assert [file.role for file in made.files] == ["kernel", "disk"]
    assert importer.store_disk(library, "disk", write(tmp_path, "d", bytes(1024)), None, {}).kind == "disk"
    assert importer.store_firmware(library, "fw", write(tmp_path, "f", b"\x13\0\0\0"), {}).kind == "firmware"
    for data, match in ((bytes(513), "multiple of 512"), (b"", "multiple of 512"), (b"QFI\xfb" + bytes(508), "qcow2")):
        with pytest.raises(ImageError, match=match):
            importer.store_disk(library, "x", write(tmp_path, "x", data), None, {})
    amd64 = b"\x7fELF\x02\x01" + bytes(12) + b"\x3e\x00" + bytes(50)
    for data, match in ((b"", "empty"), (amd64, "not for 64-bit RISC-V")):
        with pytest.raises(ImageError, match=match):
            importer.store_firmware(library, "x", write(tmp_path, "x", data), {})


def test_export_and_import(library: Library, tmp_path: Path) -> None:
    made = stored(library, tmp_path)
    target = tmp_path / "out.tar"
    importer.export_tar(library, made, target)
    other = Library(tmp_path / "other")
    assert importer.import_tar(other, target) == made
    assert importer.import_tar(other, target, "renamed").files == made.files
    other.verify(other.get("renamed"))


def test_import_of_a_tampered_tar(library: Library, tmp_path: Path) -> None:
    made = stored(library, tmp_path)
    target = tmp_path / "bad.tar"
    with tarfile.open(target, "w") as tar:
        for name, data in (("manifest.json", made.canonical()), (f"blobs/sha256/{made.files[0].sha256}", b"evil")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    other = Library(tmp_path / "other")
    with pytest.raises(ImageError, match="hash mismatch"):
        importer.import_tar(other, target)
    assert other.names() == []
    with pytest.raises(ImageError, match="not an exported image"):
        importer.import_tar(other, write(tmp_path, "junk", b"no tar at all"))


def manifest(**changes: Any) -> bytes:
    good = {
        "format": 1,
        "name": "x",
        "kind": "linux",
        "arch": "riscv64",
        "files": [{"role": "kernel", "sha256": "0" * 64, "size": 1}],
    }
    return json.dumps({**good, **changes}).encode()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"format": 2}, "format"),
        ({"name": "../up"}, "name"),
        ({"name": 3}, "name"),
        ({"kind": "vmware"}, "kind"),
        ({"arch": "amd64"}, "arch"),
        ({"files": []}, "files"),
        ({"files": [1]}, "files"),
        ({"files": [{"role": "kernel", "sha256": "zz", "size": 1}]}, "sha256"),
        ({"files": [{"role": "kernel", "sha256": "0" * 64, "size": -1}]}, "size"),
        ({"files": [{"role": "kernel", "sha256": "0" * 64, "size": True}]}, "size"),
        ({"files": [{"role": "nose", "sha256": "0" * 64, "size": 1}]}, "role"),
        ({"cmdline": []}, "cmdline"),
        ({"min_memory": -1}, "min_memory"),
        ({"source": "x"}, "source"),
    ],
)
def test_manifests_name_the_bad_field(changes: dict[str, Any], field: str) -> None:
    Image.parse(manifest())
    with pytest.raises(ImageError, match=field):
        Image.parse(manifest(**changes))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["format", "name", "files", "role"]), x),
    )
)
def test_random_manifests(data: Any) -> None:
    with pytest.raises(ImageError):
        Image.parse(json.dumps(data).encode())


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_manifests_that_are_no_json(text: bytes) -> None:
    with pytest.raises(ImageError):
        Image.parse(text)
