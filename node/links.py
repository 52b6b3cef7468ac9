"""The agent's session to its coordinator: dialled again for ever, and what may be asked over it when it is up.

``session`` runs beside each live link (register, reports, renewal) and may end it by returning. Between two tries the
agent waits 0.2 s, then twice as long each time up to 5 s, with a random part so that a restarted coordinator is not met
by all nodes at once.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from node.identity import Identity
from protocol.errors import LinkClosed, LinkError, PeerRejected, WherryError
from protocol.messages import Notice, Request, StreamOpen
from protocol.transport import Handlers, Link, LinkStream, LocalIdentity, connect_tls, open_link

log = logging.getLogger("wherry.node.links")

BACKOFF_FIRST, BACKOFF_LAST = 0.2, 5.0
SOFTWARE = "wherry-node/0.1"


def leaf(error: BaseException) -> BaseException:
    """The first single error of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Coordinator:
    """``link`` is the live session or None."""

    def __init__(self, identity: Identity, address: str, handlers: Handlers) -> None:
        self._identity = identity
        self._address = address
        self._handlers = handlers
        self.link: Link | None = None
        self._up = trio.Event()
        self._down = trio.Event()
        self._down.set()

    async def wait_up(self) -> Link:
        while self.link is None:
            await self._up.wait()
        return self.link

    async def wait_down(self) -> None:
        """Until no session is live."""
        await self._down.wait()

    async def call(self, request: Request, *, timeout: float = 10.0) -> Any:
        """Raises LinkClosed at once when there is no session."""
        return await self._need().call(request, timeout=timeout)

    async def notify(self, notice: Notice) -> None:
        """Best effort: notices are lost with the session, so without one they are lost at once."""
        if self.link is not None:
            try:
                await self.link.notify(notice)
            except LinkError as error:
                log.debug("notice %s lost: %s", notice.method, error)

    async def open_stream(self, opening: StreamOpen) -> LinkStream:
        return await self._need().open_stream(opening)

    def _need(self) -> Link:
        if self.link is None:
            raise LinkClosed("there is no session to the coordinator")
        return self.link

    async def run(self, session: Callable[[Link], Awaitable[None]]) -> None:
        """Keep a session; ``session(link)`` registers and then works until the link is gone."""
        pause = BACKOFF_FIRST
        while True:
            try:
                stream = await connect_tls(self._address, tls=self._identity.tls, expect="coordinator")
                async with open_link(
                    stream,
                    identity=LocalIdentity(self._identity.name, SOFTWARE),
                    handlers=self._handlers,
                    client=True,
                    address=self._address,
                ) as link:
                    await self._live(link, session)
                    pause = BACKOFF_FIRST
                    log.info("session to the coordinator ended: %s", link.reason)
            except PeerRejected as error:
                log.warning(
                    "no session to the coordinator at %s: %s; if the cluster's CA was rotated while this node was away,"
                    " remove %s and join again",
                    self._address,
                    error,
                    self._identity.folder,
                )
            except (WherryError, OSError, trio.BrokenResourceError) as error:
                log.warning("no session to the coordinator at %s: %s", self._address, error)
            await trio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, BACKOFF_LAST)

    async def _live(self, link: Link, session: Callable[[Link], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                try:
                    await session(link)
                except* LinkError as errors:  # its parts run side by side, and more than one may notice
                    log.warning("session with the coordinator broken off: %s", leaf(errors))
                nursery.cancel_scope.cancel()

            self.link = link
            self._down = trio.Event()
            self._up.set()
            self._up = trio.Event()
            try:
                nursery.start_soon(work)
                await link.wait_closed()
                nursery.cancel_scope.cancel()
            finally:
                self.link = None
                self._down.set()
