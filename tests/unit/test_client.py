"""The API client against scripted answers: what it sends, what it makes of errors, and hostile servers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry import context, model, sse
from wherry.client import Client, api_error
from wherry.context import Target
from wherry.errors import ApiError, ApiUnreachable, WherryError
from wherry.image.store import File, Image, Library

GUEST = {"name": "web", "state": "running", "node": "n1", "nics": [{"address": "10.0.0.2/24"}], "new_field": 1}


def client(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client(Target("http://c", "secret"), transport=httpx.MockTransport(answer))


async def test_lists_and_the_token() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        assert request.url.path == "/v1/guests"
        return httpx.Response(200, json={"guests": [GUEST]})

    async with client(answer) as api:
        (guest,) = await api.guests()
    assert (guest.name, guest.node, guest.addresses) == ("web", "n1", ["10.0.0.2"])


async def test_an_error_names_code_field_and_message() -> None:
    body = {"error": {"code": "conflict", "field": "name", "message": "guest web exists"}}
    async with client(lambda request: httpx.Response(409, json=body)) as api:
        with pytest.raises(ApiError, match="name: guest web exists") as caught:
            await api.run(name="web")
    assert (caught.value.status, caught.value.code, caught.value.field) == (409, "conflict", "name")


async def test_no_coordinator() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async with client(answer) as api:
        with pytest.raises(ApiUnreachable, match="no coordinator at http://c: refused"):
            await api.nodes()


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"guests": 3}', b'{"guests": [3]}', b'{"guests": [{}]}'])
async def test_answers_that_are_no_list_of_guests(body: bytes) -> None:
    async with client(lambda request: httpx.Response(200, content=body)) as api:
        with pytest.raises(ApiError):
            await api.guests()


@given(st.integers(400, 599), st.binary(max_size=50))
def test_any_error_body_becomes_an_error(status: int, body: bytes) -> None:
    assert api_error(status, body).status == status


@given(
    st.dictionaries(
        st.sampled_from(["name", "id", "memory", "nics", "booted_s"]), st.none() | st.booleans() | st.text()
    )
)
def test_wrong_types_are_api_errors(data: dict[str, Any]) -> None:
    try:
        guest = model.parse(model.Guest, data)
    except ApiError:
        return
    assert isinstance(guest.name, str)
    assert isinstance(guest.memory, int)


async def test_exec_round_trip() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert body["argv"] == ["cat"]
        return httpx.Response(200, json={"exit_code": 3, "stdout_b64": body["stdin_b64"], "stderr_b64": ""})

    async with client(answer) as api:
        result = await api.exec("web", ["cat"], stdin=b"\0\xff")
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"\0\xff", b"")


async def test_operations_are_followed_to_their_end(autojump_clock: object) -> None:
    states = iter(["pending", "running", "succeeded"])
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, json={"id": "op-1", "kind": "migrate", "state": next(states), "result": {"rounds": 2}}
        )

    async with client(answer) as api:
        done = await api.finish(model.Operation("op-1"), lambda operation: seen.append(operation.state))
    assert (seen, done.result) == (["pending", "running", "succeeded"], {"rounds": 2})


async def test_a_failed_operation_tells_why(autojump_clock: object) -> None:
    failed = {
        "id": "o",
        "kind": "migrate",
        "subject": "web",
        "state": "failed",
        "error": {"code": "full", "message": "no room"},
    }
    async with client(lambda request: httpx.Response(200, json=failed)) as api:
        with pytest.raises(ApiError, match="migrate web: no room"):
            await api.finish(model.Operation("o"))


class Blobs:
    """A coordinator's upload side."""

    def __init__(self, held: bytes = b"") -> None:
        self.data = held
        self.manifest = b""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "HEAD":
            return httpx.Response(404, headers={"Upload-Offset": str(len(self.data))})
        if request.method == "PUT":
            start = int(request.headers["Content-Range"].split()[1].split("-")[0])
            assert start == len(self.data)
            self.data += request.content
            return httpx.Response(202)
        self.manifest = request.content
        return httpx.Response(201, json={})


@pytest.mark.parametrize("held", [b"", b"abc"])
async def test_push_resumes(tmp_path: Path, held: bytes) -> None:
    library = Library(tmp_path)
    (tmp_path / "k").write_bytes(b"abcdefgh")
    image = Image("x", "firmware", (library.add_blob("firmware", tmp_path / "k"),))
    server, told = Blobs(held), list[tuple[int, int]]()
    async with client(server) as api:
        await api.push(library, image, lambda done, total: told.append((done, total)))
    assert server.data == b"abcdefgh"
    assert server.manifest == image.canonical()
    assert told[0] == (len(held), 8)
    assert told[-1] == (8, 8)


async def test_push_of_a_short_blob_is_an_error(tmp_path: Path) -> None:
    library = Library(tmp_path)
    sha = "0" * 64
    library.blob(sha).write_bytes(b"ab")
    async with client(Blobs()) as api:
        with pytest.raises(WherryError, match="shorter"):
            await api.push(library, Image("x", "firmware", (File("firmware", sha, 9),)), lambda done, total: None)


async def test_events() -> None:
    lines = b': alive\n\nid: 7\ndata: {"id":7,"kind":"guest.running","guest":"web","message":"m"}\n\n'
    async with client(lambda request: httpx.Response(200, content=lines)) as api:
        found = [event async for event in api.events()]
    assert [(event.id, event.kind, event.guest) for event in found] == [(7, "guest.running", "web")]
    async with client(lambda request: httpx.Response(200, content=b"data: {\n\n")) as api:
        with pytest.raises(ApiError, match="no JSON"):
            [event async for event in api.events()]


STREAM = "id: 1\r\ndata: a\r\ndata: b\r\n\r\n: note\n\nevent: x\rdata:é\r\rdata: cut".encode()
EXPECTED = [sse.ServerEvent("1", "message", "a\nb"), sse.ServerEvent("1", "x", "é")]


def test_sse_whole_and_byte_at_a_time() -> None:
    assert sse.Parser().feed(STREAM) == EXPECTED
    parser = sse.Parser()
    assert [event for byte in STREAM for event in parser.feed(bytes([byte]))] == EXPECTED


@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_sse_in_any_pieces(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    parser = sse.Parser()
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(edges)]
    assert [event for piece in pieces for event in parser.feed(piece)] == EXPECTED


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_sse_random(chunks: list[bytes]) -> None:
    parser = sse.Parser()
    for chunk in chunks:
        parser.feed(chunk)


def test_sse_without_end_is_bounded() -> None:
    parser = sse.Parser()
    line = b"data: " + b"x" * 500_000 + b"\n"
    parser.feed(line)
    parser.feed(line)
    with pytest.raises(WherryError, match="more than"):
        parser.feed(line)


def test_context_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WHERRY_API", "WHERRY_TOKEN", "WHERRY_CA"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "cli.json"
    assert context.load(file=file) == Target("http://127.0.0.1:7451", "")
    file.write_text('{"api": "https://file:1/", "token": "f", "ca": null}')
    assert context.load(file=file) == Target("https://file:1", "f")
    monkeypatch.setenv("WHERRY_TOKEN", "env")
    assert context.load(file=file).token == "env"
    assert context.load("http://flag", "flag", file) == Target("http://flag", "flag")
    for text in ("{", "[]", '{"api": 3}', '{"api": "ftp://x"}'):
        file.write_text(text)
        with pytest.raises(WherryError):
            context.load(file=file)
