"""The target's end of a pull (protocol.messages.MigrationPull): brings what its running guest lacks, until it has all.

The guest's threads set bits and ring a bell (csrc/memory/memory.h); each ring becomes one message that names all pages
that are waited for. What arrives is placed at once, a batch a call, and its bytes are acknowledged. A connection that
breaks is made anew, for ever: whoever needs a page waits meanwhile, the rest of the guest runs. A connection on which
nothing comes although somebody waits is given up, for a cut link may stay silent for long. A pull begins on a stream of
the link, and goes over to a channel as soon as the source has made one (:meth:`Puller.go_over`).
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
from node.migration.frames import FrameReader, PageStream, framed
from node.migration.squeeze import Unsqueezer
from node.ramview import WANTED_MOST, RamView
from protocol.errors import LinkError, RemoteError

log = logging.getLogger("wherry.node.migration")

MOST_BATCH = 8 << 20
RETRY_S = 0.2
LOST_RETRY_S = 2.0  # the source answers that it has nothing: only a person can help, or its return
SILENCE_S = 1.5
RELEASE_S = 30.0  # a source that was not reached for so long is told by the coordinator


Connect = Callable[[], Awaitable[PageStream]]


class SilentSource(Exception):
    """Pages are waited for and nothing comes."""


class Puller:
    """``connect`` opens the stream (raises LinkError, RemoteError), ``give_up`` makes the next one use a new link,
    ``trouble`` is told why pages do not come and whether they are lost, "" when they do again. ``figures`` go with the
    last word: waits, their median and the longest in us. ``bell`` is borrowed."""

    def __init__(
        self,
        view: RamView,
        bell: int,
        connect: Connect,
        *,
        give_up: Callable[[], None] = lambda: None,
        trouble: Callable[[str, bool], None] = lambda text, lost: None,
        figures: Callable[[], Awaitable[list[int]]] | None = None,
    ) -> None:
        self._view = view
        self._bell = bell
        self._connect = connect
        self._give_up = give_up
        self._tell = trouble
        self._figures = figures
        self._text = ""
        self._sending = trio.Lock()
        self._connection = trio.CancelScope()
        self._needless_until: float | None = None
        self._better: tuple[PageStream, trio.Event] | None = None
        self._went_over = False
        self._unsqueezer = Unsqueezer(MOST_BATCH)
        self.connections = 0

    async def go_over(self, stream: PageStream) -> None:
        """A better stream than the present one is there; it is this object's from now on. Returns when it has ended."""
        if self._better is not None:
            await stream.aclose()
            return
        self._better = stream, trio.Event()
        self._connection.cancel()
        await self._better[1].wait()

    def release(self) -> None:
        """The guest has ended: nothing is needed any more. run() tells the source and returns."""
        self._needless_until = trio.current_time() + RELEASE_S
        self._connection.cancel()

    @property
    def _needless(self) -> bool:
        return self._needless_until is not None

    def _trouble(self, text: str, *, lost: bool = False) -> None:
        if text != self._text:
            self._text = text
            self._tell(text, lost)

    async def run(self) -> None:
        """Until every page is here and the source knows it, or has forgotten the migration since."""
        while self._needless_until is None or trio.current_time() < self._needless_until:
            pause = RETRY_S
            self._connection = trio.CancelScope()
            try:
                with self._connection:
                    await self._one_connection()
                    return
                if self._better is not None:
                    continue
            except RemoteError as error:
                if error.code == "not_found" and (self._needless or not self._view.absent):
                    return
                if error.code == "not_found":
                    pause = LOST_RETRY_S
                    self._trouble(f"{self._view.absent} pages are lost: the source has them no more", lost=True)
                elif error.code != "conflict":
                    self._trouble(f"{self._view.absent} pages are missing, the source refuses: {error.message}")
            except SilentSource:
                self._trouble(f"{self._view.absent} pages are missing, the source is silent")
                self._give_up()
            except (LinkError, trio.BrokenResourceError, trio.ClosedResourceError, CoreError) as error:
                log.info("pull broken off, %d pages are missing: %s", self._view.absent, error)
                if self._went_over:
                    continue  # the link may be well
                self._trouble(f"{self._view.absent} pages are missing, the source cannot be reached: {error}")
                self._give_up()
            await trio.sleep(pause)

    async def _one_connection(self) -> None:
        self._went_over = self._better is not None
        if self._better is None:
            stream = await self._connect()
            try:
                await self._pull(stream)
            finally:
                await _close(stream)
            return
        stream, ended = self._better
        try:
            await self._pull(stream)
        finally:
            await _close(stream)
            self._better = None
            ended.set()

    async def _pull(self, stream: PageStream) -> None:
        self.connections += 1
        lacks, absent = self._view.pull_begin()
        if self._needless:
            lacks, absent = bytes(len(lacks)), 0
        self._asked_at = trio.current_time()
        self._waiting = False
        self._rung()
        await self._say(stream, "absent", lacks)
        await first_to_end(lambda: self._ask(stream), self._watch, lambda: self._take_all(stream, absent))

    async def _take_all(self, stream: PageStream, absent: int) -> None:
        if absent:
            await self._receive(stream)
        await self._say(stream, "done", *([await self._figures()] if self._figures is not None else []))
        self._waiting, self._asked_at = True, trio.current_time()  # for its word that it knows
        while await stream.receive_some():
            pass

    async def _receive(self, stream: PageStream) -> None:
        reader = FrameReader(stream, MOST_BATCH)
        placed = 0
        while True:
            batch = await reader.next()
            if batch is None:
                raise trio.BrokenResourceError("the source ended the pull")
            missing = self._view.place(self._unsqueezer.unsqueeze(batch)).more
            placed += 4 + len(batch)
            self._waiting = False  # something came: the next ring begins the watch anew
            self._trouble("")
            if not missing:
                return
            if not reader.ready:
                await self._say(stream, "got", placed)
                placed = 0

    async def _ask(self, stream: PageStream) -> None:
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

    async def _say(self, stream: PageStream, *message: object) -> None:
        async with self._sending:
            await stream.send_all(framed(msgpack.packb(message)))

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)


async def _close(stream: PageStream) -> None:
    with trio.CancelScope(shield=True), contextlib.suppress(trio.BrokenResourceError):
        await stream.aclose()
