"""From builtins to checked messages and back: the edge at which a peer's data becomes trustworthy.

``msgspec`` checks types, ranges, lengths and patterns of :mod:`protocol.messages`; this file turns its errors into
:class:`~protocol.errors.RemoteProtocolError` with the path, the value found there and what is allowed.
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeVar

import msgspec

from protocol.errors import RemoteProtocolError
from protocol.messages import BY_METHOD, Message, to_builtins

M = TypeVar("M", bound=Message)

_WHERE = re.compile(r" - at `(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z_0-9]*)|\[(\d+)\]|\[\.\.\.\]")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`")


def decode(cls: type[M], value: Any) -> M:
    """Check ``value`` (builtins from msgpack) and build a ``cls``.

    Unknown fields are ignored. Errors: :class:`RemoteProtocolError` whose ``field`` is "Class.path.to.field".
    """
    try:
        result = msgspec.convert(value, cls, strict=True, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise _translated(cls, value, str(error)) from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RemoteProtocolError(cls.__name__, str(error), "builtins from msgpack") from None
    _refuse_non_finite(cls.__name__, result)
    return result


def decode_method(method: str, params: Any) -> Message:
    """Like :func:`decode`, for the class that ``method`` names."""
    cls = BY_METHOD.get(method)
    if cls is None:
        raise RemoteProtocolError("method", method, "a known method")
    return decode(cls, params)


def encode(message: Message) -> dict[str, Any]:
    """The map that goes on the wire."""
    return to_builtins(message)


def _refuse_non_finite(where: str, value: object) -> None:
    """NaN passes every comparison that msgspec makes and would poison ours: refuse it here."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RemoteProtocolError(where, value, "a finite number")
    elif isinstance(value, Message):
        for name in value.__struct_fields__:
            _refuse_non_finite(f"{where}.{name}", getattr(value, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if not isinstance(item, int | str | bytes):
                _refuse_non_finite(f"{where}[{index}]", item)


def _translated(cls: type[Message], value: Any, text: str) -> RemoteProtocolError:
    """``text`` is msgspec's "Expected `int` >= 1 - at `$.a[0].b`"; paths start at ``$``."""
    found = _WHERE.search(text)
    path = found["path"].removeprefix("$") if found else ""
    allowed = _WHERE.sub("", text)
    missing = _MISSING.match(allowed)
    if missing:
        return RemoteProtocolError(f"{cls.__name__}{path}.{missing['name']}", "missing", "a required field")
    return RemoteProtocolError(cls.__name__ + path, _lookup(value, path), allowed)


def _lookup(value: Any, path: str) -> Any:
    """Follow a path as far as it is definite; "[...]" (any element) ends the walk."""
    for name, index in _STEP.findall(path):
        try:
            if name:
                value = value[name]
            elif index:
                value = value[int(index)]
            else:
                return value
        except (KeyError, IndexError, TypeError):
            return None
    return value
