"""The frames of a link, alone: kinds, field order, field checks (SPEC.md section 3).

A frame is a msgpack array ``[kind, field, ...]``. Fields beyond the known ones are ignored (a later minor addition);
missing or mistyped ones are a :class:`RemoteProtocolError`. DATA is parsed and built by hand: it carries the bulk, and
must neither be walked nor copied more than once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

from protocol.errors import CODES, RemoteProtocolError
from protocol.framing import DEFAULT_LIMITS, HEADER, FrameLimits, pack_frame, unpack

MAGIC: Final = "wherry"
MAX_ID: Final = 2**63 - 1
MAX_WINDOW: Final = 64 << 20
MAX_TIMEOUT_MS: Final = 24 * 3600 * 1000


class Kind(IntEnum):
    """First element of each frame."""

    HELLO = 0
    REQUEST = 1
    RESPONSE = 2
    ERROR = 3
    CANCEL = 4
    NOTIFY = 5
    STREAM_OPEN = 6
    STREAM_ACCEPT = 7
    STREAM_DATA = 8
    STREAM_CREDIT = 9
    STREAM_CLOSE = 10
    STREAM_RESET = 11
    PING = 12
    PONG = 13
    GOODBYE = 14


def _integer(low: int, high: int) -> Callable[[str, Any], None]:
    def check(field: str, value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise RemoteProtocolError(field, value, f"an integer {low}..{high}")

    return check


def _text(limit: int) -> Callable[[str, Any], None]:
    def check(field: str, value: Any) -> None:
        if type(value) is not str or len(value) > limit:
            raise RemoteProtocolError(field, value, f"text of at most {limit} characters")

    return check


def _is_map(field: str, value: Any) -> None:
    if type(value) is not dict:
        raise RemoteProtocolError(field, value, "a map")


def _is_bytes(field: str, value: Any) -> None:
    if type(value) is not bytes:
        raise RemoteProtocolError(field, value, "binary")


def _is_magic(field: str, value: Any) -> None:
    if value != MAGIC:
        raise RemoteProtocolError(field, value, f"{MAGIC!r}")


def _is_code(field: str, value: Any) -> None:
    if type(value) is not str or value not in CODES:
        raise RemoteProtocolError(field, value, " ".join(sorted(CODES)))


_ID = _integer(1, MAX_ID)
_WINDOW = _integer(1, MAX_WINDOW)
_NONCE = _integer(0, MAX_ID)
_METHOD = _text(64)
_REASON = _text(4096)

FIELDS: Final[dict[Kind, tuple[tuple[str, Callable[[str, Any], None]], ...]]] = {
    Kind.HELLO: (("magic", _is_magic), ("hello", _is_map)),
    Kind.REQUEST: (("id", _ID), ("method", _METHOD), ("params", _is_map), ("timeout_ms", _integer(1, MAX_TIMEOUT_MS))),
    Kind.RESPONSE: (("id", _ID), ("result", _is_map)),
    Kind.ERROR: (("id", _ID), ("code", _is_code), ("message", _REASON), ("details", _is_map)),
    Kind.CANCEL: (("id", _ID),),
    Kind.NOTIFY: (("method", _METHOD), ("params", _is_map)),
    Kind.STREAM_OPEN: (("id", _ID), ("method", _METHOD), ("params", _is_map), ("window", _WINDOW)),
    Kind.STREAM_ACCEPT: (("id", _ID), ("window", _WINDOW)),
    Kind.STREAM_DATA: (("id", _ID), ("data", _is_bytes)),
    Kind.STREAM_CREDIT: (("id", _ID), ("bytes", _WINDOW)),
    Kind.STREAM_CLOSE: (("id", _ID),),
    Kind.STREAM_RESET: (("id", _ID), ("code", _is_code), ("message", _REASON)),
    Kind.PING: (("nonce", _NONCE),),
    Kind.PONG: (("nonce", _NONCE),),
    Kind.GOODBYE: (("code", _text(64)), ("reason", _REASON)),
}


def parse(body: memoryview | bytes, limits: FrameLimits = DEFAULT_LIMITS) -> tuple[Kind, list[Any]]:
    """A frame body as (kind, fields). Raises :class:`RemoteProtocolError` naming "kind.field"."""
    data = _parse_data(body)
    if data is not None:
        return Kind.STREAM_DATA, data
    value = unpack(body, limits)
    if type(value) is not list or not value or type(value[0]) is not int:
        raise RemoteProtocolError("frame", value, "an array that starts with its kind")
    if not 0 <= value[0] <= Kind.GOODBYE:
        raise RemoteProtocolError("frame.kind", value[0], f"0..{int(Kind.GOODBYE)}")
    kind = Kind(value[0])
    fields = FIELDS[kind]
    if len(value) <= len(fields):
        raise RemoteProtocolError(f"{kind.name.lower()}.{fields[len(value) - 1][0]}", "missing", "a required field")
    for (name, check), item in zip(fields, value[1:], strict=False):
        check(f"{kind.name.lower()}.{name}", item)
    return kind, value[1 : 1 + len(fields)]


def pack(kind: Kind, *fields: Any, limits: FrameLimits = DEFAULT_LIMITS) -> bytes:
    """A whole frame, length included."""
    return pack_frame([int(kind), *fields], limits)


# DATA by hand: 0x93 (array of 3), 0x08 (kind), the id as uint64, bin32. Any other valid msgpack of the same array is
# accepted too, by the general path.
_DATA_HEAD: Final = struct.Struct(">BBBQBI")
_DATA_PREFIX: Final = struct.Struct(">IBBBQBI")


def data_prefix(stream: int, size: int) -> bytes:
    """What goes on the wire before ``size`` bytes of a stream."""
    return _DATA_PREFIX.pack(_DATA_HEAD.size + size, 0x93, int(Kind.STREAM_DATA), 0xCF, stream, 0xC6, size)


def _parse_data(body: memoryview | bytes) -> list[Any] | None:
    if len(body) < _DATA_HEAD.size:
        return None
    array, kind, id_type, stream, bin_type, size = _DATA_HEAD.unpack_from(body)
    if array != 0x93 or kind != Kind.STREAM_DATA or id_type != 0xCF or bin_type != 0xC6:
        return None
    if size != len(body) - _DATA_HEAD.size:
        raise RemoteProtocolError("stream_data.data", size, "the rest of the frame")
    _ID("stream_data.id", stream)
    return [stream, bytes(body[_DATA_HEAD.size :])]


__all__ = [
    "FIELDS",
    "HEADER",
    "MAGIC",
    "MAX_ID",
    "MAX_TIMEOUT_MS",
    "MAX_WINDOW",
    "Kind",
    "data_prefix",
    "pack",
    "parse",
]
