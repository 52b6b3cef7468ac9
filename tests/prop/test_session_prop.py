"""Framing and sessions under every cutting of the byte stream."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import events as ev
from protocol.errors import RemoteProtocolError
from protocol.framing import FrameLimits, FrameReader, check_shape, pack_frame, unpack
from protocol.session import Session, SessionLimits, SessionState
from protocol.wire import Kind, pack, parse

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=40)
)
VALUES = st.recursive(
    SCALARS | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=8), inner, max_size=20),
    max_leaves=30,
)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """``data`` in pieces of these sizes, the last one with the rest."""
    pieces, pos = [], 0
    for size in sizes:
        pieces.append(data[pos : pos + size])
        pos += size
    return [piece for piece in (*pieces, data[pos:]) if piece]


def frames(reader: FrameReader) -> list[bytes]:
    got = []
    while (body := reader.next_frame()) is not None:
        with body:
            got.append(bytes(body))
    return got


@settings(deadline=None)
@given(st.lists(VALUES, max_size=6), st.lists(st.integers(1, 50), max_size=40))
def test_any_cutting_gives_the_same_frames(values: list[Any], sizes: list[int]) -> None:
    data = b"".join(pack_frame(value) for value in values)
    whole = FrameReader()
    whole.feed(data)
    expected = frames(whole)
    assert [unpack(body) for body in expected] == values
    for pieces in (cut(data, sizes), cut(data, [1] * len(data))):
        reader = FrameReader()
        got = []
        for piece in pieces:
            reader.feed(piece)
            got += frames(reader)
        assert got == expected
        assert reader.pending == 0


@settings(deadline=None)
@given(VALUES)
def test_shape_accepts_what_msgpack_makes(value: Any) -> None:
    check_shape(msgpack.packb(value))


@settings(deadline=None)
@given(VALUES, st.data())
def test_shape_refuses_every_truncation_and_every_tail(value: Any, data: st.DataObject) -> None:
    packed = msgpack.packb(value)
    length = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(RemoteProtocolError):
        check_shape(packed[:length])
    with pytest.raises(RemoteProtocolError):
        check_shape(packed + b"\xc0")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_shape_agrees_with_msgpack_on_random_bytes(data: bytes) -> None:
    """What passes the walk parses, or is refused for its text: never another exception."""
    try:
        check_shape(data)
    except RemoteProtocolError:
        return
    try:
        unpack(data)
    except RemoteProtocolError:
        return  # text that is not UTF-8, keys that are not text
    msgpack.unpackb(data)


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (b"\x91" * 17 + b"\xc0", "depth"),
        (b"\xdd\xff\xff\xff\xff", "array"),
        (b"\xdf\xff\xff\xff\xff", "map"),
        (b"\xdc\x10\x00" + b"\xdc\x10\x00" * 5, "array"),
        (b"\xdb\xff\xff\xff\xff", "string"),
        (b"\xc6\xff\xff\xff\xff", "binary"),
        (b"\xd4\x01\x00", "extension"),
        (b"\xc7\x01\x01\x00", "extension"),
        (b"\xc1", "extension"),
        (b"", "complete"),
        (b"\xcd\x00", "complete"),
        (b"\xdc\x00", "complete"),
    ],
)
def test_hostile_shapes_are_refused_before_anything_is_built(data: bytes, limit: str) -> None:
    with pytest.raises(RemoteProtocolError, match=limit):
        check_shape(data)


def test_bad_text_and_bad_keys_are_refused() -> None:
    twice = b"\x82\xa1a\x01\xa1a\x02"
    for data in (b"\xa1\xff", b"\x81\x01\x02", b"\x81\x90\x02", b"\x81\xc4\x01a\x02", twice):
        with pytest.raises(RemoteProtocolError):
            unpack(data)


def test_many_values_are_bounded() -> None:
    limits = FrameLimits(values=100)
    check_shape(msgpack.packb([0] * 99), limits)
    with pytest.raises(RemoteProtocolError, match="values"):
        check_shape(msgpack.packb([0] * 100), limits)


@pytest.mark.parametrize("length", [0, (16 << 20) + (64 << 10) + 1, 0xFFFFFFFF])
def test_lengths_out_of_bounds(length: int) -> None:
    reader = FrameReader()
    reader.feed(length.to_bytes(4, "big"))
    with pytest.raises(RemoteProtocolError, match=r"frame\.length"):
        reader.next_frame()


ACTIONS = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["request", "answer", "fail", "cancel", "notice", "open", "accept", "data",
                                              "close", "reset", "eat", "tick"]), st.integers(0, 400)),
    max_size=60,
)  # fmt: skip


class End:
    """One session and what its user saw."""

    def __init__(self, client: bool) -> None:
        self.session = Session(client, limits=SessionLimits(window=500, streams=8, requests=8))
        self.session.start()
        self.log: list[Any] = []
        self.asked: list[int] = []
        self.serving: list[int] = []
        self.offered: list[int] = []
        self.sent: dict[int, bytes] = {}
        self.got: dict[int, bytes] = {}
        self.unread: dict[int, int] = {}

    def take(self, events: list[ev.Event]) -> None:
        for event in events:
            self.log.append(event)
            assert not isinstance(event, ev.Failed), event
            if isinstance(event, ev.RequestArrived):
                self.serving.append(event.id)
            elif isinstance(event, ev.StreamOffered):
                self.offered.append(event.id)
            elif isinstance(event, ev.StreamData):
                self.got[event.id] = self.got.get(event.id, b"") + event.data
                self.unread[event.id] = self.unread.get(event.id, 0) + len(event.data)
                assert self.unread[event.id] <= 500, "more than a window is buffered"

    def act(self, what: str, number: int) -> None:
        s = self.session
        streams = sorted(s.streams)
        stream = streams[number % len(streams)] if streams else 0
        if what == "request":
            self.asked.append(s.request("a.b", {"n": number}, 5))
        elif what == "cancel" and self.asked:
            s.cancel(self.asked[number % len(self.asked)])
        elif what in ("answer", "fail") and self.serving:
            request = self.serving.pop(number % len(self.serving))
            s.respond(request, {"n": number}) if what == "answer" else s.fail(request, "full", "no")
        elif what == "notice":
            s.notify("a.c", {"n": number})
        elif what == "open" and len(streams) < 3:
            s.open_stream("a.s", {})
        elif what == "accept" and self.offered:
            offered = self.offered.pop()
            if offered in s.streams:
                s.accept_stream(offered)
        elif what == "data" and stream and s.credit(stream):
            data = bytes([number % 256]) * min(number, s.credit(stream))
            s.send_data(stream, data)
            self.sent[stream] = self.sent.get(stream, b"") + data
        elif what == "close" and stream and s.streams[stream].state.value in ("open", "received"):
            s.close_stream(stream)
        elif what == "reset" and stream and number % 8 == 0:
            s.reset_stream(stream)
        elif what == "eat" and self.unread:
            which = sorted(self.unread)[number % len(self.unread)]
            s.consumed(which, self.unread.pop(which))
        elif what == "tick":
            s.tick(s.now + 2.5)


@settings(max_examples=150, deadline=None)
@given(ACTIONS, st.lists(st.integers(1, 90), min_size=1, max_size=10))
def test_two_sessions_never_accuse_each_other(actions: list[tuple[bool, str, int]], sizes: list[int]) -> None:
    ends = (End(True), End(False))
    now = 0.0

    def exchange(limit: int = 10**9) -> None:
        nonlocal now
        for source, sink in ((0, 1), (1, 0)):
            while limit and (data := ends[source].session.take_output(400)):
                limit -= 1
                for piece in cut(data, sizes * (len(data) // sum(sizes) + 1)):
                    now += 0.001
                    ends[sink].take(ends[sink].session.receive(piece, now))

    exchange()
    for turn, (side, what, number) in enumerate(actions):
        ends[side].act(what, number)
        if turn % 3 == 0:
            exchange(2)
    exchange()
    exchange()
    for end, other in ((ends[0], ends[1]), (ends[1], ends[0])):
        assert end.session.state is SessionState.LIVE
        for stream, data in other.sent.items():
            assert data.startswith(end.got.get(stream, b""))
            if stream in end.session.streams and stream in other.session.streams:
                assert end.got.get(stream, b"") == data
        answered = [e.id for e in end.log if isinstance(e, ev.ResponseArrived | ev.ErrorArrived)]
        assert len(answered) == len(set(answered))


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(list(Kind)), st.lists(VALUES, max_size=5))
def test_a_frame_is_parsed_or_refused(kind: Kind, fields: list[Any]) -> None:
    frame = pack(kind, *fields)
    field = ""
    try:
        parsed, _ = parse(frame[4:])
        assert parsed is kind
    except RemoteProtocolError as error:
        field = error.field
    assert not field or field.startswith((kind.name.lower(), "frame"))
