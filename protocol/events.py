"""What a :class:`protocol.session.Session` reports, and HELLO, which the first report carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from protocol.errors import RemoteProtocolError
from protocol.framing import DEFAULT_LIMITS
from protocol.versions import FEATURES, VERSIONS

MIN_FRAME: Final = 64 << 10  # the largest message that everybody must take


@dataclass(frozen=True, slots=True)
class Hello:
    """What an end says of itself. Identity comes from certificates, so ``name`` and ``software`` only inform."""

    name: str = ""
    software: str = ""
    versions: tuple[int, int] = VERSIONS
    features: frozenset[str] = FEATURES
    max_frame: int = DEFAULT_LIMITS.frame


def parse_hello(body: dict[str, Any]) -> Hello:
    """HELLO's map, checked. Unknown keys are ignored."""
    versions = body.get("versions")
    if not isinstance(versions, list) or len(versions) != 2 or not all(type(v) is int and v > 0 for v in versions):
        raise RemoteProtocolError("hello.versions", versions, "[lowest, highest], both positive")
    features = body.get("features", [])
    if not isinstance(features, list) or len(features) > 64 or not all(type(f) is str for f in features):
        raise RemoteProtocolError("hello.features", features, "at most 64 names")
    max_frame = body.get("max_frame")
    if type(max_frame) is not int or not MIN_FRAME <= max_frame <= 2**32 - 1:
        raise RemoteProtocolError("hello.max_frame", max_frame, f"{MIN_FRAME}..4294967295")
    texts = {}
    for key in ("name", "software"):
        texts[key] = body.get(key, "")
        if type(texts[key]) is not str or len(texts[key]) > 255:
            raise RemoteProtocolError(f"hello.{key}", texts[key], "text of at most 255 characters")
    return Hello(texts["name"], texts["software"], (versions[0], versions[1]), frozenset(features), max_frame)


# ---- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Established:
    """HELLO went both ways."""

    version: int
    features: frozenset[str]
    peer: Hello


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """Answer it with ``respond`` or ``fail`` before ``deadline`` (the caller's clock)."""

    id: int
    method: str
    params: dict[str, Any]
    deadline: float


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """The peer no longer wants the answer; it still must be given."""

    id: int


@dataclass(frozen=True, slots=True)
class ResponseArrived:
    id: int
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ErrorArrived:
    id: int
    code: str
    message: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NoticeArrived:
    method: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StreamOffered:
    """Answer with ``accept_stream`` or ``reset_stream``."""

    id: int
    method: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StreamAccepted:
    id: int


@dataclass(frozen=True, slots=True)
class StreamData:
    """Give the bytes back with ``consumed`` once the reader has them."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamWritable:
    """Credit came."""

    id: int


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """The peer closed its half."""

    id: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    id: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Pong:
    """Round trip, seconds."""

    rtt: float


@dataclass(frozen=True, slots=True)
class PeerSilent:
    """Nothing heard for ``dead_after``: close the connection."""

    silence: float


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """GOODBYE (its code and reason) or EOF (``unavailable``)."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The peer broke the rules; write what is left of the output and close."""

    error: RemoteProtocolError


Event = (
    Established
    | RequestArrived
    | RequestCancelled
    | ResponseArrived
    | ErrorArrived
    | NoticeArrived
    | StreamOffered
    | StreamAccepted
    | StreamData
    | StreamWritable
    | StreamFinished
    | StreamReset
    | Pong
    | PeerSilent
    | PeerLeft
    | Failed
)
