"""The node's image files, by content: ``blobs/sha256/HEX`` is complete and verified, or not there.

What is being fetched lies in ``blobs/partial/HEX`` and is resumed from its length, whoever has it then. Only a file
whose whole hash matched is renamed into place, so a reader never sees a half of one; a wrong or oversize transfer is
deleted. A full disk deletes the partial file as well: it would only keep the disk full.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import trio

from protocol.errors import Refused
from protocol.messages import ImageFile

CHUNK = 1 << 20
RESERVE = 64 << 20  # bytes that a transfer leaves free on the disk

# Opens the bytes of a blob from an offset; the label is for logs. Errors of any kind mean "not from here".
Opener = Callable[[str, int], Awaitable[trio.abc.ReceiveStream]]


class BlobError(Exception):
    """``code`` is an error code of the link: not_found, full, invalid (hash or size), unavailable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Blobs:
    """``root``: the ``blobs`` folder. Safe for several tasks; two that want the same file share one transfer."""

    def __init__(self, root: Path) -> None:
        self._whole = root / "sha256"
        self._partial = root / "partial"
        self._locks: dict[str, trio.Lock] = {}
        for folder in (self._whole, self._partial):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        return self._whole / sha256

    def has(self, sha256: str) -> bool:
        return self.path(sha256).exists()

    async def ensure(self, file: ImageFile, sources: Sequence[tuple[str, Opener]]) -> Path:
        """The file's path, after fetching it from the first of ``sources`` that has it. Raises BlobError."""
        async with self._locks.setdefault(file.sha256, trio.Lock()):
            if self.has(file.sha256):
                return self.path(file.sha256)
            failures = []
            for label, opener in sources:
                try:
                    await self._fetch(file, opener)
                    return self.path(file.sha256)
                except BlobError as error:
                    if error.code == "full":
                        raise
                    failures.append(f"{label}: {error.message}")
        reason = "; ".join(failures) or "nobody to ask"
        raise BlobError("unavailable", f"{file.role} {file.sha256[:12]} cannot be fetched ({reason})")

    async def _fetch(self, file: ImageFile, opener: Opener) -> None:
        part = self._partial / file.sha256
        digest = hashlib.sha256()
        have = await trio.to_thread.run_sync(_hash_existing, part, digest, file.size)
        free = shutil.disk_usage(self._partial).free
        if free < file.size - have + RESERVE:
            part.unlink(missing_ok=True)
            raise BlobError("full", f"{file.size - have} bytes are wanted for {file.role}, the disk has {free} free")
        try:
            await self._receive(file, part, have, digest, opener)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise BlobError("full", f"the disk is full ({file.role} {file.sha256[:12]})") from None
            raise BlobError("unavailable", f"{error.strerror}") from error
        if digest.hexdigest() != file.sha256:
            part.unlink(missing_ok=True)
            raise BlobError("invalid", f"its hash is {digest.hexdigest()[:12]}, not {file.sha256[:12]}")
        await trio.to_thread.run_sync(_install, part, self.path(file.sha256))

    async def _receive(self, file: ImageFile, part: Path, have: int, digest: hashlib._Hash, opener: Opener) -> None:
        """Append what is missing. A connection that ends early keeps what came, for the next try."""
        async with await trio.open_file(part, "ab") as out:
            if have == file.size:
                return
            async with _opened(opener, file.sha256, have) as stream:
                while True:
                    data = await _gather(stream)
                    if not data:
                        break
                    have += len(data)
                    if have > file.size:
                        await trio.to_thread.run_sync(_discard, part)
                        raise BlobError("invalid", f"more than the {file.size} bytes that the manifest tells")
                    digest.update(data)
                    await out.write(data)
        if have != file.size:
            raise BlobError("unavailable", f"ended after {have} of {file.size} bytes")

    async def serve(self, sha256: str, offset: int, stream: trio.abc.SendStream) -> None:
        """Send a whole blob from ``offset`` on. Raises Refused when it is not here."""
        try:
            file = await trio.open_file(self.path(sha256), "rb")
        except FileNotFoundError:
            raise Refused("not_found", f"blob {sha256[:12]} is not on this node") from None
        async with file:
            await file.seek(offset)
            while data := await file.read(CHUNK):
                await stream.send_all(data)


@contextlib.asynccontextmanager
async def _opened(opener: Opener, sha256: str, offset: int) -> AsyncIterator[trio.abc.ReceiveStream]:
    """A source's stream; whatever it throws becomes a BlobError, because the next source may do better."""
    try:
        stream = await opener(sha256, offset)
    except Exception as error:
        raise BlobError("unavailable", str(error) or type(error).__name__) from error
    try:
        yield stream
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise BlobError("unavailable", "the connection broke") from None
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
            await stream.aclose()


async def _gather(stream: trio.abc.ReceiveStream) -> bytes:
    """Up to a chunk: fewer, larger writes than the stream's own pieces."""
    parts, size = [], 0
    while size < CHUNK:
        data = await stream.receive_some(CHUNK - size)
        if not data:
            break
        parts.append(bytes(data))
        size += len(data)
    return b"".join(parts)


def _hash_existing(part: Path, digest: hashlib._Hash, limit: int) -> int:
    try:
        size = part.stat().st_size
    except FileNotFoundError:
        return 0
    if size > limit:
        part.unlink()
        return 0
    with part.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
    return size


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)


def _install(part: Path, whole: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.chmod(0o400)
    part.rename(whole)
