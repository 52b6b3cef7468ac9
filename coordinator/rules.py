"""Telling nodes what their networks and ports let through (store/rules.py): the whole list, after every change, at each
registration, and before a node is given a port, so that none is ever open wider than it may be.

Lists of one node are sent one after the other, so that an older one never follows a newer.
"""

from __future__ import annotations

import logging
from collections import defaultdict

import trio

from coordinator.errors import CoordinatorError
from coordinator.live import LiveLinks
from coordinator.store import nodes
from coordinator.store import rules as store
from coordinator.store.db import Db
from protocol.errors import LinkClosed, RemoteError, WherryError
from protocol.messages import PortRules
from protocol.transport import Link

log = logging.getLogger(__name__)

CALL_S = 10.0


class Rules:
    def __init__(self, db: Db, links: LiveLinks) -> None:
        self._db = db
        self._links = links
        self._locks: defaultdict[int, trio.Lock] = defaultdict(trio.Lock)
        self._told: dict[int, tuple[Link, int]] = {}

    async def ensure(self, node: int) -> None:
        """The node has the present list when this returns. Raises the :class:`LinkError` that was in the way, or the
        :class:`RemoteError` with which it refuses."""
        async with self._locks[node]:
            name = await self._db.run(nodes.name_of, node)
            link = self._links.get(node)
            if link is None:
                raise LinkClosed(f"node {name or node} is not connected")
            had = self._told.get(node)
            if had is not None and had[0] is link and had[1] == await self._db.run(store.version):
                return
            version, rules = await self._db.run(store.all_rules)
            try:
                await link.call(rules, timeout=CALL_S)
            except RemoteError as exc:
                if exc.code != "unsupported" or _needed(rules):
                    raise _refusal(exc, name) from exc
            self._told[node] = (link, version)

    async def tell(self, node: int) -> bool:
        """The same, where its next registration makes up for a failure. False: it failed."""
        try:
            await self.ensure(node)
        except (WherryError, CoordinatorError) as exc:
            log.info("node=%d was not told its ports' settings: %s", node, exc)
            return False
        return True

    async def tell_all(self) -> set[int]:
        """After a change; returns the nodes that have it."""
        have: set[int] = set()

        async def one(node: int) -> None:
            if await self.tell(node):
                have.add(node)

        async with trio.open_nursery() as nursery:
            for node in self._links.all():
                nursery.start_soon(one, node)
        return have


def _needed(rules: PortRules) -> bool:
    """A node that does not know the message can do without it while nothing is set."""
    return bool(rules.ports or rules.rates) or any(
        n.stations or n.storm != 10000 or not n.proxy or n.bound for n in rules.networks
    )


def _refusal(exc: RemoteError, name: str | None) -> RemoteError:
    if exc.code == "unsupported":
        return RemoteError("unavailable", f"node {name} runs software that knows no settings of ports: upgrade it")
    return exc
