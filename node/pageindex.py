"""Pages that a node has, by their names (csrc/memory/index.h, api.cdef ``wh_index_*``): what a migration's target is
asked for before pages are sent to it."""

from __future__ import annotations

from typing import Any, Final

from node.core import CoreFull, CoreInvalid, check, core, ffi

NAME: Final = 16  # bytes of a page's name
NUMBER: Final = 4  # ... and of its number
KEY: Final = 32  # bytes of what names are made with
MOST_FILES: Final = 64


class PageIndex:
    """``most``: pages; ``questions``: that may be asked. The calls read whole memories: for a worker thread. Filled by
    one thread, then asked by one while a RamView reads of it. :meth:`close` when no view uses it any more."""

    def __init__(self, key: bytes, most: int, questions: int) -> None:
        self._lib = core()
        out = ffi.new("wh_index **")
        check(self._lib.wh_index_new(ffi.from_buffer("uint8_t[]", key), most, questions, out))
        self.handle: Any = out[0]
        self._count = ffi.new("uint64_t *")

    def close(self) -> None:
        if self.handle is not None:
            handle, self.handle = self.handle, None
            self._lib.wh_index_free(handle)

    @property
    def pages(self) -> int:
        return int(self._lib.wh_index_pages(self.handle))

    def add(self, fd: int) -> int:
        """Read a memory file through: pages that were not known yet; none when the index is full. CoreHostError."""
        try:
            check(self._lib.wh_index_add(self.handle, fd, self._count))
        except CoreFull:
            return 0
        return int(self._count[0])

    def own(self, fd: int) -> None:
        """Memory that this guest had: looked at where a page is asked for, and only there. CoreHostError."""
        check(self._lib.wh_index_own(self.handle, fd))

    def ask(self, names: bytes, pages: bytes) -> tuple[bytes, int]:
        """For each name, and the number (u32 LE) of the page that has it, a bit: it is here; and how many are. Raises
        CoreInvalid: too many were asked, or not as many numbers as names."""
        count = len(names) // NAME
        if len(names) % NAME or len(pages) != NUMBER * count:
            raise CoreInvalid(-2, "names", f"names of {NAME} bytes and numbers of {NUMBER} are wanted")
        bits = bytearray((count + 7) // 8)
        raw = ffi.from_buffer("uint8_t[]", bits, require_writable=True)
        given = ffi.from_buffer("uint8_t[]", names), ffi.from_buffer("uint8_t[]", pages)
        check(self._lib.wh_index_ask(self.handle, *given, count, raw, self._count))
        return bytes(bits), int(self._count[0])
