"""What one end answers: a table from message class to handler, shared by all links of a listener or dialler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from protocol.link import Link, NoticeHandler, RequestHandler, StreamHandler
from protocol.linkstream import LinkStream
from protocol.messages import Message, Notice, Request, StreamOpen

R = TypeVar("R", bound=Request)
N = TypeVar("N", bound=Notice)
S = TypeVar("S", bound=StreamOpen)


class Handlers:
    """Register before the first link opens.

    - A request handler runs in a task of its own and is cancelled when the caller cancels, at the caller's deadline,
      and when the link ends: what must not be torn apart shields itself or hands the work to a longer-lived nursery.
    - Notice handlers of one link run one after the other, in the order of arrival.
    - A stream handler runs in a task of its own; its stream is closed when it returns.
    - ``raise Refused(code, message, **details)`` is the typed "no"; any other exception is logged and answered
      ``internal``.
    """

    def __init__(self) -> None:
        self.requests: dict[type[Request], RequestHandler] = {}
        self.notices: dict[type[Notice], NoticeHandler] = {}
        self.streams: dict[type[StreamOpen], StreamHandler] = {}

    def on_request(self, cls: type[R], fn: Callable[[Link, R], Awaitable[Message | None]]) -> None:
        """``await fn(link, request)`` gives an instance of ``cls.answer``; None stands for an ``Empty`` answer."""
        _register(self.requests, cls, fn)

    def on_notice(self, cls: type[N], fn: Callable[[Link, N], Awaitable[None]]) -> None:
        """``await fn(link, notice)``."""
        _register(self.notices, cls, fn)

    def on_stream(self, cls: type[S], fn: Callable[[Link, S, LinkStream], Awaitable[None]]) -> None:
        """``await fn(link, opening, stream)``."""
        _register(self.streams, cls, fn)


def _register(table: dict[Any, Any], cls: type[Message], fn: Callable[..., Any]) -> None:
    if not cls.method:
        raise ValueError(f"{cls.__name__} names no method")
    if cls in table:
        raise ValueError(f"{cls.method} has a handler already")
    table[cls] = fn
