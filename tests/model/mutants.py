"""Machines and rules that are wrong in one point each, and what the model must say of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from protocol.messages.moves import MigrationMode
from protocol.migration import Verdict, decide
from protocol.migration import effects as fx
from protocol.migration import events as ev
from protocol.migration.source import Effects, Source, SourcePhase
from protocol.migration.target import Target, TargetPhase


@dataclass(frozen=True)
class Mutant:
    name: str
    wrong: dict[str, Any]
    caught: str
    mode: MigrationMode = "precopy"
    faults: int = 1
    verify: bool = False
    disks: bool = False


class ResumesInDoubt(Source):
    """Does not wait for the store once it has asked: a target that is lost cannot run, it thinks."""

    def handle(self, event: ev.SourceEvent, now: float) -> Effects:
        if self.phase is SourcePhase.COMMIT and isinstance(event, ev.StoreUnreachable):
            return self._abort("no answer", now)
        return super().handle(event, now)


class ForgetsThatItAsked(Source):
    """Takes up a migration as if "commit" had not been asked for before the restart."""

    @classmethod
    def recover(cls, record: fx.Record, now: float) -> tuple[Source, Effects]:
        source, effects = super().recover(record, now)
        return source, [fx.ResumeGuest(), *effects] if record.phase == "switch" else effects


class KeepsNoRecord(Source):
    """Notes nothing before it pauses: whoever starts the agent again lets the guest run."""

    def _switch(self, now: float, *, leave: bool = False) -> Effects:
        return [fx.Forget(), *(e for e in super()._switch(now, leave=leave) if not isinstance(e, fx.Persist))]


class FreesEarly(Source):
    """Of a post-copy: frees the pages when the target runs, not when it has them."""

    def _committed(self, generation: int, now: float) -> Effects:
        return [*super()._committed(generation, now), fx.FreeGuest()]


class AsksOnce(Source):
    """Never repeats a question that got no answer."""

    def handle(self, event: ev.SourceEvent, now: float) -> Effects:
        if isinstance(event, ev.StoreUnreachable | ev.CoordinatorRestored) and self.phase is SourcePhase.COMMIT:
            self._question.drop()
            return []
        return super().handle(event, now)


class ForgetsThatAllIsPulled(Source):
    """As this project's source once was: that the target has all pages was kept in memory only."""

    def handle(self, event: ev.SourceEvent, now: float) -> Effects:
        if isinstance(event, ev.Pulled) and self.phase is not SourcePhase.SERVE:
            self._late = True
            return []
        effects = super().handle(event, now)
        if getattr(self, "_late", False) and self.phase is SourcePhase.SERVE:
            return [*effects, *super().handle(ev.Pulled(), now)]
        return effects

    def _persist(self, phase: str) -> fx.Persist:
        return fx.Persist(replace(super()._persist(phase).record, postcopy=self.postcopy))


class FreesDiskUnheard(Source):
    """Takes a target that does not answer for one that runs."""

    def _on_unfinished_disks(self, event: ev.TargetLost | ev.StepFailed, now: float) -> Effects:
        return self._let_go(now)


class AsksForTheStartOnce(Source):
    """Keeps its disk for ever, if the target's answer is lost."""

    def _on_unfinished_disks(self, event: ev.TargetLost | ev.StepFailed, now: float) -> Effects:
        self._deadline = None
        return []


class StartsWhenReady(Target):
    """Does not wait for the commit: everything is there."""

    def handle(self, event: ev.TargetEvent, now: float) -> Effects:
        effects = super().handle(event, now)
        return [*effects, fx.StartGuest(self.generation + 1)] if isinstance(event, ev.StateLoaded) else effects


class StartsWithoutSource(Target):
    """A source that is gone cannot run, it thinks."""

    def _without_source(self, now: float) -> Effects:
        return self._decided("committed", self.generation + 1, now)


class GivesUpWhenReady(Target):
    """Destroys its copy on a lost source although the commit may be on its way."""

    def _without_source(self, now: float) -> Effects:
        self.phase = TargetPhase.ASK
        return [fx.DestroyIncoming(), *self._question.want("abort")]


def last_word_wins(row: Any, generation: int, owner: int, asked: int, ask: Any) -> Verdict:
    """A store that can be talked round."""
    if row is not None and row.decision == "committed" and ask == "abort":
        return Verdict("aborted", generation - 1, row.source, True)
    return decide(row, generation, owner, asked, ask)


def always_commits(row: Any, generation: int, owner: int, asked: int, ask: Any) -> Verdict:
    """A store that takes a question for a commit."""
    return decide(row, generation, owner, asked, "commit" if ask == "query" else ask)


def _source(cls: type[Source]) -> dict[str, Any]:
    return {"source": cls}


def _target(cls: type[Target]) -> dict[str, Any]:
    return {"target": cls}


def _rule(rule: Callable[..., Any]) -> dict[str, Any]:
    return {"rule": rule}


RUNS_TWICE = "two copies run|a generation that has passed"
ALL = [
    Mutant("the source resumes in doubt", _source(ResumesInDoubt), RUNS_TWICE),
    Mutant("the source forgets that it asked", _source(ForgetsThatItAsked), RUNS_TWICE),
    Mutant("the source keeps no record", _source(KeepsNoRecord), RUNS_TWICE),
    Mutant("the source frees early", _source(FreesEarly), "pages .* are nowhere", mode="postcopy", faults=0),
    Mutant("the source asks once", _source(AsksOnce), "never: "),
    Mutant("the source forgets that all is pulled", _source(ForgetsThatAllIsPulled), "never: ", mode="postcopy"),
    Mutant("the source frees its disk at the commit", _source(FreesEarly), "disk is removed", faults=0, disks=True),
    Mutant("the source frees its disk unheard", _source(FreesDiskUnheard), "disk is removed", disks=True),
    Mutant("the source asks for the start once", _source(AsksForTheStartOnce), "never: ", disks=True),
    Mutant("the target starts when ready", _target(StartsWhenReady), "two copies run|has not come", faults=0),
    Mutant("the target starts without its source", _target(StartsWithoutSource), "has not come"),
    Mutant("the target gives up when ready", _target(GivesUpWhenReady), "the guest is nowhere|never: "),
    Mutant("the store's last word wins", _rule(last_word_wins), "went back|took its word back"),
    Mutant("the store takes a question for a commit", _rule(always_commits), RUNS_TWICE),
]
