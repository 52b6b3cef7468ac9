"""A guest's disk seen from the agent: rounds of written blocks, batches (csrc/disk, api.cdef ``wh_diskview_*``).

The calls read and write files, so whoever waits on trio runs them in a worker thread; a view is used by one thread at a
time, but for :attr:`DiskView.dirty_now` and :attr:`DiskView.left`.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from node.core import check, core, ffi, new_error

BLOCK = 4096
BATCH_LEAST = 128 << 10


class DiskBatch(NamedTuple):
    """What a pack took or an unpack placed, in blocks. ``size`` 0: nothing of what was looked at need be sent.
    ``left``: blocks that are in the round's set still."""

    data_blocks: int
    zero_blocks: int
    size: int
    left: int


class DiskView:
    """``disk_fd``: its file; ``share_fd``: of the machine that writes it, -1: none does; ``base_fd``: what the other
    end's file held at first, -1: nobody knows. None is kept. :meth:`close` lets go."""

    def __init__(self, disk_fd: int, share_fd: int = -1, base_fd: int = -1) -> None:
        self._lib = core()
        out, err = ffi.new("wh_diskview **"), new_error()
        check(self._lib.wh_diskview_open(disk_fd, share_fd, base_fd, out, err), err)
        self._v: Any = out[0]
        self._file = os.dup(disk_fd)
        self._info = ffi.new("wh_disk_info *")
        self._count = ffi.new("uint64_t *")

    def close(self) -> None:
        if self._v is not None:
            view, self._v = self._v, None
            self._lib.wh_diskview_close(view)
            os.close(self._file)

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return int(self._lib.wh_diskview_bytes(self._v))

    @property
    def dirty_now(self) -> int:
        """Blocks written since the round began; an estimate while the guest runs."""
        return int(self._lib.wh_diskview_dirty_now(self._v))

    @property
    def left(self) -> int:
        """Blocks of the round's set that were not looked at."""
        return int(self._lib.wh_diskview_left(self._v))

    def track(self, on: bool) -> None:
        """Follow what is written from now on, or no longer; on: every block is in the first round's set."""
        check(self._lib.wh_diskview_track(self._v, on))

    def round(self) -> int:
        """Begin a round; blocks in its set."""
        check(self._lib.wh_diskview_round(self._v, self._count))
        return int(self._count[0])

    def pack(self, buffer: bytearray, offset: int = 0) -> DiskBatch:
        """One batch of the set into ``buffer`` from ``offset`` on; BATCH_LEAST of room. Raises CoreHostError."""
        target = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        check(self._lib.wh_diskview_pack(self._v, target + offset, len(buffer) - offset, self._info))
        return self._batch()

    def unpack(self, batch: bytes | bytearray | memoryview) -> DiskBatch:
        """Place a batch; nothing is synced. Raises CoreDataError on hostile input (blocks before the fault may have
        been placed), CoreError when the file system is full or broken."""
        err = new_error()
        check(
            self._lib.wh_diskview_unpack(self._v, ffi.from_buffer("uint8_t[]", batch), len(batch), self._info, err), err
        )
        return self._batch()

    def sync(self) -> None:
        """What was placed is on the disk. Raises OSError."""
        os.fdatasync(self._file)

    def _batch(self) -> DiskBatch:
        info = self._info
        return DiskBatch(int(info.data_blocks), int(info.zero_blocks), int(info.bytes), int(info.left))
