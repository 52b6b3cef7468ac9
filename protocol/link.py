"""The pump: a :class:`protocol.session.Session` over a trio stream, and what coordinator and node program against.

One link is one nursery: a reader, a writer, a heartbeat, a queue for notices, and a task for each request and stream
that the peer opened. :func:`open_link` owns it all: when its block ends, or the peer is gone, every task ends, every
waiting call raises ``LinkClosed`` and every stream breaks. It owns the byte stream that it was given and closes it.

Memory is bounded: calls and streams wait while more than ``HIGH_WATER`` bytes are queued for the wire; a peer that
makes us queue ``OUTPUT_CAP`` bytes of answers without reading them, or sends notices faster than they are handled
(``NOTICES``), loses the session with ``full``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import trio

from protocol import events as ev
from protocol.authority import ANONYMOUS, allowed
from protocol.codec import decode, encode
from protocol.errors import (
    LinkClosed,
    LinkTimeout,
    LocalProtocolError,
    Refused,
    RemoteError,
    RemoteProtocolError,
)
from protocol.linkstream import LinkStream
from protocol.messages import BY_METHOD, Empty, Message, Notice, Request, StreamOpen
from protocol.session import Session, SessionLimits
from protocol.tls import (
    PeerIdentity,
    identity_from_certificate,
)
from protocol.tlsstream import TlsStream

log = logging.getLogger("wherry.link")

READ_SIZE: Final = 256 << 10
HIGH_WATER: Final = 1 << 20
LOW_WATER: Final = 512 << 10
OUTPUT_CAP: Final = 64 << 20
NOTICES: Final = 4096
BULK: Final = 2  # SO_PRIORITY, as TC_PRIO_BULK of linux/pkt_sched.h
HANDSHAKE_TIMEOUT: Final = 10.0
CLOSE_TIMEOUT: Final = 1.0


@dataclass(frozen=True, slots=True)
class LocalIdentity:
    """How this end introduces itself in HELLO; informative, the certificate decides."""

    name: str
    software: str = "wherry"


@dataclass(slots=True)
class Peer:
    """The other end. ``role``, ``node`` and ``cluster`` come from its certificate; the rest from its HELLO."""

    role: str
    node: int = 0
    cluster: str = ""
    name: str = ""
    software: str = ""
    address: str = ""
    features: frozenset[str] = frozenset()
    rtt: float = math.nan  # seconds, of the last heartbeat


@dataclass(slots=True)
class _Waiting:
    done: trio.Event = field(default_factory=trio.Event)
    result: dict[str, Any] | None = None
    error: Exception | None = None


RequestHandler = Callable[..., Awaitable[Message | None]]
NoticeHandler = Callable[..., Awaitable[None]]
StreamHandler = Callable[..., Awaitable[None]]


class Answers(Protocol):
    """What this end answers, by message class: :class:`protocol.handlers.Handlers`."""

    @property
    def requests(self) -> Mapping[type[Request], RequestHandler]: ...
    @property
    def notices(self) -> Mapping[type[Notice], NoticeHandler]: ...
    @property
    def streams(self) -> Mapping[type[StreamOpen], StreamHandler]: ...


class Link:
    """One live session. Made by :func:`open_link` only."""

    def __init__(self, session: Session, stream: trio.abc.Stream, handlers: Answers, peer: Peer) -> None:
        self.session = session
        self.peer = peer
        self.reason = ""
        self._stream = stream
        self._handlers = handlers
        self._bulk = 0
        self._nursery: trio.Nursery | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._serving: dict[int, trio.CancelScope] = {}
        self._streams: dict[int, LinkStream] = {}
        self._output = trio.Event()
        self._room = trio.Event()
        self._established = trio.Event()
        self._closed = trio.Event()
        self._drained = trio.Event()
        notices = trio.open_memory_channel[Notice](NOTICES)
        self._notices_in, self._notices_out = notices

    def __repr__(self) -> str:
        return f"<Link {self.peer.role} {self.peer.node or ''} {self.peer.address} {self.session.state.value}>"

    # ---- what users call

    def carry_bulk(self, more: int) -> None:
        """``more`` 1: a bulk transfer begins on this link, -1: it is over. While there is one, what this end sends goes
        behind other traffic of the host, above all behind the frames of its guests."""
        was, self._bulk = self._bulk, self._bulk + more
        set_priority = getattr(self._stream, "set_priority", None)
        if set_priority is not None and bool(was) != bool(self._bulk):
            set_priority(BULK if self._bulk else 0)

    @property
    def closed(self) -> bool:
        """The session is over or we are leaving it."""
        return self._closed.is_set()

    async def call(self, request: Request, *, timeout: float = 10.0) -> Any:
        """The checked answer, an instance of ``request.answer``.

        Raises :class:`RemoteError`, :class:`LinkTimeout`, :class:`LinkClosed`, :class:`RemoteProtocolError` (the
        answer is malformed). Cancellation and timeout tell the peer to stop.
        """
        waiting = _Waiting()
        number = 0
        try:
            with trio.move_on_after(timeout):
                if self.congested:
                    await self.wait_room()
                else:
                    await trio.lowlevel.checkpoint_if_cancelled()  # it waits for the answer: the request goes at once
                self._check_open()
                number = self.session.request(request.method, encode(request), timeout)
                self._waiting[number] = waiting
                self.flush()
                await waiting.done.wait()
        finally:
            self._waiting.pop(number, None)
            if number and not waiting.done.is_set():
                self.session.cancel(number)
                self.flush()
        if not waiting.done.is_set():
            raise LinkTimeout(f"{request.method}: no answer within {timeout:g} s")
        if waiting.error is not None:
            raise waiting.error
        return decode(request.answer, waiting.result)

    async def notify(self, notice: Notice) -> None:
        """Send one way. Returning does not mean that it arrived. Raises :class:`LinkClosed`."""
        await self.wait_room()
        self._check_open()
        self.session.notify(notice.method, encode(notice))
        self.flush()

    async def open_stream(self, opening: StreamOpen, *, timeout: float = 10.0) -> LinkStream:
        """A byte stream to the peer's handler. Raises like :meth:`call`."""
        await self.wait_room()
        self._check_open()
        number = self.session.open_stream(opening.method, encode(opening))
        stream = self._streams[number] = LinkStream(self, number, offered=False)
        self.flush()
        opened = False
        try:
            with trio.move_on_after(timeout):
                await stream.wait_opened()
                opened = True
        finally:
            if not opened:
                stream.abort("cancelled", "the opener gave up")
        if not opened:
            raise LinkTimeout(f"{opening.method}: not accepted within {timeout:g} s")
        return stream

    async def aclose(self) -> None:
        """Say GOODBYE, write what is queued (for a second at most), close."""
        with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_TIMEOUT):
            self.session.goodbye("", "closed")
            self._end("closed here")
            await self._drained.wait()
        await trio.aclose_forcefully(self._stream)

    async def wait_closed(self) -> None:
        """Until the session is over; ``reason`` then says why."""
        await self._closed.wait()

    # ---- output

    @property
    def congested(self) -> bool:
        """More is queued for the wire than should be."""
        return self.session.output_size >= HIGH_WATER and not self.closed

    async def wait_room(self) -> None:
        """Until the wire has taken enough; a checkpoint in any case."""
        await trio.lowlevel.checkpoint()
        while self.congested:
            await self._room.wait()

    def flush(self) -> None:
        """Wake the writer: the session has output."""
        self._output.set()
        if self.session.output_size > OUTPUT_CAP:
            self._end(f"peer does not read: {self.session.output_size} bytes are queued")

    def _check_open(self) -> None:
        if self.closed:
            raise LinkClosed(self.reason)

    async def _write_loop(self) -> None:
        try:
            while True:
                data = self.session.take_output()
                if self.session.output_size < LOW_WATER:
                    self._room.set()
                    self._room = trio.Event()
                if data:
                    await self._stream.send_all(data)
                elif self.closed:
                    return
                else:
                    await self._output.wait()
                    self._output = trio.Event()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._end(f"connection lost: {error.__cause__ or error}")
        finally:
            self._drained.set()

    # ---- input

    async def _read_loop(self) -> None:
        try:
            while not self.session.over:
                data = await self._stream.receive_some(READ_SIZE)
                for event in self.session.receive(data, trio.current_time()):
                    self._on_event(event)
                self.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._end(f"connection lost: {error.__cause__ or error}")

    async def _heartbeat_loop(self) -> None:
        while not self.closed:
            now = trio.current_time()
            for event in self.session.tick(now):
                self._on_event(event)
            self.flush()
            await trio.sleep_until(min(self.session.next_tick(), now + self.session.limits.ping_interval))

    def _on_event(self, event: ev.Event) -> None:
        match event:
            case ev.StreamData(number, data):
                self._streams[number].feed(data) if number in self._streams else self.stream_consumed(number, len(data))
            case ev.StreamWritable(number) | ev.StreamAccepted(number):
                self._tell(number, LinkStream.writable)
            case ev.StreamFinished(number):
                self._tell(number, LinkStream.finish)
            case ev.StreamReset(number, code, message):
                self._tell(number, lambda stream: stream.fail(code, message))
            case ev.ResponseArrived(number, result):
                self._answer(number, result, None)
            case ev.ErrorArrived(number, code, message, details):
                self._answer(number, None, RemoteError(code, message, details))
            case ev.RequestArrived():
                self._spawn(self._serve_request, event)
            case ev.RequestCancelled(number):
                if number in self._serving:
                    self._serving[number].cancel()
            case ev.NoticeArrived(method, params):
                self._queue_notice(method, params)
            case ev.StreamOffered():
                self._spawn(self._serve_stream, event)
            case ev.Pong(rtt):
                self.peer.rtt = rtt
            case ev.Established(_, features, hello):
                self.peer.name, self.peer.software, self.peer.features = hello.name, hello.software, features
                self._established.set()
            case ev.PeerLeft(code, reason):
                self._end(f"peer left: {code} {reason}".rstrip())
            case ev.PeerSilent(silence):
                self._end(f"peer silent for {silence:.1f} s")
            case ev.Failed(error):
                log.warning("%r broke the protocol: %s", self, error)
                self._end(f"protocol error: {error}")

    def _spawn(self, fn: Callable[[Any], Awaitable[None]], event: object) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(fn, event)

    def _tell(self, number: int, what: Callable[[LinkStream], None]) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            what(stream)

    def _answer(self, number: int, result: dict[str, Any] | None, error: Exception | None) -> None:
        waiting = self._waiting.get(number)
        if waiting is not None:
            waiting.result, waiting.error = result, error
            waiting.done.set()

    def _end(self, reason: str) -> None:
        """The one place where a link dies: everybody who waits for it learns it here."""
        if self._closed.is_set():
            return
        self.reason = reason
        self._closed.set()
        for waiting in self._waiting.values():
            if not waiting.done.is_set():
                waiting.error = LinkClosed(reason)
                waiting.done.set()
        for stream in list(self._streams.values()):
            stream.fail("unavailable", f"link closed: {reason}")
        for scope in self._serving.values():
            scope.cancel()
        self._room.set()
        self._established.set()
        self._output.set()

    # ---- serving the peer

    def _known(
        self, kind: type[Message], table: Mapping[Any, Any], method: str, params: dict[str, Any]
    ) -> tuple[Any, Any]:
        """Handler and checked message; raises Refused. Authority comes before existence: outsiders learn nothing."""
        if not allowed(self.peer.role, method):
            raise Refused("forbidden", f"{method} is not for a peer with role {self.peer.role}")
        cls = BY_METHOD.get(method)
        if cls is None or not issubclass(cls, kind) or cls not in table:
            raise Refused("unsupported", f"{method} is not served here")
        try:
            return table[cls], decode(cls, params)
        except RemoteProtocolError as error:
            details = {"field": error.field, "value": error.value, "allowed": error.allowed}
            raise Refused("invalid", str(error)[:4096], **details) from None

    async def _serve_request(self, event: ev.RequestArrived) -> None:
        scope = self._serving[event.id] = trio.CancelScope(deadline=event.deadline)
        answer: Message | Refused | None = None
        try:
            with scope:
                answer = await self._ask_handler(event)
        finally:
            del self._serving[event.id]
        if answer is None:
            late = trio.current_time() >= event.deadline
            answer = Refused("timeout" if late else "cancelled", f"{event.method} was not finished")
        try:
            if isinstance(answer, Refused):
                self.session.fail(event.id, answer.code, answer.message, answer.details)
            else:
                self.session.respond(event.id, encode(answer))
        except LocalProtocolError as error:
            if not self.closed and not self.session.over:
                log.error("%r: answer to %s cannot be sent: %s", self, event.method, error)
                self.session.fail(event.id, "internal", "the answer cannot be sent")
        self.flush()

    async def _ask_handler(self, event: ev.RequestArrived) -> Message | Refused:
        try:
            handler, request = self._known(Request, self._handlers.requests, event.method, event.params)
            answer = await handler(self, request)
            answer = Empty() if answer is None else answer
            if not isinstance(answer, request.answer):
                raise TypeError(f"handler of {event.method} gave {type(answer).__name__}")
            return answer  # type: ignore[no-any-return]
        except Refused as refused:
            return refused
        except Exception:
            log.exception("%r: handler of %s crashed", self, event.method)
            return Refused("internal", f"{event.method} failed here; the log says why")

    def _queue_notice(self, method: str, params: dict[str, Any]) -> None:
        try:
            _, notice = self._known(Notice, self._handlers.notices, method, params)
        except Refused as refused:
            log.debug("%r: notice dropped: %s", self, refused)
            return
        try:
            self._notices_in.send_nowait(notice)
        except trio.WouldBlock:
            self.session.goodbye("full", f"{NOTICES} notices wait")
            self._end(f"peer sends notices faster than they are handled ({NOTICES} wait)")

    async def _notice_loop(self) -> None:
        async for notice in self._notices_out:
            try:
                await self._handlers.notices[type(notice)](self, notice)
            except Exception:
                log.exception("%r: handler of %s crashed", self, notice.method)

    async def _serve_stream(self, event: ev.StreamOffered) -> None:
        stream = self._streams[event.id] = LinkStream(self, event.id, offered=True)
        try:
            handler, opening = self._known(StreamOpen, self._handlers.streams, event.method, event.params)
            await handler(self, opening, stream)
            await stream.aclose()
        except Refused as refused:
            stream.abort(refused.code, refused.message)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.debug("%r: stream %s ended: %s", self, event.method, error)
        except Exception:
            log.exception("%r: handler of stream %s crashed", self, event.method)
            stream.abort("internal", f"{event.method} failed here; the log says why")
        finally:
            stream.abort("cancelled", "handler ended")

    def stream_consumed(self, number: int, amount: int) -> None:
        """For LinkStream: its reader took bytes."""
        before = self.session.output_size
        self.session.consumed(number, amount)
        if self.session.output_size != before:
            self.flush()

    def drop_stream(self, number: int, code: str, message: str) -> None:
        """For LinkStream: it is closed; reset it unless it ended by itself."""
        self._streams.pop(number, None)
        self.session.reset_stream(number, code, message)
        self.flush()

    # ---- life

    async def _run(self, nursery: trio.Nursery, timeout: float) -> None:
        self._nursery = nursery
        self.session.start()
        nursery.start_soon(self._write_loop)
        nursery.start_soon(self._read_loop)
        with trio.move_on_after(timeout):
            await self._established.wait()
        if self.closed:
            raise LinkClosed(self.reason)
        if not self._established.is_set():
            raise LinkTimeout(f"no HELLO within {timeout:g} s")
        nursery.start_soon(self._heartbeat_loop)
        nursery.start_soon(self._notice_loop)


@asynccontextmanager
async def open_link(
    stream: trio.abc.Stream,
    *,
    identity: LocalIdentity,
    handlers: Answers,
    client: bool,
    peer: PeerIdentity | None = None,
    limits: SessionLimits | None = None,
    address: str = "",
    timeout: float = HANDSHAKE_TIMEOUT,
) -> AsyncIterator[Link]:
    """A live link over ``stream``, which it owns. ``client`` is true at exactly one end: the one that dialled.

    ``peer`` is taken from the verified certificate when ``stream`` speaks TLS; a stream that does not is ``anonymous``
    unless the caller says otherwise. Raises :class:`LinkClosed` or :class:`LinkTimeout` when HELLO does not come.
    The block is not cancelled when the peer goes: calls raise, and :meth:`Link.wait_closed` returns.
    """
    who = peer or stream_identity(stream)
    hello = ev.Hello(name=identity.name, software=identity.software)
    session = Session(client, hello, limits or SessionLimits(), now=trio.current_time())
    link = Link(session, stream, handlers, Peer(who.role, who.node, who.cluster, address=address))
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            await link._run(nursery, timeout)
            yield link
        except BaseException as error:
            failure = error
        finally:
            await link.aclose()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def stream_identity(stream: trio.abc.Stream) -> PeerIdentity:
    """Who the other end of a TLS stream (after its handshake) proved to be."""
    if isinstance(stream, TlsStream | trio.SSLStream):
        return identity_from_certificate(stream.getpeercert())
    return PeerIdentity(ANONYMOUS)
