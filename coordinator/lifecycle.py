"""A guest's life: run, start, stop, remove.

Each wish is one transaction that decides (name, addresses, node, generation) and journals the operation; the handlers
here carry it out and may run again after a restart. A node's clear "no" ends an operation; a lost answer never does:
the call is idempotent for (guest, generation), so it is asked again over the next session until the time is up.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import trio
from msgspec.structs import replace

from coordinator.cluster import Cluster
from coordinator.errors import Cancelled, Conflict, Invalid, NotFound, Unavailable
from coordinator.errors import Full as FullError
from coordinator.model import Guest, Operation
from coordinator.operations import Operations, Task
from coordinator.placement import Demand, Placement, mib
from coordinator.store import guests, images, journal, networks, nodes
from coordinator.store.db import Tx
from protocol.errors import LinkClosed, LinkTimeout, RemoteError, WherryError
from protocol.messages import GuestForget, GuestRun, GuestSpec, GuestStatus, GuestStop, Nic, PortSettings
from protocol.transport import Link

log = logging.getLogger(__name__)
T = TypeVar("T")

SEED_BITS = 53  # what every reader of JSON keeps exactly: people repeat a run by its seed
RUN_DEADLINE_S = 900.0  # an image may have to be fetched first
STOP_DEADLINE_S = 60.0  # beyond the grace that was asked for
FORGET_DEADLINE_S = 60.0
FORGET_STAY_S = 5.0
RETRY_S = 0.5

STOPPED = ("stopped", "crashed")
UNSURE = ("timeout", "internal", "cancelled", "unavailable")  # a node's "no" that does not say what it left behind


@dataclass(frozen=True, slots=True)
class RunWish:
    name: str
    image: str
    memory: int
    cpus: int
    networks: Sequence[tuple[str, PortSettings]]
    on: str | None = None
    cmdline: str = ""
    cpu: Literal["rva22", "rv64gc"] = "rva22"
    icount: bool = False
    seed: int | None = None  # only with icount; else one is drawn


class Lifecycle:
    """The wishes (``run`` ...) return journaled operations that are under way."""

    def __init__(self, cluster: Cluster, operations: Operations) -> None:
        self._cluster = cluster
        self._operations = operations
        operations.handle("run", self._do_run)
        operations.handle("start", self._do_run)
        operations.handle("stop", self._do_stop, cancellable=False)
        operations.handle("remove", self._do_remove, cancellable=False)

    # ---- wishes -----------------------------------------------------------------------------------------------------

    def _spec(self, tx: Tx, wish: RunWish) -> tuple[GuestSpec, Placement]:
        guests.check_free(tx, wish.name)
        image = images.by_name(tx, wish.image, field="image").ref()
        if wish.memory < image.min_memory:
            raise Invalid(
                f"memory {mib(wish.memory)}: image {image.name} needs at least {mib(image.min_memory)}", field="memory"
            )
        if wish.memory % (2 << 20):
            raise Invalid(f"memory {wish.memory}: must be a multiple of 2 MiB", field="memory")
        if wish.seed is not None and not wish.icount:
            raise Invalid("seed goes with icount: only then does it decide the run", field="seed")
        on = nodes.by_name(tx, wish.on, field="on").id if wish.on else None
        placement = self._cluster.place(tx, Demand(wish.memory, wish.cpus, on=on))
        chosen = placement.chosen.node if placement.chosen else None
        ident = f"g-{secrets.token_hex(6)}"
        spec = GuestSpec(
            guest=ident,
            name=wish.name,
            image=image,
            memory=wish.memory,
            cpus=wish.cpus,
            nics=self._fit(tx, networks.allocate(tx, ident, wish.networks), chosen),
            cmdline=wish.cmdline,
            cpu=wish.cpu,
            icount=wish.icount,
            seed=wish.seed or secrets.randbits(SEED_BITS) | 1,
        )
        return spec, placement

    def _fit(self, tx: Tx, nics: Sequence[Nic], node: int | None) -> list[Nic]:
        """A start on ``node``: each NIC's MTU is the network's, or what the narrowest path of the network carries."""
        return [replace(nic, mtu=self._cluster.mtu(tx, networks.by_name(tx, nic.network), node)) for nic in nics]

    async def explain(self, wish: RunWish) -> Placement:
        """Where it would run and why; nothing is kept."""
        _, placement = await self._cluster.db.run(self._spec, wish)
        return placement

    async def run(self, wish: RunWish) -> Operation:
        def decide(tx: Tx) -> Operation:
            spec, placement = self._spec(tx, wish)
            if placement.chosen is None:
                raise FullError(placement.refusal(), field="memory", placement=placement.to_json())
            guest = guests.create(tx, spec, node=placement.chosen.node)
            tx.emit(
                "guest.placed",
                f"guest {guest.name} is placed on {placement.chosen.name}",
                guest=guest.name,
                node=placement.chosen.name,
                generation=guest.generation,
            )
            return journal.begin(tx, "run", subject=guest.name, target=guest.id, args={})

        return self._go(await self._cluster.db.run(decide))

    async def start(self, name: str) -> Operation:
        """Run a stopped guest again, on its former node if that fits, under the next generation."""

        def decide(tx: Tx) -> Operation:
            guest = guests.by_name(tx, name)
            operation = journal.begin(tx, "start", subject=name, target=guest.id, args={})
            if guest.state not in STOPPED:
                raise Conflict(f"guest {name} is {guest.state}, not stopped", field="name")
            # What a disk guest wrote lies on its node and nowhere else; others go where it fits if need be.
            tries = [guest.node] if guest.spec.image.disk is not None else [guest.node, None]
            for on in tries:
                demand = Demand(guest.spec.memory, guest.spec.cpus, on=on, previous=guest.node)
                placement = self._cluster.place(tx, demand, without=guest.id)
                if placement.chosen is not None:
                    break
            if placement.chosen is None:
                raise FullError(placement.refusal(), field="memory", placement=placement.to_json())
            guest = guests.move(tx, guest, node=placement.chosen.node, expect=guest.generation)
            guests.forget_run(tx, guest)
            nics = self._fit(tx, guest.spec.nics, placement.chosen.node)
            guest = guests.set_spec(tx, guest, replace(guest.spec, nics=nics))
            guests.set_desired(tx, guest, "running")
            guests.set_state(tx, guest, "pending")
            return operation

        return self._go(await self._cluster.db.run(decide))

    async def stop(self, name: str, *, force: bool = False, grace_s: float = 10.0) -> Operation:
        def decide(tx: Tx) -> Operation:
            guest = guests.by_name(tx, name)
            args = {"force": force, "grace_s": grace_s}
            operation = journal.begin(tx, "stop", subject=name, target=guest.id, args=args)
            if guest.state in STOPPED:
                raise Conflict(f"guest {name} is {guest.state} already", field="name")
            guests.set_desired(tx, guest, "stopped")
            if guest.state == "running":
                guests.set_state(tx, guest, "stopping")
            return operation

        return self._go(await self._cluster.db.run(decide))

    async def remove(self, name: str, *, force: bool = False) -> Operation:
        """Kill what runs and remove every trace. ``force``: even if its node cannot be told; that node is told to
        forget its copy when it comes back."""
        await self._give_up_starting(name)

        def decide(tx: Tx) -> Operation:
            guest = guests.by_name(tx, name)
            operation = journal.begin(tx, "remove", subject=name, target=guest.id, args={"force": force})
            if not force and guest.state not in STOPPED and self._cluster.links.get(guest.node) is None:
                where = nodes.name_of(tx, guest.node)
                raise Unavailable(f"node {where} of guest {name} is not connected; force removes it anyway")
            guests.set_desired(tx, guest, "removed")
            return operation

        return self._go(await self._cluster.db.run(decide))

    async def _give_up_starting(self, name: str) -> None:
        """A guest that does not come up must not keep people from removing it."""

        def active(tx: Tx) -> Operation | None:
            return journal.active_on(tx, guests.by_name(tx, name).id)

        operation = await self._cluster.db.run(active)
        if operation is not None and operation.kind in ("run", "start"):
            with contextlib.suppress(Conflict):
                await self._operations.cancel(operation.id)
                await self._operations.wait(operation.id)

    def _go(self, operation: Operation) -> Operation:
        self._operations.start(operation)
        return operation

    # ---- work -------------------------------------------------------------------------------------------------------

    async def _guest(self, ident: str) -> Guest:
        guest = await self._cluster.db.run(guests.find_id, ident)
        if guest is None:
            raise NotFound("the guest was removed")
        return guest

    async def _do_run(self, operation: Operation, task: Task) -> dict[str, Any]:
        guest = await self._guest(operation.target)
        if guest.state == "pending":
            guest = await self._cluster.db.run(guests.set_state, guest, "starting")
        assert guest.node is not None
        request, node = GuestRun(spec=guest.spec, generation=guest.generation), guest.node

        async def run(link: Link, left: float) -> GuestStatus:
            await self._cluster.rules.ensure(node)  # its ports are what they shall be from their first frame
            status = await link.call(request, timeout=left)
            assert isinstance(status, GuestStatus)
            return status

        task.report(phase="starting", node=await self._cluster.db.run(nodes.name_of, guest.node))
        try:
            status = await self._ask(
                guest.node,
                run,
                deadline_s=self._left(operation, RUN_DEADLINE_S),
                task=task,
            )
        except (WherryError, Unavailable, Cancelled) as exc:
            await self._give_up(guest, exc)
            raise
        assert isinstance(status, GuestStatus)
        return await self._took(guest, status)

    async def _took(self, guest: Guest, status: GuestStatus) -> dict[str, Any]:
        def write(tx: Tx) -> dict[str, Any]:
            now = guests.by_id(tx, guest.id)
            now = guests.observe(tx, now, status)
            return now.to_json(nodes.name_of(tx, now.node))

        return await self._cluster.db.run(write)

    async def _give_up(self, guest: Guest, exc: Exception) -> None:
        """Starting failed. The guest stays, with the reason, to be looked at, started again or removed.

        Unless the node said no or confirmed that nothing is left, nobody knows whether it runs there: then it is
        unknown, and may not be started elsewhere, until the node tells.
        """
        message = getattr(exc, "message", None) or str(exc)
        forgotten = await self._forget_now(guest)
        sure = forgotten or (isinstance(exc, RemoteError) and exc.code not in UNSURE)
        state = "unknown" if not sure else "stopped" if isinstance(exc, Cancelled) else "crashed"

        def write(tx: Tx) -> None:
            now = guests.by_id(tx, guest.id)
            guests.set_desired(tx, now, "stopped")
            guests.set_state(tx, now, state, reason=message)

        await self._cluster.db.run(write)

    async def _forget_now(self, guest: Guest) -> bool:
        """Have what is left of a start removed, if the node can be asked now."""
        link = self._cluster.links.get(guest.node)
        if link is not None:
            with contextlib.suppress(WherryError):
                await link.call(GuestForget(guest=guest.id, generation=guest.generation), timeout=10)
                return True
        return False

    async def _do_stop(self, operation: Operation, task: Task) -> dict[str, Any]:
        guest = await self._guest(operation.target)
        assert guest.node is not None
        grace = float(operation.args["grace_s"])
        request = GuestStop(
            guest=guest.id, generation=guest.generation, force=bool(operation.args["force"]), grace_s=grace
        )
        task.report(phase="stopping")
        try:
            status = await self._ask(
                guest.node,
                lambda link, left: link.call(request, timeout=min(left, grace + 30)),
                deadline_s=self._left(operation, grace + STOP_DEADLINE_S),
                task=task,
            )
        except RemoteError as exc:
            if exc.code != "not_found":
                raise
            status = GuestStatus(guest=guest.id, generation=guest.generation, state="stopped")
        assert isinstance(status, GuestStatus)
        return await self._took(guest, status)

    async def _do_remove(self, operation: Operation, task: Task) -> dict[str, Any]:
        guest = await self._cluster.db.run(guests.find_id, operation.target)
        if guest is None:
            return {}
        force = bool(operation.args["force"])
        task.report(phase="removing")
        request = GuestForget(guest=guest.id, generation=guest.generation)
        stays = guest.state in STOPPED  # nothing runs: its node clears up when it next registers
        if guest.node is not None and (self._cluster.links.get(guest.node) is not None or not (force or stays)):
            try:
                await self._ask(
                    guest.node,
                    lambda link, left: link.call(request, timeout=min(left, 30)),
                    deadline_s=self._left(operation, FORGET_DEADLINE_S),
                    task=task,
                )
            except (WherryError, Unavailable):
                if not force:
                    await self._cluster.db.run(guests.set_desired, guest, "stopped")
                    raise
        await self._cluster.db.run(guests.remove, guest)
        await self._forget_stays(guest)
        return {}

    async def _forget_stays(self, guest: Guest) -> None:
        """Nodes that it has left may still have its memory. One that is not heard gives it back when it is old."""
        request = GuestForget(guest=guest.id, generation=guest.generation)

        async def ask(link: Link) -> None:
            with contextlib.suppress(WherryError):
                await link.call(request, timeout=FORGET_STAY_S)

        async with trio.open_nursery() as nursery:
            for node, link in self._cluster.links.all().items():
                if node != guest.node:
                    nursery.start_soon(ask, link)

    def _left(self, operation: Operation, seconds: float) -> float:
        """What is left of an operation's time, at least a little: a restart may come late."""
        return max(10.0, operation.created + seconds - self._cluster.wall())

    async def _ask(self, node: int, call: Callable[[Link, float], Awaitable[T]], *, deadline_s: float, task: Task) -> T:
        """Ask over whatever session the node has, again over the next one if the answer was lost.

        Raises :class:`RemoteError` for the node's "no", :class:`Unavailable` when the time is up or the node is lost,
        :class:`Cancelled` when the operation was told to give up.
        """
        answers: list[T] = []
        refusals: list[WherryError] = []
        deadline = trio.current_time() + deadline_s

        async def asking(scope: trio.CancelScope) -> None:
            failed: Link | None = None
            while True:
                link = await self._cluster.links.wait(node, other_than=failed)
                try:
                    answers.append(await call(link, max(0.1, deadline - trio.current_time())))
                except LinkTimeout:
                    await trio.sleep(RETRY_S)
                    continue
                except LinkClosed:
                    failed = link
                    continue
                except WherryError as exc:
                    refusals.append(exc)
                scope.cancel()
                return

        async def watching(scope: trio.CancelScope) -> None:
            await task.cancel_asked.wait()
            scope.cancel()

        async def doubting(scope: trio.CancelScope) -> None:
            await self._cluster.wait_lost(node)
            scope.cancel()

        with trio.move_on_at(deadline):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watching, nursery.cancel_scope)
                nursery.start_soon(doubting, nursery.cancel_scope)
                await asking(nursery.cancel_scope)
        if answers:
            return answers[0]
        if refusals:
            raise refusals[0]
        if task.cancel_asked.is_set():
            raise Cancelled("cancelled")
        if self._cluster.leases.state(node) == "lost":
            raise Unavailable("the node is lost")
        raise Unavailable(f"the node did not answer within {deadline_s:.0f} s")
