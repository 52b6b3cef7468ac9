"""The tunnel datagram: golden vectors, C against Python both ways, tampering, replay, hostile payloads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgpack
import pytest

from node.core import ffi
from node.core import switch as switch_library
from protocol import tunnel
from protocol.errors import RemoteProtocolError
from protocol.replay import WINDOW, ReplayWindow

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "tunnel.json").read_text())["vectors"]
by_name = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
both_ciphers = pytest.mark.parametrize("cipher", list(tunnel.Cipher))

KEY = bytes(range(32))
FRAME = bytes.fromhex("ffffffffffff020000000001080045") + bytes(45)


def c_seal(cipher: int, key: bytes, header: bytes, plain: bytes) -> bytes:
    out, length = ffi.new("uint8_t[9216]"), ffi.new("size_t *", 9216)
    status = switch_library().wh_tunnel_seal(cipher, key, header, len(header), plain, len(plain), out, length)
    assert status == 0
    return bytes(ffi.buffer(out, length[0]))


def c_open(cipher: int, key: bytes, datagram: bytes) -> bytes | int:
    """The plaintext, or the status."""
    out, length = ffi.new("uint8_t[9216]"), ffi.new("size_t *", 9216)
    status = switch_library().wh_tunnel_open(cipher, key, datagram, len(datagram), out, length)
    return status if status else bytes(ffi.buffer(out, length[0]))


def as_payload(listed: list[Any]) -> tunnel.Payload:
    kind, *rest = listed
    if kind == 0:
        return (tunnel.Frame(rest[0], bytes.fromhex(rest[1])),)
    if kind == 1:
        return tuple(tunnel.Frame(vni, bytes.fromhex(data)) for vni, data in rest[0])
    return (tunnel.Probe if kind == 2 else tunnel.Answer)(*rest)


@by_name
def test_golden_vectors_in_python(vector: dict[str, Any]) -> None:
    key, sealed, plain = (bytes.fromhex(vector[name]) for name in ("key", "datagram", "plain"))
    header = tunnel.Header.decode(bytes.fromhex(vector["header"]))
    assert tunnel.seal(vector["cipher"], key, header, plain) == sealed
    assert tunnel.open_sealed(vector["cipher"], key, sealed) == (header, plain)
    assert tunnel.decode_payload(plain) == as_payload(vector["payload"])


@by_name
def test_golden_vectors_in_c(vector: dict[str, Any]) -> None:
    key, sealed, plain = (bytes.fromhex(vector[name]) for name in ("key", "datagram", "plain"))
    assert c_seal(vector["cipher"], key, bytes.fromhex(vector["header"]), plain) == sealed
    assert c_open(vector["cipher"], key, sealed) == plain


@both_ciphers
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 1400, 9000])
def test_each_opens_what_the_other_seals(cipher: int, length: int) -> None:
    header, plain, key = tunnel.Header(5, 1, 2, length + 1, tunnel.Type.RELAYED, 8), os.urandom(length), os.urandom(32)
    from_c, from_python = c_seal(cipher, key, header.encode(), plain), tunnel.seal(cipher, key, header, plain)
    assert from_c == from_python
    assert tunnel.open_sealed(cipher, key, from_c) == (header, plain)
    assert c_open(cipher, key, from_python) == plain


@both_ciphers
def test_every_tampered_byte_is_refused_but_the_hop_limit(cipher: int) -> None:
    sealed = tunnel.seal(cipher, KEY, tunnel.Header(1, 2, 3, 4, tunnel.Type.RELAYED, 8), b"payload")
    for at in range(len(sealed)):
        bad = bytearray(sealed)
        bad[at] ^= 0x01
        if at == 2:
            header, plain = tunnel.open_sealed(cipher, KEY, bytes(bad))
            assert (header.hops, plain) == (9, b"payload")
            assert c_open(cipher, KEY, bytes(bad)) == b"payload"
            continue
        with pytest.raises(RemoteProtocolError) as refused:
            tunnel.open_sealed(cipher, KEY, bytes(bad))
        assert refused.value.field in {"tag", "header.version", "header.reserved", "header.type"}
        assert c_open(cipher, KEY, bytes(bad)) in {-5, -7}


@both_ciphers
def test_every_truncation_is_refused(cipher: int) -> None:
    sealed = tunnel.seal(cipher, KEY, tunnel.Header(1, 2, 3, 4), b"payload")
    for length in range(len(sealed)):
        with pytest.raises(RemoteProtocolError):
            tunnel.open_sealed(cipher, KEY, sealed[:length])
        assert c_open(cipher, KEY, sealed[:length]) in {-5, -7}
    with pytest.raises(RemoteProtocolError) as refused:
        tunnel.open_sealed(cipher, KEY, sealed + bytes(9216))
    assert refused.value.field == "datagram"


def pair(cipher: int = 0) -> tuple[tunnel.Sender, tunnel.Receiver]:
    receiver = tunnel.Receiver(node=2, peer=1)
    receiver.install(1, cipher, KEY)
    return tunnel.Sender(node=1, peer=2, epoch=1, cipher=cipher, key=KEY), receiver


def test_replayed_and_reordered() -> None:
    sender, receiver = pair()
    first, second, third = (sender.seal((tunnel.Frame(7, FRAME),)) for _ in range(3))
    for datagram in (third, first, second):
        assert receiver.open(datagram)[1] == (tunnel.Frame(7, FRAME),)
    for datagram in (first, second, third):
        with pytest.raises(RemoteProtocolError, match="counter"):
            receiver.open(datagram)


def test_a_forged_datagram_does_not_move_the_window() -> None:
    sender, receiver = pair()
    good = sender.seal(tunnel.Probe(1, 2))
    forged = tunnel.seal(0, bytes(32), tunnel.Header(1, 1, 2, 10**6), b"x")
    with pytest.raises(RemoteProtocolError, match="tag"):
        receiver.open(forged)
    assert receiver.open(good)[1] == tunnel.Probe(1, 2)


def test_three_epochs_the_oldest_goes_unless_it_is_in_use() -> None:
    sender, receiver = pair()
    old = sender.seal(tunnel.Probe(1, 1))
    receiver.install(2, 1, bytes(32))
    assert receiver.open(old)
    receiver.install(1, 0, KEY)  # again: the window is kept
    with pytest.raises(RemoteProtocolError, match="counter"):
        receiver.open(old)
    for epoch in range(3, 9):
        receiver.install(epoch, 0, bytes([epoch]) * 32)
    assert receiver.open(sender.seal(tunnel.Probe(1, 2)))
    assert not receiver.drop(1)
    late = tunnel.Sender(1, 2, 6, 0, bytes([6]) * 32)
    with pytest.raises(RemoteProtocolError, match="epoch"):
        receiver.open(late.seal(tunnel.Probe(1, 3)))
    newest = tunnel.Sender(1, 2, 8, 0, bytes([8]) * 32)
    assert receiver.open(newest.seal(tunnel.Probe(1, 3)))
    assert receiver.drop(1)
    with pytest.raises(RemoteProtocolError, match="epoch"):
        receiver.open(sender.seal(tunnel.Probe(1, 4)))


def test_not_for_us_or_not_from_the_peer() -> None:
    _, receiver = pair()
    for node, peer in ((1, 3), (3, 2)):
        stranger = tunnel.Sender(node=node, peer=peer, epoch=1, cipher=0, key=KEY)
        with pytest.raises(RemoteProtocolError, match=r"header\.sender"):
            receiver.open(stranger.seal(tunnel.Probe(1, 1)))


def test_each_lane_has_its_counters_and_its_window() -> None:
    receiver = tunnel.Receiver(1, 2)
    receiver.install(1, 0, KEY)
    lanes = [tunnel.Sender(2, 1, 1, 0, KEY, lane=lane) for lane in (7, 0, 3)]
    sealed = [sender.seal(tunnel.Probe(i, 0)) for i, sender in enumerate(lanes * 2)]
    assert len({datagram[4:8] + datagram[16:24] for datagram in sealed}) == len(sealed)  # nonces
    for i, datagram in enumerate(sealed):
        header, payload = receiver.open(datagram)
        assert (header.lane, payload) == ((7, 0, 3)[i % 3], tunnel.Probe(i, 0))
        with pytest.raises(RemoteProtocolError, match="counter"):
            receiver.open(datagram)
    with pytest.raises(RemoteProtocolError, match=r"header\.lane"):
        receiver.open(tunnel.Sender(2, 1, 1, 0, KEY, lane=8).seal(tunnel.Probe(0, 0)))


def test_counter_starts_at_one_and_window_edges() -> None:
    window = ReplayWindow()
    assert not window.accept(0)
    assert window.accept(1)
    assert window.accept(WINDOW + 1)
    assert not window.check(1)
    assert window.accept(2)
    assert not window.accept(2)


@pytest.mark.parametrize(
    ("plain", "field"),
    [
        (b"", "payload"),
        (b"\xc1", "payload"),
        (msgpack.packb(7), "payload"),
        (msgpack.packb([]), "payload"),
        (msgpack.packb([0]), "payload"),
        (msgpack.packb([0, 7]), "payload"),
        (msgpack.packb([6, 0, 0]), "payload.kind"),
        (msgpack.packb([5, 7, 34, 16]), "payload"),
        (msgpack.packb([5, 7, 13, 0, bytes(60)]), "payload.start"),
        (msgpack.packb([5, 7, 50, 9, bytes(60)]), "payload.start"),
        (msgpack.packb([5, 7, 34, 128, bytes(300)]), "payload.offset"),
        (msgpack.packb([1, [[7, 34, FRAME]]]), "payload.batch"),
        (msgpack.packb([4, 7, FRAME]), "payload"),
        (msgpack.packb([4, 7, FRAME, b"short"]), "payload.mac"),
        (msgpack.packb([4, 7, FRAME, 6]), "payload.mac"),
        (msgpack.packb([4, 7, FRAME[:13], None]), "payload.frame"),
        (msgpack.packb([-1, 0, 0]), "payload.kind"),
        (msgpack.packb([True, 0, 0]), "payload.kind"),
        (msgpack.packb(["0", 7, FRAME]), "payload.kind"),
        (msgpack.packb([0, 0, FRAME]), "payload.vni"),
        (msgpack.packb([0, 1 << 24, FRAME]), "payload.vni"),
        (msgpack.packb([0, 7.0, FRAME]), "payload.vni"),
        (msgpack.packb([0, 7, FRAME.decode("latin-1")]), "payload.frame"),
        (msgpack.packb([0, 7, FRAME[:13]]), "payload.frame"),
        (msgpack.packb([0, 7, bytes(9019)]), "payload"),
        (msgpack.packb([1, 7]), "payload.batch"),
        (msgpack.packb([1, [[7, FRAME], 7]]), "payload.batch"),
        (msgpack.packb([1, [[7, FRAME, 1]]]), "payload.batch"),
        (msgpack.packb([1, [[7, b""]]]), "payload.frame"),
        (msgpack.packb([2, -1, 0]), "payload.probe"),
        (msgpack.packb([3, 0, "now"]), "payload.probe"),
        (b"\x91" * 3000, "payload"),
        (b"\xdd\xff\xff\xff\xff", "payload"),
        (b"\x93\x00\x07\xc6\xff\xff\xff\xff", "payload"),
    ],
)
def test_hostile_payloads_name_the_field(plain: bytes, field: str) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        tunnel.decode_payload(plain)
    assert refused.value.field == field


def test_newer_fields_are_ignored() -> None:
    assert tunnel.decode_payload(msgpack.packb([2, 1, 2, "more"]) + b"\xc0") == tunnel.Probe(1, 2)
    assert tunnel.decode_payload(msgpack.packb([1, []])) == ()


def test_a_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32"):
        tunnel.seal(0, b"short", tunnel.Header(1, 1, 2, 1), b"")
