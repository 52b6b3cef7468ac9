"""The anti-replay window of a tunnel key: what RFC 6479 promises, kept as one integer.

The slow twin of ``csrc/switch/replay.c``: the same answers for every sequence of counters, checked by tests.
"""

from __future__ import annotations

from typing import Final

WINDOW: Final = 4032  # counters: 63 words of 64 bits in the C twin


class ReplayWindow:
    """Which counters were accepted. Counter 0 is never valid; what lies ``WINDOW`` or more below the top is too old."""

    def __init__(self) -> None:
        self.top = 0
        self._seen = 0  # bit i: counter top - i

    def check(self, counter: int) -> bool:
        """Would :meth:`accept` take it? Changes nothing."""
        if counter <= 0:
            return False
        if counter > self.top:
            return True
        age = self.top - counter
        return age < WINDOW and not self._seen >> age & 1

    def accept(self, counter: int) -> bool:
        """Only for a datagram that authenticated. False: a replay, or too old."""
        if not self.check(counter):
            return False
        if counter > self.top:
            shift = counter - self.top
            self._seen = (self._seen << shift) & ((1 << WINDOW) - 1) if shift < WINDOW else 0
            self.top = counter
        self._seen |= 1 << (self.top - counter)
        return True
