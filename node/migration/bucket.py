"""A token bucket: how fast bytes may go, whoever sends them."""

from __future__ import annotations

import math
from typing import Final

BURST_S: Final = 0.05  # of the rate that may go at once
SLICE: Final = 256 << 10
_SMALLEST: Final = 1 << 10


class TokenBucket:
    """``rate``: bytes per second, 0 unlimited. All streams of a migration share one: each says what it is about to send
    and waits until then, so that their sum never passes rate x time + burst, in whatever order they come."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.burst = max(rate * BURST_S, float(_SMALLEST))
        self._free_at = -math.inf  # when the bucket would be full again

    @property
    def slice(self) -> int:
        """Bytes to send at a time, so that nothing waits long behind them."""
        return SLICE if not self.rate else max(_SMALLEST, min(SLICE, int(self.burst)))

    def take(self, count: int, now: float) -> float:
        """``count`` bytes are about to go: the time from which they may, at most ``slice`` at once."""
        if not self.rate:
            return now
        full = max(self._free_at, now) + count / self.rate
        self._free_at = full
        return max(now, full - self.burst / self.rate)
