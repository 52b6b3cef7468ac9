"""The end that receives a guest. Theory, diagram and rules: :mod:`protocol.migration`.

    RESERVE ──► RECEIVE ──► LOAD ──► READY ── "committed" ──► START ──► DONE
                                                                └─ pages are absent ──► PULL ──► DONE
       └───────────┴──────────┴────────┴───── "aborted" ────────────► DONE (destroyed)

Before READY nobody can have asked for "commit", so a failure destroys the copy at once; the store is told "abort" by
whoever notices. In READY only the store's word moves it. When the source is gone it asks: first "query", because the
source may have committed, and after ``GIVE_UP`` seconds "abort", so that a reservation does not outlive its migration.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Literal

from protocol.messages import MigrationResult
from protocol.migration import effects as fx
from protocol.migration import events as ev
from protocol.migration.question import StoreQuestion

GIVE_UP: Final = 60.0

Effects = list[fx.Effect]


class TargetPhase(Enum):
    """See the diagram above. ASK: told to give up, but the store has not confirmed yet (after a restart)."""

    IDLE = "idle"
    RESERVE = "reserve"
    RECEIVE = "receive"
    LOAD = "load"
    READY = "ready"
    START = "start"
    PULL = "pull"
    ASK = "ask"
    DONE = "done"


_P = TargetPhase


class Target:
    """Give it PrepareAsked. ``generation`` is the guest's present one, at the source; ``disks``: it has a disk."""

    def __init__(self, migration: str, guest: str, generation: int, source: int, *, disks: bool = False) -> None:
        self.migration = migration
        self.guest = guest
        self.generation = generation
        self.source = source
        self.disks = disks
        self.phase = _P.IDLE
        self._question = StoreQuestion()
        self._give_up: float | None = None
        self._reason = ""
        self._committed_generation = 0
        self._started_at = 0.0
        self._ready: fx.AnswerReady | None = None
        self._pulling = False

    @classmethod
    def recover(cls, record: fx.Record, loaded: bool, now: float) -> tuple[Target, Effects]:
        """After the agent's restart. ``loaded``: the incoming guest process is there and has loaded its state."""
        target = cls(record.migration, record.guest, record.generation, record.peer, disks=record.disks)
        target._pulling = record.postcopy
        if record.phase == "pull":
            target.phase = _P.PULL
            return target, [fx.PullPages()]
        if record.phase == "committed":
            target._committed_generation = record.generation + 1
            target.phase = _P.START
            return target, [fx.StartGuest(record.generation + 1)]
        target._reason = "the target's agent was restarted"
        if loaded:
            target.phase = _P.READY
            return target, target._without_source(now)
        target.phase = _P.ASK
        return target, [*target._question.want("abort", target._reason)]

    @property
    def wakeup(self) -> float | None:
        """When it wants a Tick."""
        times = [t for t in (self._give_up, self._question.retry_at) if t is not None]
        return min(times) if times and self.phase is not _P.DONE else None

    @property
    def pulls(self) -> bool:
        """Pages are to be pulled, or the source waits for the word that none are."""
        return self._pulling

    def handle(self, event: ev.TargetEvent, now: float) -> Effects:
        """One event; gives the effects to carry out, in order."""
        if isinstance(event, ev.StoreUnreachable):
            self._question.unreachable(now)
            return []
        if isinstance(event, ev.StoreAnswered):
            self._question.answered(event.decision, now)
            return self._decided(event.decision, event.generation, now)
        if isinstance(event, ev.FinishAsked):
            return self._on_finish(event, now)
        if isinstance(event, ev.CoordinatorRestored):
            return [*self._question.restored()]
        if isinstance(event, ev.Tick):
            return self._on_tick(now)
        action = _TABLE.get(self.phase, {}).get(type(event))
        return action(self, event, now) if action else []

    # ---- towards READY

    def _on_prepare(self, event: ev.PrepareAsked, now: float) -> Effects:
        self.phase = _P.RESERVE
        return [self._persist("incoming"), fx.Reserve()]

    def _on_prepare_again(self, event: ev.PrepareAsked, now: float) -> Effects:
        return [fx.AnswerPrepared()]

    def _on_reserved(self, event: ev.Reserved, now: float) -> Effects:
        self.phase = _P.RECEIVE
        return [fx.AnswerPrepared()]

    def _on_state(self, event: ev.StateArrived, now: float) -> Effects:
        self.phase = _P.LOAD
        self._pulling = event.left > 0
        # Loading looks at pages already; and an agent that restarts must know that the source waits for its word.
        pull: Effects = [self._persist("incoming"), fx.PullPages()] if self._pulling else []
        return [*pull, fx.LoadState(event.verify)]

    def _on_loaded(self, event: ev.StateLoaded, now: float) -> Effects:
        self.phase = _P.READY
        self._ready = fx.AnswerReady(event.checksum, event.verify_ms)
        return [self._ready]

    def _on_state_again(self, event: ev.StateArrived, now: float) -> Effects:
        return [self._ready] if self._ready else []

    def _on_failure(self, event: ev.StepFailed | ev.CancelAsked, now: float) -> Effects:
        self._reason = event.reason
        code = "unavailable" if isinstance(event, ev.StepFailed) else "cancelled"
        return [fx.RefuseSource(code, event.reason), *self._give_up_early()]

    def _on_source_lost(self, event: ev.SourceLost, now: float) -> Effects:
        self._reason = "the source was lost"
        return self._give_up_early()

    def _give_up_early(self) -> Effects:
        """Before READY: this copy can never run. The store is told, so that the migration ends even if the source
        never comes back."""
        self.phase = _P.ASK
        return [fx.DestroyIncoming(), *self._question.want("abort", self._reason)]

    # ---- READY

    def _on_source_lost_ready(self, event: ev.SourceLost, now: float) -> Effects:
        self._reason = "the source was lost"
        return self._without_source(now)

    def _without_source(self, now: float) -> Effects:
        if self._give_up is None:
            self._give_up = now + GIVE_UP
        return [*self._question.want("query")]

    def _on_abort_wish(self, event: ev.CancelAsked | ev.StepFailed, now: float) -> Effects:
        self._reason = event.reason
        self._give_up = None
        return [*self._question.want("abort", event.reason)]

    def _on_tick(self, now: float) -> Effects:
        if self._give_up is not None and now >= self._give_up and self.phase is _P.READY:
            self._give_up = None
            return [*self._question.want("abort", self._reason)]
        return [*self._question.tick(now)]

    def _on_finish(self, event: ev.FinishAsked, now: float) -> Effects:
        if self.phase in (_P.DONE, _P.PULL):
            return [fx.AnswerFinished(self._started_at)]
        if event.decision == "committed" and self.phase not in (_P.READY, _P.START):
            return [fx.RefuseSource("conflict", f"committed, but this copy is in phase {self.phase.value}")]
        answer: Effects = [fx.AnswerFinished(0.0)] if event.decision == "aborted" else []
        return self._decided(event.decision, event.generation, now) + answer

    def _decided(self, decision: Literal["pending", "committed", "aborted"], generation: int, now: float) -> Effects:
        if decision == "pending" or self.phase in (_P.DONE, _P.START, _P.PULL):
            return []
        self._question.drop()
        self._give_up = None
        if decision == "aborted":
            self._reason = self._reason or "aborted"
            return [fx.DestroyIncoming(), *self._end("aborted")]
        if self.phase is not _P.READY:
            # Cannot be unless the loaded process died with its host: its memory is lost as with any host that crashes.
            # The disks are whole: nobody asks for a commit before they are synced.
            self._reason = f"committed, but this copy was lost in phase {self.phase.value}"
            return [fx.KeepIncoming(generation) if self.disks else fx.DestroyIncoming(), *self._end("committed")]
        self.phase = _P.START
        self._committed_generation = generation
        return [fx.StartGuest(generation), self._persist("committed")]

    # ---- START

    def _on_started(self, event: ev.GuestStarted, now: float) -> Effects:
        self._started_at = event.at
        if event.absent or self._pulling:
            self.phase = _P.PULL
            return [fx.AnswerFinished(event.at), fx.PullPages(), self._persist("pull")]
        return [fx.AnswerFinished(event.at), *self._end("committed")]

    def _on_start_failed(self, event: ev.StepFailed, now: float) -> Effects:
        self._reason = f"committed, but the guest did not start: {event.reason}"
        keep: Effects = [fx.KeepIncoming(self._committed_generation)] if self.disks else []
        return [*keep, fx.RefuseSource("internal", self._reason), *self._end("committed")]

    # ---- PULL

    def _on_pull_done(self, event: ev.PullDone, now: float) -> Effects:
        self._pulling = False
        return self._end("committed") if self.phase is _P.PULL else []

    def _on_pull_failed(self, event: ev.StepFailed, now: float) -> Effects:
        """When the guest has ended what it lacked is not needed any more; the source is told all the same."""
        if event.step != "guest":
            return []
        self._reason = event.reason
        return [fx.ReleaseSource()]

    def _persist(self, phase: str) -> fx.Persist:
        return fx.Persist(
            fx.Record(
                "target", self.migration, self.guest, self.generation, self.source, phase, self._pulling, self.disks
            )
        )

    def _end(self, outcome: Literal["committed", "aborted"]) -> Effects:
        self.phase = _P.DONE
        self._question.drop()
        return [
            fx.Forget(),
            fx.Done(MigrationResult(migration=self.migration, outcome=outcome, reason=self._reason[:4096])),
        ]


Action = Callable[[Target, Any, float], Effects]
_EARLY: Final[dict[type, Action]] = {
    ev.StepFailed: Target._on_failure,
    ev.CancelAsked: Target._on_failure,
    ev.SourceLost: Target._on_source_lost,
}
_TABLE: Final[dict[TargetPhase, dict[type, Action]]] = {
    _P.IDLE: {ev.PrepareAsked: Target._on_prepare},
    _P.RESERVE: {**_EARLY, ev.Reserved: Target._on_reserved},
    _P.RECEIVE: {**_EARLY, ev.PrepareAsked: Target._on_prepare_again, ev.StateArrived: Target._on_state},
    _P.LOAD: {**_EARLY, ev.StateLoaded: Target._on_loaded, ev.PullDone: Target._on_pull_done},
    _P.READY: {
        ev.SourceLost: Target._on_source_lost_ready,
        ev.StateArrived: Target._on_state_again,
        ev.CancelAsked: Target._on_abort_wish,
        ev.StepFailed: Target._on_abort_wish,
        ev.PullDone: Target._on_pull_done,
    },
    _P.START: {
        ev.GuestStarted: Target._on_started,
        ev.StepFailed: Target._on_start_failed,
        ev.PullDone: Target._on_pull_done,
    },
    _P.PULL: {ev.PullDone: Target._on_pull_done, ev.StepFailed: Target._on_pull_failed},
}
