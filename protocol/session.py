"""One link session, pure: bytes and times in, events and bytes out (SPEC.md sections 3-6).

Theory. Two ends of one ordered byte stream are each in one of four states, and :data:`RECEIVED` says what a frame of
the peer does in each. Both send HELLO at once, without waiting for the other's:

    HANDSHAKE ── peer's HELLO ──► LIVE ── our GOODBYE ──► LEAVING
        │                          │                         │
        └──── peer's GOODBYE ──────┴── peer's GOODBYE, EOF ──┴──► GONE

A kind that a state's row does not list is a :class:`RemoteProtocolError`. After such an error nothing of the session
can be trusted: it queues GOODBYE and goes to GONE; the caller writes what :meth:`Session.take_output` still has and
closes. While LEAVING, everything but GOODBYE is ignored.

Requests: an id belongs to the end that asked, so both count from 1. A request that the peer has open ends with exactly
one RESPONSE or ERROR from us; after its CANCEL we still answer (``cancelled``) and the asker ignores it. Answers to
requests that we no longer wait for are dropped; answers to requests that we never made are errors.

Streams: the dialling end opens odd ids, the accepting end even ones, each rising. Frames for a stream that has ended
are dropped, because they may have crossed with our RESET. The rules of one stream are in :mod:`protocol.streams`.

Heartbeat: :meth:`tick` sends PING after ``ping_interval`` of silence and reports :class:`PeerSilent` after
``dead_after``. Any byte of the peer counts as life.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.events import (
    ErrorArrived,
    Established,
    Event,
    Failed,
    Hello,
    NoticeArrived,
    PeerLeft,
    PeerSilent,
    Pong,
    RequestArrived,
    RequestCancelled,
    ResponseArrived,
    StreamAccepted,
    StreamData,
    StreamFinished,
    StreamOffered,
    StreamReset,
    StreamWritable,
    parse_hello,
)
from protocol.framing import DEFAULT_LIMITS, FrameLimits, FrameReader
from protocol.streams import State, StreamMachine
from protocol.versions import choose_version
from protocol.wire import MAGIC, MAX_TIMEOUT_MS, Kind, data_prefix, pack, parse


class SessionState(Enum):
    """See the diagram above."""

    HANDSHAKE = "handshake"
    LIVE = "live"
    LEAVING = "leaving"
    GONE = "gone"


_H, _L, _V, _G = SessionState.HANDSHAKE, SessionState.LIVE, SessionState.LEAVING, SessionState.GONE
RECEIVED: Final[dict[SessionState, dict[Kind, SessionState]]] = {
    _H: {Kind.HELLO: _L, Kind.GOODBYE: _G},
    _L: {**dict.fromkeys((k for k in Kind if k is not Kind.HELLO), _L), Kind.GOODBYE: _G},
    _V: {**dict.fromkeys(Kind, _V), Kind.GOODBYE: _G},
    _G: {},
}


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What this end grants. Times in seconds, sizes in bytes."""

    frame: FrameLimits = DEFAULT_LIMITS
    window: int = 1 << 20
    requests: int = 512  # that the peer may have open here
    streams: int = 256  # open at once, both directions
    ping_interval: float = 2.0
    dead_after: float = 10.0


# ---- the machine ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Ping:
    sent: float = 0.0
    nonce: int = 0
    waiting: bool = False


@dataclass(slots=True)
class Session:
    """One end. ``client`` is the end that dialled. Call :meth:`start` once, then feed it.

    Methods that send raise :class:`LocalProtocolError` when the session is not live.
    """

    client: bool
    hello: Hello = field(default_factory=Hello)
    limits: SessionLimits = field(default_factory=SessionLimits)
    now: float = 0.0
    state: SessionState = SessionState.HANDSHAKE
    version: int = 0
    features: frozenset[str] = frozenset()
    output_size: int = 0
    streams: dict[int, StreamMachine] = field(default_factory=dict)
    _peer_frame: FrameLimits = DEFAULT_LIMITS
    _output: list[bytes | memoryview] = field(default_factory=list)
    _reader: FrameReader = field(init=False)
    _next_request: int = 1
    _next_stream: int = 0
    _asked: set[int] = field(default_factory=set)  # our requests that wait
    _serving: set[int] = field(default_factory=set)  # the peer's requests that wait
    _peer_request: int = 0  # highest id the peer used
    _peer_stream: int = 0
    _heard: float = 0.0
    _ping: _Ping = field(default_factory=_Ping)

    def __post_init__(self) -> None:
        self._reader = FrameReader(self.limits.frame)
        self._next_stream = 1 if self.client else 2
        self._heard = self.now

    # ---- output

    def _send(self, kind: Kind, *fields: Any) -> None:
        if self.state not in (SessionState.LIVE, SessionState.HANDSHAKE):
            raise LocalProtocolError(f"{kind.name} in a session that is {self.state.value}")
        self._queue(pack(kind, *fields, limits=self._peer_frame))

    def _queue(self, *chunks: bytes | memoryview) -> None:
        for chunk in chunks:
            self._output.append(chunk)
            self.output_size += len(chunk)

    def take_output(self, limit: int = 1 << 20) -> bytes:
        """The next bytes for the wire, about ``limit`` at most (one chunk may exceed it); empty when there are none."""
        taken, size = 0, 0
        while taken < len(self._output) and (size == 0 or size + len(self._output[taken]) <= limit):
            size += len(self._output[taken])
            taken += 1
        data = b"".join(self._output[:taken])
        del self._output[:taken]
        self.output_size -= size
        return data

    # ---- life of the session

    @property
    def over(self) -> bool:
        """Nothing will be received any more."""
        return self.state is SessionState.GONE

    @property
    def max_data(self) -> int:
        """Most bytes of one STREAM_DATA frame that the peer takes."""
        return min(self._peer_frame.frame - 64, self._peer_frame.binary)

    def start(self) -> None:
        """Queue our HELLO."""
        lo, hi = self.hello.versions
        body = {
            "versions": [lo, hi],
            "features": sorted(self.hello.features),
            "max_frame": self.hello.max_frame,
            "name": self.hello.name,
            "software": self.hello.software,
        }
        self._send(Kind.HELLO, MAGIC, body)

    def goodbye(self, code: str = "", reason: str = "") -> None:
        """Leave. Queues GOODBYE; nothing can be sent after it. Harmless when repeated."""
        if self.state in (SessionState.LIVE, SessionState.HANDSHAKE):
            self._send(Kind.GOODBYE, code, reason[:4096])
            self.state = SessionState.LEAVING

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> list[Event]:
        """Bytes of the peer; empty ``data`` is its EOF. Never raises: a protocol error is the last event,
        :class:`Failed`, behind the events of the frames before it."""
        self._heard = self.now = max(self.now, now)
        if self.over:
            return []
        if not data:
            torn = self._reader.pending
            self.state = SessionState.GONE
            return [PeerLeft("unavailable", f"connection ended inside a frame ({torn} bytes)" if torn else "ended")]
        self._reader.feed(data)
        events: list[Event] = []
        try:
            while not self.over and (body := self._reader.next_frame()) is not None:
                with body:
                    kind, fields = parse(body, self.limits.frame)
                self._dispatch(kind, fields, events)
        except RemoteProtocolError as error:
            self.goodbye("unsupported" if error.field == "hello.versions" else "invalid", str(error))
            self.state = SessionState.GONE
            events.append(Failed(error))
        return events

    def tick(self, now: float) -> list[Event]:
        """Time passes. Call it at :meth:`next_tick` or later."""
        self.now = max(self.now, now)
        silence = self.now - self._heard
        if self.state in (SessionState.GONE, SessionState.LEAVING):
            return []
        if silence >= self.limits.dead_after:
            self.state = SessionState.GONE
            return [PeerSilent(silence)]
        due = self._heard + self.limits.ping_interval
        if self.state is SessionState.LIVE and not self._ping.waiting and self.now >= due:
            self._ping = _Ping(self.now, self._ping.nonce + 1, True)
            self._send(Kind.PING, self._ping.nonce)
        return []

    def next_tick(self) -> float:
        """When :meth:`tick` has something to do, if the peer stays silent until then."""
        if self.state is SessionState.LIVE and not self._ping.waiting:
            return min(self._heard + self.limits.ping_interval, self._heard + self.limits.dead_after)
        return self._heard + self.limits.dead_after

    # ---- requests and notices

    def request(self, method: str, params: dict[str, Any], timeout: float) -> int:
        """Ask; the id comes back in ResponseArrived or ErrorArrived. ``timeout`` (seconds) is the peer's limit."""
        self._need_live("REQUEST")
        number = self._next_request
        timeout_ms = min(max(int(timeout * 1000), 1), MAX_TIMEOUT_MS)
        self._send(Kind.REQUEST, number, method, params, timeout_ms)
        self._next_request += 1
        self._asked.add(number)
        return number

    def cancel(self, number: int) -> None:
        """Stop waiting for an answer. Harmless when it came already."""
        if number in self._asked:
            self._asked.discard(number)
            if self.state is SessionState.LIVE:
                self._send(Kind.CANCEL, number)

    def respond(self, number: int, result: dict[str, Any]) -> None:
        """Answer a request of the peer; once."""
        self._answered(number)
        try:
            self._send(Kind.RESPONSE, number, result)
        except LocalProtocolError:
            self._serving.add(number)  # too large for the peer: the caller may still ``fail`` it
            raise

    def fail(self, number: int, code: str, message: str = "", details: dict[str, Any] | None = None) -> None:
        """Answer with an error; once."""
        self._answered(number)
        self._send(Kind.ERROR, number, code, message[:4096], details or {})

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send and forget."""
        self._need_live("NOTIFY")
        self._send(Kind.NOTIFY, method, params)

    def _answered(self, number: int) -> None:
        if number not in self._serving:
            raise LocalProtocolError(f"request {number} is not waiting for an answer")
        self._serving.discard(number)

    def _need_live(self, what: str) -> None:
        if self.state is not SessionState.LIVE:
            raise LocalProtocolError(f"{what} in a session that is {self.state.value}")

    # ---- streams

    def open_stream(self, method: str, params: dict[str, Any]) -> int:
        """Offer a stream; StreamAccepted or StreamReset follows. No data before that."""
        self._need_live("STREAM_OPEN")
        if len(self.streams) >= self.limits.streams:
            raise LocalProtocolError(f"{len(self.streams)} streams are open already")
        number = self._next_stream
        self._send(Kind.STREAM_OPEN, number, method, params, self.limits.window)
        self._next_stream += 2
        self.streams[number] = StreamMachine(number, State.OPENING, self.limits.window)
        return number

    def accept_stream(self, number: int) -> None:
        """Take an offered stream."""
        self._stream_sends(number, Kind.STREAM_ACCEPT, 0, self.limits.window)

    def credit(self, number: int) -> int:
        """How many bytes may be sent now; 0 for a stream that takes none."""
        stream = self.streams.get(number)
        if stream is None or stream.state not in (State.OPEN, State.RECEIVED):
            return 0
        return stream.send_credit

    def send_data(self, number: int, data: bytes | memoryview) -> None:
        """Queue bytes, at most :meth:`credit` of them. ``data`` must not change until ``take_output`` took it."""
        stream = self.streams.get(number)
        if stream is None:
            raise LocalProtocolError(f"stream {number} has ended")
        if data:
            stream.sent(Kind.STREAM_DATA, len(data))
            self._queue(data_prefix(number, len(data)), data)

    def close_stream(self, number: int) -> None:
        """Close our half."""
        self._stream_sends(number, Kind.STREAM_CLOSE, 0)

    def reset_stream(self, number: int, code: str = "cancelled", message: str = "") -> None:
        """End both halves. Harmless when the stream has ended."""
        if number in self.streams and self.state is SessionState.LIVE:
            self._stream_sends(number, Kind.STREAM_RESET, 0, code, message[:4096])

    def consumed(self, number: int, amount: int) -> None:
        """The reader took ``amount`` bytes of StreamData: credit goes back when it is worth a frame."""
        stream = self.streams.get(number)
        if stream is None or self.state is not SessionState.LIVE:
            return
        grant = stream.consumed(amount)
        if grant:
            self._send(Kind.STREAM_CREDIT, number, grant)

    def _stream_sends(self, number: int, kind: Kind, amount: int, *fields: Any) -> None:
        stream = self.streams.get(number)
        if stream is None:
            raise LocalProtocolError(f"stream {number} has ended")
        self._need_live(kind.name)
        stream.sent(kind, amount)
        self._send(kind, number, *fields)
        self._forget_ended(stream)

    def _forget_ended(self, stream: StreamMachine) -> None:
        if stream.state is State.ENDED:
            del self.streams[stream.id]

    # ---- what the peer sent

    def _dispatch(self, kind: Kind, fields: list[Any], events: list[Event]) -> None:
        nxt = RECEIVED[self.state].get(kind)
        if nxt is None:
            raise RemoteProtocolError(kind.name.lower(), f"session is {self.state.value}", "the session's rules")
        leaving = self.state is SessionState.LEAVING
        self.state = nxt
        if kind is Kind.GOODBYE:
            events.append(PeerLeft(*fields))
        elif leaving:
            return
        elif kind is Kind.HELLO:
            events.append(self._on_hello(fields[1]))
        elif kind in _STREAM_KINDS:
            self._on_stream(kind, fields, events)
        else:
            _ON[kind](self, fields, events)

    def _on_hello(self, body: dict[str, Any]) -> Event:
        peer = parse_hello(body)
        self.version = choose_version(self.hello.versions, peer.versions)
        self.features = self.hello.features & peer.features
        frame = min(peer.max_frame, self.limits.frame.frame)
        self._peer_frame = replace(self.limits.frame, frame=frame)
        return Established(self.version, self.features, peer)

    def _on_request(self, fields: list[Any], events: list[Event]) -> None:
        number, method, params, timeout_ms = fields
        if number <= self._peer_request:
            raise RemoteProtocolError("request.id", number, f"above {self._peer_request}")
        self._peer_request = number
        self._serving.add(number)
        if len(self._serving) > self.limits.requests:
            self.fail(number, "full", f"{self.limits.requests} requests are open already")
            return
        events.append(RequestArrived(number, method, params, self.now + timeout_ms / 1000))

    def _on_cancel(self, fields: list[Any], events: list[Event]) -> None:
        if fields[0] > self._peer_request:
            raise RemoteProtocolError("cancel.id", fields[0], "a request that was made")
        if fields[0] in self._serving:
            events.append(RequestCancelled(fields[0]))

    def _ours(self, name: str, number: int) -> bool:
        """Is the request of this answer still waited for?"""
        if number >= self._next_request:
            raise RemoteProtocolError(f"{name}.id", number, "a request that was made")
        waiting = number in self._asked
        self._asked.discard(number)
        return waiting

    def _on_response(self, fields: list[Any], events: list[Event]) -> None:
        if self._ours("response", fields[0]):
            events.append(ResponseArrived(*fields))

    def _on_error(self, fields: list[Any], events: list[Event]) -> None:
        if self._ours("error", fields[0]):
            events.append(ErrorArrived(*fields))

    def _on_notice(self, fields: list[Any], events: list[Event]) -> None:
        events.append(NoticeArrived(*fields))

    def _on_ping(self, fields: list[Any], events: list[Event]) -> None:
        self._send(Kind.PONG, fields[0])

    def _on_pong(self, fields: list[Any], events: list[Event]) -> None:
        if self._ping.waiting and fields[0] == self._ping.nonce:
            self._ping.waiting = False
            events.append(Pong(self.now - self._ping.sent))

    def _on_stream(self, kind: Kind, fields: list[Any], events: list[Event]) -> None:
        number = fields[0]
        if kind is Kind.STREAM_OPEN:
            self._on_open(fields, events)
            return
        stream = self.streams.get(number)
        if stream is None:
            ours = number % 2 == (1 if self.client else 0)
            if number >= self._next_stream if ours else number > self._peer_stream:
                raise RemoteProtocolError(f"{kind.name.lower()}.id", number, "a stream that was opened")
            return
        amount = len(fields[1]) if kind is Kind.STREAM_DATA else 0
        if kind in (Kind.STREAM_CREDIT, Kind.STREAM_ACCEPT):
            amount = fields[1]
        stream.received(kind, amount)
        self._forget_ended(stream)
        if kind is Kind.STREAM_ACCEPT:
            events.append(StreamAccepted(number))
        elif kind is Kind.STREAM_DATA:
            if fields[1]:
                events.append(StreamData(number, fields[1]))
        elif kind is Kind.STREAM_CREDIT:
            events.append(StreamWritable(number))
        elif kind is Kind.STREAM_CLOSE:
            events.append(StreamFinished(number))
        else:
            events.append(StreamReset(*fields))

    def _on_open(self, fields: list[Any], events: list[Event]) -> None:
        number, method, params, window = fields
        theirs = 0 if self.client else 1
        if number % 2 != theirs or number <= self._peer_stream:
            raise RemoteProtocolError("stream_open.id", number, f"above {self._peer_stream}, parity {theirs}")
        self._peer_stream = number
        stream = StreamMachine(number, State.OFFERED, self.limits.window)
        stream.send_credit = window
        self.streams[number] = stream
        if len(self.streams) > self.limits.streams:
            self.reset_stream(number, "full", f"{self.limits.streams} streams are open already")
            return
        events.append(StreamOffered(number, method, params))


_STREAM_KINDS: Final = frozenset(kind for kind in Kind if kind.name.startswith("STREAM_"))
_ON: Final = {
    Kind.REQUEST: Session._on_request,
    Kind.RESPONSE: Session._on_response,
    Kind.ERROR: Session._on_error,
    Kind.CANCEL: Session._on_cancel,
    Kind.NOTIFY: Session._on_notice,
    Kind.PING: Session._on_ping,
    Kind.PONG: Session._on_pong,
}
