"""The sessions that are up now: which node can be asked for something."""

from __future__ import annotations

import logging

import trio

from coordinator.errors import Unavailable
from protocol.transport import Link

log = logging.getLogger(__name__)


class LiveLinks:
    """Node id → its present session. A newer session of a node replaces the older, which is closed by its server."""

    def __init__(self) -> None:
        self._links: dict[int, Link] = {}
        self._changed = trio.Event()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def put(self, node: int, link: Link) -> Link | None:
        """Make ``link`` the node's session; returns the one that it replaces, to be closed by the caller."""
        old = self._links.get(node)
        self._links[node] = link
        self._notify()
        return old if old is not link else None

    def drop(self, node: int, link: Link) -> bool:
        """Forget a session; False if another took its place already."""
        if self._links.get(node) is not link:
            return False
        del self._links[node]
        self._notify()
        return True

    def pop(self, node: int) -> Link | None:
        link = self._links.pop(node, None)
        self._notify()
        return link

    def get(self, node: int | None) -> Link | None:
        return self._links.get(node) if node is not None else None

    def need(self, node: int | None, name: str | None = None) -> Link:
        link = self.get(node)
        if link is None:
            raise Unavailable(f"node {name or node} is not connected")
        return link

    async def wait(self, node: int, *, other_than: Link | None = None) -> Link:
        """The node's session as soon as there is one (other than ``other_than``, which just failed)."""
        while True:
            link = self._links.get(node)
            if link is not None and link is not other_than:
                return link
            await self._changed.wait()

    def all(self) -> dict[int, Link]:
        return dict(self._links)
