"""Where a guest runs: filters, then scores. Pure, so that properties of it can be checked and shown (``--explain``).

A node passes all filters or is out, with every reason why. Among those left the highest score wins, ties go to the
lower node id, so that the same cluster always gives the same answer. The score is a weighted sum of terms in 0..1:

* ``memory``: the share of offered memory that stays free with the guest there, the term that keeps clusters usable;
* ``cpus``: the share of the hart budget (cpus x overcommit) that stays free;
* ``spread``: fewer guests first, so that the loss of one node hits few;
* ``load``: the host's own load average per cpu;
* ``stay``: a small bonus for the node that had the guest (its blobs lie there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CPU_OVERCOMMIT = 8.0  # harts per host cpu: guests idle most of the time, and WFI sleeps
WEIGHTS = {"memory": 4.0, "cpus": 2.0, "spread": 2.0, "load": 1.0, "stay": 0.5}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node as placement sees it. ``memory_used``/``cpus_used``: promised to guests, incoming migrations included."""

    node: int
    name: str
    alive: bool
    cordoned: bool
    memory: int
    memory_used: int
    cpus: int
    cpus_used: int
    guests: int
    load: float = 0.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What a guest needs. ``on``: this node only. ``avoid``: not these (node id → why)."""

    memory: int
    cpus: int
    on: int | None = None
    avoid: dict[int, str] = field(default_factory=dict)
    previous: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    node: int
    name: str
    fits: bool
    score: float
    reasons: tuple[str, ...]  # why not, or what made the score

    def to_json(self) -> dict[str, Any]:
        return {"node": self.name, "fits": self.fits, "score": self.score, "reasons": list(self.reasons)}


@dataclass(frozen=True, slots=True)
class Placement:
    chosen: Verdict | None
    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "chosen": self.chosen.name if self.chosen else None,
            "nodes": [v.to_json() for v in self.verdicts],
        }

    def refusal(self) -> str:
        """One line that names each node's reason."""
        if not self.verdicts:
            return "no node has joined yet; run `wherry node --join TOKEN@HOST:PORT` on a host"
        return "no node fits: " + "; ".join(f"{v.name}: {', '.join(v.reasons)}" for v in self.verdicts)


def mib(n: int) -> str:
    return f"{n / (1 << 20):.0f} MiB"


def _filters(demand: Demand, node: Candidate) -> list[str]:
    out = []
    if demand.on is not None and node.node != demand.on:
        return ["not the node that was asked for"]
    if node.node in demand.avoid:
        out.append(demand.avoid[node.node])
    if not node.alive:
        out.append("not alive")
    if node.cordoned:
        out.append("cordoned")
    if demand.memory > node.memory:
        out.append(f"memory: needs {mib(demand.memory)}, the node has {mib(node.memory)}")
    elif demand.memory > node.memory - node.memory_used:
        free = max(0, node.memory - node.memory_used)
        out.append(f"memory: needs {mib(demand.memory)}, {mib(free)} of {mib(node.memory)} are free")
    budget = int(node.cpus * CPU_OVERCOMMIT)
    if demand.cpus + node.cpus_used > budget:
        out.append(f"cpus: needs {demand.cpus}, {max(0, budget - node.cpus_used)} of {budget} are free")
    return out


def _terms(demand: Demand, node: Candidate) -> dict[str, float]:
    budget = node.cpus * CPU_OVERCOMMIT
    return {
        "memory": (node.memory - node.memory_used - demand.memory) / node.memory if node.memory else 0.0,
        "cpus": (budget - node.cpus_used - demand.cpus) / budget if budget else 0.0,
        "spread": 1.0 / (1 + node.guests),
        "load": 1.0 / (1.0 + max(0.0, node.load) / max(1, node.cpus)),
        "stay": 1.0 if demand.previous == node.node else 0.0,
    }


def place(demand: Demand, nodes: Sequence[Candidate]) -> Placement:
    """Judge every node and choose the best that fits; verdicts come in order of node id."""
    verdicts = []
    for node in sorted(nodes, key=lambda n: n.node):
        why_not = _filters(demand, node)
        if why_not:
            verdicts.append(Verdict(node.node, node.name, False, 0.0, tuple(why_not)))
            continue
        terms = _terms(demand, node)
        score = round(sum(WEIGHTS[k] * v for k, v in terms.items()), 6)
        shown = tuple(f"{k} {WEIGHTS[k] * v:.2f}" for k, v in terms.items() if v)
        verdicts.append(Verdict(node.node, node.name, True, score, shown))
    fitting = [v for v in verdicts if v.fits]
    chosen = min(fitting, key=lambda v: (-v.score, v.node)) if fitting else None
    return Placement(chosen, tuple(verdicts))
