"""Kernel modules: small ELF objects made here, damaged in every way, and orders of loading."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import ImageError
from wherry.image import modules


def module(depends: str = "", name: str = "m") -> bytes:
    """A minimal ELF64 object with a .modinfo section."""
    info = f"license=GPL\0depends={depends}\0name={name}\0".encode()
    names = b"\0.modinfo\0.shstrtab\0"
    body = info + names
    offset = 64 + len(body)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 1, 243, 1, 0, 0, offset, 0, 64, 0, 0, 64, 3, 2)
    section = struct.Struct("<IIQQQQIIQQ")
    sections = bytes(64)
    sections += section.pack(1, 1, 0, 0, 64, len(info), 0, 0, 1, 0)
    sections += section.pack(10, 3, 0, 0, 64 + len(info), len(names), 0, 0, 1, 0)
    return header + body + sections


def put(folder: Path, name: str, depends: str = "", suffix: str = ".ko.xz") -> None:
    data = module(depends, name)
    packed = {".ko.xz": lzma.compress, ".ko.gz": gzip.compress, ".ko": bytes}[suffix](data)
    (folder / f"{name}{suffix}").write_bytes(packed)


def test_modinfo() -> None:
    assert modules.modinfo(module("a,b"))["depends"] == ["a,b"]


def test_dependencies_come_first(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    put(tmp_path / "net", "virtio_net", "net_failover")
    put(tmp_path / "net", "net_failover", "failover", ".ko")
    put(tmp_path, "failover", "", ".ko.gz")
    put(tmp_path, "virtio-rng")
    order = [m.name for m in modules.load_order(tmp_path, ["virtio_net", "virtio_rng", "built_in", "failover"])]
    assert order == ["failover", "net_failover", "virtio_net", "virtio_rng"]


def test_missing_dependency_and_cycle(tmp_path: Path) -> None:
    put(tmp_path, "a", "b")
    with pytest.raises(ImageError, match="a depends on b"):
        modules.load_order(tmp_path, ["a"])
    put(tmp_path, "b", "a")
    with pytest.raises(ImageError, match="a -> b -> a"):
        modules.load_order(tmp_path, ["a"])


def test_every_truncation_is_an_error_or_the_whole() -> None:
    whole = module("x")
    for length in range(len(whole)):
        with pytest.raises(ImageError):
            modules.modinfo(whole[:length])


@given(st.integers(0, 4000), st.binary(min_size=1, max_size=8))
def test_damage_is_an_error_or_another_module(at: int, noise: bytes) -> None:
    data = bytearray(module("x"))
    at %= len(data)
    data[at : at + len(noise)] = noise
    with contextlib.suppress(ImageError):
        modules.modinfo(bytes(data))


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(ImageError):
        modules.modinfo(b"\0" + data)


def test_signatures_come_off() -> None:
    whole = module("x")
    marker = b"~Module signature appended~\n"
    signed = whole + b"S" * 300 + struct.pack(">BBBBBxxxI", 0, 0, 2, 0, 0, 300) + marker
    assert modules.without_signature(signed) == whole
    assert modules.without_signature(whole) == whole
    too_long = whole + struct.pack(">BBBBBxxxI", 0, 0, 2, 0, 0, 1 << 30) + marker
    assert modules.without_signature(too_long) == too_long
    for length in range(len(marker) + 12):
        assert modules.without_signature(signed[-length:] if length else b"") in (
            signed[-length:] if length else b"",
            b"",
        )


@given(st.binary(max_size=60))
def test_signatures_of_random_bytes(data: bytes) -> None:
    assert len(modules.without_signature(data + b"~Module signature appended~\n")) <= len(data) + 28


def test_damaged_compression(tmp_path: Path) -> None:
    file = tmp_path / "bad.ko.xz"
    file.write_bytes(b"no xz at all")
    with pytest.raises(ImageError, match=r"bad\.ko\.xz"):
        modules.read_module(file)
