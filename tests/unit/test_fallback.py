"""The tunnel over TCP as the agents arrange it: cookies, who dials, when the stream is closed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from node import fallback, tickets
from node.core import CoreNotFound
from node.fallback import Fallback
from node.tickets import MAGIC, TICKETS, Tickets
from protocol.errors import LinkClosed
from protocol.messages import TunnelCookie, TunnelStream
from protocol.transport import Link


class FakeSwitch:
    """Owns what it is given, as the real one."""

    def __init__(self, node: int) -> None:
        self.node = node
        self.streams: dict[int, int] = {}
        self.gone = False
        self.given = trio.Event()

    def set_peer_stream(self, node: int, fd: int) -> None:
        if self.gone:
            raise CoreNotFound(-5, "node", "no such peer")
        self.close_peer_stream(node)
        self.streams[node] = fd
        self.given.set()
        self.given = trio.Event()

    def close_peer_stream(self, node: int) -> None:
        if node in self.streams:
            os.close(self.streams.pop(node))


class Rig:
    def __init__(self) -> None:
        self.now = 0.0
        self.switch = FakeSwitch(2)
        self.tickets = Tickets(lambda: self.now)
        self.fallback = Fallback(cast(Any, self.switch), lambda _: None, self.tickets)
        self.listener: trio.SocketListener | None = None

    async def ask(self, node: int = 1) -> bytes:
        link = cast(Link, SimpleNamespace(peer=SimpleNamespace(node=node)))
        return (await self.fallback._cookie(link, TunnelStream())).cookie

    async def show(self, data: bytes) -> bool:
        """Connect, show this; is it closed?"""
        assert self.listener is not None
        async with await trio.open_tcp_stream(*self.listener.socket.getsockname()) as stream:
            await stream.send_all(data)
            await stream.send_eof()
            accepted = await self.listener.accept()
            taken = await self.tickets.accept(accepted)
            if taken is not None:
                await taken()
            return accepted.socket.fileno() < 0 and not self.switch.streams


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    (made.listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    yield made
    for node in list(made.switch.streams):
        made.switch.close_peer_stream(node)
    await made.listener.aclose()


async def test_a_cookie_opens_one_connection(rig: Rig) -> None:
    cookie = await rig.ask()
    assert not await rig.show(MAGIC + cookie)
    assert list(rig.switch.streams) == [1]
    rig.switch.close_peer_stream(1)
    assert await rig.show(MAGIC + cookie)


@pytest.mark.parametrize("what", ["foreign", "short", "magic", "nothing", "late", "peer gone"])
async def test_what_opens_none(rig: Rig, what: str) -> None:
    cookie = await rig.ask()
    shown = MAGIC + cookie
    match what:
        case "foreign":
            shown = MAGIC + bytes(32)
        case "short":
            shown = shown[:-1]
        case "magic":
            shown = b"wherry-2" + cookie
        case "nothing":
            shown = b""
        case "late":
            rig.now += tickets.TICKET_S
        case "peer gone":
            rig.switch.gone = True
    assert await rig.show(shown)


async def test_cookies_are_bounded_and_differ(rig: Rig) -> None:
    made = [await rig.ask(node) for node in range(1, TICKETS + 2)]
    assert len(set(made)) == len(made)
    assert len(rig.tickets._open) == TICKETS
    assert await rig.show(MAGIC + made[0])  # the oldest went
    assert not await rig.show(MAGIC + made[-1])


class FakeLink:
    """To a peer whose cookie is always the same, and which may refuse."""

    def __init__(self, node: int, address: str = "10.0.0.9:1", features: frozenset[str] | None = None) -> None:
        found = frozenset({"tunnel-stream"}) if features is None else features
        self.peer = SimpleNamespace(node=node, address=address, features=found)
        self.asked = 0
        self.refuses = False

    async def call(self, request: TunnelStream, *, timeout: float) -> TunnelCookie:
        self.asked += 1
        if self.refuses:
            raise LinkClosed("gone")
        return TunnelCookie(cookie=b"c" * 32)


@asynccontextmanager
async def dialling(
    node: int, link: FakeLink, clock: trio.testing.MockClock
) -> AsyncIterator[tuple[Fallback, FakeSwitch, trio.SocketListener]]:
    """Node's fall-back beside a link; what it connects to."""
    switch = FakeSwitch(node)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host, port = listener.socket.getsockname()
    made = Fallback(cast(Any, switch), lambda _: f"{host}:{port}", Tickets())
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(made.keep, cast(Link, link))
        yield made, switch, listener
        nursery.cancel_scope.cancel()
    for peer in list(switch.streams):
        switch.close_peer_stream(peer)


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)


async def step(clock: trio.testing.MockClock, seconds: float) -> None:
    await settle()
    clock.jump(seconds)
    await settle()


async def opened(switch: FakeSwitch, work: Callable[[], Awaitable[None]]) -> None:
    """``work`` lets the clock go; a real connection takes real time."""
    given = switch.given
    await work()
    await given.wait()


async def test_a_stream_while_udp_does_not_answer(mock_clock: trio.testing.MockClock) -> None:
    link = FakeLink(2)
    async with dialling(1, link, mock_clock) as (made, switch, listener):
        await step(mock_clock, fallback.GRACE_S - 0.1)
        assert link.asked == 0
        await opened(switch, lambda: step(mock_clock, 0.2))
        async with await listener.accept() as peer:
            assert await peer.receive_some(100) == MAGIC + b"c" * 32
            made.answers(2, "tcp")
            await step(mock_clock, 1000)
            assert (link.asked, list(switch.streams)) == (1, [2])
            made.answers(2, "udp")
            await step(mock_clock, fallback.SETTLED_S - 1)
            assert list(switch.streams) == [2]
            await step(mock_clock, 2)
            assert not switch.streams
            made.broken(2)

            async def lost() -> None:
                made.answers(2, "")

            await opened(switch, lost)  # at once this time
            assert link.asked == 2


async def test_tries_get_rarer(mock_clock: trio.testing.MockClock) -> None:
    link = FakeLink(2)
    link.refuses = True
    async with dialling(1, link, mock_clock):
        for _ in range(600):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(1)
        assert 10 <= link.asked <= 20


@pytest.mark.parametrize(
    ("node", "link", "dials"),
    [
        (1, FakeLink(2), True),
        (3, FakeLink(2), False),
        (1, FakeLink(2, "relayed"), False),
        (3, FakeLink(2, "relayed"), True),
        (1, FakeLink(2, features=frozenset()), False),
    ],
)
async def test_who_dials(node: int, link: FakeLink, dials: bool, mock_clock: trio.testing.MockClock) -> None:
    link.refuses = True
    async with dialling(node, link, mock_clock):
        await step(mock_clock, fallback.GRACE_S + 0.1)
        assert (link.asked > 0) == dials
