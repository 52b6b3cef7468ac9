"""Random and mutated bytes into framing, session and message checks: a typed error or nothing, never anything else."""

from __future__ import annotations

import contextlib
import os
import random
from typing import Any

import msgpack
import pytest

from protocol import events as ev
from protocol import messages as m
from protocol.codec import decode, decode_method
from protocol.errors import RemoteProtocolError
from protocol.framing import unpack
from protocol.session import Session
from protocol.wire import Kind, pack

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "1500"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))


def conversation() -> bytes:
    """What a well-behaved client might send."""
    client, server = Session(True), Session(False)
    client.start()
    server.start()
    sent = client.take_output()
    client.receive(server.take_output(), 0.0)
    client.request("migration.decide", {"migration": "m", "guest": "g", "generation": 1, "ask": "query"}, 3)
    client.notify("cluster.directory", {"version": 1, "nodes": [], "networks": []})
    client.open_stream("blob.get", {"sha256": "0" * 64, "offset": 0})
    sent += client.take_output()
    return sent + pack(Kind.STREAM_CREDIT, 1, 5) + pack(Kind.STREAM_DATA, 1, b"abc") + pack(Kind.PING, 1)


def mutate(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        pos = rng.randrange(len(out))
        what = rng.randrange(4)
        if what == 0:
            out[pos] = rng.randrange(256)
        elif what == 1:
            del out[pos : pos + rng.randint(1, 9)]
        elif what == 2:
            out[pos:pos] = rng.randbytes(rng.randint(1, 9))
        else:
            out[pos] ^= 1 << rng.randrange(8)
        out = out or bytearray(b"\0")
    return bytes(out)


@pytest.mark.parametrize("mode", ["random", "mutated"])
def test_session_survives_hostile_bytes(mode: str) -> None:
    rng = random.Random(SEED)
    good = conversation()
    failures = 0
    for _ in range(ROUNDS):
        data = rng.randbytes(rng.randint(1, 80)) if mode == "random" else mutate(rng, good)
        session = Session(client=False)
        session.start()
        pos = 0
        while pos < len(data):
            size = rng.randint(1, len(data))
            for event in session.receive(data[pos : pos + size], 0.0):
                if isinstance(event, ev.Failed):
                    assert isinstance(event.error, RemoteProtocolError)
                    assert event.error.field
                    failures += 1
                elif isinstance(event, ev.RequestArrived | ev.NoticeArrived | ev.StreamOffered):
                    with contextlib.suppress(RemoteProtocolError):
                        decode_method(event.method, event.params)
            pos += size
    assert failures > ROUNDS / 10


def junk(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, 1, -1, 2**63, 2**64 - 1, -(2**63), rng.randrange(1000)])
    if kind == 2:
        return rng.choice([0.0, -1.5, float("inf"), float("nan"), 1e308])
    if kind in (3, 4):
        return rng.choice(["", "a", "A" * 300, "\0", "02:00:00:00:00:01", "é" * 70, "commit"])
    if kind in (5, 6):
        return rng.randbytes(rng.choice([0, 1, 32, 100]))
    if kind == 7:
        return [junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(["node", "guest", "x", "vni", "nodes"]): junk(rng, depth + 1) for _ in range(rng.randrange(4))}


@pytest.mark.parametrize("cls", m._ALL, ids=lambda cls: cls.method)
def test_messages_are_checked_or_refused(cls: type[m.Message]) -> None:
    rng = random.Random(SEED)
    fields: set[str] = set()
    for _ in range(ROUNDS // 10):
        params = {name: junk(rng) for name in cls.__struct_fields__ if rng.random() < 0.95}
        try:
            message = decode(cls, params)
        except RemoteProtocolError as error:
            fields.add(error.field.partition(".")[0])
            continue
        assert decode(cls, unpack(msgpack.packb(m.to_builtins(message)))) == message
    assert fields <= {cls.__name__}


@pytest.mark.parametrize("params", [None, 1, "x", [], b"", {"a": 1}, [{}]])
def test_params_of_the_wrong_shape(params: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(m.Decide, params)


def test_unknown_method() -> None:
    with pytest.raises(RemoteProtocolError, match="method"):
        decode_method("no.such", {})


def test_not_a_number_is_no_number() -> None:
    params = {"guest": "g", "argv": ["x"], "timeout_s": float("nan")}
    with pytest.raises(RemoteProtocolError, match="timeout_s"):
        decode(m.GuestExec, params)


def test_unknown_fields_are_ignored() -> None:
    assert decode(m.CaFetched, {"ca_pem": "x", "later": 1}) == m.CaFetched(ca_pem="x")
