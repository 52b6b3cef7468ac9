"""Slowing a guest while it is copied: asks its process, and asks again before the process forgets.

What was asked holds for a few seconds only, so that a guest whose agent has died is not slow for ever.
"""

from __future__ import annotations

import logging
import math

import trio

from node.core import CoreError
from node.guest import GuestGone
from node.guestcopy import Guest
from protocol.errors import Refused

log = logging.getLogger("wherry.node.migration")

LEASE_MS = 5000
RENEW_S = 1.5


class Throttle:
    """Of one migration. :meth:`keep` runs beside it."""

    def __init__(self) -> None:
        self.percent = 0
        self._changed = trio.Event()

    async def set(self, guest: Guest, percent: int) -> None:
        """Raises CoreError when the guest cannot be throttled, GuestGone when it has ended."""
        self.percent = percent
        self._changed.set()
        self._changed = trio.Event()
        await guest.live.call("throttle", percent=percent, lease_ms=LEASE_MS)
        log.info("%s rests %d %% of its time", guest.tag, percent)

    async def off(self, guest: Guest | None) -> None:
        """Harmless when it is off, or when nobody is there."""
        was, self.percent = self.percent, 0
        if not was or guest is None or guest.handle is None:
            return
        try:
            await guest.handle.call("throttle", percent=0, lease_ms=0)
        except (CoreError, GuestGone, Refused) as error:
            log.warning("%s is throttled for %d s more: %s", guest.tag, LEASE_MS // 1000, error)

    async def keep(self, guest: Guest) -> None:
        """Renew what was set, until cancelled or the guest has gone."""
        while True:
            changed = self._changed
            with trio.move_on_after(RENEW_S if self.percent else math.inf):
                await changed.wait()
                continue
            if self.percent and guest.handle is not None:
                try:
                    await guest.handle.call("throttle", percent=self.percent, lease_ms=LEASE_MS)
                except (CoreError, GuestGone) as error:
                    log.info("%s throttle not renewed: %s", guest.tag, error)
                    return
