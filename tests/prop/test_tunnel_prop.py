"""Properties of the tunnel: any payload survives, random bytes never escape the typed error, the window is exact."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import tunnel
from protocol.errors import RemoteProtocolError
from protocol.replay import WINDOW, ReplayWindow

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
FRAMES = st.builds(tunnel.Frame, st.integers(1, tunnel.VNI_MAX), st.binary(min_size=14, max_size=1500))
OPEN = st.builds(
    tunnel.Frame,
    st.integers(1, tunnel.VNI_MAX),
    st.binary(min_size=300, max_size=1500),
    st.tuples(st.integers(14, 170), st.integers(0, tunnel.OPEN_OFFSET_MAX)),
)
PAYLOADS = st.one_of(
    st.builds(tunnel.Probe, U64, U64),
    st.builds(tunnel.Answer, U64, U64),
    st.builds(tunnel.Moved, FRAMES, st.none() | st.binary(min_size=6, max_size=6)),
    st.lists(FRAMES | OPEN, max_size=4).map(tuple),
)
HEADERS = st.builds(tunnel.Header, U32, U32, U32, U64, st.sampled_from(list(tunnel.Type)), st.integers(0, 255))


@given(PAYLOADS)
def test_payloads_survive(payload: tunnel.Payload) -> None:
    assert tunnel.decode_payload(tunnel.encode_payload(payload)) == payload


@given(HEADERS)
def test_headers_survive(header: tunnel.Header) -> None:
    assert tunnel.Header.decode(header.encode()) == header


@given(HEADERS, st.binary(max_size=200), st.binary(min_size=32, max_size=32), st.sampled_from([0, 1]))
def test_sealed_opens(header: tunnel.Header, plain: bytes, key: bytes, cipher: int) -> None:
    assert tunnel.open_sealed(cipher, key, tunnel.seal(cipher, key, header, plain)) == (header, plain)


@given(st.binary(max_size=300))
def test_random_payloads_raise_only_the_typed_error(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        tunnel.decode_payload(data)


@given(st.binary(max_size=100), st.booleans())
def test_random_datagrams_are_refused(data: bytes, plausible: bool) -> None:
    receiver = tunnel.Receiver(node=2, peer=1)
    receiver.install(1, 0, bytes(32))
    if plausible:
        data = tunnel.Header(1, 1, 2, 5).encode() + data
    try:
        receiver.open(data)
    except RemoteProtocolError:
        return
    raise AssertionError("a random datagram was accepted")


@settings(max_examples=200)
@given(st.lists(st.one_of(st.integers(0, 3 * WINDOW), st.integers(WINDOW - 3, WINDOW + 3)), max_size=200))
def test_window_is_exact(counters: list[int]) -> None:
    window, seen = ReplayWindow(), set[int]()
    for counter in counters:
        top = max(seen, default=0)
        wanted = counter > 0 and counter not in seen and top - counter < WINDOW
        assert window.check(counter) == wanted
        assert window.accept(counter) == wanted
        if wanted:
            seen.add(counter)
        assert window.top == max(seen, default=0)
