"""Rotation of the cluster's CA while everything runs (DESIGN section 7; SPEC.md section 7.1).

``rotate``: a new CA signs, both are trusted. Every node that is connected, and every one that comes back, is sent the
roots to trust; it renews its certificate over its link and says what it then has. ``finish``: the old CA is trusted no
more. It is refused while a node has not followed, unless it is forced: such nodes must join again.

The CA's files say where a rotation stands, the store what the nodes said; a coordinator that was killed reads both and
goes on. Without being asked, a rotation begins ``ROTATE_BEFORE_S`` before the CA expires, and is finished once the old
CA has expired, as nothing can be proved with it any more.
"""

from __future__ import annotations

import logging
from typing import Any

import trio

from coordinator.background import Errands
from coordinator.cluster import Cluster
from coordinator.errors import Conflict, CoordinatorError, Full
from coordinator.model import Node
from coordinator.owncert import OwnCertificate
from coordinator.store import journal, nodes, trust
from coordinator.store.db import Tx
from protocol import messages as m
from protocol.errors import WherryError
from protocol.transport import Link

log = logging.getLogger(__name__)

ROTATE_BEFORE_S = 365 * 86400.0
CHECK_S = 3600.0
RETRY_S = 30.0  # during an overlap: nodes that have not followed are told again
_TELL_S = 60.0


class Rollover:
    """One per coordinator; ``errands`` outlive the sessions."""

    def __init__(self, cluster: Cluster, own: OwnCertificate, errands: Errands) -> None:
        self._cluster = cluster
        self._own = own
        self._errands = errands
        self._lock = trio.Lock()  # one step at a time
        self._why: dict[int, str] = {}  # why a node that was told did not follow
        self._wake = trio.Event()

    # ---- what people ask --------------------------------------------------------------------------------------------

    async def show(self) -> dict[str, Any]:
        """Where it stands; ``nodes`` says of each whether it follows the CA that signs, and if not, why."""
        ca = self._cluster.ca
        alive = self._cluster.alive()

        def read(tx: Tx) -> list[dict[str, Any]]:
            late = {node.id for node in trust.behind(tx, ca.fingerprint)}
            return [
                {
                    "name": node.name,
                    "state": "alive" if node.id in alive else "lost",
                    "follows": node.id not in late,
                    "reason": self._reason(node, alive) if node.id in late else "",
                }
                for node in nodes.all_nodes(tx)
            ]

        old = None
        if ca.old_fingerprint is not None:
            old = {"fingerprint": ca.old_fingerprint, "expires": ca.old_expires}
        return {
            "state": "overlap" if old else "single",
            "fingerprint": ca.fingerprint,
            "expires": ca.expires,
            "rotates": ca.expires - ROTATE_BEFORE_S,
            "old": old,
            "nodes": await self._cluster.db.run(read),
            "pem": ca.pem,
        }

    def _reason(self, node: Node, alive: frozenset[int]) -> str:
        return self._why.get(node.id, "has not answered yet") if node.id in alive else "is away"

    async def rotate(self) -> dict[str, Any]:
        """Begin. :class:`Conflict` while a rotation is under way."""
        async with self._lock:
            self._cluster.ca.rotate(self._cluster.wall())
            await self._settle()
        return await self.show()

    async def finish(self, *, force: bool = False) -> dict[str, Any]:
        """End the overlap. :class:`Conflict` names the nodes that have not followed; ``force`` drops them."""
        async with self._lock:
            ca = self._cluster.ca
            late = await self._cluster.db.run(trust.behind, ca.fingerprint)
            if late and ca.old_fingerprint is not None and not force:
                alive = self._cluster.alive()
                names = ", ".join(f"{node.name} ({self._reason(node, alive)})" for node in late)
                raise Conflict(
                    f"these nodes do not follow the new CA yet: {names}; wait for them, or drop them with force,"
                    " after which they must join again"
                )
            self._refresh_own()  # before the old CA goes, so that no moment serves a certificate of it
            ca.finish()
            await self._settle()
        return await self.show()

    def _refresh_own(self) -> None:
        try:
            self._own.refresh()
        except OSError as exc:
            raise Full(f"the coordinator's new certificate could not be written: {exc.strerror}") from exc

    async def _settle(self) -> None:
        """What follows from the CA's files: own certificate, store, events, sessions of those that were dropped."""
        ca = self._cluster.ca
        self._refresh_own()
        dropped = await self._cluster.db.run(trust.record, signing=ca.fingerprint, old=ca.old_fingerprint)
        for node in dropped:
            log.warning("node=%d name=%s was dropped: it does not follow the new CA", node.id, node.name)
            link = self._cluster.links.get(node.id)
            if link is not None:
                self._errands.send(link.aclose)
        self._why.clear()
        for node_id, link in self._cluster.links.all().items():
            self._errands.send(self.tell, node_id, link)
        self._wake.set()

    # ---- nodes ------------------------------------------------------------------------------------------------------

    async def tell(self, node: int, link: Link) -> None:
        """Send a node the roots of the day and write down what it then has."""
        ca = self._cluster.ca
        try:
            answer: m.Trusted = await link.call(m.Trust(ca_pem=ca.pem, issuer=ca.fingerprint), timeout=_TELL_S)
        except WherryError as exc:
            self._why[node] = str(exc)
            log.log(logging.WARNING if ca.old_fingerprint else logging.INFO, "node=%d trust: %s", node, exc)
            return
        self._why.pop(node, None)

        def write(tx: Tx) -> None:
            news = trust.heard(tx, node, issuer=answer.issuer, roots=answer.roots)
            if news and ca.old_fingerprint is not None and answer.issuer == ca.fingerprint:
                name = nodes.name_of(tx, node)
                tx.emit("ca.follows", f"node {name} has a certificate of the new CA", node=name)

        await self._cluster.db.run(write)

    # ---- what time brings -------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """For as long as the coordinator lives; started once what was due at its start is done."""
        while True:
            self._wake = trio.Event()
            try:
                await self.tick()
            except (CoordinatorError, OSError) as exc:  # a full disk must not end the control plane
                log.error("the CA's upkeep failed and is tried again: %s", exc)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            with trio.move_on_after(RETRY_S if self._cluster.ca.old_fingerprint else CHECK_S):
                await self._wake.wait()

    async def tick(self) -> None:
        """One look: what a kill interrupted, the own certificate, steps that are due, nodes that lag."""
        async with self._lock:
            ca, now = self._cluster.ca, self._cluster.wall()
            await self._settle_if_new()
            self._own.refresh()
            if ca.old_expires is None and now >= ca.expires - ROTATE_BEFORE_S:
                ca.rotate(now)
                await self._audit("rotate the CA before it expires")
                await self._settle()
            if ca.old_expires is not None and now >= ca.old_expires:
                ca.finish()
                await self._audit("finish the CA's rotation: the old CA has expired")
                await self._settle()
        if ca.old_fingerprint is not None:
            for node in await self._cluster.db.run(trust.behind, ca.fingerprint):
                link = self._cluster.links.get(node.id)
                if link is not None:
                    self._errands.send(self.tell, node.id, link)

    async def _settle_if_new(self) -> None:
        ca = self._cluster.ca
        if not await self._cluster.db.run(trust.is_recorded, signing=ca.fingerprint, old=ca.old_fingerprint):
            await self._settle()

    async def _audit(self, action: str) -> None:
        await self._cluster.db.run(
            journal.audit, who="coordinator", role="coordinator", source="itself", action=action, outcome="ok"
        )
