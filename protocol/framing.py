"""Frames: a big-endian u32 length, then that many bytes of one msgpack array (SPEC.md section 2).

Theory. A peer may send anything. msgpack's own parser allocates a list of the announced length before it has seen one
element, so a few hundred bytes of nested headers could ask for gigabytes. Therefore :func:`check_shape` walks the
bytes first, without allocating: it bounds depth, every length and the number of values, and proves that each announced
element is there. Only then does ``msgpack`` build objects, which by then are bounded by the length of the frame. The
walk is a Python loop per value, not per byte: bulk data is one value.

:class:`FrameReader` is incremental: any cutting of the byte stream yields the same frames.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from protocol.errors import LocalProtocolError, RemoteProtocolError

HEADER: Final = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """What one frame may hold. Bytes and counts."""

    frame: int = (16 << 20) + (64 << 10)
    depth: int = 16
    string: int = 1 << 20
    binary: int = 16 << 20
    array: int = 65536
    map: int = 4096
    values: int = 1 << 20  # all values of a frame together: bounds memory and the time of the walk


DEFAULT_LIMITS: Final = FrameLimits()

_SCALAR: Final = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_SCALAR.update({0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8})
# type byte: (what, width of the length)
_SIZED: Final = {0xC4: ("binary", 1), 0xC5: ("binary", 2), 0xC6: ("binary", 4)}
_SIZED.update({0xD9: ("string", 1), 0xDA: ("string", 2), 0xDB: ("string", 4)})
_SIZED.update({0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)})


def _head(view: memoryview, pos: int, size: int) -> tuple[str, int, int]:
    """Classify the value at ``pos``: (what, its count or payload length, position after its header)."""
    byte = view[pos]
    pos += 1
    if byte < 0x80 or byte >= 0xE0:
        return "scalar", 0, pos
    if byte < 0x90:
        return "map", byte & 0x0F, pos
    if byte < 0xA0:
        return "array", byte & 0x0F, pos
    if byte < 0xC0:
        return "string", byte & 0x1F, pos
    width = _SCALAR.get(byte)
    if width is not None:
        return "scalar", width, pos
    sized = _SIZED.get(byte)
    if sized is None:
        raise RemoteProtocolError("frame", byte, "msgpack without extension types")
    what, width = sized
    if pos + width > size:
        raise RemoteProtocolError("frame", size, "complete msgpack")
    return what, int.from_bytes(view[pos : pos + width], "big"), pos + width


def check_shape(data: bytes | bytearray | memoryview, limits: FrameLimits = DEFAULT_LIMITS) -> None:
    """Raise :class:`RemoteProtocolError` unless ``data`` is exactly one msgpack value within ``limits``."""
    view = memoryview(data)
    size = len(view)
    bound = {"string": limits.string, "binary": limits.binary, "array": limits.array, "map": limits.map, "scalar": 8}
    pos = 0
    values = 0
    open_counts: list[int] = []  # how many values each enclosing container still lacks
    while True:
        if pos >= size:
            raise RemoteProtocolError("frame", size, "complete msgpack")
        what, count, pos = _head(view, pos, size)
        values += 1
        if values > limits.values:
            raise RemoteProtocolError("frame", values, f"at most {limits.values} values")
        if count > bound[what]:
            raise RemoteProtocolError("frame", f"{what} of {count}", f"at most {bound[what]}")
        if what in ("array", "map"):
            elements = count if what == "array" else 2 * count
            if elements > size - pos:  # each element takes a byte at least
                raise RemoteProtocolError("frame", f"{what} of {count}", "elements that are there")
            if len(open_counts) >= limits.depth:
                raise RemoteProtocolError("frame", f"depth {len(open_counts) + 1}", f"depth at most {limits.depth}")
            open_counts.append(elements)
        else:
            pos += count
            if pos > size:
                raise RemoteProtocolError("frame", size, "complete msgpack")
            if not open_counts:
                break
            open_counts[-1] -= 1
        while open_counts and open_counts[-1] == 0:
            open_counts.pop()
            if open_counts:
                open_counts[-1] -= 1
        if not open_counts:
            break
    if pos != size:
        raise RemoteProtocolError("frame", f"{size - pos} bytes left over", "exactly one msgpack value")


def unpack(data: bytes | bytearray | memoryview, limits: FrameLimits = DEFAULT_LIMITS) -> Any:
    """One msgpack value from hostile bytes. Lists, dicts with text keys, str, bytes, int, float, bool, None."""
    check_shape(data, limits)
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            object_pairs_hook=_text_map,
            max_str_len=limits.string,
            max_bin_len=limits.binary,
            max_array_len=limits.array,
            max_map_len=limits.map,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise RemoteProtocolError("frame", str(error), "valid msgpack, UTF-8 text, text keys") from None


def _text_map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Text keys, each once: two readers must not see two meanings."""
    result = dict(pairs)
    if len(result) != len(pairs) or not all(type(key) is str for key in result):
        raise ValueError("map with a repeated key or one that is not text")
    return result


def pack_frame(value: Any, limits: FrameLimits = DEFAULT_LIMITS) -> bytes:
    """Length and msgpack of ``value``; :class:`LocalProtocolError` when it would exceed the peer's limit."""
    try:
        body: bytes = msgpack.packb(value, use_bin_type=True)
    except (ValueError, TypeError, OverflowError) as error:
        raise LocalProtocolError(f"cannot be packed: {error}") from error
    if len(body) > limits.frame:
        raise LocalProtocolError(f"frame of {len(body)} bytes, at most {limits.frame}")
    return HEADER.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into frame bodies. ``feed`` then ``next_frame`` until it gives None.

    A body is a view into the reader's buffer: it must be released (or let go) before the next ``feed``. After an error
    the stream cannot be read further: there is no resynchronization.
    """

    def __init__(self, limits: FrameLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._pos = 0

    @property
    def pending(self) -> int:
        """Bytes that are buffered and not yet given out."""
        return len(self._buffer) - self._pos

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Append received bytes."""
        if self._pos:
            del self._buffer[: self._pos]
            self._pos = 0
        self._buffer += data

    def next_frame(self) -> memoryview | None:
        """The next whole body, or None when more bytes are needed."""
        start = self._pos + HEADER.size
        if len(self._buffer) < start:
            return None
        (length,) = HEADER.unpack_from(self._buffer, self._pos)
        if not 1 <= length <= self._limits.frame:
            raise RemoteProtocolError("frame.length", length, f"1..{self._limits.frame}")
        end = start + length
        if len(self._buffer) < end:
            return None
        self._pos = end
        return memoryview(self._buffer)[start:end]
