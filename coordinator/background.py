"""Errands: small tasks that outlive the session that caused them and must not take the coordinator along.

What a service needs to live (listeners, leases) runs in its nursery directly, so that its failure is the service's.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio

log = logging.getLogger(__name__)
Ts = TypeVarTuple("Ts")


class Errands:
    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def send(self, fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Run ``fn(*args)`` soon; a failure is logged."""
        self._nursery.start_soon(self._run, fn, args)

    async def _run(self, fn: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        try:
            await fn(*args)
        except Exception:
            log.exception("errand %s failed", getattr(fn, "__qualname__", fn))
