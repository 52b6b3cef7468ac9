"""Image files by content: whole or not there; resumed, refused, verified, and what a full disk does."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

from node import blobs as module
from node.blobs import BlobError, Blobs
from protocol.errors import LinkClosed, Refused
from protocol.messages import ImageFile

DATA = bytes(range(256)) * 20000
SHA = hashlib.sha256(DATA).hexdigest()
FILE = ImageFile(role="kernel", sha256=SHA, size=len(DATA))
Open = Callable[[str, int], Awaitable[trio.abc.ReceiveStream]]


class Source:
    """Serves ``data``, and breaks after ``until`` bytes when that is given."""

    def __init__(self, data: bytes = DATA, until: int | None = None) -> None:
        self.data = data
        self.until = until
        self.offsets: list[int] = []

    async def __call__(self, sha256: str, offset: int) -> trio.abc.ReceiveStream:
        self.offsets.append(offset)
        return Pieces(self.data[offset:], self.until)


class Pieces(trio.abc.ReceiveStream):
    def __init__(self, data: bytes, until: int | None) -> None:
        self.data = data
        self.left = until

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.left is not None and self.left <= 0:
            return b""
        count = min(max_bytes or 65536, 65536, len(self.data) if self.left is None else self.left)
        piece, self.data = self.data[:count], self.data[count:]
        if self.left is not None:
            self.left -= len(piece)
        return piece

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_fetch_and_have(tmp_path: Path) -> None:
    store, source = Blobs(tmp_path), Source()
    path = await store.ensure(FILE, [("c", source)])
    assert path.read_bytes() == DATA
    assert await store.ensure(FILE, []) == path
    assert source.offsets == [0]
    assert not list((tmp_path / "partial").iterdir())


async def test_a_broken_transfer_is_resumed_from_the_next_source(tmp_path: Path) -> None:
    store = Blobs(tmp_path)
    first, second = Source(until=3_000_000), Source()
    await store.ensure(FILE, [("a", first), ("b", second)])
    assert second.offsets == [3_000_000]
    assert store.path(SHA).read_bytes() == DATA


async def test_resumed_by_the_next_agent(tmp_path: Path) -> None:
    with pytest.raises(BlobError) as caught:
        await Blobs(tmp_path).ensure(FILE, [("a", Source(until=1_500_000))])
    assert caught.value.code == "unavailable"
    assert not Blobs(tmp_path).has(SHA)
    source = Source()
    await Blobs(tmp_path).ensure(FILE, [("a", source)])
    assert source.offsets == [1_500_000]


async def test_wrong_bytes_are_not_kept(tmp_path: Path) -> None:
    store = Blobs(tmp_path)
    bad = bytearray(DATA)
    bad[100] ^= 1
    with pytest.raises(BlobError, match="hash"):
        await store.ensure(FILE, [("liar", Source(bytes(bad)))])
    assert not store.has(SHA)
    assert not list((tmp_path / "partial").iterdir())
    await store.ensure(FILE, [("liar", Source(bytes(bad))), ("good", Source())])
    assert store.path(SHA).read_bytes() == DATA


async def test_more_than_told_is_cut_off(tmp_path: Path) -> None:
    store = Blobs(tmp_path)
    with pytest.raises(BlobError, match="more than"):
        await store.ensure(FILE, [("liar", Source(DATA + b"x"))])
    assert not list((tmp_path / "partial").iterdir())


async def test_nobody_has_it(tmp_path: Path) -> None:
    async def refuse(sha256: str, offset: int) -> trio.abc.ReceiveStream:
        raise LinkClosed("gone")

    with pytest.raises(BlobError, match=r"peer: gone") as caught:
        await Blobs(tmp_path).ensure(FILE, [("peer", refuse)])
    assert caught.value.code == "unavailable"


class Usage(NamedTuple):
    total: int
    used: int
    free: int


async def test_too_little_room_is_said_before_the_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(0, 0, 1000))
    with pytest.raises(BlobError) as caught:
        await Blobs(tmp_path).ensure(FILE, [("c", source)])
    assert caught.value.code == "full"
    assert source.offsets == []


async def test_a_disk_that_fills_up_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = trio.open_file

    async def open_file(path: Any, mode: str = "r") -> Any:
        file = await real(path, mode)
        if "a" in mode:

            async def write(data: bytes) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(file, "write", write, raising=False)
        return file

    store = Blobs(tmp_path)
    monkeypatch.setattr(module.trio, "open_file", open_file)
    with pytest.raises(BlobError, match="disk is full") as caught:
        await store.ensure(FILE, [("c", Source())])
    assert caught.value.code == "full"
    assert not list((tmp_path / "partial").iterdir())
    monkeypatch.undo()
    await store.ensure(FILE, [("c", Source())])


async def test_two_tasks_share_one_transfer(tmp_path: Path) -> None:
    store, source = Blobs(tmp_path), Source()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(store.ensure, FILE, [("c", source)])
    assert source.offsets == [0]


async def test_serve(tmp_path: Path) -> None:
    store = Blobs(tmp_path)
    await store.ensure(FILE, [("c", Source())])
    ours, theirs = trio.testing.memory_stream_one_way_pair()
    await store.serve(SHA, len(DATA) - 10, ours)
    assert await theirs.receive_some(100) == DATA[-10:]
    with pytest.raises(Refused) as caught:
        await store.serve("0" * 64, 0, ours)
    assert caught.value.code == "not_found"
