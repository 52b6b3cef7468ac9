"""Golden bytes of frames, and that SPEC.md, authority and messages speak of the same methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocol import authority
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.framing import FrameLimits, pack_frame
from protocol.messages import BY_METHOD
from protocol.versions import choose_version
from protocol.wire import FIELDS, Kind, data_prefix, pack, parse

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "frames.json").read_text())
SPEC = (Path(__file__).parents[2] / "protocol" / "SPEC.md").read_text()


def fields_of(entry: dict[str, Any]) -> list[Any]:
    return [bytes.fromhex(f["hex"]) if isinstance(f, dict) and set(f) == {"hex"} else f for f in entry["fields"]]


@pytest.mark.parametrize("entry", VECTORS, ids=lambda e: e["name"])
def test_golden_frames(entry: dict[str, Any]) -> None:
    wire = bytes.fromhex(entry["wire"])
    fields = fields_of(entry)
    kind = Kind[entry["kind"]]
    assert int.from_bytes(wire[:4], "big") == len(wire) - 4
    assert parse(wire[4:]) == (kind, fields)
    made = data_prefix(fields[0], len(fields[1])) + fields[1] if kind is Kind.STREAM_DATA else pack(kind, *fields)
    if not entry.get("read_only"):
        assert made == wire


def test_every_kind_has_a_vector() -> None:
    assert {entry["kind"] for entry in VECTORS} == {kind.name for kind in Kind}


@pytest.mark.parametrize("kind", list(Kind), ids=lambda k: k.name)
def test_each_field_is_required_and_checked(kind: Kind) -> None:
    good = fields_of(next(e for e in VECTORS if e["kind"] == kind.name))
    for index, (name, _) in enumerate(FIELDS[kind]):
        with pytest.raises(RemoteProtocolError) as caught:
            parse(pack(kind, *good[:index])[4:])
        assert caught.value.field == f"{kind.name.lower()}.{name}"
        for bad in (None, [], 1.5, -1):
            with pytest.raises(RemoteProtocolError) as caught:
                parse(pack(kind, *good[:index], bad, *good[index + 1 :])[4:])
            assert caught.value.field == f"{kind.name.lower()}.{name}"
    assert parse(pack(kind, *good, "later", {"more": 1})[4:]) == (kind, good)


@pytest.mark.parametrize("body", [b"\x90", b"\x80", b"\x01", b"\x91\xc0", b"\x91\x0f", b"\x91\xff", b"\x91\xcc\xc8"])
def test_arrays_that_are_no_frame(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="frame"):
        parse(body)


def test_a_lying_data_frame_is_refused() -> None:
    frame = data_prefix(1, 10) + bytes(9)
    with pytest.raises(RemoteProtocolError, match="stream_data"):
        parse(frame[4:])
    with pytest.raises(RemoteProtocolError, match="stream_data"):
        parse(data_prefix(0, 1)[4:] + b"x")


def test_what_is_too_large_for_the_peer_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="at most 10"):
        pack_frame(["x" * 20], FrameLimits(frame=10))
    with pytest.raises(LocalProtocolError, match="cannot be packed"):
        pack_frame([2**64])
    with pytest.raises(LocalProtocolError, match="cannot be packed"):
        pack_frame([object()])


@pytest.mark.parametrize(
    ("ours", "theirs", "version"), [((1, 1), (1, 1), 1), ((1, 3), (2, 9), 3), ((1, 3), (1, 2), 2), ((2, 3), (1, 2), 2)]
)
def test_version_choice(ours: tuple[int, int], theirs: tuple[int, int], version: int) -> None:
    assert choose_version(ours, theirs) == choose_version(theirs, ours) == version


@pytest.mark.parametrize(("ours", "theirs"), [((1, 1), (2, 3)), ((2, 3), (1, 1)), ((1, 1), (3, 2))])
def test_no_common_version(ours: tuple[int, int], theirs: tuple[int, int]) -> None:
    with pytest.raises(RemoteProtocolError, match=r"hello\.versions"):
        choose_version(ours, theirs)


def test_every_method_is_specified_and_granted_to_somebody() -> None:
    for method in BY_METHOD:
        assert f"| `{method}` |" in SPEC, f"{method} is not in SPEC.md"
        assert any(authority.allowed(role, method) for role in authority.ROLES), f"{method} is granted to nobody"
    for kind in Kind:
        assert f"| {int(kind)} | {kind.name} |" in SPEC


def test_authority() -> None:
    for method in BY_METHOD:
        assert authority.allowed("anonymous", method) == method.startswith("bootstrap.")
    assert not authority.allowed("node", "guest.run")
    assert not authority.allowed("coordinator", "migration.prepare")
    assert not authority.allowed("node", "no.such")
    assert not authority.allowed("", "blob.get")
