"""Which nodes live. Pure: link changes, reports and times come in, changes come out.

A node is *expected* from the start of the coordinator or its join, *alive* once it registered, and *lost* when its link
has been down for ``link_grace`` or nothing was heard for ``silence``. Both bounds exist because a cut TCP connection
shows at once while a frozen host leaves the connection up. Loss changes nothing about ownership: a lost node may well
still run its guests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LINK_GRACE_S = 5.0
SILENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class Expected:
    node: int


@dataclass(frozen=True, slots=True)
class Registered:
    node: int


@dataclass(frozen=True, slots=True)
class Heard:
    node: int


@dataclass(frozen=True, slots=True)
class LinkLost:
    node: int


@dataclass(frozen=True, slots=True)
class Removed:
    node: int


@dataclass(frozen=True, slots=True)
class Tick:
    pass


@dataclass(frozen=True, slots=True)
class BecameAlive:
    node: int


@dataclass(frozen=True, slots=True)
class BecameLost:
    node: int
    reason: str


LeaseEvent = Expected | Registered | Heard | LinkLost | Removed | Tick
LeaseEffect = BecameAlive | BecameLost


@dataclass(slots=True)
class _Lease:
    state: Literal["expected", "alive", "lost"]
    heard: float
    link_down: float | None


class Leases:
    """The table of leases. Times are seconds of one monotonic clock."""

    def __init__(self, *, link_grace: float = LINK_GRACE_S, silence: float = SILENCE_S) -> None:
        self.link_grace = link_grace
        self.silence = silence
        self._table: dict[int, _Lease] = {}

    def state(self, node: int) -> Literal["expected", "alive", "lost"]:
        lease = self._table.get(node)
        return lease.state if lease else "lost"

    def alive(self, node: int) -> bool:
        """Alive with its link up: it can be asked for something now."""
        lease = self._table.get(node)
        return lease is not None and lease.state == "alive" and lease.link_down is None

    def doubtful(self) -> bool:
        """Is there a node that may be back in a moment, or be given up?"""
        known = [lease for lease in self._table.values() if lease.state != "lost"]
        return any(lease.state == "expected" or lease.link_down is not None for lease in known)

    def next_deadline(self) -> float | None:
        """When a :class:`Tick` would next change something."""
        return min((self._deadline(lease) for lease in self._table.values() if lease.state != "lost"), default=None)

    def handle(self, event: LeaseEvent, now: float) -> list[LeaseEffect]:
        if isinstance(event, Tick):
            return self._expire(now)
        if isinstance(event, Removed):
            self._table.pop(event.node, None)
            return []
        if isinstance(event, Expected):
            self._table.setdefault(event.node, _Lease("expected", now, None))
            return []
        if isinstance(event, Registered):
            was = self.state(event.node)
            self._table[event.node] = _Lease("alive", now, None)
            return [] if was == "alive" else [BecameAlive(event.node)]
        lease = self._table.get(event.node)
        if lease is None:
            return []
        if isinstance(event, Heard):
            lease.heard = max(lease.heard, now)
            if lease.state == "lost" and lease.link_down is None:
                lease.state = "alive"
                return [BecameAlive(event.node)]
        elif lease.link_down is None:
            lease.link_down = now
        return []

    def _deadline(self, lease: _Lease) -> float:
        silent = lease.heard + self.silence
        return silent if lease.link_down is None else min(silent, lease.link_down + self.link_grace)

    def _expire(self, now: float) -> list[LeaseEffect]:
        out: list[LeaseEffect] = []
        for node, lease in sorted(self._table.items()):
            if lease.state == "lost" or now < self._deadline(lease):
                continue
            if lease.state == "expected":
                reason = f"not heard of for {self.silence:g} s"
            elif lease.link_down is not None:
                reason = f"link down for {now - lease.link_down:.1f} s"
            else:
                reason = f"silent for {now - lease.heard:.1f} s"
            lease.state = "lost"
            out.append(BecameLost(node, reason))
        return out
