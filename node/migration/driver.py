"""What both ends share: one task that feeds a pure machine and carries out its effects in order.

Events come from anywhere by :meth:`Driver.feed`; only the driver's own task calls the machine, so there are no locks.
An effect that has an outcome runs in a task of its own and feeds it back; the others are done before the next one. A
failure of an effect becomes StepFailed: the machine knows what it means in each phase. The driver outlives every link
and ends only with Done.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

from node.core import CoreError
from node.guest import GuestGone
from node.guestcopy import Guest
from node.holdpoints import hold
from node.host import Host
from node.record import save_note
from protocol.errors import LinkError, Refused, WherryError
from protocol.messages import Decide, Decision, MigrationResult
from protocol.migration import (
    AskStore,
    CoordinatorLost,
    CoordinatorRestored,
    Done,
    Effect,
    Event,
    Forget,
    Persist,
    Record,
    StepFailed,
    StoreAnswered,
    StoreUnreachable,
    Tick,
)

log = logging.getLogger("wherry.node.migration")

DECIDE_TIMEOUT = 10.0
_notes = trio.CapacityLimiter(4)
FAILURES = (
    WherryError,
    CoreError,
    GuestGone,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
)


class Machine(Protocol):
    migration: str
    guest: str
    generation: int

    @property
    def wakeup(self) -> float | None: ...
    def handle(self, event: Any, now: float) -> list[Effect]: ...


class Driver:
    """``role`` names the hold points. Subclasses add their effects by :meth:`effect`. ``finished`` is set at Done."""

    role = ""

    def __init__(self, host: Host, machine: Machine) -> None:
        self.host = host
        self.machine = machine
        self.finished = trio.Event()
        self.result: MigrationResult | None = None
        self._send, self._receive = trio.open_memory_channel[tuple[Event, float]](math.inf)
        self._first: list[Effect] = []

    @property
    def tag(self) -> str:
        return f"guest={self.machine.guest} migration={self.machine.migration} node={self.host.identity.node}"

    @property
    def guest(self) -> Guest:
        return self.host.guests.get(self.machine.guest)

    def feed(self, event: Event) -> None:
        """It happened now, however long an effect that is being carried out keeps the machine from hearing of it."""
        self._send.send_nowait((event, trio.current_time()))

    def begin_with(self, effects: list[Effect]) -> None:
        """What a recovered machine wants first."""
        self._first = effects

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._watch_coordinator)
            await self._carry_out(self._first)
            while not self.finished.is_set():
                wakeup = self.machine.wakeup
                event: Event | None = None
                with trio.move_on_at(math.inf if wakeup is None else wakeup):
                    event, now = await self._receive.receive()
                if event is None:
                    event, now = Tick(), trio.current_time()
                log.debug("%s %s", self.tag, event)
                await self._carry_out(self.machine.handle(event, now))
            nursery.cancel_scope.cancel()

    async def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            log.debug("%s wants %s", self.tag, type(effect).__name__)
            try:
                match effect:
                    case Persist(record):
                        await self._persist(record)
                    case Forget():
                        save_note(self._folder, None)
                    case AskStore():
                        self.start(self._ask_store, effect)
                    case Done(result):
                        await self.done(result)
                        self.result = result
                        self.finished.set()
                    case _:
                        await self.effect(effect)
            except FAILURES as error:
                log.warning("%s %s failed: %s", self.tag, type(effect).__name__, error)
                self.feed(StepFailed(type(effect).__name__, str(error)))

    def start(self, work: Callable[[Any], Awaitable[None]], effect: Effect) -> None:
        """Carry out an effect in a task of its own; a failure is fed back as StepFailed."""

        async def task() -> None:
            try:
                await work(effect)
            except FAILURES as error:
                log.warning("%s %s failed: %s", self.tag, type(effect).__name__, error)
                self.feed(StepFailed(type(effect).__name__, str(error)))

        self._nursery.start_soon(task)

    def spawn(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        """A task that ends with the driver; it handles its own failures."""
        self._nursery.start_soon(work, *args)

    async def effect(self, effect: Effect) -> None:
        raise NotImplementedError

    async def done(self, result: MigrationResult) -> None:
        raise NotImplementedError

    async def hold(self, phase: str) -> None:
        await hold(self.role, phase)

    # -- shared effects

    @property
    def _folder(self) -> Any:
        return self.host.config.state / "guests" / self.machine.guest

    async def _persist(self, record: Record) -> None:
        """In a thread: what the effects before this one began to send goes out meanwhile, also in the blackout."""
        await trio.to_thread.run_sync(save_note, self._folder, note_of(record), limiter=_notes)

    async def _ask_store(self, effect: AskStore) -> None:
        if effect.ask == "commit":
            await self.hold("commit")
        try:
            decision: Decision = await self.host.coordinator.call(
                Decide(
                    migration=self.machine.migration,
                    guest=self.machine.guest,
                    generation=self.machine.generation,
                    ask=effect.ask,
                    reason=effect.reason[:4000],
                ),
                timeout=DECIDE_TIMEOUT,
            )
        except (LinkError, WherryError) as error:
            log.warning("%s the store did not answer %s: %s", self.tag, effect.ask, error)
            self.feed(StoreUnreachable())
            return
        log.info("%s asked %s, the store says %s", self.tag, effect.ask, decision.decision)
        self.feed(StoreAnswered(decision.decision, decision.generation, decision.owner))

    async def _watch_coordinator(self) -> None:
        coordinator = self.host.coordinator
        while True:
            if coordinator.link is None:
                self.feed(CoordinatorLost())
                await coordinator.wait_up()
                self.feed(CoordinatorRestored())
            await coordinator.wait_down()


def note_of(record: Record) -> dict[str, Any]:
    """A record as it is kept."""
    return {
        "role": record.role,
        "migration": record.migration,
        "guest": record.guest,
        "generation": record.generation,
        "peer": record.peer,
        "phase": record.phase,
        "postcopy": record.postcopy,
        "disks": record.disks,
        "bandwidth": record.bandwidth,
    }


def record_of(note: dict[str, Any]) -> Record:
    """Raises Refused when a note is no record (damaged)."""
    try:
        return Record(
            "source" if note["role"] == "source" else "target",
            str(note["migration"]),
            str(note["guest"]),
            int(note["generation"]),
            int(note["peer"]),
            str(note["phase"]),
            bool(note.get("postcopy", False)),
            bool(note.get("disks", False)),
            int(note.get("bandwidth", 0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Refused("internal", f"migration.msgpack is damaged: {error}") from error
