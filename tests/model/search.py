"""Every state that can be reached, breadth first, so that the way to a wrong one is a shortest one.

The model names what is wrong with a step. For "never none for ever" the whole graph is looked at once more: from each
state a good end must be reachable by steps that are no faults. As faults are counted, and as a step that is possible
again and again is taken at last, that is what "the guest runs in the end" means.

States are kept while they wait for their turn only; afterwards by a hash of 64 bits, and the way to a wrong state is
found by going it again. Two states with one hash would hide what follows one of them: among n states this happens with
a chance of n*n / 4e19.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol


class Wrong(AssertionError):
    """A state that must not be, with the steps that lead to it."""


class Model(Protocol):
    def initial(self) -> Any: ...
    def steps(self, state: Any) -> Iterator[tuple[str, bool, Any, str]]:
        """(name, is it a fault, next state, what is wrong with it or "")."""

    def view(self, state: Any) -> Any:
        """As rules look at it."""

    def show(self, state: Any) -> str: ...


@dataclass(frozen=True)
class Rule:
    """From the states ``whence`` one of the states ``end`` must be reachable without faults, and without steps whose
    names begin with ``barred``."""

    what: str
    whence: Callable[[Any], bool]
    end: Callable[[Any], bool]
    barred: str = "\0"


@dataclass(frozen=True)
class Found:
    """``ends``: by rule, how many states it began with and how many were ends."""

    states: int
    steps: int
    ends: dict[str, tuple[int, int]]


class _Graph:
    def __init__(self, rules: list[Rule]) -> None:
        self.numbers: dict[int, int] = {}
        self.hashes = array("q")
        self.parent = array("i")
        self.whence = [bytearray() for _ in rules]
        self.ends = [bytearray() for _ in rules]
        self.rules = rules
        self.edges = array("i")  # from, to, which rules may use it; faults left out

    def add(self, model: Model, state: Any, parent: int) -> bool:
        """True: it is new."""
        value = hash(state)
        if value in self.numbers:
            return False
        self.numbers[value] = len(self.hashes)
        self.hashes.append(value)
        self.parent.append(parent)
        view = model.view(state)
        for i, rule in enumerate(self.rules):
            self.whence[i].append(rule.whence(view))
            self.ends[i].append(rule.end(view))
        return True

    def connect(self, name: str, start: int, state: Any) -> None:
        usable = sum(1 << i for i, rule in enumerate(self.rules) if not name.startswith(rule.barred))
        self.edges.extend((start, self.numbers[hash(state)], usable))

    def reaching(self, rule: int) -> bytearray:
        """From which states its ends can be reached."""
        count = len(self.hashes)
        starts, bit = array("i", bytes(4 * (count + 2))), 1 << rule
        for i in range(0, len(self.edges), 3):
            starts[self.edges[i + 1] + 2] += 1
        for n in range(2, count + 2):
            starts[n] += starts[n - 1]
        before = array("i", bytes(4 * (len(self.edges) // 3)))  # by the state that an edge leads to
        for i in range(0, len(self.edges), 3):
            at = self.edges[i + 1] + 1
            before[starts[at]] = self.edges[i] if self.edges[i + 2] & bit else -1
            starts[at] += 1
        reaches = bytearray(self.ends[rule])
        todo = [n for n in range(count) if reaches[n]]
        while todo:
            n = todo.pop()
            for start in before[starts[n] : starts[n + 1]]:
                if start >= 0 and not reaches[start]:
                    reaches[start] = 1
                    todo.append(start)
        return reaches


def explore(model: Model, rules: list[Rule], *, most: int) -> Found:
    """Raises :class:`Wrong`. ``most``: states; more are an error too, for then nothing is shown."""
    graph, total = _Graph(rules), 0
    first = model.initial()
    graph.add(model, first, -1)
    level, number = [first], 0
    while level:
        following = []
        for state in level:
            for name, fault, after, wrong in model.steps(state):
                total += 1
                if graph.add(model, after, number):
                    following.append(after)
                if wrong:
                    raise Wrong(f"{wrong}\n{_way(model, graph, number)}\n  {name}\n{model.show(after)}")
                if not fault:
                    graph.connect(name, number, after)
            number += 1
        if len(graph.hashes) > most:
            raise Wrong(f"more than {most} states")
        level = following
    for i, rule in enumerate(rules):
        reaches = graph.reaching(i)
        for n in range(number):
            if graph.whence[i][n] and not reaches[n]:
                raise Wrong(f"never: {rule.what}\n{_way(model, graph, n)}")
    ends = {rule.what: (sum(graph.whence[i]), sum(graph.ends[i])) for i, rule in enumerate(rules)}
    return Found(number, total, ends)


def _way(model: Model, graph: _Graph, at: int) -> str:
    """The steps to a state, and the state."""
    numbers = []
    while at > 0:
        numbers.append(at)
        at = graph.parent[at]
    state, lines = model.initial(), []
    for n in reversed(numbers):
        name, state = next((name, s) for name, _, s, _ in model.steps(state) if hash(s) == graph.hashes[n])
        lines.append(f"  {name}")
    return "\n".join([*lines, model.show(state)])
