"""Batches of pages made smaller (protocol/SPEC.md, 11.4): zstd frames (RFC 8878), as much as is worth its time.

A batch is squeezed by the thread that packs it while the one before is on the wire, so that a batch takes as long as
the slower of the two. What the levels cost and gain, one against another, is known from guests' memory; how fast this
host squeezes this guest, how small it becomes and how fast the link takes it is measured all the time. The level that
is predicted to take the least is taken; a link that takes bytes faster than the fastest level makes them gets them as
they are. Batches in which nothing was found are followed by some that are not tried.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

import zstandard

from node.core import CoreDataError


class Level(NamedTuple):
    """``cost``: ns a byte, ``ratio``: of the size; medians of Linux guests' pages. Only their proportions count."""

    level: int
    cost: float
    ratio: float


MAGIC: Final = b"\x28\xb5\x2f\xfd"
LEVELS: Final = (Level(-5, 1.4, 0.53), Level(1, 2.1, 0.40), Level(3, 4.2, 0.365), Level(6, 14.7, 0.353))
FASTEST: Final = -5
USUAL: Final = 1  # level where nothing is known of the link
LEAST: Final = 4096  # bytes; smaller batches go as they are
CLEARLY: Final = 1.5  # times as fast a link has to be, as both are measured by and by
WORTH: Final = 0.9  # of its size: what does not get smaller than that is not worth unpacking
PASS_OVER: Final = 7  # batches that are not tried after one that was not worth it
LOOK: Final = 32 << 10  # bytes whose sending says something about the link
_NEW: Final = 0.3  # weight of what was measured last


class Squeezer:
    """One thread at a time. ``first``: the level until the link is known."""

    def __init__(self, first: int = USUAL) -> None:
        self._codecs = {at.level: zstandard.ZstdCompressor(level=at.level, write_checksum=False) for at in LEVELS}
        self._at: Level | None = next(at for at in LEVELS if at.level == first)
        self._pass = 0
        self._speed = self._gain = 1.0  # what was measured over what LEVELS says
        self._link: float | None = None  # ns a byte; None: not known

    @property
    def level(self) -> int | None:
        """None: batches go as they are."""
        return self._at.level if self._at is not None else None

    def squeeze(self, batch: memoryview) -> bytes | memoryview:
        """The batch or a frame of it, whichever should go. The GIL is released meanwhile."""
        at = self._at
        if at is None or len(batch) < LEAST or self._pass:
            self._pass = max(0, self._pass - 1)
            return batch
        began = time.perf_counter_ns()
        frame = self._codecs[at.level].compress(batch)
        if len(batch) >= LOOK:
            self._speed += _NEW * ((time.perf_counter_ns() - began) / len(batch) / at.cost - self._speed)
            self._gain += _NEW * (len(frame) / len(batch) / at.ratio - self._gain)
        if len(frame) > WORTH * len(batch):
            self._pass = PASS_OVER
            return batch
        return frame

    def sent(self, size: int, seconds: float) -> None:
        """The link took so many bytes in that time, waits and limits included; 0 s: it did not let us wait. Then it is
        at least as fast as the fastest level: more would have to be measured."""
        if size < LOOK:
            return
        cost = 1e9 * seconds / size if seconds else self._speed * LEVELS[0].cost
        link = self._link = cost if self._link is None else self._link + _NEW * (cost - self._link)

        def predicted(at: Level | None) -> tuple[float, float]:
            """Time and share of the size; of two ways that take as long the smaller is better. As it is a batch goes
            where that is clearly faster, or nothing becomes smaller."""
            share = min(self._gain * (at or LEVELS[0]).ratio, 1.0)
            if at is None:
                return link * (CLEARLY if share < 1 else 1.0), 1.0
            return max(self._speed * at.cost, share * link), share

        ways: list[Level | None] = [None, *LEVELS]
        self._at = min(ways, key=predicted)


class Unsqueezer:
    """``most``: bytes that a batch may have."""

    def __init__(self, most: int) -> None:
        self._codec = zstandard.ZstdDecompressor()
        self._most = most

    def unsqueeze(self, data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
        """The batch. Raises CoreDataError on what no source sends."""
        if bytes(data[:4]) != MAGIC:
            return data
        try:
            size = zstandard.frame_content_size(data)
            if not 0 <= size <= self._most:
                raise CoreDataError(-5, "batch", f"a frame of {size} bytes, at most {self._most} are allowed")
            return self._codec.decompress(data, max_output_size=self._most, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CoreDataError(-5, "batch", f"a damaged frame: {error}") from None
