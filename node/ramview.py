"""Guest RAM seen from the agent: dirty rounds, page batches, checksums (csrc/memory, api.cdef ``wh_ramview_*``).

The calls block (a round waits for the harts, a pack copies pages), so whoever waits on trio runs them in a worker
thread; a view is used by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from node.core import check, core, ffi, new_error
from node.pageindex import NAME, NUMBER, PageIndex

PAGE = 4096
WANTED_MOST = 64
NEEDED, SOON, LATER, EVERYTHING = 1, 2, 3, 4  # kinds of pages that serve takes


class Batch(NamedTuple):
    """What a pack took or an unpack placed. ``more``: pages are left in the round's set."""

    data_pages: int
    zero_pages: int
    size: int
    more: bool


class RamView:
    """``ram_fd`` and ``share_fd`` are mapped here and not kept. :meth:`close` unmaps."""

    def __init__(self, ram_fd: int, share_fd: int) -> None:
        self._lib = core()
        out, err = ffi.new("wh_ramview **"), new_error()
        check(self._lib.wh_ramview_open(ram_fd, share_fd, out, err), err)
        self._v: Any = out[0]
        self._info = ffi.new("wh_batch_info *")
        self._count = ffi.new("uint64_t *")
        self._pages = ffi.new("uint64_t[]", WANTED_MOST)

    def close(self) -> None:
        if self._v is not None:
            view, self._v = self._v, None
            self._lib.wh_ramview_close(view)

    @property
    def pages(self) -> int:
        return int(self._lib.wh_ramview_pages(self._v))

    @property
    def resident(self) -> int:
        """Pages with memory behind them."""
        return int(self._lib.wh_ramview_resident(self._v))

    @property
    def absent(self) -> int:
        """Pages whose content is still in the file that the machine was lazily restored from. They come by themselves,
        at once when :meth:`pack` or :meth:`checksum` wait for them."""
        return int(self._lib.wh_ramview_absent(self._v))

    @property
    def dirty_now(self) -> int:
        """Dirty pages since the round began; an estimate while the guest runs."""
        return int(self._lib.wh_ramview_dirty_now(self._v))

    def dirty(self) -> bytes:
        """The same as a bitmap: one bit a page, in u64 words."""
        out = bytearray(self._bitmap_bytes)
        check(self._lib.wh_ramview_dirty(self._v, ffi.from_buffer("uint8_t[]", out, require_writable=True), len(out)))
        return bytes(out)

    def track(self, on: bool) -> None:
        """Start (every present page counts as dirty) or stop dirty tracking."""
        check(self._lib.wh_ramview_track(self._v, on))

    def remember(self, pages: int) -> None:
        """Keep marks (1 KiB each) of so many pages that are packed, so that of those only changes are sent again; 0:
        none. Until tracking begins anew or ends."""
        check(self._lib.wh_ramview_remember(self._v, pages))

    def fills(self, on: bool) -> None:
        """Pages of one word go by that word: the other end knows it."""
        check(self._lib.wh_ramview_fills(self._v, on))

    def files(self, fds: Sequence[int]) -> None:
        """Files that both ends have, in the same order; dup'd."""
        check(self._lib.wh_ramview_files(self._v, ffi.new("int[]", list(fds)), len(fds)))

    def find(self) -> int:
        """How many pages stand in those files; they are named from now on, not sent. The guest may run."""
        check(self._lib.wh_ramview_find(self._v, self._count))
        return int(self._count[0])

    def round(self, timeout_ms: int = 1000) -> int:
        """Begin a round; pages in its set. Raises CoreTimeout when a hart did not answer (the set is kept)."""
        check(self._lib.wh_ramview_round(self._v, timeout_ms, self._count))
        return int(self._count[0])

    def pack(self, buffer: bytearray | memoryview, offset: int = 0) -> Batch:
        """One batch from the round's set into ``buffer`` from ``offset`` on; at least 8192 bytes of room."""
        room = len(buffer) - offset
        target = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        check(self._lib.wh_ramview_pack(self._v, target + offset, room, self._info))
        return self._batch()

    def unpack(self, batch: bytes | bytearray | memoryview) -> Batch:
        """Place a batch. Raises CoreDataError on hostile input; pages before the fault may have been placed."""
        err = new_error()
        source = ffi.from_buffer("uint8_t[]", batch)
        check(self._lib.wh_ramview_unpack(self._v, source, len(batch), self._info, err), err)
        return self._batch()

    # -- pages that the target has already

    def ask_begin(self, key: bytes) -> None:
        """The source's end: names are made with this key."""
        check(self._lib.wh_ramview_ask_begin(self._v, ffi.from_buffer("uint8_t[]", key)))

    def ask(self, step: int, most: int) -> tuple[bytes, bytes]:
        """Names of pages of the round's set that were not asked for in it, ``step`` pages apart or more, at most
        ``most``, and their numbers (u32 LE); empty: that was all. Each is to be followed by :meth:`answer`."""
        names, pages = bytearray(NAME * most), bytearray(NUMBER * most)
        count = ffi.new("uint32_t *")
        raw = [ffi.from_buffer("uint8_t[]", each, require_writable=True) for each in (names, pages)]
        check(self._lib.wh_ramview_ask(self._v, step, most, *raw, count))
        return bytes(memoryview(names)[: NAME * count[0]]), bytes(memoryview(pages)[: NUMBER * count[0]])

    def answer(self, bits: bytes) -> None:
        """Which of these the target has. Raises CoreDataError when that are not so many."""
        check(self._lib.wh_ramview_answer(self._v, ffi.from_buffer("uint8_t[]", bits), len(bits)))

    def resend(self, pages: bytes) -> None:
        """The target did not have these (u32 LE) after all: they are dirty, and go whole. Raises CoreDataError."""
        check(self._lib.wh_ramview_resend(self._v, ffi.from_buffer("uint8_t[]", pages), len(pages)))

    def use_index(self, index: PageIndex | None) -> None:
        """The target's end: pages may be named by its questions. It is to stay open as long as the view has it."""
        check(self._lib.wh_ramview_use_index(self._v, ffi.NULL if index is None else index.handle))

    def missed(self) -> bytes:
        """Pages (u32 LE) that were named and are not what was asked for (any more), since the last call."""
        pages = bytearray(4 * int(self._lib.wh_ramview_missing(self._v)))
        raw = ffi.from_buffer("uint8_t[]", pages, require_writable=True)
        check(self._lib.wh_ramview_missed(self._v, raw, len(pages), self._count))
        return bytes(pages)

    # -- post-copy, the source's end

    @property
    def _bitmap_bytes(self) -> int:
        return (self.pages + 63) // 64 * 8

    def left(self) -> bytes:
        """The pages of the round's set: one bit each, in u64 words."""
        out = bytearray(self._bitmap_bytes)
        check(self._lib.wh_ramview_left(self._v, ffi.from_buffer("uint8_t[]", out, require_writable=True), len(out)))
        return bytes(out)

    def owe(self, bitmap: bytes) -> None:
        """What the other end lacks becomes the set. Raises CoreDataError when it is not of this memory's size."""
        err = new_error()
        check(self._lib.wh_ramview_owe(self._v, ffi.from_buffer("uint8_t[]", bitmap), len(bitmap), err), err)

    def first(self, kinds: Sequence[bytes]) -> None:
        """What :meth:`serve` takes before the rest, at most three bitmaps. CoreDataError: not of this memory's size."""
        err = new_error()
        for number, bitmap in enumerate(kinds):
            raw = ffi.from_buffer("uint8_t[]", bitmap)
            check(self._lib.wh_ramview_first(self._v, number, raw, len(bitmap), err), err)

    def serve(
        self, buffer: bytearray, offset: int, wanted: Sequence[int], most: int, *, kinds: int = EVERYTHING
    ) -> Batch:
        """Pages of the set into ``buffer``: each that is wanted and those behind it, ``most`` data pages each; without
        any those of so many ``kinds``, EVERYTHING: and the rest, ``most`` in all. Room for ``most`` a wanted
        page is the caller's to have."""
        target = ffi.from_buffer("uint8_t[]", buffer, require_writable=True) + offset
        pages = ffi.new("uint64_t[]", list(wanted))
        room = len(buffer) - offset
        check(self._lib.wh_ramview_serve(self._v, pages, len(wanted), most, kinds, target, room, self._info))
        return self._batch()

    # -- post-copy, the target's end

    def pull_begin(self) -> tuple[bytes, int]:
        """What is absent, as a bitmap and a number; everything that is waited for is to be asked for anew."""
        out = bytearray(self._bitmap_bytes)
        raw = ffi.from_buffer("uint8_t[]", out, require_writable=True)
        check(self._lib.wh_ramview_pull_begin(self._v, raw, len(out), self._count))
        return bytes(out), int(self._count[0])

    def wanted(self) -> list[int]:
        """Absent pages that somebody has begun to wait for since the last call; WANTED_MOST at most."""
        count = ffi.new("uint32_t *")
        check(self._lib.wh_ramview_wanted(self._v, self._pages, WANTED_MOST, count))
        return list(ffi.unpack(self._pages, count[0])) if count[0] else []

    def place(self, batch: bytes | bytearray | memoryview) -> Batch:
        """Place a batch under the running guest; ``more``: pages are still absent. CoreDataError, CoreHostError."""
        err = new_error()
        source = ffi.from_buffer("uint8_t[]", batch)
        check(self._lib.wh_ramview_place(self._v, source, len(batch), self._info, err), err)
        return self._batch()

    def checksum(self) -> bytes:
        """128 bits over all non-zero pages; the machine is paused."""
        out = ffi.new("uint8_t[16]")
        check(self._lib.wh_ramview_checksum(self._v, out))
        return bytes(out)

    def _batch(self) -> Batch:
        info = self._info
        return Batch(int(info.data_pages), int(info.zero_pages), int(info.bytes), bool(info.more))
