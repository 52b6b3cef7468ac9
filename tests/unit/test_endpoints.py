"""Endpoints over datagram sockets: frames both ways, dead agents' files, and each refusal."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node import endpoints
from node.switchctl import Switch
from protocol.errors import Refused
from protocol.messages import Attachment

VNI = 7
FRAME = b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + bytes(50)


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short name, as unix sockets need."""
    with tempfile.TemporaryDirectory(prefix="wherry-t-") as name:
        yield Path(name)


def wish(kind: str, local: str | Path, remote: str | Path = "") -> Attachment:
    return Attachment(id="p-1", network="lan", vni=VNI, kind=kind, local=str(local), remote=str(remote))  # type: ignore[arg-type]


@contextmanager
def port(switch: Switch, number: int, wanted: Attachment) -> Iterator[None]:
    endpoint = endpoints.open_endpoint(wanted, made_before=False)
    endpoint.add(switch, number, VNI)
    try:
        yield
    finally:
        switch.remove_port(number)
        endpoint.remove()
        endpoint.close()


def test_frames_pass_between_programs(folder: Path) -> None:
    """Two programs, one at each kind of socket, meet in one network."""
    with (
        Switch(1) as switch,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free,
    ):
        switch.add_network(VNI)
        one.bind(str(folder / "one"))
        for sock in (two, free):
            sock.bind(("127.0.0.1", 0))
        local, remote = (f"127.0.0.1:{s.getsockname()[1]}" for s in (free, two))
        free.close()
        for sock in (one, two):
            sock.settimeout(10)
        with (
            port(switch, 1, wish("unix", folder / "ours", folder / "one")),
            port(switch, 2, wish("udp", local, remote)),
        ):
            assert stat.S_IMODE((folder / "ours").stat().st_mode) == 0o600
            one.sendto(FRAME, str(folder / "ours"))
            assert two.recv(2000) == FRAME
            answer = FRAME[6:12] + b"\x02\0\0\0\0\x02" + FRAME[12:]
            two.sendto(answer, ("127.0.0.1", int(local.rpartition(":")[2])))
            assert one.recv(2000) == answer
        assert not (folder / "ours").exists()


def test_a_dead_agents_file_is_replaced(folder: Path) -> None:
    path = folder / "ours"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(path))
        with pytest.raises(Refused, match="in use"):
            endpoints.open_endpoint(wish("unix", path), made_before=True)
    endpoint = endpoints.open_endpoint(wish("unix", path), made_before=True)
    endpoint.close()


@pytest.mark.parametrize(
    ("kind", "local", "remote", "code"),
    [
        ("unix", "relative", "", "invalid"),
        ("unix", "/" + "x" * 108, "", "invalid"),
        ("unix", "/no/such/folder/x", "", "unavailable"),
        ("unix", "FILE", "", "conflict"),
        ("unix", "/tmp/wherry-t-x", "relative", "invalid"),
        ("udp", "localhost:9", "", "invalid"),
        ("udp", "127.0.0.1", "", "invalid"),
        ("udp", "127.0.0.1:0", "", "invalid"),
        ("udp", "127.0.0.1:9999", "[::1]:9999", "invalid"),
        ("udp", "192.0.2.1:9999", "", "unavailable"),
        ("tap", "much-too-long-a-name", "", "invalid"),
        ("tap", "tap%d", "", "invalid"),
        ("tap", "..", "", "invalid"),
    ],
)
def test_refusals(folder: Path, kind: str, local: str, remote: str, code: str) -> None:
    if local == "FILE":
        (folder / "file").touch()
        local = str(folder / "file")
    with pytest.raises(Refused) as refused:
        endpoints.open_endpoint(wish(kind, local, remote), made_before=False)
    assert refused.value.code == code
    assert not os.path.exists("/tmp/wherry-t-x")
