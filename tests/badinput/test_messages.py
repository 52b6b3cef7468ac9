"""Hostile bytes at live listeners: each costs its sender the connection at most.

Agent and coordinator go on serving."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest
import trio

from protocol.errors import LinkError
from protocol.tls import TlsFiles, bootstrap_context
from protocol.transport import connect_tls, split_address
from tests.badinput.here import Shell, still_works
from tests.faults.cluster import MIB, Cluster, running

SEED = int(os.environ.get("FUZZ_SEED", "1"))


def framed(body: bytes, claimed: int | None = None) -> bytes:
    return struct.pack(">I", len(body) if claimed is None else claimed) + body


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


def hostile() -> list[tuple[str, bytes]]:
    """(what it is, the bytes of a link)"""
    rng = random.Random(SEED)
    good = framed(msgpack.packb([1, 1, "bootstrap.ca", {}]))
    named = [
        ("oversize", framed(b"\x90", 0xFFFFFFFF)),
        ("large and there", framed(b"\xc6\x7f\xff\xff\xff" + bytes(1 << 20), 1 << 31)),
        ("empty frame", framed(b"")),
        ("truncated", good[:-3]),
        ("length only", b"\0\0"),
        ("deep", framed(nested(100_000))),
        ("a bomb of counts", framed(b"\xdd\xff\xff\xff\xff")),
        ("no list", framed(msgpack.packb({"a": 1}))),
        ("unknown kind", framed(msgpack.packb([99, 1, 2, 3]))),
        ("wrong types", framed(msgpack.packb(["x", None, [], b""]))),
        ("extension", framed(msgpack.packb([msgpack.ExtType(5, b"x" * 100)]))),
    ]
    return named + [(f"random {i}", rng.randbytes(rng.randint(1, 4000))) for i in range(12)]


async def send_and_see(address: str, tls: Any, what: str, data: bytes) -> None:
    """Send, say no more, and read until the other end closes: it must, and not only when it times out."""
    with trio.fail_after(15):
        try:
            stream = await connect_tls(address, tls=tls, expect=None)
            await stream.send_all(data)
            if what in ("truncated", "length only"):
                await stream.aclose()
                return
            while await stream.receive_some(65536):
                pass
        except (LinkError, trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def send_plain(address: str, data: bytes) -> None:
    """The same without TLS."""
    host, port = split_address(address)
    with trio.fail_after(15):
        stream = await trio.open_tcp_stream(host, port)
        async with stream:
            try:
                await stream.send_all(data)
                while await stream.receive_some(65536):
                    pass
            except trio.BrokenResourceError:
                pass


async def served(cluster: Cluster, ident: str, pid: int) -> None:
    assert await cluster.all_alive()
    guest = await cluster.guest("g")
    assert (guest["id"], guest["state"], guest["pid"]) == (ident, "running", pid)


@pytest.mark.parametrize("target", ["coordinator", "agent"])
async def test_links(tmp_path: Path, target: str) -> None:
    """By a stranger (coordinator: it admits joiners) and by a node with a good certificate (agent)."""
    async with running(tmp_path / "c", ["n1", "n2"]) as cluster:
        guest = await cluster.run_guest("g", "n1")
        identity = tmp_path / "c" / "n2" / "identity"
        member = TlsFiles(identity / "node.pem", identity / "node.pem", identity / "ca.pem")
        daemon = cluster.coordinator if target == "coordinator" else cluster.nodes["n1"]
        address = str(daemon.ready["link"])
        for what, data in hostile():
            await send_and_see(address, bootstrap_context() if target == "coordinator" else member, what, data)
        for data in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + bytes(3000),
            random.Random(SEED).randbytes(5000),
        ):
            await send_plain(address, data)
        # Many that say nothing at all, left open.
        host, port = split_address(address)
        silent = [await trio.open_tcp_stream(host, port) for _ in range(50)]
        await served(cluster, guest["id"], guest["pid"])
        await still_works(cluster, Shell(tmp_path / "c"))
        for stream in silent:
            await stream.aclose()
        assert "Traceback" not in daemon.log.read_text()


async def test_http(tmp_path: Path) -> None:
    async with running(tmp_path / "c", ["n1"]) as cluster:
        guest = await cluster.run_guest("g", "n1")
        rng = random.Random(SEED)
        bodies = [
            b"",
            b"{",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b'{"name": "\\ud800", "image": "ticker", "memory": 1e999}',
            b'{"name": "x", "image": "ticker", "memory": 99999999999999999999999999}',
            b'{"name": ["x"], "image": {}, "memory": "lots", "cpus": -1}',
            b'{"name": "' + b"x" * MIB + b'"}',
            b'{"name": "a\\u0000b", "image": "ticker", "memory": 33554432}',
            b"\xff\xfe\x00",
            *(rng.randbytes(rng.randint(1, 2000)) for _ in range(5)),
        ]
        for path in ("/v1/guests", "/v1/images", "/v1/networks", "/v1/join-tokens", "/v1/guests/g/migrate"):
            for body in bodies:
                if not body and path != "/v1/guests":
                    continue  # all of their fields may be left out
                answer = await cluster.api.post(path, content=body, headers={"Content-Type": "application/json"})
                assert 400 <= answer.status_code < 500, (path, body[:60], answer.status_code, answer.text[:300])
                assert set(answer.json()["error"]) >= {"code", "field", "message"}
                assert len(answer.text) < 2000
        for path in (
            "/v1/guests/%00",
            "/v1/guests/" + "x" * 5000,
            "/v1/blobs/..%2f..%2fwherry.db",
            "/v1/events?since=-1",
        ):
            assert 400 <= (await cluster.api.get(path)).status_code < 500, path

        # No token, a wrong one, one that is none: refused, whatever is asked.
        for header in ({}, {"Authorization": "Bearer wh_nonsense"}, {"Authorization": "Basic YTpi"}):
            async with httpx.AsyncClient(base_url=cluster.api.base_url, headers=header) as stranger:
                for method, path in (
                    ("GET", "/v1/guests"),
                    ("DELETE", "/v1/guests/g"),
                    ("PUT", "/v1/blobs/" + "0" * 64),
                ):
                    assert (await stranger.request(method, path)).status_code == 401

        # Not HTTP at all; and a request that never ends.
        address = cluster.api.base_url.netloc.decode()
        await send_plain(address, rng.randbytes(5000) + b"\r\n\r\n")
        await send_plain(address, b"GET / HTTP/1.1\r\nA: " + b"x" * MIB)
        host, port = split_address(address)
        hanging = [await trio.open_tcp_stream(host, port) for _ in range(20)]
        for stream in hanging:
            await stream.send_all(b"POST /v1/guests HTTP/1.1\r\nContent-Length: 999999\r\n\r\n{")
        await served(cluster, guest["id"], guest["pid"])
        for stream in hanging:
            await stream.aclose()
        await still_works(cluster, Shell(tmp_path / "c"))
        assert "Traceback" not in cluster.coordinator.log.read_text()
