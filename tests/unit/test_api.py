"""The HTTP API: who may do what, the shape of errors, images and blobs, events, the console."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, open_websocket_url

import coordinator.blobs
from coordinator.api.app import make_app
from coordinator.api.deps import Services
from coordinator.api.images import content_range
from coordinator.attachments import Attachments
from coordinator.background import Errands
from coordinator.blobs import Blobs
from coordinator.ca import Authority
from coordinator.cluster import Cluster
from coordinator.drain import Drains
from coordinator.errors import Full, Invalid
from coordinator.events import Hub, follow
from coordinator.leases import Leases
from coordinator.lifecycle import Lifecycle
from coordinator.migrations import Migrations
from coordinator.operations import Operations
from coordinator.owncert import OwnCertificate
from coordinator.rollover import Rollover
from coordinator.store import journal, tokens
from coordinator.store.db import Db
from tests.unit.control import Control, running


@pytest.fixture
async def api(tmp_path: Path, nursery: trio.Nursery) -> Any:
    """The application without sockets, and a client for each role."""
    db = Db.open(tmp_path / "x.db")
    cluster = Cluster(db, Authority.open(tmp_path / "ca", "c1", 1.7e9), Blobs(tmp_path / "blobs"), Leases())
    operations = Operations(db, nursery)
    moves = Migrations(cluster, operations, Errands(nursery))
    drains = Drains(cluster, operations, moves)
    rollover = Rollover(cluster, OwnCertificate(cluster.ca, ["h"], lambda: 1.7e9), Errands(nursery))
    lifecycle, attachments = Lifecycle(cluster, operations), Attachments(cluster)
    services = Services(cluster, operations, lifecycle, moves, drains, rollover, attachments, "h:1", "test")
    transport = httpx.ASGITransport(app=make_app(services))
    clients: dict[str, httpx.AsyncClient] = {}
    for role in ("viewer", "operator", "admin"):
        _, text = await db.run(tokens.create_api, role, role)
        headers = {"Authorization": f"Bearer {text}"}
        clients[role] = httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers)
    clients["nobody"] = httpx.AsyncClient(transport=transport, base_url="http://x")
    yield clients
    db.close()


READS = [
    "/v1/info",
    "/v1/guests",
    "/v1/nodes",
    "/v1/networks",
    "/v1/ports",
    "/v1/net",
    "/v1/images",
    "/v1/operations",
    "/v1/events",
]


@pytest.mark.parametrize("path", READS)
async def test_reading_needs_a_token(api: dict[str, httpx.AsyncClient], path: str) -> None:
    assert (await api["viewer"].get(path)).status_code == 200
    answer = await api["nobody"].get(path)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthorized"
    assert answer.headers["www-authenticate"] == "Bearer"
    bad = await api["nobody"].get(path, headers={"Authorization": "Bearer wh_aaaa_bbbb"})
    assert bad.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("POST", "/v1/guests", "operator"),
        ("DELETE", "/v1/guests/x", "operator"),
        ("POST", "/v1/guests/x/start", "operator"),
        ("POST", "/v1/guests/x/stop", "operator"),
        ("POST", "/v1/guests/x/migrate", "operator"),
        ("POST", "/v1/guests/x/exec", "operator"),
        ("POST", "/v1/networks", "operator"),
        ("DELETE", "/v1/networks/lan", "operator"),
        ("POST", "/v1/images", "operator"),
        ("DELETE", "/v1/images/x", "operator"),
        ("PUT", f"/v1/blobs/{'0' * 64}", "operator"),
        ("POST", "/v1/nodes/x/drain", "operator"),
        ("POST", "/v1/nodes/x/uncordon", "operator"),
        ("POST", "/v1/operations/x", "operator"),
        ("DELETE", "/v1/nodes/x", "admin"),
        ("POST", "/v1/join-tokens", "admin"),
        ("GET", "/v1/join-tokens", "admin"),
        ("POST", "/v1/tokens", "admin"),
        ("DELETE", "/v1/tokens/x", "admin"),
        ("GET", "/v1/audit", "admin"),
    ],
)
async def test_roles(api: dict[str, httpx.AsyncClient], method: str, path: str, role: str) -> None:
    order = ["nobody", "viewer", "operator", "admin"]
    for who in order:
        status = (await api[who].request(method, path)).status_code
        if order.index(who) < order.index(role):
            assert status == (401 if who == "nobody" else 403)
        else:
            assert status not in (401, 403, 500)


async def test_errors_have_one_shape(api: dict[str, httpx.AsyncClient]) -> None:
    c = api["admin"]
    answers = [
        (await c.get("/v1/nothing"), 404, None),
        (await c.put("/v1/guests"), 405, None),
        (await c.post("/v1/guests", content=b"{not json", headers={"content-type": "application/json"}), 400, None),
        (await c.post("/v1/guests", json=[1]), 422, None),
        (await c.post("/v1/guests", json={"name": "a", "image": "b", "cpus": 65}), 422, "cpus"),
        (await c.post("/v1/guests", json={"name": "a", "image": "b", "cpu": "z80"}), 422, "cpu"),
        (await c.post("/v1/guests", json={"name": "a", "image": "b", "networks": ["UP"]}), 422, "networks.0.network"),
        (await c.get("/v1/guests/x"), 404, "name"),
        (await c.get("/v1/operations/x"), 404, "id"),
        (await c.get("/v1/events?since=-1"), 422, "since"),
        (await c.post("/v1/networks", json={"name": "b", "subnet": "10.0.0.0/99"}), 422, "subnet"),
        (await c.post("/v1/networks", json={"name": "b", "mtu": 9001}), 422, "mtu"),
    ]
    for answer, status, field in answers:
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert set(error) == {"code", "field", "message"}
        assert error["field"] == field
        assert error["message"]


async def test_the_audit_log_tells_who_did_what(api: dict[str, httpx.AsyncClient]) -> None:
    await api["operator"].post("/v1/networks", json={"name": "blue"})
    await api["viewer"].delete("/v1/networks/blue")
    await api["nobody"].delete("/v1/networks/blue")
    entries = (await api["admin"].get("/v1/audit")).json()["entries"]
    told = [(e["who"], e["action"], e["outcome"]) for e in entries]
    assert told == [
        ("operator", "POST /v1/networks", "201"),
        ("viewer", "DELETE /v1/networks/blue", "403"),
    ], "strangers are not able to fill it"


async def test_tokens_are_made_and_revoked(api: dict[str, httpx.AsyncClient]) -> None:
    made = (await api["admin"].post("/v1/tokens", json={"name": "ci", "role": "viewer"})).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert (await api["nobody"].get("/v1/info", headers=headers)).status_code == 200
    listed = (await api["admin"].get("/v1/tokens")).text
    assert "ci" in listed
    assert made["token"] not in listed
    assert (await api["admin"].delete(f"/v1/tokens/{made['id']}")).status_code == 200
    assert (await api["nobody"].get("/v1/info", headers=headers)).status_code == 401


async def test_a_token_may_have_an_end(api: dict[str, httpx.AsyncClient]) -> None:
    made = (await api["admin"].post("/v1/tokens", json={"name": "ci", "role": "viewer", "ttl_s": 3600})).json()
    assert made["expires"] == pytest.approx(made["created"] + 3600)
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert (await api["nobody"].get("/v1/info", headers=headers)).status_code == 200
    for bad in (0, -1, 1e12):
        answer = await api["admin"].post("/v1/tokens", json={"name": "ci", "role": "viewer", "ttl_s": bad})
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "ttl_s")


async def test_networks(api: dict[str, httpx.AsyncClient]) -> None:
    c = api["operator"]
    made = (await c.post("/v1/networks", json={"name": "blue"})).json()
    assert (made["subnet"], made["mtu"]) == ("10.0.0.0/24", 1400)
    again = await c.post("/v1/networks", json={"name": "blue"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "exists")
    overlap = await c.post("/v1/networks", json={"name": "red", "subnet": "10.0.0.0/16"})
    assert "network blue" in overlap.json()["error"]["message"]
    assert (await c.post("/v1/networks", json={"name": "red"})).json()["subnet"] == "10.0.1.0/24"
    assert (await c.delete("/v1/networks/blue")).status_code == 200
    assert (await c.delete("/v1/networks/blue")).status_code == 404


async def test_openapi_and_dashboard(api: dict[str, httpx.AsyncClient]) -> None:
    paths = (await api["nobody"].get("/openapi.json")).json()["paths"]
    for path in ("/v1/guests", "/v1/guests/{name}/migrate", "/v1/blobs/{sha256}", "/v1/nodes/{name}/drain"):
        assert path in paths
    page = await api["nobody"].get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text


# ---- images and blobs ------------------------------------------------------------------------------------------------

DATA = bytes(range(256)) * 40
SHA = hashlib.sha256(DATA).hexdigest()


def span(start: int, end: int, total: int = len(DATA)) -> dict[str, str]:
    return {"Content-Range": f"bytes {start}-{end - 1}/{total}"}


async def test_a_blob_is_uploaded_in_parts_and_resumed(api: dict[str, httpx.AsyncClient]) -> None:
    c, url = api["operator"], f"/v1/blobs/{SHA}"
    assert (await c.head(url)).headers["upload-offset"] == "0"
    part = await c.put(url, content=DATA[:1000], headers=span(0, 1000))
    assert (part.status_code, part.json()["offset"]) == (202, 1000)
    wrong = await c.put(url, content=DATA[2000:], headers=span(2000, len(DATA)))
    assert (wrong.status_code, wrong.headers["upload-offset"]) == (409, "1000")
    assert (await c.head(url)).headers["upload-offset"] == "1000"
    assert (await c.get(url)).status_code == 404, "half a blob is no blob"
    whole = await c.put(url, content=DATA[1000:], headers=span(1000, len(DATA)))
    assert whole.status_code == 201
    assert (await c.get(url)).content == DATA
    assert (await c.get(url, headers={"Range": "bytes=10-19"})).content == DATA[10:20]
    assert (await c.head(url)).headers["content-length"] == str(len(DATA))
    assert (await c.put(url, content=b"")).status_code == 201, "it is here already"


async def test_a_wrong_hash_keeps_nothing(api: dict[str, httpx.AsyncClient]) -> None:
    c, url = api["operator"], f"/v1/blobs/{SHA}"
    bad = await c.put(url, content=DATA[:-1] + b"x")
    assert (bad.status_code, bad.json()["error"]["field"]) == (422, "sha256")
    assert (await c.head(url)).headers["upload-offset"] == "0"
    more = await c.put(url, content=DATA, headers=span(0, 100, 100))
    assert more.status_code == 422
    assert (await c.put("/v1/blobs/..%2f..%2fx", content=b"x")).status_code == 404
    assert (await c.put(f"/v1/blobs/{'Z' * 64}", content=b"x")).status_code == 422


@pytest.mark.parametrize("text", ["", "bytes", "bytes 0-1", "bytes 5-4/10", "bytes 0-10/10", "bytes 0-1/*", "b" * 9999])
def test_bad_content_ranges(text: str) -> None:
    with pytest.raises(Invalid) as info:
        content_range(text)
    assert info.value.field == "content-range"


async def test_a_full_disk_gives_its_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(tmp_path)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    async def parts() -> Any:
        yield DATA

    monkeypatch.setattr(coordinator.blobs.os, "fsync", full)
    with pytest.raises(Full, match="disk is full"):
        await blobs.write(SHA, parts(), start=0, total=None)
    assert blobs.held(SHA) == 0
    monkeypatch.undo()
    assert await blobs.write(SHA, parts(), start=0, total=None) is None


async def test_an_upload_that_broke_off_is_resumed_from_disk(tmp_path: Path) -> None:
    async def broken() -> Any:
        yield DATA[:5000]
        raise trio.BrokenResourceError

    async def rest() -> Any:
        yield DATA[5000:]

    with pytest.raises(trio.BrokenResourceError):
        await Blobs(tmp_path).write(SHA, broken(), start=0, total=len(DATA))
    again = Blobs(tmp_path)
    assert again.held(SHA) == 5000
    assert await again.write(SHA, rest(), start=5000, total=len(DATA)) is None


def manifest(**changes: Any) -> dict[str, Any]:
    base = {
        "format": 1,
        "name": "tiny",
        "kind": "linux",
        "arch": "riscv64",
        "files": [{"role": "kernel", "sha256": SHA, "size": len(DATA)}],
        "cmdline": "",
        "min_memory": 0,
    }
    return {**base, **changes}


async def test_an_image_needs_its_blobs(api: dict[str, httpx.AsyncClient]) -> None:
    c = api["operator"]
    missing = await c.post("/v1/images", json=manifest())
    assert (missing.status_code, missing.json()["error"]["code"]) == (409, "conflict")
    assert SHA in missing.json()["error"]["message"]
    await c.put(f"/v1/blobs/{SHA}", content=DATA)
    made = (await c.post("/v1/images", json=manifest())).json()
    canonical = json.dumps(manifest(), sort_keys=True, separators=(",", ":")).encode()
    assert made["digest"] == hashlib.sha256(canonical).hexdigest()
    assert made["size"] == len(DATA)
    assert (await c.delete("/v1/images/tiny")).status_code == 200
    assert (await c.head(f"/v1/blobs/{SHA}")).status_code == 404, "nothing needs the blob any more"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"format": 2}, "format"),
        ({"arch": "x86_64"}, "arch"),
        ({"name": "../x"}, "name"),
        ({"kind": "docker"}, "kind"),
        ({"files": []}, "files"),
        ({"files": [{"role": "kernel", "sha256": SHA, "size": 1}]}, "files"),
        ({"files": [{"role": "kernel", "sha256": "x", "size": 1}]}, "files[0].sha256"),
        ({"min_memory": -1}, "min_memory"),
    ],
)
async def test_bad_manifests_name_the_field(
    api: dict[str, httpx.AsyncClient], changes: dict[str, Any], field: str
) -> None:
    await api["operator"].put(f"/v1/blobs/{SHA}", content=DATA)
    answer = await api["operator"].post("/v1/images", json=manifest(**changes))
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
    lacking = manifest()
    del lacking["files"]
    assert (await api["operator"].post("/v1/images", json=lacking)).json()["error"]["field"] == "files"


# ---- events ----------------------------------------------------------------------------------------------------------


async def test_events_follow_without_gap_or_repeat(tmp_path: Path) -> None:
    db, hub = Db.open(tmp_path / "e.db"), Hub()
    db.on_events = hub.publish

    async def emit(n: int) -> None:
        await db.run(lambda tx: tx.emit("x", str(n)))

    got: list[int] = []
    done = trio.Event()

    async def reader() -> None:
        async for event in follow(db, hub, 0, live=True):
            assert event is not None
            got.append(event.id)
            if event.message == "199":
                done.set()
                return

    async with trio.open_nursery() as nursery:
        for n in range(100):
            await emit(n)
        nursery.start_soon(reader)
        for n in range(100, 200):
            await emit(n)
        with trio.fail_after(5):
            await done.wait()
    assert got == list(range(1, 201))
    db.close()


async def test_an_event_between_subscribing_and_reading_comes_once(tmp_path: Path) -> None:
    db, hub = Db.open(tmp_path / "e.db"), Hub()
    db.on_events = hub.publish

    class Busy:
        """A store in which something happens just before each of the first reads."""

        left = 2

        async def run(self, fn: Any, *args: Any) -> Any:
            if self.left:
                self.left -= 1
                await db.run(lambda tx: tx.emit("x", "early"))
            return await db.run(fn, *args)

    source = follow(Busy(), hub, 0, live=True, idle_s=0.1)  # type: ignore[arg-type]
    got = [await anext(source) for _ in range(3)]
    assert [e and e.id for e in got] == [1, 2, None], "the queue held both once more"
    await source.aclose()  # type: ignore[attr-defined]
    db.close()


async def test_a_slow_subscriber_is_cut_off_and_the_others_are_not(tmp_path: Path) -> None:
    db, hub = Db.open(tmp_path / "e.db"), Hub()
    db.on_events = hub.publish
    with hub.subscribe(2) as slow, hub.subscribe(100) as quick:
        for n in range(5):
            await db.run(lambda tx, n=n: tx.emit("x", str(n)))  # type: ignore[misc]
        assert [slow.receive_nowait().message for _ in range(2)] == ["0", "1"]
        with pytest.raises(trio.EndOfChannel):
            slow.receive_nowait()
        assert [quick.receive_nowait().message for _ in range(5)] == list("01234")
    assert await db.run(journal.events_since, 3)
    db.close()


async def test_events_over_a_socket_end_when_the_coordinator_stops(tmp_path: Path) -> None:
    lines: list[str] = []
    ended = trio.Event()

    async def reader(c: Control, first: trio.Event) -> None:
        options: dict[str, Any] = {"base_url": c.ready.api, "headers": c.http.headers, "trust_env": False}
        async with httpx.AsyncClient(**options) as http, http.stream("GET", "/v1/events?follow=1") as stream:
            async for line in stream.aiter_lines():
                lines.append(line)
                first.set()
        ended.set()

    async with trio.open_nursery() as nursery, running(tmp_path) as c:
        first = trio.Event()
        nursery.start_soon(reader, c, first)
        await first.wait()
        await c.post("/v1/networks", {"name": "blue"}, status=201)
    with trio.fail_after(5):
        await ended.wait()
    assert any("network blue" in line for line in lines)


# ---- the console -----------------------------------------------------------------------------------------------------


async def test_the_console_is_bytes_both_ways(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        url = c.ready.api.replace("http", "ws") + "/v1/guests/web/console"
        headers = [(b"Authorization", f"Bearer {c.ready.token}".encode())]
        async with n1.connected():
            with pytest.raises(ConnectionRejected) as info:
                async with open_websocket_url(url):
                    pass
            assert info.value.status_code == 401
            with pytest.raises(ConnectionRejected) as info:
                async with open_websocket_url(url, extra_headers=headers):
                    pass
            assert info.value.status_code == 404
            assert json.loads(info.value.body or b"")["error"]["code"] == "not_found"
            await c.done(await c.run("web"))
            async with open_websocket_url(url, extra_headers=headers) as socket:
                got = b""
                await socket.send_message(b"\x00\xffhi")
                while len(got) < 9:
                    got += await socket.get_message()
                assert got == b"kept:\x00\xffhi"
            async with open_websocket_url(url, extra_headers=headers) as socket:
                assert await socket.get_message() == b"kept:"
                await c.done(await c.post("/v1/guests/web/stop"))
                assert n1.link is not None
                await n1.link.aclose()
                with trio.fail_after(5), pytest.raises(ConnectionClosed):
                    await socket.get_message()


async def test_the_debugger_is_bytes_both_ways_for_one_operator(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        url = c.ready.api.replace("http", "ws") + "/v1/guests/web/debugger"
        headers = [(b"Authorization", f"Bearer {c.ready.token}".encode())]
        viewer = (await c.post("/v1/tokens", {"name": "eve", "role": "viewer"}, status=201))["token"]
        async with n1.connected():
            await c.done(await c.run("web"))
            with pytest.raises(ConnectionRejected) as info:
                async with open_websocket_url(url, extra_headers=[(b"Authorization", f"Bearer {viewer}".encode())]):
                    pass
            assert info.value.status_code == 403
            async with open_websocket_url(url, extra_headers=headers) as socket:
                await socket.send_message(b"$?#3f\x03")
                assert await socket.get_message() == b"$?#3f\x03"
                with pytest.raises(ConnectionRejected) as info:
                    async with open_websocket_url(url, extra_headers=headers):
                        pass
                assert info.value.status_code == 409
            with trio.fail_after(5):
                await n1.debugger_left.wait()  # the stream ends with the socket


# ---- figures -----------------------------------------------------------------------------------------------------


async def test_stats_and_metrics(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        async with n1.connected():
            await c.done(await c.run("web"))
            (stats,) = (await c.get("/v1/stats"))["stats"]
            assert (stats["name"], stats["node"], stats["counters"], stats["rates"]) == ("web", "n1", None, None)
            (guest, status), *_ = n1.guests.items()
            for at in (10.0, 12.0):
                n1.guests[guest] = msgspec.structs.replace(
                    status, sampled=at, resident=4096, counters={"instructions": int(at * 1e6), "exits_wfi": 3}
                )
                await n1.report()
            with trio.fail_after(5):
                while (stats := await c.get("/v1/guests/web/stats"))["rates"] is None:
                    pass
            assert stats["rates"]["mips"] == 1.0
            assert stats["counters"] == {"instructions": 12_000_000, "exits_wfi": 3}
            assert stats["resident"] == 4096
            assert (await c.http.get("/v1/guests/none/stats")).status_code == 404
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.get(f"{c.ready.api}/metrics")).status_code == 401
            answer = await c.http.get("/metrics")
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert 'wherry_node_up{node="n1"} 1\n' in answer.text
            assert 'wherry_guest_instructions_total{guest="web",node="n1"} 12000000\n' in answer.text
            assert 'wherry_guest_exits_total{guest="web",node="n1",cause="wfi"} 3\n' in answer.text
