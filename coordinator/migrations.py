"""Moving a guest: plans it, starts it at the source, decides it in the store, and tells both ends.

The two ends do the work (``protocol/migration.py``); this side is the arbiter and the one that people ask. Its own
doubts are settled like everybody's: by asking the store. Whenever it gives up it asks for "abort", and whatever the
store answers then is the outcome, be it "committed".

After a restart an unfinished operation finds its migration's row. A decided one is told to both ends again; a pending
one is started again, which the source takes for what it is if it has begun already.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import Any, Literal

import trio

from coordinator.background import Errands
from coordinator.cluster import Cluster
from coordinator.coldmoves import STOPPED, ColdMoves
from coordinator.errors import Cancelled, Conflict, CoordinatorError, Failed, Full, Unavailable, Unsupported
from coordinator.hold import hold
from coordinator.model import Guest, Migration, Operation
from coordinator.narrow import tell_guest
from coordinator.operations import Operations, Task
from coordinator.placement import Demand, Placement
from coordinator.reconcile import Tell
from coordinator.reports import Samples, Totals, report
from coordinator.store import guests, journal, migrations, nodes, reports
from coordinator.store.db import Tx
from protocol.errors import LinkError, RemoteError, WherryError
from protocol.messages import (
    Decision,
    MigrationCancel,
    MigrationEstimate,
    MigrationLookup,
    MigrationParams,
    MigrationProgress,
    MigrationResult,
    MigrationStart,
    NodeInfo,
    Settle,
    to_builtins,
)
from protocol.migration.modes import refusal

log = logging.getLogger(__name__)

PREPARE_TIMEOUT_S = 120.0
DISK_RATE = 16 << 20  # bytes/s at which a target at least makes a guest's disk from the image
DEADLINE_SLACK_S = 30.0
RESULT_GRACE_S = 10.0  # from the decision to the source's last word
CANCEL_GRACE_S = 10.0
ESTIMATE_TIMEOUT_S = 30.0
LOOKUP_TIMEOUT_S = 5.0
SETTLE_TIMEOUT_S = 10.0


@dataclass
class _Watch:
    """A migration that this process follows."""

    decided: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)  # the source's result is here
    result: MigrationResult | None = None
    late: bool = False  # it was decided before we looked (a restart): the result may have been sent to nobody
    progress: dict[str, Any] = field(default_factory=dict)
    samples: Samples = field(default_factory=Samples)
    throttled: bool = False


class Migrations:
    """``errands`` carry the words to the ends."""

    def __init__(self, cluster: Cluster, operations: Operations, errands: Errands) -> None:
        self._cluster = cluster
        self._operations = operations
        self._errands = errands
        self._watches: dict[str, _Watch] = {}
        self.totals = Totals()
        self._cold = ColdMoves(cluster, operations)
        operations.handle("migrate", self._do_migrate)

    # ---- wishes -----------------------------------------------------------------------------------------------------

    def check(self, params: MigrationParams) -> None:
        """Raises Unsupported for what is not built."""
        refused = refusal(params)
        if refused is not None:
            raise Unsupported(refused[1], field=refused[0])

    async def migrate(
        self, name: str, *, to: str | None, params: MigrationParams, avoid: dict[int, str] | None = None
    ) -> Operation:
        """Decide a target and journal the migration; nothing is sent yet. ``avoid``: not these nodes, and why."""
        self.check(params)
        cold = params.mode == "cold"
        if cold and not await self._cold.has_disk(name):
            return await self._cold.move(name, to=to)

        def decide(tx: Tx) -> Operation:
            guest = guests.by_name(tx, name)
            operation = journal.begin(
                tx, "migrate", subject=name, target=guest.id, args={"params": to_builtins(params)}
            )
            target = self._target(tx, guest, to, avoid, cold=cold)
            migration = migrations.begin(tx, journal.new_id("m"), guest, target=target, operation=operation.id)
            if not cold:  # a stopped guest is one all the while
                guests.set_state(tx, guest, "migrating")
            tx.emit(
                "migration.started",
                f"migration of {name} from {nodes.name_of(tx, guest.node)} to {nodes.name_of(tx, target)}",
                guest=name,
                node=nodes.name_of(tx, guest.node),
                generation=guest.generation,
                migration=migration.id,
                target=nodes.name_of(tx, target),
            )
            return operation

        operation = await self._cluster.db.run(decide)
        self._operations.start(operation)
        return operation

    async def estimate(self, name: str, *, to: str | None, params: MigrationParams) -> dict[str, Any]:
        """What :meth:`migrate` would take, as its source measures it; nothing is journaled and nothing is moved."""
        self.check(params)
        if params.mode == "cold":
            raise Unsupported("a stopped guest has no pause: there is nothing to predict", field="dry_run")

        def read(tx: Tx) -> tuple[Guest, MigrationEstimate]:
            guest = guests.by_name(tx, name)
            node = nodes.by_id(tx, self._target(tx, guest, to))
            target = NodeInfo(node=node.id, name=node.name, link=node.link, tunnel=node.tunnel)
            return guest, MigrationEstimate(guest=guest.id, generation=guest.generation, target=target, params=params)

        guest, request = await self._cluster.db.run(read)
        link = self._cluster.links.get(guest.node)
        if link is None:
            raise Unavailable(f"the node of guest {name} is not connected")
        answer = await link.call(request, timeout=ESTIMATE_TIMEOUT_S)
        return {**to_builtins(answer), "target": request.target.name}

    def _target(
        self, tx: Tx, guest: Guest, to: str | None, avoid: dict[int, str] | None = None, *, cold: bool = False
    ) -> int:
        source = nodes.name_of(tx, guest.node)
        on = nodes.by_name(tx, to, field="to") if to else None
        if on is not None and on.id == guest.node:
            raise Conflict(f"guest {guest.name} is on {to} already", field="to")
        if cold and guest.state not in STOPPED:
            raise Conflict(f"guest {guest.name} is {guest.state}; mode cold moves a stopped guest", field="mode")
        if not cold and guest.state not in ("running", "paused"):
            raise Conflict(f"guest {guest.name} is {guest.state}; only a running guest can migrate", field="name")
        if guest.node not in self._cluster.alive():
            raise Unavailable(f"node {source} of guest {guest.name} is not connected")
        placement = self._place(tx, guest, on.id if on else None, avoid or {}, cold=cold)
        if placement.chosen is None:
            if on is not None:
                verdict = next(v for v in placement.verdicts if v.node == on.id)
                raise Full(f"node {on.name} cannot take {guest.name}: {', '.join(verdict.reasons)}", field="to")
            raise Full(placement.refusal(), field="to", placement=placement.to_json())
        return placement.chosen.node

    def _place(self, tx: Tx, guest: Guest, on: int | None, avoid: dict[int, str], *, cold: bool) -> Placement:
        assert guest.node is not None
        why = "it is there now" if cold else "it runs there now"
        demand = Demand(guest.spec.memory, guest.spec.cpus, on=on, avoid={**avoid, guest.node: why})
        return self._cluster.place(tx, demand, without=guest.id if cold else None)

    # ---- the arbiter ------------------------------------------------------------------------------------------------

    async def decide(
        self,
        ident: str,
        *,
        ask: Literal["commit", "abort", "query"],
        reason: str = "",
        asker: int | None = None,
        guest: str | None = None,
        generation: int | None = None,
    ) -> Decision:
        """The store's word. The decision is on disk before anyone hears of it."""
        held = asker is not None and ask != "query"  # what an end asks for, not our own looking
        if held:
            await hold("decide-before")

        def rule(tx: Tx) -> tuple[Decision, Migration | None]:
            decision = migrations.decide(
                tx, ident, ask=ask, reason=reason, asker=asker, guest=guest, generation=generation
            )
            return decision, migrations.find(tx, ident)

        decision, migration = await self._cluster.db.run(rule)
        if decision.decision != "pending":
            told = migration if ask != "query" else None
            if told is not None:
                self._tell(told, *({told.source, told.target} - {asker}))
                await trio.lowlevel.checkpoint()  # a guest may stand still: its node hears it before all else is done
            log.info(
                "migration=%s %s generation=%d owner=%d (asked: %s by %s)",
                ident,
                decision.decision,
                decision.generation,
                decision.owner,
                ask,
                asker or "coordinator",
            )
            watch = self._watches.get(ident)
            if watch is not None:
                watch.decided.set()
            if told is not None and asker is not None:
                self._tell(told, asker)  # besides the answer, which may be lost
        if held:
            await hold("decide-after")
        return decision

    def _tell(self, migration: Migration, *to: int) -> None:
        for node in to:
            self._errands.send(self.tell, node, Tell(migration))

    async def tell(self, node: int, tell: Tell) -> None:
        """The decision to one end; if that fails, its next registration brings it up again."""
        migration = tell.migration
        link = self._cluster.links.get(node)
        if link is None or migration.decision == "pending":
            return
        committed = migration.decision == "committed"
        settle = Settle(
            migration=migration.id,
            guest=migration.guest,
            decision=migration.decision,
            generation=migration.generation + int(committed),
            owner=migration.target if committed else migration.source,
        )
        try:
            await link.call(settle, timeout=SETTLE_TIMEOUT_S)
        except WherryError as exc:
            log.info("migration=%s node=%d did not take the decision: %s", migration.id, node, exc)

    # ---- what the source says ---------------------------------------------------------------------------------------

    def progress(self, node: int, notice: MigrationProgress) -> None:
        watch = self._watches.get(notice.migration)
        if watch is not None:
            watch.progress.update(to_builtins(notice))
            watch.samples.add(notice)
            if notice.throttle and not watch.throttled:
                watch.throttled = True
                self._errands.send(self._note_throttle, notice)

    async def _note_throttle(self, notice: MigrationProgress) -> None:
        def note(tx: Tx) -> None:
            migration = migrations.find(tx, notice.migration)
            guest = guests.find_id(tx, migration.guest) if migration is not None else None
            if guest is not None:
                tx.emit(
                    "migration.throttled",
                    f"{guest.name} writes faster than its migration copies; it rests {notice.throttle} % of its time",
                    guest=guest.name,
                    node=nodes.name_of(tx, guest.node),
                    generation=guest.generation,
                    migration=notice.migration,
                )

        await self._cluster.db.run(note)

    def result(self, node: int, notice: MigrationResult) -> None:
        watch = self._watches.get(notice.migration)
        if watch is not None:
            watch.result = notice
            watch.ended.set()

    # ---- work -------------------------------------------------------------------------------------------------------

    async def _do_migrate(self, operation: Operation, task: Task) -> dict[str, Any]:
        migration = await self._cluster.db.run(migrations.of_operation, operation.id)
        assert migration is not None, "journaled in the same transaction"
        watch = self._watches[migration.id] = _Watch()
        watch.progress = task.progress
        task.report(migration=migration.id, phase="prepare", **await self._names(migration))
        try:
            decision = await self._until_decided(operation, task, migration, watch)
            try:
                return await self._outcome(task, migration, decision, watch)
            finally:
                with trio.CancelScope(shield=True):
                    await self._keep_report(operation, migration, decision, watch)
        finally:
            del self._watches[migration.id]

    async def _keep_report(self, operation: Operation, migration: Migration, decision: Decision, watch: _Watch) -> None:
        """A full disk costs the report, never the migration's end."""
        self.totals.add(decision.decision, watch.result)
        try:
            row = await self._cluster.db.run(migrations.by_id, migration.id)
            made = report(
                migration=migration.id,
                guest=operation.subject,
                names=await self._names(migration),
                generation=decision.generation,
                operation=operation.id,
                created=operation.created,
                ended=self._cluster.wall(),
                params=operation.args["params"],
                outcome=decision.decision,
                reason=row.reason or (watch.result.reason if watch.result is not None else ""),
                result=watch.result,
                samples=watch.samples,
            )
            await self._cluster.db.run(reports.keep, migration.id, migration.guest, made)
        except CoordinatorError as exc:
            log.error("migration=%s its report is lost: %s", migration.id, exc.message)

    def under_way(self) -> list[dict[str, Any]]:
        """Progress of each migration that this process follows."""
        return [dict(watch.progress) for watch in self._watches.values()]

    async def _names(self, migration: Migration) -> dict[str, Any]:
        def read(tx: Tx) -> dict[str, Any]:
            return {
                "source": nodes.name_of(tx, migration.source),
                "target": nodes.name_of(tx, migration.target),
            }

        return await self._cluster.db.run(read)

    async def _until_decided(self, operation: Operation, task: Task, migration: Migration, watch: _Watch) -> Decision:
        params = _params(operation)
        abort = ""
        async with trio.open_nursery() as nursery:

            async def on_cancel() -> None:
                nonlocal abort
                await task.cancel_asked.wait()
                await self._ask_source_to_cancel(migration, watch)
                abort = abort or "cancelled by request"
                nursery.cancel_scope.cancel()

            async def on_deadline() -> None:
                nonlocal abort
                left = operation.created + params.deadline_s + DEADLINE_SLACK_S - self._cluster.wall()
                await trio.sleep(max(DEADLINE_SLACK_S, left))
                abort = abort or f"not decided within {params.deadline_s:g} s"
                nursery.cancel_scope.cancel()

            async def on_lost_source() -> None:
                nonlocal abort
                await self._cluster.wait_lost(migration.source)
                abort = abort or "the source node is lost"
                nursery.cancel_scope.cancel()

            async def on_result() -> None:
                nonlocal abort
                await watch.ended.wait()
                abort = abort or "the source gave up"
                nursery.cancel_scope.cancel()

            for waiter in (on_cancel, on_deadline, on_lost_source, on_result):
                nursery.start_soon(waiter)
            decision = await self.decide(migration.id, ask="query")
            if decision.decision != "pending":
                watch.late = True
                decided = await self._cluster.db.run(migrations.by_id, migration.id)
                self._tell(decided, decided.target, decided.source)
            else:
                if operation.state != "pending":  # after a restart: the source is on its way back, too
                    await self._cluster.links.wait(migration.source)
                else:
                    abort = await self._tell_target(migration)
                abort = abort or await self._start_source(migration, params)
            if not abort and decision.decision == "pending":
                await watch.decided.wait()
            nursery.cancel_scope.cancel()
        if abort and watch.result is not None and watch.result.reason:
            abort = watch.result.reason
        return await self.decide(migration.id, ask="abort" if abort else "query", reason=abort)

    async def _tell_target(self, migration: Migration) -> str:
        """Have the target know what the guest's ports let through; returns why it can't, or ""."""
        try:
            await self._cluster.rules.ensure(migration.target)
        except WherryError as exc:
            return f"the target node does not have the settings of the guest's ports: {exc}"
        return ""

    async def _start_source(self, migration: Migration, params: MigrationParams) -> str:
        """Ask the source to begin; returns why it is over already, or "" when it is under way."""

        def read(tx: Tx) -> tuple[NodeInfo, int]:
            node = nodes.by_id(tx, migration.target)
            guest = guests.find_id(tx, migration.guest)
            disk = guest.spec.image.disk if guest is not None else None
            target = NodeInfo(node=node.id, name=node.name, link=node.link, tunnel=node.tunnel)
            return target, disk.size if disk is not None else 0

        target, disk_bytes = await self._cluster.db.run(read)
        request = MigrationStart(
            migration=migration.id,
            guest=migration.guest,
            generation=migration.generation,
            target=target,
            params=params,
        )
        link = self._cluster.links.get(migration.source)
        if link is None:
            return "the source node is not connected"
        try:
            await link.call(request, timeout=PREPARE_TIMEOUT_S + disk_bytes / DISK_RATE)
        except RemoteError as exc:
            return exc.message or exc.code
        except LinkError as exc:
            return f"the source node did not answer: {exc}"
        return ""

    async def _ask_source_to_cancel(self, migration: Migration, watch: _Watch) -> None:
        """The polite way; when the source does not follow within the grace, "abort" is asked for without it."""
        link = self._cluster.links.get(migration.source)
        if link is None:
            return
        with trio.move_on_after(CANCEL_GRACE_S), contextlib.suppress(LinkError):
            await link.call(MigrationCancel(migration=migration.id), timeout=CANCEL_GRACE_S)
            await watch.decided.wait()

    async def _outcome(self, task: Task, migration: Migration, decision: Decision, watch: _Watch) -> dict[str, Any]:
        await self._cluster.doubt(migration.guest)
        result = await self._last_word(migration, decision, watch)
        names = await self._names(migration)
        if decision.decision != "committed":
            reason = (await self._cluster.db.run(migrations.by_id, migration.id)).reason or "aborted"
            if task.cancel_asked.is_set():
                raise Cancelled("the migration was cancelled; the guest runs on at its source")
            message = f"migration to {names['target']} failed, the guest stays on {names['source']}: {reason}"
            raise Failed("unavailable", message)
        guest = await self._cluster.db.run(guests.find_id, migration.guest)
        if guest is not None and guest.generation == decision.generation + 1 and guest.node == migration.source:
            raise Failed(
                "unavailable",
                f"the guest's copy on {names['target']} died; {names['source']} runs it as it was just before",
            )
        await self._cluster.db.run(self._arrived, migration.guest)
        task.report(phase="done")
        return {**result, **names, "generation": decision.generation, "outcome": "committed"}

    def _arrived(self, tx: Tx, ident: str) -> None:
        guest = guests.find_id(tx, ident)
        if guest is not None:
            tell_guest(tx, self._cluster.paths, guest)

    async def _last_word(self, migration: Migration, decision: Decision, watch: _Watch) -> dict[str, Any]:
        """The source's figures, if it still tells them."""
        if decision.decision == "committed":
            with trio.move_on_after(RESULT_GRACE_S):
                if not watch.late or await self._look_up(migration, watch):
                    await watch.ended.wait()
            await self._until_pulled(watch)
            if watch.result is None:
                await self._look_up(migration, watch)
        if watch.result is None:
            missing = watch.progress.get("dirty_pages") if watch.progress.get("phase") == "pull" else None
            return {"migration": migration.id, **({"postcopy": True, "pages_missing": missing} if missing else {})}
        return to_builtins(watch.result)

    async def _until_pulled(self, watch: _Watch) -> None:
        """A post-copy has no last word before the target has every page: wait for as long as they come."""
        seen: dict[str, Any] = {}
        while watch.result is None and watch.progress.get("phase") == "pull" and watch.progress != seen:
            seen = dict(watch.progress)
            with trio.move_on_after(RESULT_GRACE_S):
                await watch.ended.wait()

    async def _look_up(self, migration: Migration, watch: _Watch) -> bool:
        """Ask the source for the result; True if it is worth to wait for it: the source is still at work."""
        with trio.move_on_after(LOOKUP_TIMEOUT_S):
            link = await self._cluster.links.wait(migration.source)
            try:
                watch.result = await link.call(MigrationLookup(migration=migration.id), timeout=LOOKUP_TIMEOUT_S)
            except RemoteError as exc:
                return exc.code != "not_found"
            except LinkError:
                return True
        return False


def _params(operation: Operation) -> MigrationParams:
    from msgspec import convert

    return convert(operation.args["params"], MigrationParams)
