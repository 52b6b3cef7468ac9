"""Events on their way from the store to whoever follows them.

Each subscriber has a bounded queue. One that does not keep up is cut off (its stream ends) rather than slowing the
others; it comes back with ``since`` and reads what it missed from the kept events.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from coordinator.model import Event
from coordinator.store import journal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.store.db import Db

QUEUE = 1024


class Hub:
    """Broadcast to any number of subscribers; :meth:`publish` never waits."""

    def __init__(self) -> None:
        self._queues: set[trio.MemorySendChannel[Event]] = set()
        self._closed = False

    def publish(self, events: Iterable[Event]) -> None:
        for event in events:
            for queue in list(self._queues):
                try:
                    queue.send_nowait(event)
                except (trio.WouldBlock, trio.BrokenResourceError):
                    self._queues.discard(queue)
                    queue.close()

    @contextmanager
    def subscribe(self, size: int = QUEUE) -> Iterator[trio.MemoryReceiveChannel[Event]]:
        send, receive = trio.open_memory_channel[Event](size)
        if self._closed:
            send.close()
        else:
            self._queues.add(send)
        try:
            yield receive
        finally:
            self._queues.discard(send)
            send.close()
            receive.close()

    def close(self) -> None:
        """End every subscription: the coordinator stops."""
        self._closed = True
        for queue in self._queues:
            queue.close()
        self._queues.clear()


async def follow(db: Db, hub: Hub, since: int, *, live: bool, idle_s: float = math.inf) -> AsyncIterator[Event | None]:
    """Kept events above ``since``, then, if ``live``, what comes, each once and in order.

    Yields None when nothing came for ``idle_s`` seconds (the caller sends a keep-alive).
    """
    with hub.subscribe() as queue:  # before the read, so that nothing falls between the two
        last = since
        while True:
            kept = await db.run(journal.events_since, last)
            for event in kept:
                last = event.id
                yield event
            if not kept:
                break
        while live:
            with trio.move_on_after(idle_s) as waiting:
                try:
                    event = await queue.receive()
                except trio.EndOfChannel:
                    return
            if waiting.cancelled_caught:
                yield None
            elif event.id > last:
                last = event.id
                yield event
