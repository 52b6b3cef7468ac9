"""How often the coordinator hears of the same thing: the first of a kind and place at once, what follows within half a
minute as one, with its number. Pure; times are the caller's, monotonic.

Bounded: of more things than ``MOST`` at a time the newest are left out and counted. What the coordinator could not be
told waits here.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from msgspec.structs import replace

from protocol.messages import NetEvent

QUIET_S = 30.0
MOST = 256


@dataclass(slots=True)
class _Row:
    free_at: float
    waiting: NetEvent | None = None


def subject(event: NetEvent) -> Hashable:
    """What is the same thing: a duplicate is one station, everything else one port or path."""
    if event.kind == "duplicate":
        return event.kind, event.vni, event.mac
    return event.kind, event.vni, event.port, event.node


class EventGate:
    def __init__(self) -> None:
        self._rows: dict[Hashable, _Row] = {}
        self._lost = 0

    def offer(self, event: NetEvent, now: float) -> None:
        key = subject(event)
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= MOST:
                self._rows = {k: r for k, r in self._rows.items() if r.waiting or r.free_at > now}
            if len(self._rows) >= MOST:
                self._lost += event.count
                return
            row = self._rows[key] = _Row(now)
        before = row.waiting.count if row.waiting else 0
        row.waiting = replace(event, count=event.count + before)

    def take(self, now: float) -> tuple[list[NetEvent], int]:
        """What is due, and how many were left out since the last call."""
        out = []
        for row in self._rows.values():
            if row.waiting is not None and row.free_at <= now:
                out.append(row.waiting)
                row.waiting, row.free_at = None, now + QUIET_S
        lost, self._lost = self._lost, 0
        return out, lost

    def wakeup(self) -> float | None:
        """When something is due, None: nothing waits."""
        return min((row.free_at for row in self._rows.values() if row.waiting is not None), default=None)
