"""A protected pull (decision 20): what the guest writes at the target goes back to the source, in epochs.

An epoch is one instant of the guest: the pages that it has written since the one before, and its state. The target
stops the guest for as long as it takes to copy them, and sends them while it goes on; the source takes an epoch over
when all of it is there. Its paused copy's memory is thus always what the guest's was at the end of some epoch, but for
the pages that the target still lacks and therefore cannot have written.

On the stream (protocol.messages.MigrationProtect) frames stand behind their length: batches, an empty one, the state.
The source answers each epoch with one byte.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable, Callable

import trio

from node.core import CoreDataError, CoreError
from node.guest import GuestGone
from node.guestcopy import Guest
from node.migration.frames import FrameReader, PageStream
from node.migration.pages import limiter
from node.migration.squeeze import Squeezer, Unsqueezer
from node.ramview import PAGE, RamView
from protocol.errors import LinkError, Refused

log = logging.getLogger("wherry.node.migration")

EVERY_S = 0.1  # from the end of an epoch to the next
RETRY_S = 0.2
MOST_FRAME = 9 << 20
TAKEN = b"\x01"
_PAGES = 256
_BUFFER = 5 + _PAGES * (PAGE + 22)
_ROUND_TIMEOUT_MS = 2000
_COPY = 64 << 20

FAILURES = (
    LinkError,
    Refused,
    CoreError,
    GuestGone,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)

Connect = Callable[[], Awaitable[PageStream]]


class Protector:
    """The target's end. ``view`` is this object's own; :meth:`begin` comes before the guest's first instruction."""

    def __init__(self, guest: Guest, view: RamView, connect: Connect) -> None:
        self._guest = guest
        self._view = view
        self._connect = connect
        self._buffer = bytearray(_BUFFER)
        self._squeezer = Squeezer()
        self.epochs = 0

    def close(self) -> None:
        self._view.close()

    def begin(self) -> None:
        """From now on what is written counts; what is there by now the source has. Raises CoreError."""
        self._view.track(True)
        self._view.round(_ROUND_TIMEOUT_MS)
        self._view.owe(bytes(len(self._view.left())))

    async def run(self) -> None:
        """Until cancelled, or the guest has ended."""
        while self._guest.handle is not None:
            try:
                stream = await self._connect()
                try:
                    while True:
                        await self._epoch(stream)
                        await trio.sleep(EVERY_S)
                finally:
                    with trio.CancelScope(shield=True):
                        await stream.aclose()
            except FAILURES as error:
                log.info("%s is not protected for the moment: %s", self._guest.tag, error)
            await trio.sleep(RETRY_S)

    async def _epoch(self, stream: PageStream) -> None:
        """What the source does not take over is owed to the next one."""
        with trio.CancelScope(shield=True):  # whoever stops this must not leave the guest standing still
            frames, state, owed = await self._capture()
        try:
            for frame in frames:
                await stream.send_all(len(frame).to_bytes(4, "big") + frame)
            await stream.send_all(bytes(4) + len(state).to_bytes(4, "big") + state)
            if await stream.receive_some(1) != TAKEN:
                raise trio.BrokenResourceError("the source does not answer")
        except BaseException:
            self._view.owe(owed)
            raise
        self.epochs += 1

    async def _capture(self) -> tuple[list[bytes], bytes, bytes]:
        """Frames, state, and the pages that are in them as a bitmap."""
        live = self._guest.live
        await live.call("pause")
        try:
            self._view.round(_ROUND_TIMEOUT_MS)  # the harts are parked: it does not wait
            owed = self._view.left()
            batches: list[bytes] = []
            while (batch := self._view.serve(self._buffer, 0, (), _PAGES)).data_pages or batch.zero_pages:
                batches.append(bytes(memoryview(self._buffer)[: batch.size]))
            state: bytes = (await live.call("save"))["state"]
        finally:
            await live.call("resume")
        return [bytes(self._squeezer.squeeze(memoryview(batch))) for batch in batches], state, owed


class Image:
    """The source's end: its paused copy's memory, by ``view``, which is this object's own, as is the file ``memory``.
    ``state`` belongs to it; b"": no epoch is whole, or one could not be taken over wholly. ``at``: trio's time of the
    last one."""

    def __init__(self, view: RamView, memory: int) -> None:
        self._view = view
        self.memory = memory
        self._bytes = view.pages * PAGE
        self._idle = trio.Event()
        self._idle.set()
        self._connection = trio.CancelScope()
        self.state = b""
        self.at = 0.0
        self.epochs = 0

    async def stop(self) -> None:
        """Nobody is in the memory when this returns."""
        self._connection.cancel()
        await self._idle.wait()

    async def close(self) -> None:
        await self.stop()
        self._view.close()
        os.close(self.memory)

    async def take(self, stream: PageStream) -> None:
        """One connection, to its end. A newer one ends it. Raises CoreDataError for what no target sends,
        trio.BrokenResourceError."""
        await self.stop()
        self._connection, self._idle = trio.CancelScope(), trio.Event()
        try:
            with self._connection:
                reader = FrameReader(stream, MOST_FRAME)
                while await self._take_epoch(reader):
                    await stream.send_all(TAKEN)
        finally:
            self._idle.set()

    async def _take_epoch(self, reader: FrameReader) -> bool:
        """False: the target has closed the stream."""
        batches: list[bytes] = []
        size = 0
        while (frame := await reader.next()) is not None and len(frame):
            size += len(frame)
            if size > 2 * self._bytes:
                raise CoreDataError(-5, "epoch", f"more than {2 * self._bytes} bytes")
            batches.append(bytes(frame))
        state = await reader.next() if frame is not None else None
        if state is None:
            return False
        kept = bytes(state)
        self.state = b""  # until all of it is in place
        await trio.to_thread.run_sync(self._place, batches, limiter=limiter)
        self.state, self.at = kept, trio.current_time()
        self.epochs += 1
        return True

    def _place(self, batches: list[bytes]) -> None:
        unsqueezer = Unsqueezer(2 * _BUFFER)
        for batch in batches:
            self._view.unpack(bytes(unsqueezer.unsqueeze(batch)))


def copy_memory(source: int, target: int) -> None:
    """A memory file into another of the same size that is empty; holes stay holes. Blocks. Raises OSError."""
    size, at = os.fstat(source).st_size, 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing behind
                return
            raise
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            at += os.sendfile(target, source, at, min(end - at, _COPY))
