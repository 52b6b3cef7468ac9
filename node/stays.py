"""What stays of guests that have left this node: their memory, for a while, in case they come back.

A guest's RAM is a memfd, so keeping it costs no copy: a duplicate of its descriptor and the memory behind it, which is
given back when the guest is removed, runs here again or leaves again; when the memory is wanted for another guest; when
the host runs short; when there is more than ``most`` in all, the oldest first; and after ``age_s`` seconds.
It is a cache, in memory only: it ends with the agent. A migration that copies out of it holds a descriptor of its own
and may go on doing so.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

import trio

log = logging.getLogger("wherry.node.stays")

AGE_S: Final = 3600.0
LOOK_S: Final = 5.0
SHORT: Final = 16  # when less than this part of the host's memory is free, nothing is kept


def _close_soon(fd: int) -> None:
    """In a thread: a large memory takes tens of milliseconds, and a guest may be waiting for this one."""
    trio.lowlevel.start_thread_soon(lambda: os.close(fd), lambda outcome: outcome.unwrap())


class Stay(NamedTuple):
    fd: int
    size: int  # bytes that have memory behind them
    since: float  # trio's clock


class Stays:
    """``most``: bytes in all, 0: nothing is kept. Owner of the descriptors; :meth:`close` gives all of it back."""

    def __init__(self, most: int, age_s: float = AGE_S, close: Callable[[int], None] = _close_soon) -> None:
        self.most = most
        self._close = close
        self._age = age_s
        self._stays: OrderedDict[str, Stay] = OrderedDict()  # the oldest first

    @property
    def size(self) -> int:
        return sum(stay.size for stay in self._stays.values())

    def __contains__(self, guest: str) -> bool:
        return guest in self._stays

    def keep(self, guest: str, ram_fd: int) -> None:
        """Memory that nobody writes any more; dup'd. Not kept when it alone is too much, or the host says no."""
        self.forget(guest)
        try:
            size = os.fstat(ram_fd).st_blocks * 512
            if not 0 < size <= self.most:
                return
            fd = os.dup(ram_fd)
        except OSError as error:
            log.info("guest=%s its memory is not kept: %s", guest, error)
            return
        self.shrink(self.most - size)
        self._stays[guest] = Stay(fd, size, trio.current_time())
        log.info("guest=%s has left; %d bytes of its memory are kept for a while", guest, size)

    def open(self, guest: str) -> int | None:
        """A descriptor of what stayed, the caller's from now on."""
        stay = self._stays.get(guest)
        return os.dup(stay.fd) if stay is not None else None

    def forget(self, guest: str) -> None:
        stay = self._stays.pop(guest, None)
        if stay is not None:
            self._close(stay.fd)

    def shrink(self, most: int) -> None:
        """Give back until no more than that is kept."""
        while self._stays and self.size > max(0, most):
            guest = next(iter(self._stays))
            log.info("guest=%s what stayed of its memory is given back", guest)
            self.forget(guest)

    async def run(self, host_memory: Callable[[], tuple[int, int]]) -> None:
        """Give back what is old, and all while the host runs short; ``host_memory``: (total, free) bytes."""
        while True:
            await trio.sleep(LOOK_S)
            if not self._stays:
                continue
            for guest in [g for g, stay in self._stays.items() if trio.current_time() - stay.since >= self._age]:
                self.forget(guest)
            total, free = host_memory()
            if free < total // SHORT:
                self.shrink(self.size - (total // SHORT - free))

    def close(self) -> None:
        self.shrink(0)
