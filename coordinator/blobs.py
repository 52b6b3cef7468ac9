"""Blobs by hash, on disk: what images are made of.

``sha256/HEX`` are whole and verified, ``partial/HEX`` are uploads under way; a rename makes one of the other, so a
reader never sees half a blob. An upload may be continued after any interruption: what was received stays.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import trio

from coordinator.errors import Conflict, CoordinatorError, Full, Invalid, NotFound, Unavailable

CHUNK = 256 * 1024
KEPT_DIGESTS = 16


class WrongOffset(Conflict):
    """The upload must go on at ``offset``."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the upload continues at byte {offset}", field="content-range", offset=offset)
        self.offset = offset


def _check(sha256: str) -> str:
    if len(sha256) != 64 or any(c not in "0123456789abcdef" for c in sha256):
        raise Invalid("a blob's name is the 64 lower-case hex digits of its SHA-256", field="sha256")
    return sha256


def _hash_file(path: Path) -> hashlib._Hash:
    digest = hashlib.sha256()
    with suppress(FileNotFoundError), path.open("rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest


class Blobs:
    """The blob folder. One upload of a hash at a time; the limiter bounds disk threads."""

    def __init__(self, folder: Path) -> None:
        self._whole = folder / "sha256"
        self._partial = folder / "partial"
        for path in (self._whole, self._partial):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._busy: set[str] = set()
        self._digests: dict[str, tuple[int, hashlib._Hash]] = {}
        self._limiter = trio.CapacityLimiter(4)

    def path(self, sha256: str) -> Path:
        return self._whole / _check(sha256)

    def size(self, sha256: str) -> int | None:
        """Bytes of a whole blob, None if it is not here."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def held(self, sha256: str) -> int:
        """Bytes of an unfinished upload."""
        try:
            return (self._partial / _check(sha256)).stat().st_size
        except FileNotFoundError:
            return 0

    def remove(self, sha256: str) -> None:
        self.path(sha256).unlink(missing_ok=True)

    async def read(self, sha256: str, offset: int = 0) -> AsyncIterator[bytes]:
        """The blob's bytes from ``offset`` on; :class:`NotFound` before the first if it is not here."""
        try:
            file = await trio.open_file(self.path(sha256), "rb")
        except FileNotFoundError:
            raise NotFound(f"no blob {sha256}", field="sha256") from None
        async with file:
            await file.seek(offset)
            while chunk := await file.read(CHUNK):
                yield chunk

    async def write(self, sha256: str, data: AsyncIterator[bytes], *, start: int, total: int | None) -> int | None:
        """Append an upload's bytes from ``start`` on.

        ``total``: the blob's size if known; without it the end of ``data`` is the end of the blob. Returns None when
        the blob is whole and verified, else the bytes held so far. Raises :class:`WrongOffset`, :class:`Invalid` for a
        wrong hash or size (the upload is dropped), :class:`Full` when the disk is (the upload is dropped, to give the
        room back), :class:`Conflict` while another upload of it runs.
        """
        _check(sha256)
        if self.size(sha256) is not None:
            return None
        if sha256 in self._busy:
            raise Conflict(f"another upload of {sha256[:12]} is under way", field="sha256")
        self._busy.add(sha256)
        try:
            return await self._append(sha256, data, start, total)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                (self._partial / sha256).unlink(missing_ok=True)
                raise Full(
                    f"the coordinator's disk is full: blob {sha256[:12]} was not stored", field="sha256"
                ) from exc
            raise Unavailable(f"blob {sha256[:12]} cannot be stored: {exc.strerror}", field="sha256") from exc
        finally:
            self._busy.discard(sha256)

    async def _digest(self, sha256: str, path: Path, held: int) -> hashlib._Hash:
        """The hash of what is held: kept from the part before, or read again after an interruption."""
        kept = self._digests.pop(sha256, None)
        if kept is not None and kept[0] == held:
            return kept[1]
        return await trio.to_thread.run_sync(_hash_file, path, limiter=self._limiter)

    def _keep_digest(self, sha256: str, held: int, digest: hashlib._Hash) -> None:
        self._digests[sha256] = (held, digest)
        while len(self._digests) > KEPT_DIGESTS:
            del self._digests[next(iter(self._digests))]

    async def _append(self, sha256: str, data: AsyncIterator[bytes], start: int, total: int | None) -> int | None:
        path = self._partial / sha256
        if start == 0:
            path.unlink(missing_ok=True)
        held = self.held(sha256)
        if start != held:
            raise WrongOffset(held)
        digest = await self._digest(sha256, path, held)
        file = await trio.open_file(path, "ab")
        try:
            async for chunk in data:
                if total is not None and held + len(chunk) > total:
                    raise Invalid(f"more than the {total} bytes that were announced", field="content-range")
                await file.write(chunk)
                await trio.to_thread.run_sync(digest.update, chunk, limiter=self._limiter)
                held += len(chunk)
            await file.flush()
            if total is not None and held < total:
                self._keep_digest(sha256, held, digest)
                return held
            await trio.to_thread.run_sync(os.fsync, file.wrapped.fileno(), limiter=self._limiter)
        except CoordinatorError:
            path.unlink(missing_ok=True)
            raise
        finally:
            with trio.CancelScope(shield=True):
                await file.aclose()
        if digest.hexdigest() != sha256:
            path.unlink(missing_ok=True)
            raise Invalid(f"the content's SHA-256 is {digest.hexdigest()}, not {sha256}", field="sha256")
        path.replace(self._whole / sha256)
        return None
