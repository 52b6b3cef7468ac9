"""The tunnel datagram: reference implementation of SPEC.md, section "Tunnel".

Slow and plain, for tests and tools; the data path is ``csrc/switch``, and each opens what the other seals. No I/O and
no clock. Whatever is wrong with a datagram is a :class:`protocol.errors.RemoteProtocolError` whose ``field`` says which
check refused it: ``datagram`` or ``header.*`` (shape), ``epoch`` (no such key), ``counter`` (replay), ``tag``
(authentication), ``payload*`` (what was sealed is no payload).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, replace
from typing import Any, Final

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from protocol.errors import RemoteProtocolError
from protocol.replay import ReplayWindow

VERSION: Final = 1
HEADER: Final = struct.Struct("!BBBBIIIQ")
TAG_BYTES: Final = 16
OVERHEAD: Final = HEADER.size + TAG_BYTES
DATAGRAM_MAX: Final = 9216
FRAME_MIN: Final = 14
FRAME_MAX: Final = 9018  # MTU 9000, Ethernet header, one VLAN tag
OPEN_OFFSET_MAX: Final = 127
HOPS: Final = 8
LANES: Final = 8
LANE_SHIFT: Final = 56
VNI_MAX: Final = 0xFFFFFF


class Cipher(enum.IntEnum):
    AES256_GCM = 0
    CHACHA20_POLY1305 = 1


class Type(enum.IntEnum):
    DIRECT = 1  # not to be relayed: the source address is the sender's own
    RELAYED = 2  # may pass other nodes


@dataclass(frozen=True, slots=True)
class Header:
    """The 24 clear bytes. ``hops`` changes on the way and is therefore zero in what is authenticated. ``counter`` has
    the lane in its top byte."""

    epoch: int
    sender: int
    dest: int
    counter: int
    type: Type = Type.DIRECT
    hops: int = 1

    @property
    def lane(self) -> int:
        return self.counter >> LANE_SHIFT

    def encode(self) -> bytes:
        return HEADER.pack(VERSION, self.type, self.hops, 0, self.epoch, self.sender, self.dest, self.counter)

    def aad(self) -> bytes:
        return replace(self, hops=0).encode()

    def nonce(self) -> bytes:
        return struct.pack("!IQ", self.epoch, self.counter)

    @staticmethod
    def decode(data: bytes) -> Header:
        if len(data) < HEADER.size:
            raise RemoteProtocolError("datagram", data, f"at least {HEADER.size} bytes")
        version, kind, hops, reserved, epoch, sender, dest, counter = HEADER.unpack_from(data)
        if version != VERSION:
            raise RemoteProtocolError("header.version", version, str(VERSION))
        if kind not in (Type.DIRECT, Type.RELAYED):
            raise RemoteProtocolError("header.type", kind, "1 or 2")
        if reserved != 0:
            raise RemoteProtocolError("header.reserved", reserved, "0")
        return Header(epoch, sender, dest, counter, Type(kind), hops)


# ---- payloads -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """``open``: (start, offset) of a checksum that is still to be filled in: the sum of the bytes from ``start`` to the
    end belongs at ``start + offset``, where that of the pseudo header stands."""

    vni: int
    data: bytes
    open: tuple[int, int] | None = None

    def fields(self) -> list[Any]:
        return [self.vni, *(self.open or ()), self.data]


@dataclass(frozen=True, slots=True)
class Moved:
    """A frame that follows a guest which has moved. ``mac``: whose port it is for, None: the frame's destination."""

    frame: Frame
    mac: bytes | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    id: int
    time: int


@dataclass(frozen=True, slots=True)
class Answer:
    id: int
    time: int


Payload = tuple[Frame, ...] | Moved | Probe | Answer


def encode_payload(payload: Payload) -> bytes:
    match payload:
        case Probe(id=ident, time=time):
            items: list[Any] = [2, ident, time]
        case Answer(id=ident, time=time):
            items = [3, ident, time]
        case Moved(frame=frame, mac=mac):
            items = [4, frame.vni, frame.data, mac]
        case (frame,):
            items = [5 if frame.open else 0, *frame.fields()]
        case _:
            items = [1, [frame.fields() for frame in payload]]
    encoded: bytes = msgpack.packb(items, use_bin_type=True)
    return encoded


def _number(value: Any, field: str, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise RemoteProtocolError(field, value, f"0..{limit}")
    return value


def _frame(vni: Any, data: Any) -> Frame:
    if not isinstance(data, bytes) or not FRAME_MIN <= len(data) <= FRAME_MAX:
        raise RemoteProtocolError("payload.frame", data, f"{FRAME_MIN}..{FRAME_MAX} bytes")
    if _number(vni, "payload.vni", VNI_MAX) == 0:
        raise RemoteProtocolError("payload.vni", vni, f"1..{VNI_MAX}")
    return Frame(vni, data)


def decode_payload(data: bytes) -> Payload:
    """Elements behind those that a kind defines, and bytes behind the array, belong to newer versions: ignored."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=DATAGRAM_MAX, max_bin_len=FRAME_MAX, max_str_len=256, max_array_len=1024, max_map_len=64
    )
    try:
        unpacker.feed(data)
        items = unpacker.unpack()
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError("payload", data, "one msgpack array") from error
    if not isinstance(items, list) or len(items) < 2:
        raise RemoteProtocolError("payload", items, "an array [kind, ...]")
    kind, fields = _number(items[0], "payload.kind", 5), items[1:]
    if kind == 1:
        return _batch(fields[0])
    if len(fields) < 2:
        raise RemoteProtocolError("payload", items, "two fields behind the kind")
    if kind == 0:
        return (_frame(fields[0], fields[1]),)
    if kind == 4:
        return _moved(fields)
    if kind == 5:
        if len(fields) < 4:
            raise RemoteProtocolError("payload", items, "[5, vni, start, offset, frame]")
        return (_open_frame(*fields[:4]),)
    ident, time = (_number(value, "payload.probe", 2**64 - 1) for value in fields[:2])
    return Probe(ident, time) if kind == 2 else Answer(ident, time)


def _open_frame(vni: Any, start: Any, offset: Any, data: Any) -> Frame:
    frame = _frame(vni, data)
    end = _number(start, "payload.start", FRAME_MAX) + _number(offset, "payload.offset", OPEN_OFFSET_MAX) + 2
    if start < FRAME_MIN or end > len(frame.data):
        raise RemoteProtocolError("payload.start", start, "a checksum inside the frame, behind its Ethernet header")
    return Frame(frame.vni, frame.data, (start, offset))


def _moved(fields: list[Any]) -> Moved:
    if len(fields) < 3:
        raise RemoteProtocolError("payload", fields, "[4, vni, frame, mac]")
    mac = fields[2]
    if mac is not None and (not isinstance(mac, bytes) or len(mac) != 6):
        raise RemoteProtocolError("payload.mac", mac, "6 bytes or nil")
    return Moved(_frame(fields[0], fields[1]), mac)


def _batch(entries: Any) -> tuple[Frame, ...]:
    if not isinstance(entries, list):
        raise RemoteProtocolError("payload.batch", entries, "an array of frames")
    frames = []
    for entry in entries:
        if not isinstance(entry, list) or len(entry) not in (2, 4):
            raise RemoteProtocolError("payload.batch", entry, "[vni, frame] or [vni, start, offset, frame]")
        frames.append(_frame(*entry) if len(entry) == 2 else _open_frame(*entry))
    return tuple(frames)


# ---- sealing --------------------------------------------------------------------------------------------------------


def _aead(cipher: int, key: bytes) -> AESGCM | ChaCha20Poly1305:
    if len(key) != 32:
        raise ValueError(f"a tunnel key has 32 bytes, not {len(key)}")
    return AESGCM(key) if Cipher(cipher) is Cipher.AES256_GCM else ChaCha20Poly1305(key)


def seal(cipher: int, key: bytes, header: Header, plain: bytes) -> bytes:
    """One datagram. The caller never uses a (key, epoch, counter) twice."""
    return header.encode() + _aead(cipher, key).encrypt(header.nonce(), plain, header.aad())


def open_sealed(cipher: int, key: bytes, datagram: bytes) -> tuple[Header, bytes]:
    """Header and plaintext of an authentic datagram. Knows no replays: that is :class:`Receiver`'s part."""
    if not OVERHEAD <= len(datagram) <= DATAGRAM_MAX:
        raise RemoteProtocolError("datagram", datagram, f"{OVERHEAD}..{DATAGRAM_MAX} bytes")
    header = Header.decode(datagram)
    try:
        plain = _aead(cipher, key).decrypt(header.nonce(), datagram[HEADER.size :], header.aad())
    except InvalidTag as error:
        raise RemoteProtocolError("tag", datagram, "an authentic datagram") from error
    return header, plain


class Sender:
    """One direction to one node, in one lane: counts, so that no nonce is used twice."""

    def __init__(self, node: int, peer: int, epoch: int, cipher: int, key: bytes, *, lane: int = 0) -> None:
        self.node, self.peer, self.epoch, self.cipher, self._key = node, peer, epoch, Cipher(cipher), key
        self.counter = lane << LANE_SHIFT

    def seal(self, payload: Payload, *, relayed: bool = False) -> bytes:
        self.counter += 1
        kind, hops = (Type.RELAYED, HOPS) if relayed else (Type.DIRECT, 1)
        header = Header(self.epoch, self.node, self.peer, self.counter, kind, hops)
        return seal(self.cipher, self._key, header, encode_payload(payload))


class Receiver:
    """One direction from one node: at most three epochs. When a fourth comes the oldest goes, but for the one of the
    last datagram that was opened: the peer may never have learned that it could use the others."""

    def __init__(self, node: int, peer: int) -> None:
        self.node, self.peer = node, peer
        self._keys: dict[int, tuple[Cipher, bytes, list[ReplayWindow]]] = {}
        self._used: int | None = None

    def install(self, epoch: int, cipher: int, key: bytes) -> None:
        """The same key again changes nothing: its window must not be forgotten."""
        known = self._keys.get(epoch)
        if known is not None and known[:2] == (Cipher(cipher), key):
            return
        self._keys.pop(epoch, None)  # a new key under a known epoch: the peer began anew, and this is its newest
        self._keys[epoch] = (Cipher(cipher), key, [ReplayWindow() for _ in range(LANES)])
        if known is not None and self._used == epoch:
            self._used = None
        while len(self._keys) > 3:
            del self._keys[next(old for old in self._keys if old != self._used)]

    def drop(self, epoch: int) -> bool:
        """Forget it. False: it is in use, and stays."""
        if epoch != self._used:
            self._keys.pop(epoch, None)
        return epoch != self._used

    def open(self, datagram: bytes) -> tuple[Header, Payload]:
        header = Header.decode(datagram)
        if (header.dest, header.sender) != (self.node, self.peer):
            raise RemoteProtocolError("header.sender", (header.sender, header.dest), f"{self.peer} to {self.node}")
        if header.epoch not in self._keys:
            raise RemoteProtocolError("epoch", header.epoch, "an installed key")
        if header.lane >= LANES:
            raise RemoteProtocolError("header.lane", header.lane, f"0..{LANES - 1}")
        cipher, key, windows = self._keys[header.epoch]
        window, counter = windows[header.lane], header.counter & ((1 << LANE_SHIFT) - 1)
        if not window.check(counter):
            raise RemoteProtocolError("counter", counter, f"new, and within {window.top} - window")
        header, plain = open_sealed(cipher, key, datagram)
        window.accept(counter)
        self._used = header.epoch
        return header, decode_payload(plain)
