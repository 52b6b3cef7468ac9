"""The tunnel to a peer over TCP, where UDP does not come through (SPEC.md, 8.10): who dials, when, and for how long.

Theory. The switch says by which path each peer answers: UDP, a stream that it was given, or none. Where it is none
although there is a link, the end that the link proves able to dial the other - the lower id; the higher one if the
link is relayed - asks over the link for a cookie, connects to the address that links are accepted at, shows the cookie
and gives the connection to its switch; so does the other end, which made the cookie. From then on C threads carry
datagrams over it. The switch goes on probing UDP and takes it back when it answers; some time after that the end that
dialled closes the connection.

Cookies are tickets (tickets.py). Who steals one can swallow datagrams, which he could without.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from typing import Literal

import trio

from node.core import CoreError
from node.switchctl import Switch
from node.tickets import Tickets, show
from protocol.errors import LinkError
from protocol.messages import TunnelCookie, TunnelStream
from protocol.transport import Handlers, Link

log = logging.getLogger("wherry.node.fallback")

DIAL_S = 5.0
GRACE_S = 3.0  # for UDP, on a new link
ANSWER_S = 3.0  # for the first probe over a new stream
RETRY_FIRST, RETRY_LAST = 2.0, 60.0
SETTLED_S = 60.0  # of UDP, before the stream is closed

TunnelPath = Literal["", "udp", "tcp"]


class Fallback:
    """``dialled(node)``: the address at which the node accepts links, None: not known."""

    def __init__(self, switch: Switch, dialled: Callable[[int], str | None], tickets: Tickets) -> None:
        self._switch = switch
        self._address = dialled
        self._tickets = tickets
        self._paths: dict[int, TunnelPath] = {}
        self._open: set[int] = set()
        self._changed = trio.Event()

    def register(self, handlers: Handlers) -> None:
        handlers.on_request(TunnelStream, self._cookie)

    # -- what the switch says

    def path(self, node: int) -> TunnelPath:
        return self._paths.get(node, "")

    def answers(self, node: int, path: TunnelPath) -> None:
        """By which path a node answers, "": by none."""
        if self.path(node) != path:
            log.info("node=%d answers %s", node, {"udp": "by UDP", "tcp": "by TCP", "": "no more"}[path])
            self._paths[node] = path
            self._wake()

    def broken(self, node: int) -> None:
        """Its stream is gone."""
        self._open.discard(node)
        self._wake()

    def gone(self, node: int) -> None:
        """It left the cluster, and the switch."""
        self._paths.pop(node, None)
        self._open.discard(node)

    # -- the end that dials

    async def keep(self, link: Link) -> None:
        """Runs beside a live link, until it is cancelled."""
        node = link.peer.node
        relayed = link.peer.address == "relayed"
        if "tunnel-stream" not in link.peer.features or (node < self._switch.node) != relayed:
            return
        pause = RETRY_FIRST
        await self._until(lambda: self.path(node) != "", GRACE_S)
        while True:
            match self.path(node):
                case "udp" if node in self._open:
                    if not await self._until(lambda: self.path(node) != "udp", SETTLED_S):
                        self._open.discard(node)
                        self._switch.close_peer_stream(node)
                case "":
                    await self._dial(link)
                    if await self._until(lambda: self.path(node) != "", ANSWER_S):
                        pause = RETRY_FIRST
                        continue
                    await self._until(lambda: self.path(node) != "", pause * random.uniform(0.5, 1.0))
                    pause = min(pause * 2, RETRY_LAST)
                case known:
                    await self._until(lambda: self.path(node) != known, math.inf)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        with trio.move_on_after(seconds):
            while not condition():
                await self._changed.wait()
        return condition()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _dial(self, link: Link) -> None:
        """One try; what is wrong is logged."""
        node = link.peer.node
        address = self._address(node)
        if address is None:
            return
        try:
            with trio.fail_after(DIAL_S):
                ticket: TunnelCookie = await link.call(TunnelStream(), timeout=DIAL_S)
                raw = await show(address, ticket.cookie)
        except (LinkError, OSError, ValueError, trio.TooSlowError, trio.BrokenResourceError) as error:
            log.info("node=%d: no tunnel over TCP to %s: %s", node, address, error or "it takes too long")
            return
        self._hand_over(node, raw)

    # -- the end that is dialled

    async def _cookie(self, link: Link, request: TunnelStream) -> TunnelCookie:
        node = link.peer.node

        async def take(raw: trio.SocketStream) -> None:
            self._hand_over(node, raw)

        return TunnelCookie(cookie=self._tickets.give(take))

    def _hand_over(self, node: int, raw: trio.SocketStream) -> None:
        """The connection becomes the switch's."""
        try:
            self._switch.set_peer_stream(node, raw.socket.fileno())
        except CoreError as error:
            log.warning("node=%d: no tunnel over TCP: %s", node, error)
            raw.socket.close()
            return
        raw.socket.detach()
        self._open.add(node)
        self._wake()
