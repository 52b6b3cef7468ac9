"""Links over trio: calls, cancellation, streams, authority, TLS identities, dying peers."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from protocol import messages as m
from protocol.errors import (
    LinkClosed,
    LinkError,
    LinkTimeout,
    PeerRejected,
    Refused,
    RemoteError,
    RemoteProtocolError,
)
from protocol.link import Link
from protocol.session import SessionLimits
from protocol.tls import PeerIdentity, bootstrap_context, client_context, parse_uri, server_context
from protocol.transport import (
    Handlers,
    LinkStream,
    LocalIdentity,
    StreamBroken,
    connect_tls,
    open_link,
    serve_links,
    split_address,
    wrap_client,
    wrap_server,
)
from tests.unit.pki import Pki

NODE = PeerIdentity("node", 7, "test")
COORDINATOR = PeerIdentity("coordinator", 0, "test")
LOOKUP = m.MigrationFinish(migration="m1", decision="committed", generation=2)
BLOB = m.BlobOpen(sha256="0" * 64)


@asynccontextmanager
async def linked(
    client: Handlers | None = None,
    server: Handlers | None = None,
    *,
    client_is: PeerIdentity = NODE,
    limits: SessionLimits | None = None,
) -> AsyncIterator[tuple[Link, Link, Any]]:
    """Two links wired by memory: (client's, server's, client's raw stream)."""
    left, right = trio.testing.memory_stream_pair()
    ends: dict[str, Link] = {}
    up, down = trio.Event(), trio.Event()

    async def serve() -> None:
        async with open_link(
            right,
            identity=LocalIdentity("server"),
            handlers=server or Handlers(),
            client=False,
            peer=client_is,
            limits=limits,
        ) as link:
            ends["server"] = link
            up.set()
            await down.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with open_link(
            left,
            identity=LocalIdentity("client"),
            handlers=client or Handlers(),
            client=True,
            peer=COORDINATOR,
            limits=limits,
        ) as link:
            await up.wait()
            yield link, ends["server"], left
        down.set()


async def test_call_gives_the_typed_answer() -> None:
    handlers = Handlers()

    async def finish(link: Link, request: m.MigrationFinish) -> m.Finished:
        assert link.peer.node == 7
        return m.Finished(resumed_at=float(request.generation))

    handlers.on_request(m.MigrationFinish, finish)
    async with linked(server=handlers) as (link, other, _):
        assert await link.call(LOOKUP) == m.Finished(resumed_at=2.0)
        assert link.peer.name == "server"
        assert other.peer.name == "client"
        assert "relay" in link.peer.features


async def test_refusals_crashes_and_wrong_answers_become_typed_errors(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    outcome: list[Any] = []

    async def finish(link: Link, request: m.MigrationFinish) -> m.Message | None:
        item = outcome.pop()
        if isinstance(item, Exception):
            raise item
        return item  # type: ignore[no-any-return]

    handlers.on_request(m.MigrationFinish, finish)
    async with linked(server=handlers) as (link, _, _raw):
        outcome.append(Refused("fenced", "too old", generation=9))
        with pytest.raises(RemoteError) as caught:
            await link.call(LOOKUP)
        assert (caught.value.code, caught.value.message, caught.value.details) == (
            "fenced",
            "too old",
            {"generation": 9},
        )
        with caplog.at_level(logging.ERROR):
            for bad in (ZeroDivisionError("boom"), m.CaFetched(ca_pem="")):
                outcome.append(bad)
                with pytest.raises(RemoteError) as caught:
                    await link.call(LOOKUP)
                assert caught.value.code == "internal"
                assert "boom" not in str(caught.value)
        assert "boom" in caplog.text
        outcome.append(m.Finished())
        assert await link.call(LOOKUP) == m.Finished()


async def test_unserved_malformed_and_forbidden_requests() -> None:
    handlers = Handlers()

    async def never(link: Link, request: m.Message) -> None:
        raise AssertionError("must not be reached")

    handlers.on_request(m.GuestForget, never)
    handlers.on_request(m.MigrationFinish, never)
    async with linked(server=handlers) as (link, other, _):
        with pytest.raises(RemoteError) as caught:
            await link.call(m.CaFetch())
        assert caught.value.code == "unsupported"
        with pytest.raises(RemoteError) as caught:  # a node may not command a node
            await link.call(m.GuestForget(guest="g", generation=1))
        assert caught.value.code == "forbidden"
        with pytest.raises(RemoteError) as caught:
            await link.call(m.MigrationFinish(migration="m", decision="maybe", generation=1))  # type: ignore[arg-type]
        assert caught.value.code == "invalid"
        assert caught.value.details["field"] == "MigrationFinish.decision"
        assert not other.closed


async def test_anonymous_peers_may_bootstrap_only() -> None:
    handlers = Handlers()

    async def fetch(link: Link, request: m.CaFetch) -> m.CaFetched:
        return m.CaFetched(ca_pem="pem")

    async def never(link: Link, *rest: Any) -> None:
        raise AssertionError("must not be reached")

    handlers.on_request(m.CaFetch, fetch)
    handlers.on_request(m.Decide, never)
    handlers.on_notice(m.Report, never)
    handlers.on_stream(m.BlobOpen, never)
    async with linked(server=handlers, client_is=PeerIdentity("anonymous")) as (link, _, _raw):
        resources = m.Resources(cpus=1, memory=1, memory_free=1, disk_free=1)
        await link.notify(m.Report(resources=resources, guests=[]))
        with pytest.raises(RemoteError, match="forbidden"):
            await link.call(m.Decide(migration="m", guest="g", generation=1, ask="query"))
        with pytest.raises(RemoteError, match="forbidden"):
            await link.open_stream(BLOB)
        assert (await link.call(m.CaFetch())).ca_pem == "pem"


async def test_cancelling_a_call_cancels_its_handler() -> None:
    handlers = Handlers()
    started, ended = trio.Event(), trio.Event()

    async def finish(link: Link, request: m.MigrationFinish) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    handlers.on_request(m.MigrationFinish, finish)
    async with linked(server=handlers) as (link, other, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.call, LOOKUP)
            await started.wait()
            nursery.cancel_scope.cancel()
        await ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert not other.closed
        assert not other.session._serving


async def test_deadline_ends_both_sides(autojump_clock: trio.testing.MockClock) -> None:
    handlers = Handlers()
    ended = trio.Event()

    async def finish(link: Link, request: m.MigrationFinish) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    handlers.on_request(m.MigrationFinish, finish)
    async with linked(server=handlers) as (link, _, _raw):
        start = trio.current_time()
        with pytest.raises(LinkTimeout):
            await link.call(LOOKUP, timeout=3)
        assert 3 <= trio.current_time() - start < 4
        await ended.wait()


async def test_notices_are_handled_in_order_and_a_crash_loses_one_only() -> None:
    handlers = Handlers()
    seen: list[int] = []
    done = trio.Event()

    async def settle(link: Link, notice: m.Directory) -> None:
        if notice.version == 3:
            raise ValueError("bad luck")
        await trio.lowlevel.checkpoint()
        seen.append(notice.version)
        if notice.version == 9:
            done.set()

    handlers.on_notice(m.Directory, settle)
    async with linked(client=handlers) as (_, server, _raw):
        for version in range(10):
            await server.notify(m.Directory(version=version, nodes=[], networks=[]))
        await done.wait()
    assert seen == [0, 1, 2, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("size", [0, 1, 65536, 5_000_000])
async def test_a_stream_carries_bytes_both_ways_and_half_closes(size: int) -> None:
    handlers = Handlers()

    async def echo(link: Link, opening: m.BlobOpen, stream: LinkStream) -> None:
        whole = bytearray()
        while data := await stream.receive_some():
            whole += data
        await stream.send_all(bytes(reversed(whole)))

    handlers.on_stream(m.BlobOpen, echo)
    payload = os.urandom(size)
    async with linked(server=handlers) as (link, other, _):
        stream = await link.open_stream(BLOB)
        await stream.send_all(payload)
        await stream.send_eof()
        back = bytearray()
        while data := await stream.receive_some(7777):
            back += data
        assert bytes(reversed(back)) == payload
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert not link.session.streams
        assert not other.session.streams


async def test_a_sender_waits_for_its_reader() -> None:
    """Memory stays within one window when nobody reads, and another stream is not held up."""
    handlers = Handlers()
    opened: list[LinkStream] = []
    release = trio.Event()

    async def hold(link: Link, opening: m.BlobOpen, stream: LinkStream) -> None:
        stream.accept()
        opened.append(stream)
        if opening.offset:
            assert await stream.receive_some() == b"x"
        await release.wait()

    handlers.on_stream(m.BlobOpen, hold)
    async with linked(server=handlers, limits=SessionLimits(window=65536)) as (link, _, _raw):
        slow = await link.open_stream(BLOB)
        with trio.move_on_after(0.2):
            await slow.send_all(bytes(1_000_000))
            raise AssertionError("sent a megabyte into a window of 64 KiB")
        assert sum(map(len, opened[0]._chunks)) == 65536
        fast = await link.open_stream(m.BlobOpen(sha256="0" * 64, offset=1))
        await fast.send_all(b"x")
        release.set()
        with pytest.raises(StreamBroken):
            await slow.send_all(bytes(1_000_000))


async def test_a_stream_handler_can_refuse_and_crash() -> None:
    handlers = Handlers()

    async def pick(link: Link, opening: m.BlobOpen, stream: LinkStream) -> None:
        if opening.offset == 1:
            raise Refused("not_found", "no such blob")
        await stream.send_all(b"partial")
        raise ZeroDivisionError

    handlers.on_stream(m.BlobOpen, pick)
    async with linked(server=handlers) as (link, _, _raw):
        with pytest.raises(RemoteError, match="no such blob") as caught:
            await link.open_stream(m.BlobOpen(sha256="0" * 64, offset=1))
        assert caught.value.code == "not_found"
        with pytest.raises(RemoteError, match="unsupported"):
            await link.open_stream(m.RelayOpen(node=3))
        stream = await link.open_stream(BLOB)
        assert await stream.receive_some() == b"partial"
        with pytest.raises(StreamBroken) as broken:
            await stream.receive_some()
        assert broken.value.code == "internal"


async def test_a_closed_reader_stops_the_sender() -> None:
    handlers = Handlers()
    stopped = trio.Event()

    async def pour(link: Link, opening: m.BlobOpen, stream: LinkStream) -> None:
        try:
            while True:
                await stream.send_all(bytes(100_000))
        except trio.BrokenResourceError:
            stopped.set()
            raise

    handlers.on_stream(m.BlobOpen, pour)
    async with linked(server=handlers) as (link, _, _raw):
        stream = await link.open_stream(BLOB)
        await stream.receive_some()
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        await stopped.wait()


async def test_trio_s_own_conformance_suite_on_link_streams() -> None:
    """A link stream behaves as trio asks of every half-closeable stream."""
    handlers = Handlers()
    into, out_of = trio.open_memory_channel[LinkStream](1)

    async def keep(link: Link, opening: m.BlobOpen, stream: LinkStream) -> None:
        stream.accept()
        await into.send(stream)
        await trio.sleep_forever()

    handlers.on_stream(m.BlobOpen, keep)
    async with linked(server=handlers) as (link, _, _raw):

        async def maker() -> tuple[LinkStream, LinkStream]:
            mine = await link.open_stream(BLOB)
            return mine, await out_of.receive()

        with trio.fail_after(5):
            await trio.testing.check_half_closeable_stream(maker, None)


async def test_a_stream_can_be_read_in_pieces() -> None:
    handlers = Handlers()

    async def pour(link: Link, opening: m.BlobOpen, stream: LinkStream) -> None:
        await stream.send_all(b"abc")

    handlers.on_stream(m.BlobOpen, pour)
    async with linked(server=handlers) as (link, _, _raw):
        stream = await link.open_stream(BLOB)
        assert [await stream.receive_some(2) for _ in range(4)] == [b"ab", b"c", b"", b""]


async def test_a_dead_connection_fails_everything_that_waits() -> None:
    handlers = Handlers()

    async def hang(link: Link, *rest: Any) -> None:
        if isinstance(rest[-1], LinkStream):
            rest[-1].accept()
        await trio.sleep_forever()

    handlers.on_request(m.MigrationFinish, hang)
    handlers.on_stream(m.BlobOpen, hang)
    async with linked(server=handlers) as (link, server, raw):
        stream = await link.open_stream(BLOB)
        errors: list[Exception] = []

        async def expect(fn: Any, *args: Any) -> None:
            try:
                await fn(*args)
            except (LinkError, trio.BrokenResourceError) as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, link.call, LOOKUP)
            nursery.start_soon(expect, stream.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            await trio.aclose_forcefully(raw)
        assert {type(error) for error in errors} == {LinkClosed, StreamBroken}
        await link.wait_closed()
        await server.wait_closed()
        with pytest.raises(LinkClosed):
            await link.call(LOOKUP)
        with pytest.raises(LinkClosed):
            await link.notify(m.LinkStates(lsas=[]))
        with pytest.raises(LinkClosed):
            await link.open_stream(BLOB)


async def test_a_silent_peer_is_noticed(autojump_clock: trio.testing.MockClock) -> None:
    """No FIN, no RST: only the heartbeat tells."""
    left, right = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def mute() -> None:
            from protocol.session import Session

            session = Session(client=False)
            session.start()
            await right.send_all(session.take_output())
            await trio.sleep_forever()

        nursery.start_soon(mute)
        limits = SessionLimits(ping_interval=1, dead_after=5)
        async with open_link(
            left, identity=LocalIdentity("a"), handlers=Handlers(), client=True, peer=COORDINATOR, limits=limits
        ) as link:
            start = trio.current_time()
            await link.wait_closed()
            assert 5 <= trio.current_time() - start <= 7
            assert "silent" in link.reason
        nursery.cancel_scope.cancel()


async def test_heartbeats_keep_an_idle_link_alive_and_measure(autojump_clock: trio.testing.MockClock) -> None:
    async with linked(limits=SessionLimits(ping_interval=1, dead_after=5)) as (link, server, _):
        await trio.sleep(60)
        assert not link.closed
        assert not server.closed
        assert link.peer.rtt >= 0


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\1\x90", b"\xff" * 40, b"\0\0\0\0"])
async def test_a_peer_that_speaks_no_link_is_refused(junk: bytes) -> None:
    left, right = trio.testing.memory_stream_pair()
    await right.send_all(junk)
    with pytest.raises(LinkClosed, match="protocol error"):
        async with open_link(left, identity=LocalIdentity("a"), handlers=Handlers(), client=True):
            raise AssertionError("must not open")


async def test_a_peer_that_says_nothing_times_out(autojump_clock: trio.testing.MockClock) -> None:
    left, _right = trio.testing.memory_stream_pair()
    with pytest.raises(LinkTimeout):
        async with open_link(left, identity=LocalIdentity("a"), handlers=Handlers(), client=True):
            raise AssertionError("must not open")


async def test_an_error_in_the_block_comes_out_unwrapped() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with linked() as (_, _, _raw):
            raise KeyError("mine")
    assert caught.group_contains(KeyError, depth=1)  # depth 1: the test's own nursery; the link adds none


async def test_a_malformed_answer_names_its_field() -> None:
    handlers = Handlers()

    async def finish(link: Link, request: m.MigrationFinish) -> m.Finished:
        return m.Finished(resumed_at="late")  # type: ignore[arg-type]

    handlers.on_request(m.MigrationFinish, finish)
    async with linked(server=handlers) as (link, _, _raw):
        with pytest.raises(RemoteProtocolError) as caught:
            await link.call(LOOKUP)
        assert caught.value.field == "Finished.resumed_at"
        assert not link.closed


# ---- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@asynccontextmanager
async def served(tls: Any, handlers: Handlers, **more: Any) -> AsyncIterator[str]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:

        async def serve(task_status: Any) -> None:
            await serve_links(
                listeners, tls=tls, identity=LocalIdentity("srv"), handlers=handlers, task_status=task_status, **more
            )

        await nursery.start(serve)
        yield f"127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


def whoami() -> Handlers:
    handlers = Handlers()

    async def fetch(link: Link, request: m.CaFetch) -> m.CaFetched:
        return m.CaFetched(ca_pem=f"{link.peer.role} {link.peer.node} {link.peer.cluster}")

    handlers.on_request(m.CaFetch, fetch)
    return handlers


async def ask_who(address: str, tls: Any, expect: Any) -> str:
    stream = await connect_tls(address, tls=tls, expect=expect)
    async with open_link(stream, identity=LocalIdentity("cli"), handlers=Handlers(), client=True) as link:
        return (await link.call(m.CaFetch())).ca_pem  # type: ignore[no-any-return]


async def test_both_ends_prove_themselves(pki: Pki) -> None:
    async with served(pki.coordinator(), whoami()) as address:
        assert await ask_who(address, pki.node(5), "coordinator") == "node 5 test"
    async with served(pki.node(6), whoami()) as address:
        assert await ask_who(address, pki.node(5), 6) == "node 5 test"
        with pytest.raises(PeerRejected, match="dialled node 8"):
            await ask_who(address, pki.node(5), 8)
        with pytest.raises(PeerRejected, match="dialled coordinator"):
            await ask_who(address, pki.node(5), "coordinator")


async def test_certificates_of_another_ca_or_expired_are_refused_both_ways(pki: Pki, tmp_path: Path) -> None:
    other = Pki(tmp_path / "other")
    expired = pki.issue("old", "wherry://test/node/9", days=-1)
    async with served(pki.node(6), whoami()) as address:
        with pytest.raises(PeerRejected, match="certificate"):
            await ask_who(address, other.node(5), 6)
        for bad in (expired, other.node(5)):
            context = client_context(bad)
            context.load_verify_locations(pki.folder / "ca.pem")  # it trusts us; we must not trust it
            with pytest.raises(LinkError):
                await ask_who(address, context, 6)
        context = bootstrap_context()
        with pytest.raises(LinkError):
            await ask_who(address, context, None)
        assert await ask_who(address, pki.node(5), 6) == "node 5 test"


async def test_a_joiner_without_a_certificate_is_anonymous(pki: Pki) -> None:
    async with served(pki.coordinator(), whoami(), anonymous=True) as address:
        assert await ask_who(address, bootstrap_context(), None) == "anonymous 0 "
        assert await ask_who(address, pki.node(5), "coordinator") == "node 5 test"


async def test_certificate_without_our_uri_is_refused(pki: Pki) -> None:
    async with served(pki.issue("web", "https://example.test/"), whoami()) as address:
        with pytest.raises(PeerRejected, match="wherry://CLUSTER"):
            await ask_who(address, pki.node(5), 6)


async def test_only_tls_1_3_is_spoken(pki: Pki) -> None:
    async with served(pki.node(6), whoami()) as address:
        context = client_context(pki.node(5))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(LinkClosed):
            await ask_who(address, context, 6)


async def test_a_renewed_certificate_is_picked_up(pki: Pki, tmp_path: Path) -> None:
    files = pki.issue("renewing", "wherry://test/node/20")
    async with served(files, whoami()) as address:
        await ask_who(address, pki.node(5), 20)
        pki.issue("renewing", "wherry://test/node/21")
        os.utime(files.certificate, ns=(1, 1))
        await ask_who(address, pki.node(5), 21)


async def test_tls_end_to_end_inside_a_relayed_stream(pki: Pki) -> None:
    """The relay sees only bytes: both ends prove themselves to each other through it."""
    relay = Handlers()

    async def answer(link: Link, opening: m.BlobOpen, stream: LinkStream) -> None:
        secured = await wrap_server(stream, tls=pki.node(6))
        async with open_link(secured, identity=LocalIdentity("far"), handlers=whoami(), client=False) as inner:
            await inner.wait_closed()

    relay.on_stream(m.BlobOpen, answer)
    async with linked(server=relay) as (link, _, _raw):
        secured = await wrap_client(await link.open_stream(BLOB), tls=pki.node(5), expect=6)
        async with open_link(secured, identity=LocalIdentity("near"), handlers=Handlers(), client=True) as inner:
            assert (await inner.call(m.CaFetch())).ca_pem == "node 5 test"


async def test_a_link_with_bulk_steps_back(pki: Pki) -> None:
    """What the kernel is told, while any of the transfers is under way."""
    async with served(pki.node(6), whoami()) as address:
        stream = await connect_tls(address, tls=pki.node(5), expect=6)
        async with open_link(stream, identity=LocalIdentity("n5"), handlers=Handlers(), client=True) as link:
            assert isinstance(stream.transport, trio.SocketStream)
            told = []
            for change in (1, 1, -1, -1):
                link.carry_bulk(change)
                told.append(stream.transport.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY))
            assert told == [2, 2, 2, 0]


async def test_tls_stream_moves_bulk_intact(pki: Pki) -> None:
    left, right = trio.testing.memory_stream_pair()
    payload = os.urandom(3_000_000)
    got = bytearray()
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            stream = await wrap_server(right, tls=server_context(pki.node(6)))
            while data := await stream.receive_some():
                got.extend(data)

        nursery.start_soon(receive)
        stream = await wrap_client(left, tls=pki.node(5), expect=6)
        await stream.send_all(payload)
        await stream.aclose()
    assert bytes(got) == payload


async def test_nobody_dials_nowhere() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    await listeners[0].aclose()
    with pytest.raises(LinkClosed, match="cannot dial"):
        await connect_tls(address, tls=bootstrap_context(), expect=None)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:0", "host:65536", "host:1x", "host:-1"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ValueError, match="allowed"):
        split_address(address)


def test_addresses() -> None:
    assert split_address("example.test:7450") == ("example.test", 7450)
    assert split_address("[::1]:7450") == ("::1", 7450)


@pytest.mark.parametrize(
    "uri", ["", "wherry://a/node/0", "wherry://a/node/4294967296", "wherry://a/admin", "wherry:///node/1", "http://a"]
)
def test_identities_that_are_none(uri: str) -> None:
    with pytest.raises(PeerRejected):
        parse_uri(uri)


def test_identity_round_trip() -> None:
    for who in (PeerIdentity("node", 4294967295, "c-1"), PeerIdentity("coordinator", 0, "c")):
        assert parse_uri(who.uri) == who
