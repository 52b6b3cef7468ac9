"""What the parts of one agent share: who the node is, its guests, its links, and a nursery that outlives any link.

The agent makes it; orders and migrations work with it and know no agent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from node.config import Config
from node.guests import Guests
from node.identity import Identity
from node.links import Coordinator
from node.peers import Peers
from node.stays import Stays
from node.tickets import Tickets
from protocol.errors import Refused

T = TypeVar("T")


@dataclass(frozen=True)
class Host:
    """``nursery`` is the agent's: what runs in it is torn apart by no link. ``report_soon`` tells the coordinator how
    the guests are now."""

    config: Config
    identity: Identity
    coordinator: Coordinator
    peers: Peers
    guests: Guests
    stays: Stays
    tickets: Tickets
    nursery: trio.Nursery
    report_soon: Callable[[], None]

    @staticmethod
    def now() -> float:
        """The clock of the migration machines."""
        return trio.current_time()

    async def detached(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run ``work`` in the agent's nursery and wait for it; the caller's cancellation leaves it running."""
        done = trio.Event()
        result: list[T] = []
        failure: list[Exception] = []

        async def task() -> None:
            try:
                result.append(await work())
            except Exception as error:
                failure.append(error)
            finally:
                done.set()

        self.nursery.start_soon(task)
        await done.wait()
        if failure:
            raise failure[0]
        if not result:
            raise Refused("cancelled", "the agent is stopping")
        return result[0]
