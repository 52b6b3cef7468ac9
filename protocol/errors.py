"""The exceptions of the whole protocol package.

    WherryError
    ├── RemoteProtocolError     a peer, a file or a datagram broke the rules; names the field
    ├── LocalProtocolError      we did: a bug on this side, nothing was sent
    ├── Refused                 raised by a handler, answered to the peer as a typed error
    └── LinkError
        ├── RemoteError         the peer answered with an error; ``code`` is one of :data:`CODES`
        ├── LinkTimeout         no answer in time; the peer was told to stop
        ├── LinkClosed          the session ended before the answer: what the peer did is unknown
        └── PeerRejected        the certificate is valid but names somebody else

``LinkTimeout`` and ``LinkClosed`` leave open whether the request was carried out. Whoever must know asks again.
"""

from __future__ import annotations

from typing import Any, Final

CODES: Final = frozenset(
    {
        "invalid",
        "not_found",
        "exists",
        "conflict",
        "fenced",
        "unavailable",
        "full",
        "unsupported",
        "timeout",
        "cancelled",
        "internal",
        "forbidden",
    }
)


class WherryError(Exception):
    """Base of everything that this project raises on purpose."""


class RemoteProtocolError(WherryError):
    """Hostile or damaged input.

    ``field`` is the path of what is wrong ("Nic.vni"), ``value`` what was there (shortened), ``allowed`` what the
    specification permits.
    """

    def __init__(self, field: str, value: object = None, allowed: str = "") -> None:
        self.field = field
        self.value = shorten(value)
        self.allowed = allowed
        super().__init__(f"{field}: {self.value}" + (f" (allowed: {allowed})" if allowed else ""))


class LocalProtocolError(WherryError):
    """This side asked a state machine for what its state does not permit."""


class Refused(WherryError):
    """A handler's "no". ``code`` is one of :data:`CODES`; ``details`` are plain builtins."""

    def __init__(self, code: str, message: str = "", **details: Any) -> None:
        if code not in CODES:
            raise ValueError(f"error code {code!r} is not one of {sorted(CODES)}")
        self.code = code
        self.message = message
        self.details = details
        super().__init__(f"{code}: {message}")


class LinkError(WherryError):
    """A call over a link did not get its answer."""


class RemoteError(LinkError):
    """The peer's "no"."""

    def __init__(self, code: str, message: str = "", details: dict[str, Any] | None = None) -> None:
        self.code = code
        self.message = message
        self.details = details or {}
        super().__init__(f"{code}: {message}")


class LinkTimeout(LinkError):
    """The deadline passed first."""


class LinkClosed(LinkError):
    """The session is over."""


class PeerRejected(LinkError):
    """The peer proved another identity than the one that was dialled."""


def shorten(value: object, limit: int = 80) -> str:
    """``value`` as text that is safe to log: at most ``limit`` characters, large containers never rendered whole."""
    if isinstance(value, str):
        text = repr(value[:limit])
    elif isinstance(value, bytes | bytearray | memoryview):
        text = f"{len(value)} bytes {bytes(value[:16]).hex()}"
    elif isinstance(value, dict | list | tuple | set | frozenset):
        text = f"{type(value).__name__} of {len(value)}"
    else:
        text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
