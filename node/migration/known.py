"""Pages that a migration's target has already: named, not sent (protocol/SPEC.md 11.8, docs/decisions/0022).

The target's end, :class:`Donors`, looks at what stayed of an earlier stay of this guest, page by page as asked; or,
where bytes are dear, reads through memory of guests of the same image, while the new process is made. The source's end,
:class:`Asker`, asks behind the beginning of the first round: for a sample, and for all when that was worth it. Nothing
depends on the answers: the target copies, and tells what does not read as asked for; that is sent.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from node.core import CoreError
from node.guestcopy import Guest
from node.host import Host
from node.migration.pages import limiter
from node.pageindex import KEY, NAME, NUMBER, PageIndex
from node.ramview import PAGE, RamView
from protocol.errors import LinkError, Refused
from protocol.messages import GuestSpec

log = logging.getLogger("wherry.node.migration")

BATCH: Final = 16384  # names of one question
SAMPLE_STEP: Final = 64
WORTH: Final = 16  # one of so many pages of the sample
MOST_PAGES: Final = 1 << 18  # of an index: 1 GiB, read in less than a second
MOST_DONORS: Final = 2
DEAR: Final = 200_000_000  # bytes/s: a faster way carries pages as soon as others' memory is read through


class Donors:
    """The target's end. ``key`` is empty when there is nothing to ask for. :meth:`close` before the view that uses
    ``index`` is used again without it."""

    def __init__(self, fds: list[int], questions: int, *, own: bool = False) -> None:
        """``own``: the one memory is what stayed of the guest itself."""
        self._fds = fds
        self._own = own
        self._asking = trio.Lock()
        self._built = trio.Event()
        self._closed = False
        self.key = secrets.token_bytes(KEY) if fds else b""
        self.index = PageIndex(self.key, MOST_PAGES, questions) if fds else None

    async def build(self, tag: str) -> None:
        """Read everything through. Whatever goes wrong, less is known."""
        try:
            async with self._asking:
                if self.index is not None and not self._closed:
                    pages = await trio.to_thread.run_sync(self._add, self.index, limiter=limiter)
                    what = "what stayed of it" if self._own else f"{pages} pages of {len(self._fds)} guests"
                    log.info("%s may be asked for %s", tag, what)
        except CoreError as error:
            log.info("%s pages of other memories cannot be named: %s", tag, error)
        finally:
            self._built.set()

    def _add(self, index: PageIndex) -> int:
        if self._own:
            index.own(self._fds[0])
            return 0
        return sum(index.add(fd) for fd in self._fds)

    async def ask(self, names: bytes, pages: bytes) -> bytes:
        """Raises Refused."""
        await self._built.wait()
        async with self._asking:
            if self.index is None or self._closed:
                raise Refused("conflict", "no pages can be asked for")
            try:
                bits, _ = await trio.to_thread.run_sync(self.index.ask, names, pages, limiter=limiter)
            except CoreError as error:
                raise Refused("invalid", str(error), field="names") from None
            return bits

    async def close(self) -> None:
        """No view uses the index any more."""
        with trio.CancelScope(shield=True):
            async with self._asking:
                self._closed = True
                fds, self._fds = self._fds, []
                if self.index is not None or fds:
                    await trio.to_thread.run_sync(self._give_back, fds, limiter=limiter)

    def _give_back(self, fds: list[int]) -> None:
        """In a thread: these may be the last that hold a large memory."""
        if self.index is not None:
            self.index.close()
        for fd in fds:
            os.close(fd)


def donors(host: Host, spec: GuestSpec, *, rate: int) -> Donors:
    """What may have pages of a guest that is about to arrive. ``rate``: of the way to here, bytes/s, 0: unknown."""
    fds: list[int] = []
    own = host.stays.open(spec.guest)
    if own is not None:
        return Donors([own], spec.memory // PAGE, own=True)
    if host.config.dedup == "all" and rate < DEAR:
        alike = [other for other in host.guests if other.id != spec.guest and _alike(other, spec)]
        for other in alike[:MOST_DONORS]:
            fds.append(os.dup(other.live.fds["ram"]))
    return Donors(fds, spec.memory // PAGE)


def _alike(other: Guest, spec: GuestSpec) -> bool:
    return other.handle is not None and other.state == "running" and other.record.spec.image == spec.image


class Asker:
    """The source's end, good for one round. ``call``: names and page numbers to bits; may raise LinkError."""

    def __init__(
        self,
        view: RamView,
        key: bytes,
        call: Callable[[bytes, bytes], Awaitable[bytes]],
        then: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        """``then``: behind the last answer. Raises CoreError."""
        view.ask_begin(key)
        self._view = view
        self._call = call
        self._then = then
        self.asked = self.found = 0

    @property
    def size(self) -> int:
        """Bytes of questions and answers."""
        return self.asked * (NAME + NUMBER) + self.asked // 8

    async def ask(self) -> None:
        """Behind the beginning of a round. Whatever goes wrong, what was answered until then counts."""
        try:
            await self._ask(SAMPLE_STEP)
            if self.found * WORTH >= self.asked:
                await self._ask(1)
        except (CoreError, LinkError) as error:
            log.info("the target tells no more of what it has: %s", error)
        await self._then()

    async def _ask(self, step: int) -> None:
        while True:
            names, pages = await trio.to_thread.run_sync(self._view.ask, step, BATCH, limiter=limiter)
            if not names:
                return
            count = len(names) // NAME
            try:
                bits = await self._call(names, pages)
            except LinkError:
                self._view.answer(bytes((count + 7) // 8))
                raise
            self._view.answer(bits)
            self.asked += count
            self.found += int.from_bytes(bits, "little").bit_count()
