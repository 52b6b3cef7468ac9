"""One byte stream inside a session, pure: states, halves, credit (SPEC.md section 5).

    opener                               answerer
      OPENING ── STREAM_OPEN ─────────────► OFFERED
      OPEN    ◄───────────── STREAM_ACCEPT ─ OPEN
      OPEN    ◄═ DATA (within credit) ══════► OPEN      CREDIT flows against the data
      SENT    ── STREAM_CLOSE ────────────► RECEIVED    each half closes once
      ENDED   ◄───────────── STREAM_CLOSE ─ ENDED
      any state ── STREAM_RESET ──► ENDED, both halves

SENT means "our half is closed", RECEIVED "theirs is". A sender may have at most the receiver's window of bytes that
the receiver has not given credit for; more is a protocol error, so a receiver's memory is bounded by what it offered.
A RESET that follows a CLOSE does not take back the bytes before the CLOSE.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.wire import MAX_WINDOW, Kind


class State(Enum):
    """Where a stream stands, seen from this end."""

    OPENING = "opening"
    OFFERED = "offered"
    OPEN = "open"
    SENT = "sent"
    RECEIVED = "received"
    ENDED = "ended"


_S = State
RECEIVED: Final[dict[State, dict[Kind, State]]] = {
    _S.OPENING: {Kind.STREAM_ACCEPT: _S.OPEN, Kind.STREAM_RESET: _S.ENDED},
    _S.OFFERED: {Kind.STREAM_RESET: _S.ENDED},
    _S.OPEN: {
        Kind.STREAM_DATA: _S.OPEN,
        Kind.STREAM_CREDIT: _S.OPEN,
        Kind.STREAM_CLOSE: _S.RECEIVED,
        Kind.STREAM_RESET: _S.ENDED,
    },
    _S.SENT: {
        Kind.STREAM_DATA: _S.SENT,
        Kind.STREAM_CREDIT: _S.SENT,
        Kind.STREAM_CLOSE: _S.ENDED,
        Kind.STREAM_RESET: _S.ENDED,
    },
    _S.RECEIVED: {Kind.STREAM_CREDIT: _S.RECEIVED, Kind.STREAM_RESET: _S.ENDED},
    _S.ENDED: {},
}
SENT: Final[dict[State, dict[Kind, State]]] = {
    _S.OPENING: {Kind.STREAM_RESET: _S.ENDED},
    _S.OFFERED: {Kind.STREAM_ACCEPT: _S.OPEN, Kind.STREAM_RESET: _S.ENDED},
    _S.OPEN: {
        Kind.STREAM_DATA: _S.OPEN,
        Kind.STREAM_CREDIT: _S.OPEN,
        Kind.STREAM_CLOSE: _S.SENT,
        Kind.STREAM_RESET: _S.ENDED,
    },
    _S.SENT: {Kind.STREAM_CREDIT: _S.SENT, Kind.STREAM_RESET: _S.ENDED},
    _S.RECEIVED: {
        Kind.STREAM_DATA: _S.RECEIVED,
        Kind.STREAM_CLOSE: _S.ENDED,
        Kind.STREAM_RESET: _S.ENDED,
    },
    _S.ENDED: {},
}


class StreamMachine:
    """State and credit of one stream. Raises, or changes state; knows no bytes."""

    def __init__(self, stream: int, state: State, window: int) -> None:
        self.id = stream
        self.state = state
        self.send_credit = 0  # what we may still send
        self.recv_credit = window  # what the peer may still send
        self.window = window
        self._unreturned = 0

    def received(self, kind: Kind, amount: int = 0) -> None:
        """A frame of the peer; ``amount`` is the length of DATA, CREDIT's bytes or ACCEPT's window."""
        nxt = RECEIVED[self.state].get(kind)
        if nxt is None:
            raise RemoteProtocolError(
                kind.name.lower(), f"stream {self.id} is {self.state.value}", "the stream's rules"
            )
        if kind is Kind.STREAM_DATA:
            if amount > self.recv_credit:
                raise RemoteProtocolError("stream_data.data", f"{amount} bytes", f"credit of {self.recv_credit}")
            self.recv_credit -= amount
        elif kind in (Kind.STREAM_CREDIT, Kind.STREAM_ACCEPT):
            if self.send_credit + amount > MAX_WINDOW:
                raise RemoteProtocolError("stream_credit.bytes", amount, f"a window of at most {MAX_WINDOW}")
            self.send_credit += amount
        self.state = nxt

    def sent(self, kind: Kind, amount: int = 0) -> None:
        """We are about to send this; :class:`LocalProtocolError` when the stream's rules forbid it."""
        nxt = SENT[self.state].get(kind)
        if nxt is None:
            raise LocalProtocolError(f"{kind.name} on stream {self.id}, which is {self.state.value}")
        if kind is Kind.STREAM_DATA:
            if amount > self.send_credit:
                raise LocalProtocolError(f"{amount} bytes on stream {self.id} with a credit of {self.send_credit}")
            self.send_credit -= amount
        self.state = nxt

    def consumed(self, amount: int) -> int:
        """The reader took ``amount`` bytes: how much credit to return now (0: wait for more, to spare frames)."""
        self._unreturned += amount
        if self._unreturned * 4 < self.window or Kind.STREAM_CREDIT not in SENT[self.state]:
            return 0
        grant, self._unreturned = self._unreturned, 0
        self.recv_credit += grant
        return grant
