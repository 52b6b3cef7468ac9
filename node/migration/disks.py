"""The disk of a guest that moves: rounds of blocks, while it writes to it (protocol/SPEC.md, 11.8).

The source reads the file beside the guest process, which marks what it writes (csrc/disk); the target writes a file of
its own, which nobody runs with before the store's word. A round ends when the target has synced it, so that little is
left to be synced in the pause, and the last one is synced before the target says that it could run.

On a channel each end is one thread, as with pages (node/migration/pages.py); on a link, and where a rate is kept,
blocks are packed and placed in worker threads. What is the image's is not sent: the target begins with a copy of the
image's disk, whose hash it has checked.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeVar

import trio

from node.core import CoreError
from node.disks import sync_folder
from node.diskview import BLOCK, DiskBatch, DiskView
from node.guestcopy import Guest
from node.migration.bucket import SLICE, TokenBucket
from node.migration.channel import DIAL_TIMEOUT, Channel, dial, sealed_size
from node.migration.driver import Driver
from node.migration.frames import FrameReader
from node.migration.frames import framed as frame
from node.migration.pages import BATCH, MAX_BATCH, SMALL, Cutter, LinkWatch, framed, limiter
from node.migration.squeeze import Squeezer, Unsqueezer
from protocol.errors import Refused
from protocol.messages import MigrationDisk, Prepared
from protocol.transport import Link, LinkStream

log = logging.getLogger("wherry.node.migration")

SYNC_EACH: Final = 32 << 20  # bytes: a file system that is slow holds back the source, and nobody waits long for a sync
SAMPLE: Final = 256 << 10
_REASON: Final = 1000
T = TypeVar("T")


class TargetFull(Exception):
    """The target takes no more of the disk; the text says why."""


class DiskSender:
    """The source's end. ``sent``: bytes on the stream. Owns ``view``; :meth:`close` lets go of it."""

    def __init__(self, view: DiskView, stream: LinkStream | Channel, bucket: TokenBucket) -> None:
        self._view = view
        self._stream = stream
        self._bucket = bucket
        self._squeezer = Squeezer()
        self._frames = FrameReader(stream, _REASON)
        self._buffer = bytearray(4 + BATCH)
        self._share = 1.0  # of what is written, that goes over the wire
        self._limited = True
        self.sent = 0
        self.looked = 0.0  # seconds of the last round in which nothing went, because blocks were compared

    @property
    def dirty(self) -> bool:
        """Something was written since the last round began, or it left something."""
        return bool(self._view.dirty_now or self._view.left)

    @property
    def left(self) -> int:
        """Bytes of the disk that are still to be looked at or were written since."""
        return (self._view.dirty_now + self._view.left) * BLOCK

    @property
    def expected(self) -> int:
        """How many bytes on the wire that will be."""
        return int(self.left * self._share)

    async def send_round(self, *, last: bool = False, limited: bool = True) -> int:
        """What is to be sent now, and wait until the target has synced it (``last``: until it is on its way, and end
        the stream). Bytes that went. Raises TargetFull, CoreError (this host), trio.BrokenResourceError."""
        self._limited, self.looked = limited, 0.0
        before = self.sent
        if last:
            await self._send_set()
            await self._stream.send_eof()
            return self.sent - before
        problems: list[Exception] = []
        async with trio.open_nursery() as nursery:

            async def guarded(work: Callable[[], Awaitable[None]]) -> None:
                try:
                    await work()
                except (CoreError, TargetFull, trio.BrokenResourceError) as error:
                    problems.append(error)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(guarded, self._answered)
            nursery.start_soon(guarded, self._send_and_end)
        if problems:  # a refusal says more than that the stream broke behind it
            raise next((each for each in problems if isinstance(each, TargetFull)), problems[0])
        return self.sent - before

    async def _answered(self) -> None:
        answer = await self._frames.next()
        if answer is None:
            raise trio.BrokenResourceError("the target closed the disk's stream")
        if answer:
            raise TargetFull(bytes(answer).decode("utf-8", "replace"))

    async def _send_and_end(self) -> None:
        try:
            await self._send_set()
            await self._stream.send_all(bytes(4))
        except trio.BrokenResourceError:
            with trio.move_on_after(1):  # the target has said why, or its link is gone
                await trio.sleep_forever()
            raise

    async def _send_set(self) -> None:
        blocks = await self._call(self._view.round) if self._limited else self._view.round()
        small = blocks * BLOCK <= SMALL
        if not blocks:
            return
        if isinstance(self._stream, Channel) and not small and not (self._limited and self._bucket.rate):
            channel = self._stream
            await channel.in_thread(lambda: self._send_set_blocking(channel))
            return
        wire = raw = 0
        while True:
            batch, data = self._make() if small else await self._call(self._make)
            if batch.size:
                began = trio.current_time()
                await self._send(data)
                if not small:
                    self._squeezer.sent(len(data), trio.current_time() - began)
                wire, raw = wire + len(data), raw + batch.data_blocks * BLOCK
            if not batch.left:
                break
        self._learn(wire, raw)

    def _send_set_blocking(self, channel: Channel) -> None:
        wire = raw = 0
        sealed = bytearray(sealed_size(4 + BATCH))
        link = LinkWatch(channel)
        while True:
            batch, data = self._make()
            if batch.size:
                records = channel.seal(data, sealed)
                for start in range(0, len(records), SLICE):  # so that the count moves while they do
                    part = records[start : start + SLICE]
                    channel.send_blocking(part)
                    self.sent += len(part)
                self._squeezer.sent(*link.took(len(records)))
                wire, raw = wire + len(data), raw + batch.data_blocks * BLOCK
            if not batch.left:
                break
        self._learn(wire, raw)

    def _learn(self, wire: int, raw: int) -> None:
        if raw >= SAMPLE:
            self._share = min(wire / raw, 1.0)

    async def _call(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=limiter)

    def _make(self) -> tuple[DiskBatch, memoryview]:
        began = time.perf_counter()
        batch = self._view.pack(self._buffer, 4)
        self.looked += time.perf_counter() - began
        return batch, framed(self._buffer, batch.size, self._squeezer) if batch.size else memoryview(b"")

    async def _send(self, data: memoryview) -> None:
        step = self._bucket.slice
        for start in range(0, len(data), step):
            part = data[start : start + step]
            if self._limited and self._bucket.rate:
                await trio.sleep_until(self._bucket.take(len(part), trio.current_time()))
            await self._stream.send_all(part)
            self.sent += len(part)

    def stop(self) -> None:
        """The guest is not followed any more."""
        self._view.track(False)
        self._stream.abort("cancelled", "the copy was stopped")

    def close(self) -> None:
        self._view.close()


class DiskReceiver:
    """The target's end. ``folder``: of the guest; its entries are synced too."""

    def __init__(self, view: DiskView, folder: Path, stream: LinkStream | Channel) -> None:
        self._view = view
        self._folder = folder
        self._stream = stream
        self._unsqueezer = Unsqueezer(MAX_BATCH)
        self._unsynced = 0
        self._named = False  # the folder's own entries are synced

    async def run(self) -> None:
        """Returns when the source has sent everything and it is synced. Raises CoreError, Refused("full"),
        trio.BrokenResourceError; the source is told why, if it listens."""
        try:
            if isinstance(self._stream, Channel):
                channel = self._stream
                await channel.in_thread(lambda: self._run_blocking(channel))
            else:
                await self._run(self._stream)
        except (CoreError, OSError) as error:
            reason = _why(error)
            await self._refuse(reason)
            raise Refused("full" if _is_full(error) else "unavailable", reason) from error

    def _run_blocking(self, channel: Channel) -> None:
        cutter, answer = Cutter(), bytearray(sealed_size(4))
        while data := channel.receive_blocking():
            cutter.push(data)
            while (batch := cutter.cut()) is not None:
                if batch:
                    self._place(batch)
                else:
                    self._sync()
                    channel.send_blocking(channel.seal(frame(b""), answer))
        cutter.end()
        self._sync()

    async def _run(self, stream: LinkStream) -> None:
        frames = FrameReader(stream, MAX_BATCH)
        while (batch := await frames.next()) is not None:
            if batch:
                await trio.to_thread.run_sync(self._place, batch, limiter=limiter)
            else:
                await trio.to_thread.run_sync(self._sync, limiter=limiter)
                await stream.send_all(frame(b""))
        await trio.to_thread.run_sync(self._sync, limiter=limiter)

    async def _refuse(self, reason: str) -> None:
        """What is under way must be read, or the connection's end would overtake the reason."""
        with trio.move_on_after(2):
            await self._stream.send_all(frame(reason.encode()[:_REASON]))
            while await self._stream.receive_some(65536):
                pass

    def _place(self, batch: bytes | memoryview) -> None:
        data = self._unsqueezer.unsqueeze(batch)
        self._view.unpack(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_EACH:
            self._view.sync()
            self._unsynced = 0

    def _sync(self) -> None:
        if not self._named:
            sync_folder(self._folder)
            self._named = True
        self._view.sync()
        self._unsynced = 0


def _is_full(error: Exception) -> bool:
    if isinstance(error, CoreError):
        return error.status == -9
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _why(error: Exception) -> str:
    if _is_full(error):
        return "the target's file system is full"
    return f"the target's disk: {error.strerror or error}" if isinstance(error, OSError) else str(error)


async def open_sender(
    driver: Driver,
    guest: Guest,
    link: Link,
    prepared: Prepared,
    address: str,
    bucket: TokenBucket,
    *,
    running: bool = True,
) -> DiskSender:
    """For a guest whose target has made room; if it runs it is followed from here on. Raises OSError, Refused,
    CoreError, LinkError, RemoteError."""
    view = (open_source if running else open_file)(guest, driver.host.config.state / "blobs" / "sha256")
    try:
        view.track(True)
        stream = await _open_stream(driver, link, prepared, address)
    except BaseException:
        view.track(False)
        view.close()
        raise
    return DiskSender(view, stream, bucket)


async def _open_stream(driver: Driver, link: Link, prepared: Prepared, address: str) -> LinkStream | Channel:
    """A channel where the target can be dialled, else a stream of the link."""
    if prepared.disk_ticket and address:
        try:
            with trio.fail_after(DIAL_TIMEOUT):
                there, back = prepared.disk_key_there, prepared.disk_key_back
                return await dial(address, prepared.disk_ticket, seal=there, open=back)
        except (OSError, ValueError, trio.BrokenResourceError, trio.TooSlowError) as error:
            log.info("%s no channel to %s, the link carries the disk: %s", driver.tag, address, error or "too slow")
    return await link.open_stream(MigrationDisk(migration=driver.machine.migration))


def open_source(guest: Guest, blobs: Path) -> DiskView:
    """The disk of a running guest, ``blobs``: where image files are. Raises OSError, Refused."""
    share = guest.live.fds.get("disk0")
    if share is None:
        raise Refused("unsupported", "the guest was started by software that does not follow disks: restart it first")
    return open_file(guest, blobs, share)


def open_file(guest: Guest, blobs: Path, share: int = -1) -> DiskView:
    """``share`` -1: nobody writes it."""
    image = guest.record.spec.image.disk
    assert image is not None
    with ExitStack() as stack:
        disk = os.open(guest.record.files["disk"], os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, disk)
        base = -1
        if (blobs / image.sha256).exists():
            base = os.open(blobs / image.sha256, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, base)
        return DiskView(disk, share, base)


def open_target(guest: Guest) -> DiskView:
    """Where it arrives. Raises OSError."""
    disk = os.open(guest.record.files["disk"], os.O_RDWR | os.O_CLOEXEC)
    try:
        return DiskView(disk)
    finally:
        os.close(disk)
