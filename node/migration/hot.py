"""Which pages a guest will lack first behind a post-copy's switch: those that it writes all the time.

What it only reads has been sent by then. What it writes is sent while it stands still, if that is soon done; but what a
load streams through is much, is written once and comes too late anyway. So it is watched twice, for a short time each:
a page that was written in both is one that it goes on writing - counters, stacks, queues, page tables.
"""

from __future__ import annotations

import trio

from node.migration.pages import limiter
from node.ramview import PAGE, RamView

WATCH_S = 0.08
SPARE_S = 0.03  # of the pause that may go for them; they are squeezed to less than half, which pays for the rest
LEAST = 64  # pages that are worth it whatever the link carries
_ROUND_TIMEOUT_MS = 1000


class HotPages:
    """``rate``: bytes/s of the link as it was seen, 0: unknown."""

    def __init__(self, view: RamView) -> None:
        self._view = view
        self._first = 0
        self.rate = 0.0

    async def settle(self) -> None:
        """Before it is asked what the guest has touched of late: a round drops the translations that stores have left
        behind, so that what is found a little later is what it writes now. Raises CoreError."""
        await trio.to_thread.run_sync(self._view.round, _ROUND_TIMEOUT_MS, limiter=limiter)
        await trio.sleep(WATCH_S)

    async def watch(self) -> None:
        """Twice as long as WATCH_S; the second time goes on until :meth:`hot`. Raises CoreError."""
        await self.settle()
        self._first = int.from_bytes(self._view.dirty(), "little")
        await self.settle()

    def hot(self, recent: bytes) -> bytes:
        """Once the guest stands still, before the next round: a bitmap, those of ``recent`` before the others."""
        hot = self._first & int.from_bytes(self._view.dirty(), "little")
        most = max(LEAST, int(2 * self.rate * SPARE_S / PAGE))
        near = hot & int.from_bytes(recent, "little")
        taken = lowest(near, most)
        taken |= lowest(hot & ~near, most - taken.bit_count())
        return taken.to_bytes(len(recent), "little")


def lowest(bits: int, count: int) -> int:
    """Of the bits that are set the lowest, at most so many."""
    at, step = 0, 1 << bits.bit_length().bit_length()
    while step:
        if (bits & (1 << at + step) - 1).bit_count() <= count:
            at += step
        step >>= 1
    return bits & (1 << at) - 1
