"""What every message is made of: bounded scalars, whose limits are part of the contract, and the four kinds."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct

Name = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Mac = Annotated[str, Meta(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
Vni = Annotated[int, Meta(ge=1, le=0xFFFFFF)]
NodeId = Annotated[int, Meta(ge=1, le=0xFFFFFFFF)]
Generation = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Sequence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Bytes = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=4096)]
Address = Annotated[str, Meta(max_length=255)]  # host:port, [v6]:port
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class Message(Struct, frozen=True, kw_only=True):
    """Base of every payload. ``method`` is empty on plain data structures."""

    method: ClassVar[str] = ""


class Empty(Message, frozen=True, kw_only=True):
    """An answer that says only "done"."""


class Request(Message, frozen=True, kw_only=True):
    """Wants exactly one answer of type ``answer`` (or an error) before its deadline."""

    answer: ClassVar[type[Message]] = Empty


class Notice(Message, frozen=True, kw_only=True):
    """One way; loss of the session loses it."""


class StreamOpen(Message, frozen=True, kw_only=True):
    """Opens a byte stream with flow control; the answerer accepts or resets it."""


def to_builtins(message: Message) -> dict[str, Any]:
    """The map that goes on the wire."""
    import msgspec

    result: dict[str, Any] = msgspec.to_builtins(message, builtin_types=(bytes,))
    return result
