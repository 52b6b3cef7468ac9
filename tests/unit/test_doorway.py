"""Connections that have not proved who they are: bounded, and never in the way of those who do."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from protocol.doorway import Doorway, source_of
from protocol.errors import LinkClosed, LinkError
from protocol.link import HANDSHAKE_TIMEOUT
from protocol.transport import Handlers, LocalIdentity, _Server
from tests.unit.pki import Pki
from tests.unit.test_transport import ask_who, pki, served, whoami

__all__ = ["pki"]


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:2", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("?", "?"),
    ],
)
def test_whom_a_connection_counts_for(host: str, source: str) -> None:
    assert source_of(host) == source


async def test_one_source_has_its_share() -> None:
    door = Doorway(places=10, per_source=2)
    with door.enter("10.0.0.1"), door.enter("10.0.0.1"):
        with pytest.raises(LinkClosed, match=r"2 connections of 10\.0\.0\.1"), door.enter("10.0.0.1"):
            pass
        with door.enter("10.0.0.2") as other:
            await trio.lowlevel.checkpoint()
        assert not other.cancelled_caught
    with door.enter("10.0.0.1"):
        pass


async def test_the_longest_standing_makes_room() -> None:
    door = Doorway(places=2, per_source=2)
    ended: list[str] = []

    async def stand(host: str) -> None:
        with door.enter(host) as stay:
            await trio.sleep_forever()
        assert stay.cancelled_caught
        ended.append(host)

    async with trio.open_nursery() as nursery:
        for host in ("a", "b", "c", "d"):
            nursery.start_soon(stand, host)
            await trio.testing.wait_all_tasks_blocked()
        assert ended == ["a", "b"]
        nursery.cancel_scope.cancel()
    assert not door._standing
    assert not door._of


async def test_idle_strangers_keep_no_node_out(pki: Pki) -> None:
    async with (
        served(pki.coordinator(), whoami(), doorway=Doorway(places=3, per_source=3)) as address,
        trio.open_nursery() as nursery,
    ):
        host, _, port = address.rpartition(":")

        async def idle(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                await stream.send_all(b"\x16")
                task_status.started()
                await stream.receive_some(1)  # until it is closed

        for _ in range(3):
            await nursery.start(idle)
        await trio.testing.wait_all_tasks_blocked(0.05)
        with pytest.raises(LinkError):
            await ask_who(address, pki.node(5), "coordinator")  # of the same source: it has its share
        nursery.cancel_scope.cancel()
    async with served(pki.coordinator(), whoami(), doorway=Doorway(places=3, per_source=9)) as address:
        host, _, port = address.rpartition(":")
        idlers = [await trio.open_tcp_stream(host, int(port)) for _ in range(5)]
        assert await ask_who(address, pki.node(5), "coordinator") == "node 5 test"
        for stream in idlers:
            await stream.aclose()


async def test_a_connection_that_has_shown_its_ticket_may_stay(autojump_clock: trio.testing.MockClock) -> None:
    """Longer than any handshake, and not at a stranger's place."""
    doorway = Doorway(places=1, per_source=1)
    done = trio.Event()

    async def other(raw: trio.SocketStream) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            await trio.sleep(10 * HANDSHAKE_TIMEOUT)
            with doorway.enter("127.0.0.1"):
                done.set()
            await raw.aclose()

        return work

    server = _Server(LocalIdentity("n1"), Handlers(), None, None, other, doorway)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    client = await trio.open_tcp_stream(*listener.socket.getsockname())
    accepted = await listener.accept()
    await client.send_all(b"no TLS")
    await accepted.socket.recv(1, socket.MSG_PEEK)
    with trio.fail_after(20 * HANDSHAKE_TIMEOUT):
        await server.serve(accepted, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert done.is_set()
    await client.aclose()
    await listener.aclose()
