"""The target's end of a pull (protocol.messages.MigrationPull): brings what its running guest lacks, until it has all.

The guest's threads set bits and ring a bell (csrc/memory/memory.h); each ring becomes one message that names all pages
that are waited for. What arrives is placed at once, a batch a call, and its bytes are acknowledged. A connection that
breaks is made anew, for ever: whoever needs a page waits meanwhile, the rest of the guest runs. A connection on which
nothing comes although somebody waits is given up, for a cut link may stay silent for long.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable

import msgpack
import trio

from node.core import CoreError
from node.migration.first import first_to_end
from node.migration.frames import FrameReader, framed
from node.ramview import WANTED_MOST, RamView
from protocol.errors import LinkError, RemoteError
from protocol.transport import LinkStream

log = logging.getLogger("wherry.node.migration")

MOST_BATCH = 8 << 20
RETRY_S = 0.2
LOST_RETRY_S = 2.0  # the source answers that it has nothing: only a person can help, or its return
SILENCE_S = 1.5
RELEASE_S = 30.0  # a source that was not reached for so long is told by the coordinator

Connect = Callable[[], Awaitable[LinkStream]]


class SilentSource(Exception):
    """Pages are waited for and nothing comes."""


class Puller:
    """``connect`` opens the stream (raises LinkError, RemoteError), ``give_up`` makes the next one use a new link,
    ``trouble`` is told why pages do not come, and "" when they do again. ``bell`` is borrowed."""

    def __init__(
        self,
        view: RamView,
        bell: int,
        connect: Connect,
        *,
        give_up: Callable[[], None] = lambda: None,
        trouble: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._view = view
        self._bell = bell
        self._connect = connect
        self._give_up = give_up
        self._tell = trouble
        self._text = ""
        self._sending = trio.Lock()
        self._connection = trio.CancelScope()
        self._needless_until: float | None = None
        self.connections = 0

    def release(self) -> None:
        """The guest has ended: nothing is needed any more. run() tells the source and returns."""
        self._needless_until = trio.current_time() + RELEASE_S
        self._connection.cancel()

    @property
    def _needless(self) -> bool:
        return self._needless_until is not None

    def _trouble(self, text: str) -> None:
        if text != self._text:
            self._text = text
            self._tell(text)

    async def run(self) -> None:
        """Until every page is here and the source knows it, or has forgotten the migration since."""
        while self._needless_until is None or trio.current_time() < self._needless_until:
            pause = RETRY_S
            self._connection = trio.CancelScope()
            try:
                with self._connection:
                    stream = await self._connect()
                    async with stream:
                        await self._pull(stream)
                    return
            except RemoteError as error:
                if error.code == "not_found" and (self._needless or not self._view.absent):
                    return
                if error.code == "not_found":
                    pause = LOST_RETRY_S
                    self._trouble(f"{self._view.absent} pages are lost: the source has them no more")
                elif error.code != "conflict":
                    self._trouble(f"{self._view.absent} pages are missing, the source refuses: {error.message}")
            except SilentSource:
                self._trouble(f"{self._view.absent} pages are missing, the source is silent")
                self._give_up()
            except (LinkError, trio.BrokenResourceError, trio.ClosedResourceError, CoreError) as error:
                log.info("pull broken off, %d pages are missing: %s", self._view.absent, error)
                self._trouble(f"{self._view.absent} pages are missing, the source cannot be reached: {error}")
                self._give_up()
            await trio.sleep(pause)

    async def _pull(self, stream: LinkStream) -> None:
        self.connections += 1
        lacks, absent = self._view.pull_begin()
        if self._needless:
            lacks, absent = bytes(len(lacks)), 0
        self._asked_at = trio.current_time()
        self._waiting = False
        self._rung()
        await self._say(stream, "absent", lacks)
        await first_to_end(lambda: self._ask(stream), self._watch, lambda: self._take_all(stream, absent))

    async def _take_all(self, stream: LinkStream, absent: int) -> None:
        if absent:
            await self._receive(stream)
        await self._say(stream, "done")
        self._waiting, self._asked_at = True, trio.current_time()  # for its word that it knows
        while await stream.receive_some():
            pass

    async def _receive(self, stream: LinkStream) -> None:
        reader = FrameReader(stream, MOST_BATCH)
        placed = 0
        while True:
            batch = await reader.next()
            if batch is None:
                raise trio.BrokenResourceError("the source ended the pull")
            missing = self._view.place(batch).more
            placed += 4 + len(batch)
            self._waiting = False  # something came: the next ring begins the watch anew
            self._trouble("")
            if not missing:
                return
            if not reader.ready:
                await self._say(stream, "got", placed)
                placed = 0

    async def _ask(self, stream: LinkStream) -> None:
        while True:
            wanted = self._view.wanted()
            if wanted:
                self._waiting = True
                self._asked_at = trio.current_time()
                await self._say(stream, "wanted", b"".join(page.to_bytes(8, "little") for page in wanted))
            if len(wanted) < WANTED_MOST:
                await trio.lowlevel.wait_readable(self._bell)
                self._rung()

    async def _watch(self) -> None:
        while True:
            await trio.sleep(SILENCE_S / 4)
            if self._waiting and trio.current_time() - self._asked_at > SILENCE_S:
                raise SilentSource

    async def _say(self, stream: LinkStream, *message: object) -> None:
        async with self._sending:
            await stream.send_all(framed(msgpack.packb(message)))

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
