"""Connections that are no links: each shows a ticket that was given to its sender over a link (SPEC.md, 8.10 and 11.6).

They arrive where links are accepted. What a stranger can do: connect, and be dropped for want of a ticket. Who steals
one from the wire and is quicker gets a connection on which nothing is taken that is not sealed.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from protocol.transport import split_address

log = logging.getLogger("wherry.node.tickets")

MAGIC = b"wherry-1"
TICKET_BYTES = 32
TICKET_S = 15.0  # from when it is given to when it is shown
TICKETS = 4096
HELLO_S = 10.0

Take = Callable[[trio.SocketStream], Awaitable[None]]


class Tickets:
    """``now``: seconds."""

    def __init__(self, now: Callable[[], float] = trio.current_time) -> None:
        self._now = now
        self._open: dict[bytes, tuple[Take, float]] = {}

    def give(self, take: Take) -> bytes:
        """A ticket, good for one connection, soon; ``take`` gets that and owns it."""
        now = self._now()
        self._open = {ticket: made for ticket, made in self._open.items() if made[1] > now}
        if len(self._open) >= TICKETS:  # each peer asks for few at a time
            self._open.pop(next(iter(self._open)))
        ticket = secrets.token_bytes(TICKET_BYTES)
        self._open[ticket] = (take, now + TICKET_S)
        return ticket

    async def accept(self, raw: trio.SocketStream) -> Callable[[], Awaitable[None]] | None:
        """A connection that is no link's, which becomes this object's: what to do with it, for as long as that takes.
        None: it had no ticket and was closed."""
        shown = b""
        with trio.move_on_after(HELLO_S):
            while len(shown) < len(MAGIC) + TICKET_BYTES:
                data = await raw.socket.recv(len(MAGIC) + TICKET_BYTES - len(shown))  # what follows is the taker's
                if not data:
                    break
                shown += data
        made = self._open.pop(shown[len(MAGIC) :], None) if shown.startswith(MAGIC) else None
        if made is None or made[1] <= self._now():
            log.info("a connection that is neither a link's nor has a ticket was closed")
            await trio.aclose_forcefully(raw)
            return None
        return partial(made[0], raw)


async def show(address: str, ticket: bytes) -> trio.SocketStream:
    """Connect to where a node accepts links, and show the ticket that it gave. Raises OSError, ValueError (the
    address), trio.BrokenResourceError."""
    raw = await trio.open_tcp_stream(*split_address(address))
    try:
        await raw.send_all(MAGIC + ticket)
    except BaseException:
        await trio.aclose_forcefully(raw)
        raise
    return raw
