"""Batches of pages made smaller (protocol/SPEC.md, 11.4): zstd frames (RFC 8878), as much as is worth its time.

A batch is squeezed by the thread that packs it while the one before is on the wire. Where the wire waits for the thread
the cheapest level is taken, where the thread waits for the wire a better one; batches in which nothing was found are
followed by some that are not tried.
"""

from __future__ import annotations

from typing import Final

import zstandard

from node.core import CoreDataError

MAGIC: Final = b"\x28\xb5\x2f\xfd"
LEVELS: Final = (1, 3, 6)
LEAST: Final = 4096  # bytes; smaller batches go as they are
WORTH: Final = 0.9  # of its size: what does not get smaller than that is not worth unpacking
PASS_OVER: Final = 7  # batches that are not tried after one that was not worth it
_SLOWER: Final = 2.0  # times as long as making a batch must its sending take for a better level


class Squeezer:
    """One thread at a time."""

    def __init__(self) -> None:
        self._codecs = [zstandard.ZstdCompressor(level=level, write_checksum=False) for level in LEVELS]
        self._at = 0
        self._pass = 0

    @property
    def level(self) -> int:
        return LEVELS[self._at]

    def squeeze(self, batch: memoryview) -> bytes | memoryview:
        """The batch or a frame of it, whichever should go. The GIL is released meanwhile."""
        if len(batch) < LEAST or self._pass:
            self._pass = max(0, self._pass - 1)
            return batch
        frame = self._codecs[self._at].compress(batch)
        if len(frame) > WORTH * len(batch):
            self._pass = PASS_OVER
            return batch
        return frame

    def took(self, making: float, sending: float) -> None:
        """Seconds of making a batch and of sending the one before it at the same time."""
        if sending > _SLOWER * making:
            self._at = min(self._at + 1, len(LEVELS) - 1)
        elif making > sending:
            self._at = max(self._at - 1, 0)


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
