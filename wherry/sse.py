"""A parser for server-sent events (WHATWG HTML, section 9.2.6). Sans-IO: text chunks in, events out."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from wherry.errors import WherryError

_MAX_LINE = 1 << 20


@dataclass(frozen=True)
class ServerEvent:
    """One dispatched event; ``id`` is the last one seen, "" before any."""

    id: str
    name: str
    data: str


class Parser:
    """Feed it bytes as they arrive; it gives each event once its empty line is there."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._buffer = ""
        self._after_cr = False
        self._data: list[str] = []
        self._name = ""
        self._id = ""

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Raises :class:`WherryError` when a line or an event grows past 1 MiB."""
        text = self._decoder.decode(chunk)
        if self._after_cr and text.startswith("\n"):
            text = text[1:]
        if text or chunk:
            self._after_cr = text.endswith("\r") or (self._after_cr and not text)
        self._buffer += text.replace("\r\n", "\n").replace("\r", "\n")
        *lines, self._buffer = self._buffer.split("\n")
        events = [event for line in lines if (event := self._line(line)) is not None]
        if len(self._buffer) + sum(map(len, self._data)) > _MAX_LINE:
            raise WherryError(f"event stream: an event of more than {_MAX_LINE} characters")
        return events

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            event = ServerEvent(self._id, self._name or "message", "\n".join(self._data)) if self._data else None
            self._data, self._name = [], ""
            return event
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None
