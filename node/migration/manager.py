"""The migrations that this node takes part in: starts, routes requests to their drivers, recovers them at start."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace
from typing import TypeVar

import trio

from node.guestcopy import Guest
from node.host import Host
from node.links import SOFTWARE
from node.migration.cold import ColdSource, ColdTarget
from node.migration.cold import check as check_cold
from node.migration.driver import Driver, record_of
from node.migration.estimate import estimate, swallow
from node.migration.source import SourceDriver
from node.migration.target import TargetDriver
from node.record import DamagedRecord, load_note, save_note
from protocol.errors import Refused
from protocol.messages import (
    Estimate,
    GuestStatus,
    Message,
    MigrationAsk,
    MigrationCancel,
    MigrationDisk,
    MigrationEstimate,
    MigrationFinish,
    MigrationLookup,
    MigrationPages,
    MigrationPrepare,
    MigrationProbe,
    MigrationProtect,
    MigrationPull,
    MigrationResult,
    MigrationStart,
    MigrationState,
    MigrationWarm,
    Settle,
)
from protocol.migration import CancelAsked, Source, Start, StoreAnswered, Target, skew
from protocol.migration.modes import refusal
from protocol.transport import Handlers, Link, LinkStream

log = logging.getLogger("wherry.node.migration")

CLEAR_S = 10.0  # that the guest's last migration has to come to its end here
_RETRY_S = 1.0
_KEPT = 256  # finished migrations that are still known
D = TypeVar("D", bound=Driver)


class Migrations:
    """Drivers run in the agent's nursery: a link that breaks in the middle of a request tears nothing apart."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._sources: OrderedDict[str, SourceDriver] = OrderedDict()
        self._targets: OrderedDict[str, TargetDriver] = OrderedDict()

    def register(self, handlers: Handlers) -> None:
        handlers.on_request(MigrationStart, self._start)
        handlers.on_request(MigrationEstimate, self._estimate)
        handlers.on_request(MigrationCancel, self._cancel)
        handlers.on_request(MigrationLookup, self._lookup)
        handlers.on_request(Settle, self._settle)
        handlers.on_request(MigrationPrepare, self._prepare)
        handlers.on_request(MigrationAsk, self._ask)
        handlers.on_request(MigrationWarm, self._warm)
        handlers.on_request(MigrationState, self._state)
        handlers.on_request(MigrationFinish, self._finish)
        handlers.on_stream(MigrationPages, self._pages)
        handlers.on_stream(MigrationProbe, self._probe)
        handlers.on_stream(MigrationDisk, self._disk)
        handlers.on_stream(MigrationPull, self._pull)
        handlers.on_stream(MigrationProtect, self._protect)

    def recover(self) -> None:
        """Take up what an earlier agent left: the store is asked about each."""
        for guest in self._host.guests:
            self._recover(guest)

    def _recover(self, guest: Guest) -> None:
        try:
            note = load_note(guest.folder)
            record = record_of(note) if note is not None else None
        except (DamagedRecord, Refused) as error:
            log.error("%s %s", guest.tag, error)
            return
        if record is None:
            return
        if record.role == "target" and guest.record.role == "run":
            if guest.handle is not None:
                self._host.guests.running(guest)  # it was started here
            if guest.handle is None or (record.phase != "pull" and not record.postcopy):
                save_note(guest.folder, None)
                return
            record = replace(record, phase="pull")
        guest.migration = record.migration
        now = self._host.now()
        log.info("%s migration=%s is taken up again as %s", guest.tag, record.migration, record.role)
        if record.role == "source":
            machine, effects = Source.recover(record, now)
            source = SourceDriver(self._host, machine, machine.params, "")
            source.begin_with(effects)
            self._run(self._sources, source)
        else:
            loaded = guest.handle is not None and guest.handle.info["state"] in ("loaded", "running")
            target_machine, effects = Target.recover(record, loaded, now)
            target = TargetDriver(self._host, target_machine, None)
            target.begin_with(effects)
            self._run(self._targets, target)

    async def _cleared(self, guest: str, migration: str) -> None:
        """The coordinator begins a migration only when the guest's last one is decided. This end of that one may still
        be at work, if only because it has not heard so: a retry that comes at once waits for it, for a while."""
        drivers: list[SourceDriver | TargetDriver] = [*self._sources.values(), *self._targets.values()]
        with trio.move_on_after(CLEAR_S):
            for driver in drivers:
                other = driver.machine.guest == guest and driver.machine.migration != migration
                if other and not driver.pulls:
                    await driver.finished.wait()

    def _run(self, table: OrderedDict[str, D], driver: D) -> None:
        table[driver.machine.migration] = driver
        while len(table) > _KEPT and next(iter(table.values())).finished.is_set():
            table.popitem(last=False)
        self._host.nursery.start_soon(self._drive, driver)

    async def _drive(self, driver: Driver) -> None:
        """A bug in one migration must neither end the agent nor leave a guest paused: it is taken up as after a
        restart."""
        try:
            await driver.run()
        except Exception:
            log.exception("%s crashed", driver.tag)
            driver.finished.set()
            await trio.sleep(_RETRY_S)
            guest = self._host.guests.find(driver.machine.guest)
            if guest is not None:
                self._recover(guest)

    # -- the coordinator's

    async def _start(self, link: Link, order: MigrationStart) -> None:
        if order.migration not in self._sources:
            guest = self._host.guests.get(order.guest)
            await self._cleared(order.guest, order.migration)
            async with guest.lock:
                if order.migration not in self._sources:
                    self._begin(guest, order)
        driver = self._sources[order.migration]
        await driver.prepared.wait()
        if driver.result is not None and driver.result.outcome == "aborted":
            raise Refused("unavailable", driver.result.reason)

    def _begin(self, guest: Guest, order: MigrationStart) -> None:
        self._check(guest, order)
        disks = guest.record.spec.image.disk is not None
        machine = Source(order.migration, order.guest, order.generation, order.target.node, order.params, disks=disks)
        if order.params.mode == "cold":
            driver: SourceDriver = ColdSource(self._host, machine, order.params, order.target.link, guest)
        else:
            driver = SourceDriver(self._host, machine, order.params, order.target.link)
        rates = [rate for rate in (self._known_rate(order.target.node), order.params.bandwidth) if rate]
        driver.rate = int(min(rates, default=0))
        guest.migration = order.migration
        self._host.guests.changed(guest, "migrating")
        self._run(self._sources, driver)
        driver.feed(Start())

    def _check(self, guest: Guest, order: MigrationStart | MigrationEstimate) -> None:
        """Raises Refused when this guest cannot be moved so, now."""
        refused = refusal(order.params)
        if refused is not None:
            raise Refused("unsupported", refused[1], field=refused[0])
        self._host.guests.fence(guest, order.generation)
        if order.params.mode == "cold" and order.generation == guest.generation:
            check_cold(guest)
        elif order.generation != guest.generation or guest.state != "running" or guest.migration:
            raise Refused("conflict", f"guest {guest.record.spec.name} is {guest.state}", state=guest.state)
        if order.target.node == self._host.identity.node:
            raise Refused("conflict", f"guest {guest.record.spec.name} is on this node already", field="to")
        if order.params.protect and guest.record.spec.image.disk is not None:
            raise Refused("unsupported", "what a guest writes to its disk is not streamed back yet", field="protect")

    async def _estimate(self, link: Link, order: MigrationEstimate) -> Estimate:
        guest = self._host.guests.get(order.guest)
        async with guest.lock:
            self._check(guest, order)
            return await estimate(self._host, guest, order, self._known_rate(order.target.node))

    def _known_rate(self, node: int) -> float:
        """Bytes/s of the last migrations to that node that nobody limited; 0: there were none."""
        rates = [
            driver.machine.rate
            for driver in self._sources.values()
            if driver.machine.target == node and driver.machine.rate and not driver.params.bandwidth
        ]
        return sorted(rates[-3:])[len(rates[-3:]) // 2] if rates else 0.0

    async def _cancel(self, link: Link, order: MigrationCancel) -> None:
        driver = self._sources.get(order.migration)
        if driver is None:
            raise Refused("not_found", f"migration {order.migration} is not known here")
        driver.feed(CancelAsked())

    async def _lookup(self, link: Link, order: MigrationLookup) -> MigrationResult:
        driver = self._sources.get(order.migration)
        if driver is None:
            raise Refused("not_found", f"migration {order.migration} is not known here")
        if driver.result is None:
            raise Refused("conflict", "it is under way")
        return driver.result

    async def _settle(self, link: Link, order: Settle) -> None:
        drivers: list[Driver | None] = [self._sources.get(order.migration), self._targets.get(order.migration)]
        for driver in drivers:
            if driver is not None:
                driver.feed(StoreAnswered(order.decision, order.generation, order.owner))

    # -- the source's

    async def _prepare(self, link: Link, request: MigrationPrepare) -> Message:
        if request.source != link.peer.node:
            raise Refused("forbidden", f"node {link.peer.node} speaks for node {request.source}", field="source")
        other = skew.refusal(
            request.state_version, skew.OLDEST_STATE, skew.STATE_VERSION, source=link.peer.software, target=SOFTWARE
        )
        if other:
            raise Refused("unsupported", other, field="state_version")
        if request.migration not in self._targets:
            await self._cleared(request.spec.guest, request.migration)
        driver = self._targets.get(request.migration)
        if driver is None:
            self._host.guests.check_absent(request.spec)
            disks = request.spec.image.disk is not None
            machine = Target(request.migration, request.spec.guest, request.generation, request.source, disks=disks)
            if request.cold and not disks:
                raise Refused("unsupported", "a stopped guest without a disk is moved by the store", field="cold")
            made = ColdTarget if request.cold else TargetDriver
            driver = made(self._host, machine, request.spec, request.disk_bytes)
            self._run(self._targets, driver)
        elif driver.machine.source != link.peer.node:
            raise Refused("forbidden", f"migration {request.migration} is another node's")
        return await driver.prepare(link, asks=request.asks, rate=request.rate)

    async def _ask(self, link: Link, request: MigrationAsk) -> Message:
        return await self._target(link, request.migration).ask(request)

    async def _warm(self, link: Link, request: MigrationWarm) -> Message:
        return await self._target(link, request.migration).warm(request)

    async def _state(self, link: Link, request: MigrationState) -> Message:
        return await self._target(link, request.migration).state(request)

    async def _finish(self, link: Link, request: MigrationFinish) -> Message:
        return await self._target(link, request.migration).finish(request)

    async def _pull(self, link: Link, opening: MigrationPull, stream: LinkStream) -> None:
        await self._source(link, opening.migration).paused.pull(opening, stream)

    async def _protect(self, link: Link, opening: MigrationProtect, stream: LinkStream) -> None:
        await self._source(link, opening.migration).paused.protect(stream)

    async def take_back(self, guest: str, generation: int) -> GuestStatus:
        """The coordinator's order: the target's copy is no more. Raises Refused."""
        found = self._host.guests.find(guest)
        if found is not None and found.generation == generation and found.state == "running":
            return found.status()
        for driver in reversed(self._sources.values()):
            if driver.machine.guest == guest and not driver.finished.is_set():
                return await driver.paused.take_back(generation)
        raise Refused("not_found", f"nothing of guest {guest} was streamed back to this node")

    async def _pages(self, link: Link, opening: MigrationPages, stream: LinkStream) -> None:
        await self._target(link, opening.migration).pages(stream)

    async def _disk(self, link: Link, opening: MigrationDisk, stream: LinkStream) -> None:
        await self._target(link, opening.migration).disk(stream)

    async def _probe(self, link: Link, opening: MigrationProbe, stream: LinkStream) -> None:
        await swallow(stream)

    def _source(self, link: Link, migration: str) -> SourceDriver:
        driver = self._sources.get(migration)
        if driver is None or driver.finished.is_set():
            raise Refused("not_found", f"migration {migration} is not known here")
        if driver.machine.target != link.peer.node:
            raise Refused("forbidden", f"migration {migration} is another node's")
        return driver

    def _target(self, link: Link, migration: str) -> TargetDriver:
        driver = self._targets.get(migration)
        if driver is None:
            raise Refused("not_found", f"migration {migration} is not known here")
        if driver.machine.source != link.peer.node:
            raise Refused("forbidden", f"migration {migration} is another node's")
        return driver
