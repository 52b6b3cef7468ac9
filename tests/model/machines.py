"""The real Source and Target as tables: a state that was seen before is a number, and so is what an event makes of it.

Time is taken out. Every event comes at time 0, so each timer that runs has always the same value, and "it fires" is an
action of its own: any timer may fire at any moment, in any order. That is more than clocks can do, never less.

What steers nothing is left out of the comparison (texts, sums of bytes); everything else that a machine keeps counts.
"""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final

from protocol.migration import events as ev
from protocol.migration.effects import Effect, ReportProgress
from protocol.migration.source import STALL, Source, SourcePhase
from protocol.migration.target import Target

Machine = Source | Target
Step = tuple[int, tuple[Effect, ...]]

_STEERS_NOTHING: Final = {"_reason", "reason", "pages", "zero_pages", "bytes", "left", "_moved", "_first"}


class Bank:
    """Machines by number. The same number means: no future can tell them apart."""

    def __init__(self) -> None:
        self.machines: list[Machine] = []
        self._numbers: dict[Any, int] = {}
        self._steps: dict[tuple[int, Any], Step] = {}
        self._timers: dict[int, tuple[str, ...]] = {}

    def number(self, machine: Machine) -> int:
        key = _frozen(machine)
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.machines)
            self.machines.append(machine)
        return found

    def phase(self, number: int) -> str:
        return str(self.machines[number].phase.value)

    def handle(self, number: int, event: Any) -> Step:
        """One event, at time 0."""
        key = (number, event)
        found = self._steps.get(key)
        if found is None:
            machine = copy.deepcopy(self.machines[number])
            found = self._steps[key] = self._after(machine, machine.handle(event, 0.0))
        return found

    def timers(self, number: int) -> tuple[str, ...]:
        """Those that run."""
        found = self._timers.get(number)
        if found is None:
            found = self._timers[number] = _timers(self.machines[number])
        return found

    def fire(self, number: int, timer: str) -> Step:
        """This timer has come, and no other."""
        key = (number, timer)
        found = self._steps.get(key)
        if found is None:
            machine: Any = copy.deepcopy(self.machines[number])
            if timer == "retry":
                machine._question.retry_at = 0.0
            elif timer == "stall":
                machine._moved = (-STALL, machine._moved[1])
            else:
                setattr(machine, timer, 0.0)
            found = self._steps[key] = self._after(machine, machine.handle(ev.Tick(), 0.0))
        return found

    def _after(self, machine: Machine, effects: list[Effect]) -> Step:
        kept = tuple(effect for effect in effects if not isinstance(effect, ReportProgress))
        return self.number(machine), kept


def _timers(machine: Any) -> tuple[str, ...]:
    if machine.wakeup is None:
        return ()
    out = [name for name in ("_deadline", "_give_up") if getattr(machine, name, None) is not None]
    if machine.phase is SourcePhase.COPY:
        out.append("stall")
    if machine._question.retry_at is not None:
        out.append("retry")
    return tuple(out)


def _frozen(value: Any) -> Any:
    if value is None or isinstance(value, int | float | str | bytes | type | Enum):
        return value
    if isinstance(value, dict):
        return tuple((k, _frozen(v)) for k, v in sorted(value.items()) if k not in _STEERS_NOTHING)
    if isinstance(value, list | tuple):
        return tuple(_frozen(each) for each in value)
    if isinstance(value, set | frozenset):
        return frozenset(_frozen(each) for each in value)
    if is_dataclass(value):
        return (type(value), *(_frozen(getattr(value, f.name)) for f in fields(value)))
    if hasattr(value, "__struct_fields__"):
        return (type(value), *(_frozen(getattr(value, name)) for name in value.__struct_fields__))
    return (type(value), _frozen(vars(value)))
