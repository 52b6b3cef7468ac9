"""The end that gives a guest away. Theory, diagram and rules: :mod:`protocol.migration`.

PREPARE ──► COPY ◄──► HOLD (it could switch, but has no coordinator)      how COPY goes on: plan.py
   │          │
   │        SWITCH  guest paused, "commit" not asked       any failure ──► ABORT: resumes at once
   │          │
   │        COMMIT  asked; in doubt until the store answers: stays paused
   │          ├── aborted ──► resumes, DONE
   │          └── committed ─► FINISH: frees, waits for the target's times ──► DONE
   │                             ├── with disks: asks until the target runs, and frees then ──► DONE
   │                             └── post-copy: SERVE, keeps the memory until the target has it; frees ──► DONE
   └── failure ──► ABORT: guest runs, the store is told until it has noted it ──► DONE
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Literal

from protocol.messages import MigrationMode, MigrationParams, MigrationProgress, MigrationResult, Predicted
from protocol.migration import effects as fx
from protocol.migration import events as ev
from protocol.migration.plan import Again, Choice, GiveUp, GoPostcopy, Mirror, Plan, Switch, Throttle
from protocol.migration.question import StoreQuestion

PAGE: Final = 4096
SWITCH_TIMEOUT: Final = 30.0
FINISH_TIMEOUT: Final = 10.0
FINISH_RETRY: Final = 2.0
STALL: Final = 10.0  # seconds without a byte

Effects = list[fx.Effect]


class SourcePhase(Enum):
    """See the diagram above."""

    IDLE = "idle"
    PREPARE = "prepare"
    COPY = "copy"
    HOLD = "hold"
    SWITCH = "switch"
    COMMIT = "commit"
    FINISH = "finish"
    SERVE = "serve"
    ABORT = "abort"
    DONE = "done"


_P = SourcePhase
_REPORTED: Final[dict[SourcePhase, Any]] = {
    _P.HOLD: "copy",
    _P.FINISH: "done",
    _P.SERVE: "pull",
    _P.ABORT: "aborted",
    _P.IDLE: "prepare",
}


class Source:
    """Give it Start. ``generation`` is the guest's present one; ``disks``: it has a disk."""

    def __init__(
        self,
        migration: str,
        guest: str,
        generation: int,
        target: int,
        params: MigrationParams,
        *,
        disks: bool = False,
    ) -> None:
        self.migration = migration
        self.guest = guest
        self.generation = generation
        self.target = target
        self.params = params
        self.disks = disks
        self.phase = _P.IDLE
        self.plan = Plan(params)
        self.rounds = 0
        self.pages = self.zero_pages = self.bytes = self.disk_bytes = 0
        self._coordinator = True
        self._question = StoreQuestion()
        self._started = 0.0
        self._deadline: float | None = None
        self._awaited: set[type] = set()  # what SWITCH still waits for
        self._ready = False
        self._checksums = ["", ""]  # source's, target's
        self._verify_ms = 0.0
        self._final_bytes = 0
        self.postcopy = False  # pages stay here at the switch
        self.left = 0  # how many the target lacks
        self.pulled = False  # it has all
        self._disk_left = 0  # bytes of the disks that wait
        self._runs_there = False  # the target has said so
        self._faults = ev.Pulled()
        self._switched = 0.0
        self._pull_ms = 0.0
        self._cut = False  # the deadline came in the middle of a round, and pages may be left
        self._moved = (0.0, 0)  # when bytes were last seen to move, and how many had
        self._copy_began = self._switch_began = 0.0
        self._first = (0, 0.0)  # bytes sent and milliseconds gone after the first round
        self._paused_at = 0.0
        self._blackout = (0.0, 0.0)  # milliseconds, error
        self._reason = ""
        self._outcome = ""

    @classmethod
    def recover(cls, record: fx.Record, now: float) -> tuple[Source, Effects]:
        """After the agent's restart. The guest process, running or paused, is left as it is until the store spoke."""
        params = MigrationParams(bandwidth=record.bandwidth)
        source = cls(record.migration, record.guest, record.generation, record.peer, params, disks=record.disks)
        source._started = now
        source.postcopy = record.postcopy
        if record.phase == "serve":
            source.phase = _P.SERVE
            return source, [fx.ServePages()]
        if record.phase == "handed":
            source.phase, source._deadline = _P.FINISH, now + FINISH_TIMEOUT
            return source, [fx.KeepDisks(), fx.FinishTarget("committed", record.generation + 1)]
        if record.phase == "committed":
            source.phase = _P.FINISH
            return source, [fx.FreeGuest(), *source._end("committed")]
        source.phase = _P.COMMIT
        source._reason = "the source's agent was restarted"
        return source, [*source._question.want("abort", source._reason)]

    @property
    def rate(self) -> float:
        """Bytes/s of the last round that was large enough."""
        return self.plan.rate

    @property
    def predicted_ms(self) -> float:
        """The blackout, if the switch came now."""
        return self.plan.predicted_ms

    @property
    def wakeup(self) -> float | None:
        """When it wants a Tick."""
        stalls = self._moved[0] + STALL if self.phase is _P.COPY else None
        times = [t for t in (self._deadline, stalls, self._question.retry_at) if t is not None]
        return min(times) if times and self.phase is not _P.DONE else None

    def handle(self, event: ev.SourceEvent, now: float) -> Effects:
        """One event; gives the effects to carry out, in order."""
        if isinstance(event, ev.CoordinatorLost | ev.CoordinatorRestored):
            self._coordinator = isinstance(event, ev.CoordinatorRestored)
        if isinstance(event, ev.StoreUnreachable):
            self._question.unreachable(now)
            return []
        if isinstance(event, ev.StoreAnswered):
            return self._on_store(event, now)
        action = _TABLE.get(self.phase, {}).get(type(event))
        return action(self, event, now) if action else []

    # ---- PREPARE, COPY

    def _on_start(self, event: ev.Start, now: float) -> Effects:
        self.phase = _P.PREPARE
        self._started = now
        self._deadline = now + self.params.deadline_s
        return [self._persist("copy"), fx.PrepareTarget(), self._progress(now, 0)]

    def _on_prepared(self, event: ev.TargetPrepared, now: float) -> Effects:
        self._copy_began = now
        return self._chosen(self.plan.begin(disks=self.disks), now)

    def _mirror(self, now: float) -> Effects:
        self.phase = _P.COPY
        self._moved = (now, self.bytes)
        return [fx.SendDisks()]

    def _on_disks(self, event: ev.DisksDone, now: float) -> Effects:
        self.bytes += event.bytes
        self.disk_bytes += event.bytes
        self._disk_left = event.left
        left = self._deadline - now if self._deadline is not None else 0.0
        choice = self.plan.after_disks(event, left)
        return [self._progress(now, 0), *self._chosen(choice, now)]

    def _next_round(self, now: float) -> Effects:
        self.phase = _P.COPY
        self.rounds += 1
        self._moved = (now, self.bytes)
        return [fx.SendRound(self.rounds, likely=self.params.mode == "postcopy")]

    def _on_copying(self, event: ev.Copying, now: float) -> Effects:
        done = event.bytes - event.disk_left  # what need not be sent is looked at all the same
        if done != self._moved[1]:
            self._moved = (now, done)
        self._disk_left = event.disk_left
        return [self._progress(now, event.dirty_pages, bytes_now=event.bytes, disk_now=event.disk_bytes)]

    def _on_round(self, event: ev.RoundDone, now: float) -> Effects:
        self._count(event)
        self._disk_left = event.disk_left
        left = self._deadline - now if self._deadline is not None and not self._cut else 0.0
        choice = self.plan.after(event, left)
        if self.rounds == 1:
            self._first = (self.bytes, 1000 * (now - self._started))
        return [self._progress(now, event.dirty_pages), *self._chosen(choice, now)]

    def _chosen(self, choice: Choice, now: float) -> Effects:
        match choice:
            case Switch() | GoPostcopy() if not self._coordinator:
                return self._hold()
            case Switch():
                return self._switch(now)
            case GoPostcopy():
                return self._switch(now, leave=True)
            case Throttle(percent):
                self.plan.resting(percent)
                return [fx.SetThrottle(percent), *(self._next_round(now) if self.rounds else self._mirror(now))]
            case Mirror():
                return self._mirror(now)
            case GiveUp(reason):
                return self._abort(reason, now)
            case Again():
                return self._next_round(now)

    def _on_unthrottled(self, event: ev.StepFailed, now: float) -> Effects:
        """The guest cannot be throttled: its rounds will show whether it must be."""
        if event.step == "SetThrottle":
            return self._abort(f"the guest writes too fast, and it cannot be throttled: {event.reason}", now)
        return self._on_failure(event, now)

    def _hold(self) -> Effects:
        """Nobody knows for how long: the guest is not to be slow meanwhile."""
        self.phase = _P.HOLD
        if not self.plan.throttle:
            return []
        self.plan.resting(0)
        return [fx.SetThrottle(0)]

    def _on_restored_hold(self, event: ev.CoordinatorRestored, now: float) -> Effects:
        if not self.rounds:
            return self._chosen(self.plan.begin(disks=self.disks), now)
        return self._next_round(now)  # what was dirtied meanwhile may be much

    # ---- SWITCH

    def _switch(self, now: float, *, leave: bool = False) -> Effects:
        """``leave``: go over to post-copy; what is dirty then stays here to be pulled."""
        self.phase = _P.SWITCH
        self.postcopy = leave
        self._switch_began = now
        all_of_it = not self.rounds and self._deadline is not None  # stop-and-copy: that takes as long as it takes
        self._deadline = max(now + SWITCH_TIMEOUT, self._deadline if all_of_it and self._deadline else 0.0)
        self._awaited = {ev.LastRoundDone, ev.StateSaved}
        if self._verify:
            self._awaited.add(ev.Checksummed)
        return [self._persist("switch"), fx.PauseGuest()]

    def _on_paused(self, event: ev.Paused, now: float) -> Effects:
        self._paused_at = event.at
        verify: Effects = [fx.ComputeChecksum()] if self._verify else []
        return [fx.LeavePages() if self.postcopy else fx.SendLastRound(), fx.SaveState(), *verify]

    @property
    def _verify(self) -> bool:
        """Pages that are not there yet have no checksum."""
        return self.params.verify and not self.postcopy

    def _on_part(self, event: ev.LastRoundDone | ev.StateSaved | ev.Checksummed, now: float) -> Effects:
        if type(event) not in self._awaited:
            return []
        self._awaited.discard(type(event))
        noted: Effects = []
        if isinstance(event, ev.LastRoundDone):
            self._count(event)
            if self.postcopy and not event.left:  # nobody will pull, nor say that it has all
                self.postcopy = False
                noted = [self._persist("switch")]
            self.left, self._final_bytes, self._disk_left = event.left, event.bytes + event.disk_bytes, 0
        if isinstance(event, ev.Checksummed):  # both ends compute at the same time
            self._checksums[0] = event.checksum
            return self._confirmed(now)
        return noted if self._awaited - {ev.Checksummed} else [*noted, fx.SendState()]

    def _on_ready(self, event: ev.TargetReady, now: float) -> Effects:
        if self._awaited - {ev.Checksummed}:
            return []  # a late answer to something else
        self._ready = True
        self._checksums[1], self._verify_ms = event.checksum, event.verify_ms
        return self._confirmed(now)

    def _confirmed(self, now: float) -> Effects:
        if not self._ready or self._awaited:
            return []
        if self._verify and self._checksums[0] != self._checksums[1]:
            return self._abort(f"RAM differs: source {self._checksums[0]}, target {self._checksums[1]}", now)
        self.phase = _P.COMMIT
        self._deadline = None
        return [*self._question.want("commit")]

    # ---- COMMIT, FINISH

    def _on_doubt(self, event: ev.TargetLost | ev.CancelAsked | ev.StepFailed, now: float) -> Effects:
        self._reason = event.reason
        return [*self._question.want("abort", event.reason)]

    def _on_store(self, event: ev.StoreAnswered, now: float) -> Effects:
        self._question.answered(event.decision, now)
        if self.phase in (_P.DONE, _P.FINISH, _P.SERVE) or event.decision == "pending":
            return []
        if event.decision == "committed":
            return self._committed(event.generation, now)
        if self.phase is _P.ABORT:
            return self._end("aborted")
        self._reason = self._reason or "aborted by the store"
        return [
            fx.StopCopy(),
            fx.ResumeGuest(),
            fx.FinishTarget("aborted", event.generation),
            self._progress(now, 0, "aborted"),
            *self._end("aborted"),
        ]

    def _committed(self, generation: int, now: float) -> Effects:
        self.phase = _P.FINISH
        self._question.drop()
        self._deadline = now + FINISH_TIMEOUT
        self._switched = now
        if self.postcopy and not self.pulled:
            return [fx.FinishTarget("committed", generation), self._persist("serve"), fx.ServePages()]
        if self.disks:
            return [fx.FinishTarget("committed", generation), self._persist("handed"), fx.KeepDisks()]
        return [fx.FinishTarget("committed", generation), self._persist("committed"), fx.FreeGuest()]

    def _on_finished(self, event: ev.TargetFinished, now: float) -> Effects:
        # The target read its clock between sent_at and received_at: the offset is known to half the round trip.
        middle = (event.sent_at + event.received_at) / 2
        offset = event.clock - middle
        error = abs(event.received_at - event.sent_at) / 2
        blackout = event.resumed_at - offset - self._paused_at
        self._runs_there = True
        if self._paused_at and event.resumed_at:
            self._blackout = (max(blackout, 0.0) * 1000, error * 1000)
        if self.postcopy:
            return self._serve(now)
        if self.disks:
            return self._let_go(now)
        return [self._progress(now, 0, "done"), *self._end("committed", now)]

    @property
    def _keeps_disks(self) -> bool:
        """The target has everything, and has not said that it runs."""
        return self.disks and not self._runs_there and (self.pulled or not self.postcopy)

    def _let_go(self, now: float) -> Effects:
        return [
            self._persist("committed"),
            fx.FreeGuest(),
            self._progress(now, 0, "done"),
            *self._end("committed", now),
        ]

    def _on_unfinished_disks(self, event: ev.TargetLost | ev.StepFailed, now: float) -> Effects:
        """The target has synced the disks and the store has given it the guest: nothing is lost. But this copy of them
        is not removed before the target runs."""
        if isinstance(event, ev.TargetLost) and event.over:
            self._reason = "committed; the target did not say when it began"
            return self._let_go(now)
        if isinstance(event, ev.StepFailed) and event.step == "guest":
            self._reason = f"committed; {event.reason}"
            return self._end("committed", now)
        if isinstance(event, ev.TargetLost) or event.step == "FinishTarget":
            self._deadline = now + FINISH_RETRY
        return []

    def _on_unfinished(self, event: ev.TargetLost | ev.StepFailed, now: float) -> Effects:
        if self._keeps_disks:
            return self._on_unfinished_disks(event, now)
        if isinstance(event, ev.StepFailed) and self.postcopy and not self.pulled and event.step == "guest":
            return self._on_lost_pages(event, now)
        if isinstance(event, ev.StepFailed) and event.step not in ("FinishTarget", "FreeGuest"):
            return []
        if isinstance(event, ev.StepFailed) and event.step == "FreeGuest":
            self._reason = event.reason
            return []  # the coordinator fences what is left of it
        if self.postcopy:
            return self._serve(now)
        self._reason = f"committed; the target did not say when it began: {event.reason}"
        return self._end("committed", now)

    # ---- SERVE

    def _serve(self, now: float) -> Effects:
        self.phase = _P.SERVE
        self._deadline = None
        if self.pulled:
            return [fx.FreeGuest(), *self._all_pulled(now)]
        return [self._progress(now, self.left)]

    def _on_served(self, event: ev.Served, now: float) -> Effects:
        self._count(event)
        self.left = event.left
        return [self._progress(now, self.left)] if self.phase is _P.SERVE else []

    def _on_pulled(self, event: ev.Pulled, now: float) -> Effects:
        """Before COMMIT it says nothing about who may run; it is remembered, beyond a restart too: the target does not
        say it again."""
        self.pulled = True
        self._faults = event
        if self.phase in (_P.SWITCH, _P.COMMIT):
            return [self._persist("switch")]
        if self._keeps_disks:
            asked = self.phase is _P.FINISH
            self.phase, self._deadline = _P.FINISH, now + FINISH_TIMEOUT
            again: Effects = [] if asked else [fx.FinishTarget("committed", self.generation + 1)]
            return [self._persist("handed"), *again]
        ends = self._all_pulled(now) if self.phase is _P.SERVE else []
        return [self._persist("committed"), fx.FreeGuest(), *ends]

    def _all_pulled(self, now: float) -> Effects:
        self.left = 0
        self._pull_ms = 1000 * (now - self._switched) if self._switched else 0.0
        return [self._progress(now, 0, "done"), *self._end("committed", now)]

    def _on_lost_pages(self, event: ev.StepFailed, now: float) -> Effects:
        """The paused process is gone, and with it what the target lacks; or the coordinator had it removed."""
        if event.step != "guest":
            return []
        self._reason = f"committed; {event.reason}; {self.left} pages had not been pulled"
        return [fx.FreeGuest(), *self._end("committed", now)]

    def _on_taken_back(self, event: ev.TakenBack, now: float) -> Effects:
        """The store gave the guest a generation above the target's: this migration is over, and nothing is freed."""
        self._reason = "committed; the target's copy died, and the guest was taken back"
        return self._end("committed", now)

    # ---- ABORT

    def _on_failure(self, event: ev.TargetLost | ev.CancelAsked | ev.StepFailed, now: float) -> Effects:
        return self._abort(event.reason, now)

    def _on_lost_in_switch(self, event: ev.CoordinatorLost, now: float) -> Effects:
        return self._abort("the coordinator was lost during the switch", now)

    def _abort(self, reason: str, now: float) -> Effects:
        """Only before "commit" was asked: nobody else can run, so the guest resumes without the store's leave."""
        self.phase = _P.ABORT
        self._reason = reason
        self._deadline = None
        return [
            fx.StopCopy(),
            fx.ResumeGuest(),
            fx.FinishTarget("aborted", self.generation),
            self._progress(now, 0, "aborted"),
            *self._question.want("abort", reason),
        ]

    def _on_late_pause(self, event: ev.Paused, now: float) -> Effects:
        """The pause of an abandoned SWITCH came through after all."""
        return [fx.ResumeGuest()] if self._outcome != "committed" else []

    def _on_tick(self, event: ev.Tick, now: float) -> Effects:
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            if self.phase is _P.COPY and self.plan.leaves and self.rounds and not self._cut:
                self._cut, self._deadline = True, now + SWITCH_TIMEOUT
                return [fx.EndRound()]
            if self.phase is _P.FINISH and self._keeps_disks:
                self._deadline = now + FINISH_TIMEOUT
                return [fx.FinishTarget("committed", self.generation + 1)]
            if self.phase is _P.FINISH and self.postcopy:
                return self._serve(now)
            if self.phase is _P.FINISH:
                self._reason = "committed; the target did not say in time when it began"
                return self._end("committed", now)
            limit = SWITCH_TIMEOUT if self.phase is _P.SWITCH and self.rounds else self.params.deadline_s
            return self._abort(f"not finished within {limit:g} s", now)
        if self.phase is _P.COPY and now >= self._moved[0] + STALL:
            return self._abort(f"stalled: no byte has moved for {STALL:g} s in round {self.rounds}", now)
        return [*self._question.tick(now)]

    def _on_restored(self, event: ev.CoordinatorRestored, now: float) -> Effects:
        return [*self._question.restored()]

    # ---- helpers

    @property
    def mode(self) -> MigrationMode:
        """What is done: never "auto"."""
        if self.postcopy:
            return "postcopy" if self.params.mode == "postcopy" else "hybrid"
        return "precopy" if self.params.mode in ("auto", "hybrid") else self.params.mode

    def _predicted(self, now: float) -> float:
        """Milliseconds from the begin to the pause, as the last round has it; 0: nothing is known yet."""
        ahead = self.plan.ahead
        return 1000 * (now - self._started + ahead.seconds) if ahead is not None else 0.0

    def _promised(self) -> Predicted | None:
        """What was predicted after the first round; None: there was none."""
        first = self.plan.first
        if first is None or first.blackout_ms == math.inf:
            return None
        return Predicted(
            rounds=1 + first.rounds,
            bytes=self._first[0] + first.bytes,
            total_ms=self._first[1] + 1000 * first.seconds + first.blackout_ms,
            blackout_ms=first.blackout_ms,
            converges=first.converges,
        )

    def _count(self, stats: ev.RoundDone | ev.LastRoundDone | ev.Served) -> None:
        self.pages += stats.pages
        self.zero_pages += stats.zero_pages
        self.bytes += stats.bytes
        if not isinstance(stats, ev.Served):
            self.bytes += stats.disk_bytes
            self.disk_bytes += stats.disk_bytes

    def _persist(self, phase: str) -> fx.Persist:
        leaves = self.postcopy and not self.pulled
        limit = self.params.bandwidth
        return fx.Persist(
            fx.Record(
                "source", self.migration, self.guest, self.generation, self.target, phase, leaves, self.disks, limit
            )
        )

    def _progress(
        self, now: float, dirty: int, phase: str = "", bytes_now: int = 0, disk_now: int = 0
    ) -> fx.ReportProgress:
        return fx.ReportProgress(
            MigrationProgress(
                migration=self.migration,
                phase=phase or _REPORTED.get(self.phase, self.phase.value),  # type: ignore[arg-type]
                round=self.rounds,
                pages_sent=self.pages,
                zero_pages=self.zero_pages,
                bytes_sent=max(self.bytes, bytes_now),
                bytes_per_s=self.rate,
                dirty_pages=dirty,
                remaining=dirty * PAGE + self._disk_left,
                predicted_blackout_ms=self.predicted_ms,
                mode=self.mode,
                throttle=self.plan.throttle,
                dirty_rate=self.plan.dirty_rate,
                elapsed_ms=1000 * (now - self._started),
                predicted_ms=self._predicted(now),
                disk_sent=max(self.disk_bytes, disk_now),
                disk_left=self._disk_left,
            )
        )

    def _end(self, outcome: Literal["committed", "aborted"], now: float | None = None) -> Effects:
        self.phase = _P.DONE
        self._outcome = outcome
        self._question.drop()
        result = MigrationResult(
            migration=self.migration,
            outcome=outcome,
            reason=self._reason[:4096],
            rounds=self.rounds,
            pages_sent=self.pages,
            zero_pages=self.zero_pages,
            bytes_sent=self.bytes,
            total_ms=1000 * (now - self._started) if now is not None else 0.0,
            blackout_ms=self._blackout[0],
            blackout_error_ms=self._blackout[1],
            verify_ms=self._verify_ms,
            source_checksum=self._checksums[0],
            target_checksum=self._checksums[1],
            postcopy=self.postcopy,
            pull_ms=self._pull_ms,
            faults=self._faults.faults,
            fault_us=self._faults.fault_us,
            fault_max_us=self._faults.fault_max_us,
            mode=self.mode,
            throttle=self.plan.throttle_most,
            prepare_ms=1000 * max(self._copy_began - self._started, 0.0),
            copy_ms=1000 * max(self._switch_began - self._copy_began, 0.0),
            predicted=self._promised(),
            disk_bytes=self.disk_bytes,
            final_bytes=self._final_bytes,
        )
        return [fx.Forget(), fx.Done(result)]


Action = Callable[[Source, Any, float], Effects]
_FAILURES: Final[dict[type, Action]] = {
    ev.TargetLost: Source._on_failure,
    ev.CancelAsked: Source._on_failure,
    ev.StepFailed: Source._on_failure,
    ev.Tick: Source._on_tick,
}
_TABLE: Final[dict[SourcePhase, dict[type, Action]]] = {
    _P.IDLE: {ev.Start: Source._on_start},
    _P.PREPARE: {**_FAILURES, ev.TargetPrepared: Source._on_prepared},
    _P.COPY: {
        **_FAILURES,
        ev.StepFailed: Source._on_unthrottled,
        ev.DisksDone: Source._on_disks,
        ev.RoundDone: Source._on_round,
        ev.Copying: Source._on_copying,
    },
    _P.HOLD: {**_FAILURES, ev.CoordinatorRestored: Source._on_restored_hold},
    _P.SWITCH: {
        **_FAILURES,
        ev.Paused: Source._on_paused,
        ev.LastRoundDone: Source._on_part,
        ev.StateSaved: Source._on_part,
        ev.Checksummed: Source._on_part,
        ev.TargetReady: Source._on_ready,
        ev.Served: Source._on_served,
        ev.Pulled: Source._on_pulled,
        ev.CoordinatorLost: Source._on_lost_in_switch,
    },
    _P.COMMIT: {
        ev.TargetLost: Source._on_doubt,
        ev.CancelAsked: Source._on_doubt,
        ev.StepFailed: Source._on_doubt,
        ev.Tick: Source._on_tick,
        ev.CoordinatorRestored: Source._on_restored,
        ev.Served: Source._on_served,
        ev.Pulled: Source._on_pulled,
    },
    _P.FINISH: {
        ev.TargetFinished: Source._on_finished,
        ev.Served: Source._on_served,
        ev.Pulled: Source._on_pulled,
        ev.TakenBack: Source._on_taken_back,
        ev.TargetLost: Source._on_unfinished,
        ev.StepFailed: Source._on_unfinished,
        ev.Tick: Source._on_tick,
    },
    _P.SERVE: {
        ev.Served: Source._on_served,
        ev.Pulled: Source._on_pulled,
        ev.TargetFinished: Source._on_finished,
        ev.StepFailed: Source._on_lost_pages,
        ev.TakenBack: Source._on_taken_back,
    },
    _P.ABORT: {
        ev.Tick: Source._on_tick,
        ev.CoordinatorRestored: Source._on_restored,
        ev.Paused: Source._on_late_pause,
    },
    _P.DONE: {ev.Paused: Source._on_late_pause},
}
